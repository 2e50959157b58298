package kubelet

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// maxUnresolved bounds the names that are remembered as logged.
const maxUnresolved = 1024

// endedWait is how long a pod that had ended and is gone stays so while its name
// is still listed: the kubelet's list drops it a second or two after its API
// does. What is listed under the name after that is another pod, of which
// nothing is known.
const endedWait = 10 * time.Second

// wanter makes wants of what the kubelet says, in its names, by what the driver
// has and what is known of pods.
type wanter struct {
	log     *slog.Logger
	tracker *tracker

	resolver *deviceid.Resolver
	view     *pods.View
	at       int64

	unresolved map[Device]bool     // at the last look; logged
	now        map[Device]bool     // at this one
	since      map[container]int64 // since when HAMi's containers wait for their pod
	hamiErrors map[string]bool     // by UID, pods whose annotation is not HAMi's; logged
	listed     map[container]bool  // containers listed with devices
	there      map[[2]string]int64 // when pods that are listed, by namespace and name, were last known to be there
	turns      map[given]turn
	out        []want
}

// given is a device that a pod was given, as the kubelet calls it.
type given struct {
	namespace, pod string
	device         Device
}

// turn is an init container that has a device of its pod's now.
type turn struct {
	uid, name string
	order     int // in the pod
}

// begin forgets what is not there any more. The grants are the checkpoint's.
func (w *wanter) begin(r *deviceid.Resolver, v *pods.View, grants []Grant, at int64) {
	w.resolver, w.view, w.at = r, v, at
	w.now = make(map[Device]bool)
	w.listed = make(map[container]bool)
	w.takeTurns(grants)
}

// takeTurns finds what init containers have that have not ended, in pods that
// are known to be there. The kubelet gives a device of an init container to
// those that run after it too, and lists it as theirs from the beginning: it is
// held by the first that has not ended.
func (w *wanter) takeTurns(grants []Grant) {
	w.turns = make(map[given]turn)
	for i := range grants {
		g := &grants[i]
		if !w.resolver.GPUs(g.Resource) {
			continue
		}
		p := w.view.ByUID(g.PodUID)
		if p == nil || p.Gone() || p.Terminal {
			continue
		}
		order := slices.IndexFunc(p.Containers, func(k pods.Container) bool { return k.Name == g.Container && k.Init && !k.Ended })
		if order < 0 {
			continue
		}
		for _, id := range g.IDs {
			d := given{p.Namespace, p.Name, Device{Resource: g.Resource, ID: id}}
			if first, ok := w.turns[d]; !ok || order < first.order {
				w.turns[d] = turn{g.PodUID, g.Container, order}
			}
		}
	}
}

// end keeps what was met for the next look.
func (w *wanter) end() { w.unresolved = w.now }

// list makes wants of a list.
func (w *wanter) list(s *Snapshot) []want {
	w.out = nil
	waiting, errors := w.since, w.hamiErrors
	w.since, w.hamiErrors = nil, nil
	there := w.there
	w.there = make(map[[2]string]int64)
	for i := range s.Pods {
		p := &s.Pods[i]
		known := w.view.ByName(p.Namespace, p.Name)
		if w.hasEnded(p, known, there) {
			continue
		}
		if known != nil && known.Gone() {
			known = nil
		}
		for j := range p.Containers {
			c := container{p.Namespace, p.Name, p.Containers[j].Name}
			w.listed[c] = true
			w.container(c, &p.Containers[j], known, waiting, errors)
		}
	}
	return merge(w.out)
}

// hasEnded reports whether a pod that is listed holds nothing any more, since it
// has succeeded or failed: kubelets before 1.34 list it for as long as it is
// there, all do for a moment after it is gone. before is w.there of the last
// look.
func (w *wanter) hasEnded(p *Pod, known *pods.Pod, before map[[2]string]int64) bool {
	if known == nil {
		return false
	}
	name := [2]string{p.Namespace, p.Name}
	if !known.Gone() {
		w.there[name] = w.at
		return known.Terminal
	}
	last, was := before[name]
	if was {
		w.there[name] = last
	}
	return known.Terminal && was && w.at-last < int64(endedWait)
}

// container makes the wants of one container.
func (w *wanter) container(c container, x *Container, known *pods.Pod, waiting map[container]int64, logged map[string]bool) {
	isHAMi := hami(w.resolver, x.Devices)
	if isHAMi && known == nil && w.keepAll(c, x.Devices) {
		return
	}
	since, ok := w.wait(c, isHAMi && known == nil || w.unsliced(c, x.Dynamic), waiting)
	if !ok || isHAMi && known != nil && w.hami(c, x, known, since, logged) {
		return
	}
	for _, d := range x.Devices {
		if t, ok := w.turns[given{c.namespace, c.pod, d}]; ok && t.name != c.name {
			continue // its turn comes
		}
		if w.resolver.GPUs(d.Resource) {
			w.device(c, "", d, since)
		}
	}
	for i := range x.Dynamic {
		d := &x.Dynamic[i]
		if d.Driver != deviceid.Driver || i > 0 && sameDevice(d, &x.Dynamic[i-1]) {
			continue
		}
		uuid, err := w.resolver.Dynamic(d.Pool, d.Name, d.CDI)
		if !w.resolver.Sliced(d.Pool, d.Name) {
			if kept, ok := w.tracker.keeps(c, d.ref()); ok {
				uuid, err = kept, nil // it is held by what a slice has said
			}
		}
		w.add(c, "", d.ref(), uuid, err, since)
	}
}

