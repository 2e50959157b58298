package meter

import (
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// maxReplicas keeps sums of holdings far from overflow.
const maxReplicas = 1 << 20

// absorb takes one record from a lane over into what the sealer knows.
func (m *Meter) absorb(r *Record, lane uint32) {
	if r.from < 0 || r.to > attribution.MaxSecond.Nanos() || r.a < 0 || r.b < 0 || (r.to <= r.from) != r.tag.kind().control() {
		m.stats.malformed.Add(1)
		return
	}
	switch r.tag.kind() {
	case activity, use:
		m.absorbSpan(r)
	case removed, added, released, held:
		m.absorbChange(r, lane)
	case tallied:
		m.absorbTally(r)
	default:
		m.stats.malformed.Add(1)
	}
}

func (m *Meter) absorbSpan(r *Record) {
	s := m.slotOf(r.device)
	if s == nil {
		m.stats.lost.record(r)
		return
	}
	x := span{from: r.from, to: r.to, processSM: r.tag.processSM(), sharedServer: r.tag.sharedServer()}
	q := &s.activity
	if r.tag.kind() == use {
		q = &s.uses
		x.owner = m.admitOwner(r.owner.e)
	}
	x.a, x.b = min(r.a, r.to-r.from), min(r.b, mostIn(r.to-r.from))
	if x.a != r.a || x.b != r.b {
		m.stats.clamped.records.Add(1)
		m.stats.clamped.add(r.tag.kind(), r.a-x.a, r.b-x.b)
	}
	now := m.Next().Nanos()
	if x.from < now {
		a, b := x.take(now)
		m.stats.late.records.Add(1)
		m.stats.late.add(r.tag.kind(), a, b)
		if x.to <= now {
			return
		}
	}
	if len(q.all()) >= m.opt.Intervals && q.join(x, now) {
		m.stats.mergedIntervals.Add(1)
		return
	}
	q.insert(x)
}

func (m *Meter) absorbChange(r *Record, lane uint32) {
	s := m.slotOf(r.device)
	if s == nil {
		m.stats.lost.record(r)
		return
	}
	c := change{kind: r.tag.kind(), at: r.from, lane: lane, seq: r.tag.seq(), device: m.admitDevice(r.device.e)}
	switch {
	case c.device == nil:
		m.stats.lost.record(r)
		return
	case c.holding():
		c.device = nil
		c.owner = m.admitOwner(r.owner.e)
		if c.owner == nil { // nobody, or refused: it is counted there
			return
		}
	}
	if c.kind == held {
		c.replicas = min(max(r.a, 1), maxReplicas)
	}
	if s.insert(c, m.opt.Changes) {
		m.stats.mergedIntervals.Add(1)
	}
}

func (m *Meter) absorbTally(r *Record) {
	x := span{from: r.from, to: r.to, a: min(r.a, mostIn(r.to-r.from)), measure: r.tag.measure(), subject: m.admitSubject(r.subject.e)}
	if x.subject == nil || x.measure == 0 {
		m.stats.lost.record(r)
		return
	}
	if x.a != r.a {
		m.stats.clamped.records.Add(1)
		m.stats.clamped.add(tallied, r.a-x.a, 0)
	}
	now := m.Next().Nanos()
	if x.from < now {
		if x.to <= now && x.a == 0 {
			return // "none" about time that is sealed
		}
		m.stats.shiftedTallies.Add(1)
		x.from, x.to = now, max(x.to, now+1)
	}
	q := &m.tallies
	if len(q.all()) >= m.opt.Tallies {
		if q.join(x, now) {
			m.stats.mergedIntervals.Add(1)
		} else {
			m.stats.lost.record(r)
		}
		return
	}
	q.insert(x)
}

// slotOf finds or makes the slot of a device; nil if there are too many.
func (m *Meter) slotOf(d DeviceHandle) *slot {
	if d.e == nil {
		return nil
	}
	id := d.e.value.ID
	s := m.slots[id]
	if s == nil {
		if len(m.order) >= m.opt.Devices {
			m.mu.Lock()
			m.refusedSlots++
			m.mu.Unlock()
			return nil
		}
		s = &slot{id: id}
		m.slots[id] = s
		i, _ := slices.BinarySearchFunc(m.order, id, func(s *slot, id string) int { return strings.Compare(s.id, id) })
		m.order = slices.Insert(m.order, i, s)
	}
	s.touched = m.Next()
	return s
}

// admitOwner is the living, numbered entry for one that a record brought; nil
// for nobody, and for one that the limit refuses now.
func (m *Meter) admitOwner(e *ownerEntry) *ownerEntry { return admit(m, m.owners, e) }

func (m *Meter) admitDevice(e *deviceEntry) *deviceEntry { return admit(m, m.devices, e) }

func (m *Meter) admitSubject(e *subjectEntry) *subjectEntry {
	e = admit(m, m.subjects, e)
	if e == nil {
		return nil
	}
	e.value.facts.Owner = 0
	if o := m.admitOwner(e.value.owner); o != nil {
		e.value.facts.Owner = o.number
	}
	return e
}

func admit[T any](m *Meter, t *table[T], e *entry[T]) *entry[T] {
	if e != nil && !e.live && e.heir != nil && e.heir.live {
		e = e.heir
	}
	if e == nil {
		return nil
	}
	if !e.live {
		m.mu.Lock()
		e = t.readmit(e, m.Next())
		m.mu.Unlock()
		if e == nil {
			return nil
		}
	}
	if !e.numbered {
		t.give(e)
	}
	return e
}

// mostIn is how much energy, memory or value so many ns can hold at most.
func mostIn(ns int64) int64 {
	return apportion.MulDiv(ns, attribution.MaxPerSecond, attribution.WindowNanos)
}
