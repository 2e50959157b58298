package deviceid

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// MaxIDBytes bounds a device's name; longer ones are unknown.
const MaxIDBytes = 512

// ErrUnknown is wrapped by all errors of a [Resolver]: the name fits no unit
// that the driver has now.
var ErrUnknown = errors.New("unknown device")

// Options are what a [Resolver] resolves by.
type Options struct {
	// Units are what the driver has now. They are not changed, and must not be.
	Units []sampler.Unit
	// Slices finds what ResourceSlices say of a DRA device; nil: nothing.
	Slices func(driver, pool, device string) (Attributes, bool)
	// Resources are names of extended resources that are GPUs, beside
	// nvidia.com/gpu, nvidia.com/gpu.shared and nvidia.com/mig-…: renamed ones.
	// One that ends in * is a prefix.
	Resources []string
}

// Resolver finds devices' NVML UUIDs. It does not change; any goroutine may use
// it.
type Resolver struct {
	opt  Options
	byID map[string]*sampler.Unit
	// instances counts the MIG instances of a GPU, by its UUID.
	instances map[string]int
}

// New makes a resolver.
func New(opt Options) *Resolver {
	r := &Resolver{opt: opt, byID: make(map[string]*sampler.Unit, len(opt.Units)), instances: map[string]int{}}
	for i := range opt.Units {
		u := &opt.Units[i]
		r.byID[u.ID] = u
		if u.Parent != "" {
			r.instances[u.Parent]++
		}
	}
	return r
}

// GPUs reports whether devices of an extended resource are GPUs.
func (r *Resolver) GPUs(resource string) bool {
	if resource == "nvidia.com/gpu" || resource == "nvidia.com/gpu.shared" || strings.HasPrefix(resource, "nvidia.com/mig-") {
		return true
	}
	for _, name := range r.opt.Resources {
		prefix, wild := strings.CutSuffix(name, "*")
		if resource == name || wild && strings.HasPrefix(resource, prefix) {
			return true
		}
	}
	return false
}

// Unit finds a unit by its UUID, nil if the driver has none such.
func (r *Resolver) Unit(uuid string) *sampler.Unit { return r.byID[uuid] }

// Device resolves a device plugin's id.
func (r *Resolver) Device(id string) (string, error) {
	if len(id) > MaxIDBytes {
		return "", fmt.Errorf("%w: its name has %d bytes: want at most %d", ErrUnknown, len(id), MaxIDBytes)
	}
	if uuid, replica, ok := strings.Cut(id, "::"); ok {
		if _, err := number(replica); err != nil {
			return "", unknown(id, "what follows :: is no replica's number")
		}
		return r.uuid(id, uuid)
	}
	switch {
	case strings.HasPrefix(id, "nvidia"):
		return r.gke(id)
	case IsHAMi(id):
		return r.uuid(id, id[:wholeGPUBytes])
	}
	return r.uuid(id, id)
}

// Index resolves a job system's id: a GPU's index in the driver's list, or
// anything that [Resolver.Device] knows.
func (r *Resolver) Index(id string) (string, error) {
	n, err := number(id)
	if err != nil {
		return r.Device(id)
	}
	return r.gpu(id, func(u *sampler.Unit) bool { return u.Index == n }, "no GPU has index %d", n)
}

// uuid resolves what is a UUID already, of those that the driver gives.
func (r *Resolver) uuid(id, uuid string) (string, error) {
	if old, ok := strings.CutPrefix(uuid, "MIG-GPU-"); ok {
		return r.oldMIG(id, "GPU-"+old)
	}
	u := r.byID[uuid]
	switch {
	case u == nil && r.instances[uuid] > 0:
		return "", unknown(id, "the GPU is in MIG mode, and nothing of it is uncut")
	case u == nil:
		return "", unknown(id, "the driver has no device of UUID %.64q", uuid)
	}
	return r.whole(id, u)
}