// wait reports whether a container's devices can be told, and since when it is
// listed. What is still to be known is waited for as a pod is.
func (w *wanter) wait(c container, pending bool, waiting map[container]int64) (since int64, ok bool) {
	since, waited := waiting[c]
	if !waited {
		since = w.at
	}
	if pending {
		if w.since == nil {
			w.since = make(map[container]int64)
		}
		w.since[c] = since
	}
	return since, !pending || w.at-since >= int64(podWait)
}

// unsliced reports whether a device is one that a ResourceSlice may yet tell of.
func (w *wanter) unsliced(c container, ds []Dynamic) bool {
	return w.resolver.Slices() && slices.ContainsFunc(ds, func(d Dynamic) bool {
		if d.Driver != deviceid.Driver || w.resolver.Sliced(d.Pool, d.Name) {
			return false
		}
		_, kept := w.tracker.keeps(c, d.ref())
		return !kept
	})
}

// ref is what a claim's device is called.
func (d *Dynamic) ref() Device { return Device{ID: d.Driver + "/" + d.Pool + "/" + d.Name} }

// keepAll wants what a container holds by devices of these names as it is held.
func (w *wanter) keepAll(c container, ds []Device) (kept bool) {
	for k, h := range w.tracker.holdings {
		if k.container() == c && slices.ContainsFunc(ds, func(d Device) bool { return slices.Contains(h.refs, d) }) {
			w.out = append(w.out, h.want)
			kept = true
		}
	}
	return kept
}

// sameDevice reports whether two entries are of one claim's device.
func sameDevice(a, b *Dynamic) bool {
	return a.Driver == b.Driver && a.Pool == b.Pool && a.Name == b.Name && a.ClaimNamespace == b.ClaimNamespace && a.Claim == b.Claim && a.Share == b.Share
}

// hami reports whether the devices are HAMi's.
func hami(r *deviceid.Resolver, ds []Device) bool {
	return slices.ContainsFunc(ds, func(d Device) bool { return r.GPUs(d.Resource) && deviceid.IsHAMi(d.ID) })
}

// hami makes the wants of a container by the annotation of its pod. False:
// there is nothing usable in it, and the ids have to do.
func (w *wanter) hami(c container, x *Container, p *pods.Pod, since int64, logged map[string]bool) bool {
	if p.HAMi == "" {
		return false
	}
	h, err := deviceid.ParseHAMi(p.HAMi)
	i := slices.IndexFunc(p.Containers, func(k pods.Container) bool { return k.Name == c.name })
	var uuids []string
	if err == nil && i >= 0 {
		n := 0
		for _, d := range x.Devices {
			if w.resolver.GPUs(d.Resource) {
				n++
			}
		}
		uuids = h.Container(i, len(p.Containers), n)
	}
	if len(uuids) == 0 {
		if w.hamiErrors == nil {
			w.hamiErrors = make(map[string]bool)
		}
		w.hamiErrors[p.UID] = true
		if !logged[p.UID] {
			w.log.Warn("a pod's HAMi annotation does not say what its container has: its device ids are taken, which may be other GPUs'",
				"namespace", c.namespace, "pod", c.pod, "container", c.name, "error", err)
		}
		return false
	}
	for _, uuid := range uuids {
		got, err := w.resolver.Device(uuid)
		w.add(c, "", Device{ID: "hami/" + uuid}, got, err, since)
		if n := len(w.out); err == nil {
			w.out[n-1].refs = append(w.out[n-1].refs, x.Devices...)
		}
	}
	return true
}

// device makes a want of one device plugin's device.
func (w *wanter) device(c container, uid string, d Device, since int64) {
	uuid, err := w.resolver.Device(d.ID)
	w.add(c, uid, d, uuid, err, since)
}

// add makes a want of what a name was resolved to. If it was not, the device
// that is held under that name stays held; a new holding waits.
func (w *wanter) add(c container, uid string, ref Device, uuid string, err error, since int64) {
	if err != nil {
		if len(w.now) < maxUnresolved {
			if !w.unresolved[ref] && !w.now[ref] {
				w.log.Warn("a device that a container has is not one of the driver's: its holding waits",
					"namespace", c.namespace, "pod", c.pod, "container", c.name, "resource", ref.Resource, "error", err)
			}
			w.now[ref] = true
		}
		var ok bool
		if uuid, ok = w.tracker.keeps(c, ref); !ok {
			return
		}
	}
	w.out = append(w.out, want{
		key: key{c.namespace, c.pod, c.name, uuid}, uid: uid, replicas: 1, refs: []Device{ref}, since: since,
	})
}

// initial makes wants of what init containers have, other than those that the
// kubelet lists itself.
func (w *wanter) initial() []want {
	w.out = nil
	for d, t := range w.turns {
		if c := (container{d.namespace, d.pod, t.name}); !w.listed[c] {
			w.device(c, t.uid, d.device, w.at)
		}
	}
	return merge(w.out)
}

// merge makes one want of all of a container's on one device: replicas add up.
func merge(ws []want) []want {
	slices.SortStableFunc(ws, func(a, b want) int { return cmp.Or(a.compare(b.key), cmp.Compare(a.uid, b.uid)) })
	out := ws[:0]
	for _, x := range ws {
		if n := len(out); n > 0 && out[n-1].key == x.key {
			last := &out[n-1]
			last.replicas += x.replicas
			last.refs = append(last.refs, x.refs...)
			continue
		}
		out = append(out, x)
	}
	return out
}
