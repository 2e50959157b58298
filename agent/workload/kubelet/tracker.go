package kubelet

import (
	"cmp"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	// podWait is how long a holding waits for its pod to be known. With the
	// tick at which that is seen it is over before a second has passed: the
	// window in which the holding began is sealed then.
	podWait = 700 * time.Millisecond
	// livingWait is how long a holding must have been missing before a pod
	// without processes ends it: a kubelet that has just started knows its
	// pods again within half a second.
	livingWait = 2 * time.Second
	// Patience is how long a holding is kept that is missing since a restart
	// where nothing tells whether its pod is still there.
	Patience = 15 * time.Minute
)

// key is one holding: a container has a device.
type key struct{ namespace, pod, name, device string }

// container names a container.
type container struct{ namespace, pod, name string }

func (k key) container() container { return container{k.namespace, k.pod, k.name} }

func (k key) compare(x key) int {
	return cmp.Or(cmp.Compare(k.device, x.device), cmp.Compare(k.namespace, x.namespace), cmp.Compare(k.pod, x.pod), cmp.Compare(k.name, x.name))
}

// want is a holding as it is said to be now.
type want struct {
	key
	uid      string // of the pod, from the checkpoint; the kubelet's list has none
	replicas int64
	refs     []Device // what the kubelet calls them; of a claim's device the resource is ""
	since    int64
}

// source says where a holding is known from.
type source uint8

const (
	restored source = iota // from the last run of the agent
	listed
	granted // to an init container, from the checkpoint
)

// holding is a holding that is counted, or waits for its pod to be known.
type holding struct {
	want
	source source
	owner  *attribution.Owner // nil: waiting
	// stated says that it was yielded, under the unit's Added (plus one; 0:
	// unknown, of the last run).
	stated bool
	added  uint64
	epoch  uint64 // of the list that had it last
	// missing is the time since which lists of a later epoch lack it, 0 if they
	// don't: whether it is held is not known.
	missing int64
	lived   int64 // when its pod was last told to live, while it is missing
}

// change is an event to be yielded.
type change struct {
	key
	sampler.Event
}

// tracker knows who holds what. It is a machine without clock or I/O: what is
// said goes in with its time, changes come out of flush.
type tracker struct {
	cluster, node string
	view          *pods.View
	units         map[string]uint64 // Added plus one of each device
	epoch         uint64            // of the last list
	fresh         bool              // the last list has just come

	holdings map[key]*holding
	changes  []change
	changed  bool // of who holds what, since it was last looked at
	expired  func(*holding)
}

func newTracker(cluster, node string, initial []sampler.Holding) *tracker {
	t := &tracker{cluster: cluster, node: node, view: &pods.View{}, holdings: map[key]*holding{}, changed: true, expired: func(*holding) {}}
	for i := range initial {
		h := &initial[i]
		if h.Owner == nil || h.Owner.Kind != attribution.Container || len(t.holdings) == MaxDevices {
			continue
		}
		k := key{h.Owner.Namespace, h.Owner.Pod, h.Owner.Container, h.DeviceID}
		old := t.holdings[k]
		if old != nil && old.owner.PodUID != "" {
			old = &holding{want: want{key: k}, owner: h.Owner}
		} else {
			t.holdings[k] = &holding{want: want{key: k, replicas: h.Replicas}, owner: h.Owner, stated: true}
		}
		if old != nil { // two pods that had one name: one can be there
			t.emit(sampler.Released, old, 0)
		}
	}
	return t
}

// flush yields the changes since the last flush, in a stable order. Times that
// are 0 are now.
func (t *tracker) flush(now int64, yield func(*sampler.Event)) {
	slices.SortStableFunc(t.changes, func(a, b change) int { return a.compare(b.key) })
	for i := range t.changes {
		e := &t.changes[i].Event
		if e.Time == 0 {
			e.Time = now
		}
		yield(e)
	}
	clear(t.changes)
	t.changes = t.changes[:0]
}

func (t *tracker) emit(kind sampler.Kind, h *holding, at int64) {
	e := sampler.Event{Kind: kind, Time: at, Node: t.node, DeviceID: h.device, Owner: h.owner}
	if kind == sampler.Held {
		e.Replicas = h.replicas
	}
	t.changes = append(t.changes, change{h.key, e})
	t.changed = true
}

