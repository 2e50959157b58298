package deviceid

import (
	"errors"
	"strings"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// MaxCDI is how many of a device's CDI names are tried.
const MaxCDI = 16

// Dynamic resolves a device that DRA has given: by its uuid in the
// ResourceSlices; a MIG device that has none there, being cut on demand, by its
// GPU, profile and place; without ResourceSlices by its name; and at last by
// its CDI names, which mostly end in one of these. Where a ResourceSlice tells
// the UUID of the device or its GPU, nothing else counts: the minor in a name
// may be another GPU's since one was lost. Devices of other drivers than [Driver]
// are not GPUs and not to be asked for.
func (r *Resolver) Dynamic(pool, device string, cdi []string) (string, error) {
	if len(device) > MaxIDBytes {
		return "", unknown(device, "its name has %d bytes: want at most %d", len(device), MaxIDBytes)
	}
	var tried []error
	if r.opt.Slices == nil {
		tried = append(tried, unknown(device, "no ResourceSlices are read"))
	} else if a, ok := r.opt.Slices(Driver, pool, device); ok {
		uuid, err := r.attributes(device, a)
		if err == nil || a.UUID != "" || a.ParentUUID != "" {
			return uuid, err
		}
		tried = append(tried, err)
	} else {
		tried = append(tried, unknown(device, "no ResourceSlice of pool %.64q has it", pool))
	}
	uuid, err := r.byName(device)
	if err == nil {
		return uuid, nil
	}
	tried = append(tried, err)
	for _, name := range cdi[:min(len(cdi), MaxCDI)] {
		uuid, err := r.cdi(name)
		if err == nil {
			return uuid, nil
		}
		tried = append(tried, err)
	}
	return "", errors.Join(tried...)
}

// Sliced reports whether a ResourceSlice tells of a DRA device, so that its name
// need not be relied on.
func (r *Resolver) Sliced(pool, device string) bool {
	if r.opt.Slices == nil {
		return false
	}
	_, ok := r.opt.Slices(Driver, pool, device)
	return ok
}

// Slices reports whether ResourceSlices are read at all.
func (r *Resolver) Slices() bool { return r.opt.Slices != nil }

// attributes resolves what a ResourceSlice says; what it leaves out is taken
// from the device's name.
func (r *Resolver) attributes(device string, a Attributes) (string, error) {
	if a.UUID != "" {
		return r.uuid(device, a.UUID)
	}
	n := parseName(device)
	if a.Minor >= 0 {
		n.minor = a.Minor
	}
	if a.Profile != "" {
		n.profile = flat(a.Profile)
	}
	if a.Placement >= 0 {
		n.placement = a.Placement
	}
	if a.Type != "" {
		n.mig = a.Type == "mig"
	}
	return r.named(device, n, a.ParentUUID)
}

// byName resolves a device's name in a pool.
func (r *Resolver) byName(device string) (string, error) {
	if u := r.byID[device]; u != nil {
		return r.whole(device, u)
	}
	n := parseName(device)
	if n.minor < 0 {
		return "", unknown(device, "its name is not gpu-<minor>[-mig-<profile>-<gpu instance profile>-<placement>]")
	}
	return r.named(device, n, "")
}

// named resolves what is known of a device without its UUID.
func (r *Resolver) named(device string, n name, parent string) (string, error) {
	switch {
	case n.minor < 0 && parent == "":
		return "", unknown(device, "neither a uuid nor its GPU is known")
	case !n.mig:
		return r.gpu(device, r.hasMinor(n.minor), "no GPU has device file /dev/nvidia%d", n.minor)
	case n.placement < 0:
		return "", unknown(device, "neither its uuid nor its place on the GPU is known")
	}
	has := r.hasMinor(n.minor)
	if parent != "" {
		has = func(u *sampler.Unit) bool { return u.Parent == parent }
	}
	return r.instance(device, func(u *sampler.Unit) bool {
		return has(u) && u.Placement == n.placement && (n.profile == "" || u.Profile == "" || flat(u.Profile) == n.profile)
	}, "its GPU has no MIG instance of profile %.32q at memory slice %d", n.profile, n.placement)
}

// name is what a device's name says; −1 and "" where it does not.
type name struct {
	minor     int
	mig       bool
	profile   string // as flat gives it
	placement int
}

// parseName takes gpu-<minor>, gpu-<minor>-mig-<profile>-<gi profile>-<place>
// and the older gpu-<minor>-mig-<gi profile>-<place>-<size> apart.
func parseName(s string) name {
	n := name{minor: -1, placement: -1}
	rest, ok := strings.CutPrefix(s, "gpu-")
	if !ok {
		return n
	}
	digits, mig, isMIG := strings.Cut(rest, "-mig-")
	minor, err := number(digits)
	if err != nil {
		return n
	}
	if !isMIG {
		n.minor = minor
		return n
	}
	parts := strings.Split(mig, "-")
	if len(parts) < 3 {
		return n
	}
	last := len(parts) - 1
	profile, place := strings.Join(parts[:last-1], "-"), parts[last]
	if _, err := number(profile); err == nil { // the older form
		profile, place = "", parts[1]
	}
	if _, err := number(parts[last-1]); err != nil {
		return n
	}
	placement, err := number(place)
	if err != nil {
		return n
	}
	return name{minor: minor, mig: true, profile: flat(profile), placement: placement}
}

// flat writes a profile as names of devices do: 1g.10gb+me is 1g10gb-me.
func flat(profile string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '.':
			return -1
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z':
			return c
		}
		return '-'
	}, strings.ToLower(profile))
}

// cdi resolves a CDI name: vendor/class=<name>, where the name is a UUID, an
// index, or a DRA device after the uid of its claim.
func (r *Resolver) cdi(qualified string) (string, error) {
	_, id, ok := strings.Cut(qualified, "=")
	if !ok || len(qualified) > MaxIDBytes {
		return "", unknown(qualified, "it is no CDI name")
	}
	if len(id) > uuidBytes && id[uuidBytes] == '-' && isUUID(id[:uuidBytes]) {
		id = id[uuidBytes+1:]
	}
	if strings.HasPrefix(id, "gpu-") {
		return r.byName(id)
	}
	return r.Index(id)
}
