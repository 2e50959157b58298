package pods

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Bounds of a directory. A kubelet runs 110 pods unless told otherwise.
const (
	// MaxPods bounds the pods that are there; more are refused and counted.
	// Those that were there first stay.
	MaxPods = 4096
	// MaxGone bounds the pods that are gone and still known; beyond it those
	// that went first are forgotten.
	MaxGone = 512
)

// Directory is what is known of the node's pods. Any goroutine may use it.
type Directory struct {
	cluster, node string
	view          atomic.Pointer[View]
	changed       chan struct{}

	mu      sync.Mutex // for writers
	left    uint64     // how many have gone so far
	refused atomic.Uint64
}

// NewDirectory makes an empty directory of a node.
func NewDirectory(cluster, node string) *Directory {
	d := &Directory{cluster: cluster, node: node, changed: make(chan struct{}, 1)}
	d.view.Store(&View{})
	return d
}

// View is the directory as it is now. It does not change.
func (d *Directory) View() *View { return d.view.Load() }

// Changed receives a value after the directory has changed; changes that come
// before it is received are one. It has one reader.
func (d *Directory) Changed() <-chan struct{} { return d.changed }

// Refused counts descriptions that MaxPods refused.
func (d *Directory) Refused() uint64 { return d.refused.Load() }

// Put describes pods anew; all others stay as they are. A pod that had gone is
// there again. Of two descriptions of one UID the last counts. The directory
// keeps what the pods point to, so nobody may change it afterwards.
func (d *Directory) Put(ps ...*Pod) { d.write(func(w *writer) { w.put(ps) }) }

// Delete says that pods are gone, by UID.
func (d *Directory) Delete(uids ...string) {
	d.write(func(w *writer) {
		for _, uid := range uids {
			w.delete(uid)
		}
	})
}

// Replace says that these pods are there and no others.
func (d *Directory) Replace(ps []*Pod) {
	d.write(func(w *writer) {
		there := make(map[string]bool, len(ps))
		for _, p := range ps {
			there[p.UID] = true
		}
		for _, uid := range slices.Sorted(maps.Keys(w.byUID)) { // for the same order every time
			if !there[uid] {
				w.delete(uid)
			}
		}
		w.put(ps)
	})
}

// write publishes a changed view.
func (d *Directory) write(f func(*writer)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := &writer{Directory: d, byUID: maps.Clone(d.View().byUID)}
	if w.byUID == nil {
		w.byUID = make(map[string]*Pod)
	}
	for _, p := range w.byUID {
		if !p.Gone() {
			w.there++
		}
	}
	f(w)
	if !w.dirty {
		return
	}
	w.forget()
	d.view.Store(newView(w.byUID))
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// writer is a change of the directory under way.
type writer struct {
	*Directory
	byUID map[string]*Pod
	there int // of byUID, those that are not gone
	dirty bool
}

func (w *writer) put(ps []*Pod) {
	for _, p := range ps {
		before := w.byUID[p.UID]
		arrives := before == nil || before.Gone()
		switch {
		case p.UID == "" || (arrives && w.there >= MaxPods):
			w.refused.Add(1)
			continue
		case !arrives && before.same(p):
			continue
		}
		if arrives {
			w.there++
		}
		w.byUID[p.UID] = p.settled(w.cluster, w.node, before)
		w.dirty = true
	}
}

func (w *writer) delete(uid string) {
	p := w.byUID[uid]
	if p == nil || p.Gone() {
		return
	}
	gone := *p
	w.left++
	gone.left = w.left
	w.byUID[uid] = &gone
	w.there--
	w.dirty = true
}

// forget drops the pods that went first, beyond MaxGone.
func (w *writer) forget() {
	var gone []*Pod
	for _, p := range w.byUID {
		if p.Gone() {
			gone = append(gone, p)
		}
	}
	if len(gone) <= MaxGone {
		return
	}
	slices.SortFunc(gone, func(a, b *Pod) int { return cmp.Compare(a.left, b.left) })
	for _, p := range gone[:len(gone)-MaxGone] {
		delete(w.byUID, p.UID)
	}
}

// View is an immutable snapshot of a directory.
type View struct {
	byUID       map[string]*Pod
	byName      map[string]*Pod
	byContainer map[string]found
}

type found struct {
	pod       *Pod
	container int
}

func newView(byUID map[string]*Pod) *View {
	v := &View{byUID: byUID, byName: make(map[string]*Pod, len(byUID)), byContainer: make(map[string]found, len(byUID))}
	for _, p := range byUID {
		key := name(p.Namespace, p.Name)
		if other := v.byName[key]; other == nil || p.newer(other) {
			v.byName[key] = p
		}
		for i := range p.Containers {
			id := p.Containers[i].ID
			if other, taken := v.byContainer[id]; id != "" && (!taken || (other.pod != p && p.newer(other.pod))) {
				v.byContainer[id] = found{p, i}
			}
		}
	}
	return v
}

// newer reports whether of two pods of one name (or, which no runtime gives, of
// one container's id) this is the one meant: the one
// that is there; of two that are there (a StatefulSet's replacement may be
// known before the old one's end) the one that still runs; of two that are
// gone the last.
func (p *Pod) newer(x *Pod) bool {
	switch {
	case p.Gone() != x.Gone():
		return x.Gone()
	case p.Gone():
		return p.left > x.left
	case p.Terminal != x.Terminal:
		return x.Terminal
	}
	return p.UID > x.UID // neither is better: the same answer every time
}

// Len is the number of pods, those that are gone included.
func (v *View) Len() int { return len(v.byUID) }

// All calls f for every pod, in no order.
func (v *View) All(f func(*Pod)) {
	for _, p := range v.byUID {
		f(p)
	}
}

// ByUID finds a pod by the UID in its cgroups' names, nil if unknown.
func (v *View) ByUID(uid string) *Pod { return v.byUID[uid] }

// ByName finds a pod by namespace and name, nil if unknown. Of several that
// have had the name it is the one that is there.
func (v *View) ByName(namespace, pod string) *Pod { return v.byName[name(namespace, pod)] }

// ByContainer finds a container by its id at the runtime (64 hex digits), nil
// if unknown.
func (v *View) ByContainer(id string) (*Pod, *Container) {
	f, ok := v.byContainer[id]
	if !ok {
		return nil, nil
	}
	return f.pod, &f.pod.Containers[f.container]
}
