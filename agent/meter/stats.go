package meter

import "sync/atomic"

// Stats counts what happened at a limit, or to readings that did not fit. All
// counts grow since the meter was made; the numbers of things are of now.
type Stats struct {
	Devices, Owners, Subjects, Lanes int // registered now

	RefusedDevices, RefusedOwners, RefusedSubjects uint64
	RefusedMeasures, RefusedLanes                  uint64

	// MergedRecords were joined with another in a full lane, MergedIntervals
	// with another beyond the bound on what is kept per device.
	MergedRecords, MergedIntervals uint64
	// Malformed records had an empty interval, an impossible time or a
	// negative amount, and were discarded.
	Malformed uint64
	// ShiftedTallies came late and were moved to the unsealed windows.
	ShiftedTallies uint64

	Lost    Amounts // no room in a full lane, or beyond a limit
	Late    Amounts // for windows that were sealed already
	Stray   Amounts // for time in which the device did not exist
	Clamped Amounts // more than its time can hold: the excess
}

// Amounts is what records carried that did not count.
type Amounts struct {
	Records  uint64
	SMActive int64 // ns, of devices
	Used     int64 // ns of SM activity, of owners
	Energy   int64 // µJ
	Memory   int64 // byte-seconds
	Value    int64 // of tallies, all measures
}

type amounts struct {
	records                               atomic.Uint64
	smActive, used, energy, memory, value atomic.Int64
}

// add counts a and b of one record as its kind has them.
func (c *amounts) add(k kind, a, b int64) {
	switch k {
	case activity:
		c.smActive.Add(a)
		c.energy.Add(b)
	case use:
		c.used.Add(a)
		c.memory.Add(b)
	case tallied:
		c.value.Add(a)
	default: // holdings carry no amounts
	}
}

func (c *amounts) record(r *Record) {
	c.records.Add(1)
	c.add(r.tag.kind(), r.a, r.b)
}

func (c *amounts) load() Amounts {
	return Amounts{
		Records: c.records.Load(), SMActive: c.smActive.Load(), Used: c.used.Load(),
		Energy: c.energy.Load(), Memory: c.memory.Load(), Value: c.value.Load(),
	}
}

// counters are written by producers whose lanes are full, and by the sealer.
type counters struct {
	mergedRecords, mergedIntervals, malformed, shiftedTallies atomic.Uint64
	lost, late, stray, clamped                                amounts
}

// Stats is a snapshot of the counts. Any goroutine may call it.
func (m *Meter) Stats() Stats {
	c := m.stats
	s := Stats{
		MergedRecords: c.mergedRecords.Load(), MergedIntervals: c.mergedIntervals.Load(),
		Malformed: c.malformed.Load(), ShiftedTallies: c.shiftedTallies.Load(),
		Lost: c.lost.load(), Late: c.late.load(), Stray: c.stray.load(), Clamped: c.clamped.load(),
		Lanes: len(*m.lanes.Load()),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Devices, s.Owners, s.Subjects = m.devices.size, m.owners.size, m.subjects.size
	s.RefusedDevices, s.RefusedOwners, s.RefusedSubjects = m.devices.refused+m.refusedSlots, m.owners.refused, m.subjects.refused
	s.RefusedMeasures, s.RefusedLanes = m.refusedMeasures, m.refusedLanes
	return s
}