// state yields that a holding is held, if its device is there.
func (t *tracker) state(h *holding, at int64) {
	added := t.units[h.device]
	if added == 0 && (!h.stated || h.added != 0) {
		h.stated = false // it ended with its device
		return
	}
	h.stated, h.added = true, added
	t.emit(sampler.Held, h, at)
}

// release ends a holding. One whose pod never became known was held all the
// same, for as long as it was listed.
func (t *tracker) release(h *holding, at int64) {
	if h.owner == nil {
		t.settleOwner(h, at, true)
	}
	if h.stated {
		t.emit(sampler.Released, h, at)
	}
	delete(t.holdings, h.key)
	t.changed = true
}

// take notes that a holding is said to be there.
func (t *tracker) take(w want, s source, at int64) {
	h := t.holdings[w.key]
	if h == nil {
		h = &holding{want: w, added: t.units[w.device]}
		t.holdings[w.key] = h
	}
	h.source, h.uid, h.refs, h.missing, h.lived = s, w.uid, w.refs, 0, 0
	if s == listed {
		h.epoch = t.epoch
	}
	if h.replicas != w.replicas {
		h.replicas = w.replicas
		if h.owner != nil {
			t.state(h, at)
		}
	}
}

// list takes what the kubelet lists: in the epoch in which a holding was
// listed, absence is its end; in a later one it says nothing, but that its
// device is now another pod's. An incomplete list ends nothing.
func (t *tracker) list(wants []want, epoch uint64, complete bool, at int64) {
	t.epoch = epoch
	there := make(map[key]bool, len(wants))
	for _, w := range wants {
		there[w.key] = true
		t.take(w, listed, at)
	}
	if !complete {
		return
	}
	var holders map[Device]key
	for k, h := range t.holdings {
		switch {
		case there[k] || h.source == granted:
		case h.source == listed && h.epoch == epoch:
			t.release(h, at)
		default:
			if h.missing == 0 {
				h.missing = at
			}
			if holders == nil {
				holders = holdersOf(wants)
			}
			if h.takenOver(holders) {
				t.release(h, at)
			}
		}
	}
}

// holdersOf finds who is listed with a device plugin's devices. A claim's may
// be anybody's.
func holdersOf(wants []want) map[Device]key {
	m := make(map[Device]key)
	for i := range wants {
		for _, ref := range wants[i].refs {
			if ref.Resource != "" {
				m[ref] = wants[i].key
			}
		}
	}
	return m
}

// takenOver reports whether the kubelet has given the devices to another pod.
func (h *holding) takenOver(holders map[Device]key) bool {
	for _, ref := range h.refs {
		if k, ok := holders[ref]; ok && (k.pod != h.pod || k.namespace != h.namespace) {
			return true
		}
	}
	return false
}

// grant takes what init containers that have not ended hold.
func (t *tracker) grant(wants []want, at int64) {
	there := make(map[key]bool, len(wants))
	for _, w := range wants {
		if h := t.holdings[w.key]; h != nil && h.source == listed && h.missing == 0 {
			continue
		}
		there[w.key] = true
		t.take(w, granted, at)
	}
	for k, h := range t.holdings {
		if h.source == granted && !there[k] {
			t.release(h, at)
		}
	}
}

// settle brings holdings in line with what is known of pods and devices.
func (t *tracker) settle(at int64) {
	for _, h := range t.holdings {
		t.settleOwner(h, at, false)
		if h.owner == nil {
			continue
		}
		switch added := t.units[h.device]; {
		case added == 0:
			h.stated = h.stated && h.added == 0
		case !h.stated || h.added != added:
			t.state(h, at)
		}
	}
}

