package exporter

import (
	"math"
	"slices"
	"sync/atomic"

	"github.com/gpuledger/gpuledger/attribution"
)

// View is somebody who exports snapshots. Any goroutine may use it.
type View struct {
	e        *Exporter
	exported atomic.Int64 // the last second exported; unused before a first one
}

const (
	unused   = math.MinInt64     // asks for nothing to be kept
	awaiting = math.MinInt64 + 1 // in use, nothing exported yet
)

// NewView adds a view. Series wait for it to export their last values from now
// on where inUse, else from its first export on: that is how a configured push
// differs from a scrape that may never come.
func (e *Exporter) NewView(inUse bool) *View {
	v := &View{e: e}
	v.exported.Store(unused)
	if inUse {
		v.exported.Store(awaiting)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	views := []*View{v}
	if old := e.views.Load(); old != nil {
		views = append(views, *old...)
	}
	e.views.Store(&views)
	return v
}

// Snapshot is the latest one.
func (v *View) Snapshot() *Snapshot { return v.e.Snapshot() }

// Exported says that a snapshot has been exported.
func (v *View) Exported(s *Snapshot) {
	for {
		was := v.exported.Load()
		if was >= int64(s.Second) || v.exported.CompareAndSwap(was, int64(s.Second)) {
			return
		}
	}
}

// exported is the last second that every view in use has exported.
func (e *Exporter) exported() attribution.Second {
	all := int64(math.MaxInt64)
	if views := e.views.Load(); views != nil {
		for _, v := range *views {
			if s := v.exported.Load(); s != unused {
				all = min(all, s)
			}
		}
	}
	return attribution.Second(all)
}

// sweep lets those go that got nothing for long enough.
func (e *Exporter) sweep() {
	exported := e.exported()
	leaves := func(last attribution.Second) bool {
		idle := e.second - last
		if idle < e.linger || (last > exported && idle < e.limit) {
			return false
		}
		e.stats.Left++
		if last > exported {
			e.stats.LeftUnexported++
		}
		return true
	}
	// Backwards, since the last entry takes the place of one that leaves.
	for i, s := range slices.Backward(e.series) {
		if leaves(s.Last) {
			k := e.seriesOf[i]
			k.device.refs--
			k.owner.refs--
			e.series, e.seriesOf = remove(e.series, e.seriesOf, e.seriesAt, i)
		}
	}
	for i, t := range slices.Backward(e.tallies) {
		if leaves(t.Last) {
			e.tallyOf[i].owner.refs--
			e.tallies, e.tallyOf = remove(e.tallies, e.tallyOf, e.tallyAt, i)
		}
	}
	for _, o := range e.owners {
		if o.refs == 0 && o.seen < e.second {
			e.forget(o)
		}
	}
	for id, d := range e.devices {
		if d.refs == 0 && e.second-d.Last >= e.linger {
			delete(e.devices, id)
		}
	}
}

// remove takes out entry i; the last one takes its place.
func remove[T any, K comparable](entries []T, keys []K, at map[K]int, i int) ([]T, []K) {
	last := len(entries) - 1
	delete(at, keys[i])
	if i != last {
		entries[i], keys[i] = entries[last], keys[last]
		at[keys[i]] = i
	}
	var none T
	var noKey K
	entries[last], keys[last] = none, noKey // no pointer is kept
	return entries[:last], keys[:last]
}