// whole is the unit's id, unless it is the rest of a GPU that is cut.
func (r *Resolver) whole(id string, u *sampler.Unit) (string, error) {
	if n := r.instances[u.ID]; u.Remainder && n > 0 {
		return "", unknown(id, "GPU %s is in MIG mode and cut into %d instances: want the name of one", u.ID, n)
	}
	return u.ID, nil
}

// oldMIG resolves GPU-<uuid>/<gi>/<ci>.
func (r *Resolver) oldMIG(id, rest string) (string, error) {
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return "", unknown(id, "want MIG-GPU-<uuid>/<gpu instance>/<compute instance>")
	}
	gi, err := number(parts[1])
	ci, err2 := number(parts[2])
	if err != nil || err2 != nil {
		return "", unknown(id, "the instances of MIG-GPU-<uuid>/<gpu instance>/<compute instance> are no numbers")
	}
	return r.instance(id, func(u *sampler.Unit) bool {
		return u.Parent == parts[0] && u.GPUInstance == gi && u.ComputeInstance == ci
	}, "%s has no GPU instance %d with compute instance %d", parts[0], gi, ci)
}

// gke resolves nvidia<minor>[/gi<gi>][/vgpu<n>].
func (r *Resolver) gke(id string) (string, error) {
	const form = "want nvidia<minor>[/gi<gpu instance>][/vgpu<n>]"
	parts := strings.Split(id, "/")
	minor, err := number(strings.TrimPrefix(parts[0], "nvidia"))
	if err != nil {
		return "", unknown(id, form)
	}
	gi, rest := -1, parts[1:]
	if len(rest) > 0 && strings.HasPrefix(rest[0], "gi") {
		if gi, err = number(rest[0][len("gi"):]); err != nil {
			return "", unknown(id, form)
		}
		rest = rest[1:]
	}
	if len(rest) > 0 { // a replica
		digits, ok := strings.CutPrefix(rest[0], "vgpu")
		if _, err := number(digits); err != nil || !ok || len(rest) > 1 {
			return "", unknown(id, form)
		}
	}
	if gi < 0 {
		return r.gpu(id, r.hasMinor(minor), "no GPU has device file /dev/nvidia%d", minor)
	}
	has := r.hasMinor(minor)
	return r.instance(id, func(u *sampler.Unit) bool { return has(u) && u.GPUInstance == gi },
		"the GPU of /dev/nvidia%d has no GPU instance %d", minor, gi)
}

// hasMinor tells units by the device file of their GPU.
func (r *Resolver) hasMinor(minor int) func(*sampler.Unit) bool {
	return func(u *sampler.Unit) bool {
		if p := r.byID[u.Parent]; u.Minor < 0 && u.Parent != "" && p != nil {
			u = p
		}
		return u.Minor == minor
	}
}

// gpu resolves what names one whole GPU. A GPU that is wholly cut may be known
// by its instances alone.
func (r *Resolver) gpu(id string, is func(*sampler.Unit) bool, format string, args ...any) (string, error) {
	cut := false
	for i := range r.opt.Units {
		u := &r.opt.Units[i]
		if !is(u) {
			continue
		}
		if u.Parent == "" {
			return r.whole(id, u)
		}
		cut = true
	}
	if cut {
		return "", unknown(id, "the GPU is in MIG mode, and nothing of it is uncut")
	}
	return "", unknown(id, format, args...)
}

// instance resolves what names one MIG instance.
func (r *Resolver) instance(id string, is func(*sampler.Unit) bool, format string, args ...any) (string, error) {
	var found *sampler.Unit
	for i := range r.opt.Units {
		u := &r.opt.Units[i]
		if u.Parent == "" || !is(u) {
			continue
		}
		if found != nil {
			return "", unknown(id, "it may be %s or %s", found.ID, u.ID)
		}
		found = u
	}
	if found == nil {
		return "", unknown(id, format, args...)
	}
	return found.ID, nil
}

func unknown(id, format string, args ...any) error {
	return fmt.Errorf("%w %.96q: %s", ErrUnknown, id, fmt.Sprintf(format, args...))
}

// number reads a small decimal number, digits only.
func number(s string) (int, error) {
	if s == "" || len(s) > 6 || strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(s)
}