// settleOwner finds the owner of a holding that waits for one (with nothing but
// names where it waits no longer), or replaces it where more is known by now.
func (t *tracker) settleOwner(h *holding, at int64, now bool) {
	known := t.known(h)
	switch {
	case h.owner == nil:
		if known == nil {
			if !now && h.missing == 0 && at-h.since < int64(podWait) {
				return
			}
			known = &attribution.Owner{Kind: attribution.Container, Cluster: t.cluster, Node: t.node, Namespace: h.namespace, Pod: h.pod, Container: h.name}
		}
		h.owner = known
		if t.units[h.device] == h.added {
			at = h.since // the device has been there since
		}
		t.state(h, at)
	case known == nil || known == h.owner:
	case attribution.CompareOwners(known, h.owner) != 0:
		if h.stated {
			t.emit(sampler.Released, h, at)
		}
		h.owner = known
		t.state(h, at)
	default:
		h.owner, t.changed = known, true
	}
}

// known is the owner of a holding as far as its pod is known, else nil. Of a
// holding that is not listed now the name may be another pod's by now.
func (t *tracker) known(h *holding) *attribution.Owner {
	var p *pods.Pod
	switch {
	case h.source == granted:
		p = t.view.ByUID(h.uid)
	case h.source == listed && h.epoch == t.epoch:
		p = t.view.ByName(h.namespace, h.pod)
		switch {
		case p == nil:
		case p.Gone():
			p = nil // another of that name, which is not known yet
		case !t.fresh && h.owner != nil && h.owner.PodUID != "" && h.owner.PodUID != p.UID:
			p = t.view.ByUID(h.owner.PodUID) // the kubelet may not have the new one yet
		}
	case h.owner != nil && h.owner.PodUID != "":
		p = t.view.ByUID(h.owner.PodUID)
	}
	if p == nil {
		return nil
	}
	return p.Owner(h.name)
}

// missing counts the holdings of which it is not known whether they are held.
func (t *tracker) missing() (n int) {
	for _, h := range t.holdings {
		if h.missing != 0 {
			n++
		}
	}
	return n
}

// expire ends holdings missing since a restart whose pods have no process any
// more. living has the UIDs of the pods that have one, or their containers' ids
// where cgroups tell no more; complete says that no others have.
func (t *tracker) expire(living map[string]bool, complete bool, at int64) {
	byContainer := false
	for id := range living {
		byContainer = byContainer || len(id) == containerIDBytes
	}
	for _, h := range t.holdings {
		if h.missing == 0 || h.owner == nil {
			continue
		}
		uid := h.owner.PodUID
		p := t.view.ByUID(uid)
		switch {
		case initEnded(p, h.name):
			t.release(h, at)
		case lives(living, uid, p):
			h.lived = at
		case complete && uid != "" && (p != nil || !byContainer) && at-h.missing >= int64(livingWait):
			t.release(h, at)
		case at-max(h.missing, h.lived) >= int64(Patience):
			t.expired(h)
			t.release(h, at)
		}
	}
}

const containerIDBytes = 64 // a UID has 36 or 32

func lives(living map[string]bool, uid string, p *pods.Pod) bool {
	if living[uid] || p == nil {
		return living[uid]
	}
	return slices.ContainsFunc(p.Containers, func(c pods.Container) bool { return c.ID != "" && living[c.ID] })
}

// initEnded reports whether a container is an init container that has ended,
// which no list tells.
func initEnded(p *pods.Pod, name string) bool {
	return p != nil && slices.ContainsFunc(p.Containers, func(c pods.Container) bool { return c.Name == name && c.Init && c.Ended })
}

// keeps finds the device that a container holds under a name that can't be
// resolved now: a lost GPU, ResourceSlices that went away. It does not hold what
// has become another device under the same UUID.
func (t *tracker) keeps(c container, ref Device) (string, bool) {
	for k, h := range t.holdings {
		if k.container() == c && slices.Contains(h.refs, ref) {
			added := t.units[k.device]
			if added == 0 || added == h.added {
				return k.device, true
			}
		}
	}
	return "", false
}

// holders is who holds each device now, in canonical order.
func (t *tracker) holders() map[string][]*attribution.Owner {
	m := make(map[string][]*attribution.Owner)
	for k, h := range t.holdings {
		if h.owner != nil {
			m[k.device] = append(m[k.device], h.owner)
		}
	}
	for _, os := range m {
		slices.SortFunc(os, attribution.CompareOwners)
	}
	return m
}
