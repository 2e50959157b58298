package meter

import "github.com/gpuledger/gpuledger/attribution"

// Sealed is one second of the node: a window of every device that existed in
// it, and what was served. Windows come by device id; they are unpriced, and
// their slices in an order that depends on the facts alone but is not the
// canonical one. A tally may come in several parts. It is for the receiver to
// read, and copy from, until it returns; Facts resolves its numbers for
// [KeepSeconds] more sealed seconds, on the sealer's goroutine.
type Sealed struct {
	Second  attribution.Second
	Windows []attribution.DeviceWindow
	Tallies []attribution.Tally
	Facts   attribution.Facts
}

// Seal drains the lanes, seals every second from [Meter.Next] up to and
// including through, and hands each to emit, in order. If emit fails Seal
// returns its error, and the next call begins by emitting the same second
// again: none is left out.
func (m *Meter) Seal(through attribution.Second, emit func(*Sealed) error) error {
	m.Drain()
	defer m.maybeSweep()
	if m.unsent {
		if err := emit(&m.sealed); err != nil {
			return err
		}
		m.unsent = false
	}
	for next := m.Next(); next <= through; next = m.Next() {
		if next < m.skip {
			m.jump(min(m.skip, through+1))
			continue
		}
		m.sealSecond(next)
		m.next.Store(int64(next + 1))
		m.unsent = true
		if err := emit(&m.sealed); err != nil {
			return err
		}
		m.unsent = false
		m.maybeSweep()
	}
	return nil
}

// SkipTo lets the windows before a second be sealed without being handed out:
// a replay that goes over its script again to where it was. What follows is
// exactly what would have followed them.
func (m *Meter) SkipTo(second attribution.Second) { m.skip = second }

func (m *Meter) jump(to attribution.Second) {
	for _, s := range m.order {
		s.skip(to.Nanos())
	}
	m.tallies.skip(to.Nanos())
	m.next.Store(int64(to))
}

func (m *Meter) sealSecond(second attribution.Second) {
	m.cutter.splitter.Policy = *m.policy.Load()
	m.cutter.slices = m.cutter.slices[:0]
	m.sealed.Second, m.sealed.Windows, m.sealed.Tallies = second, m.sealed.Windows[:0], m.sealed.Tallies[:0]
	for _, s := range m.order {
		m.cut(s, second)
	}
	m.cutTallies(second)
}

// sweepSeconds is how often numbers out of use are looked for.
const sweepSeconds = 15

// maybeSweep forgets what has not appeared for KeepSeconds and is not referred
// to by anything that may still appear.
func (m *Meter) maybeSweep() {
	now := m.Next()
	if now-m.swept < sweepSeconds {
		return
	}
	m.swept = now
	m.mark++
	kept := m.order[:0]
	for _, s := range m.order {
		if s.idle() && now-s.touched > KeepSeconds {
			delete(m.slots, s.id)
			continue
		}
		kept = append(kept, s)
		m.markSlot(s)
	}
	clear(m.order[len(kept):])
	m.order = kept
	for i := range m.tallies.all() {
		e := m.tallies.all()[i].subject
		e.mark = m.mark
		markOwner(m.owners.numbers[e.value.facts.Owner], m.mark)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.devices.sweep(m.mark, now)
	m.owners.sweep(m.mark, now)
	m.subjects.sweep(m.mark, now)
	for id, e := range m.byID {
		if !e.live {
			delete(m.byID, id)
		}
	}
}

func (m *Meter) markSlot(s *slot) {
	if s.device != nil {
		s.device.mark = m.mark
	}
	for i := range s.changes {
		if d := s.changes[i].device; d != nil {
			d.mark = m.mark
		}
		markOwner(s.changes[i].owner, m.mark)
	}
	for i := range s.holdings {
		markOwner(s.holdings[i].owner, m.mark)
	}
	for i := range s.uses.all() {
		markOwner(s.uses.all()[i].owner, m.mark)
	}
}

func markOwner(e *ownerEntry, mark uint64) {
	if e != nil {
		e.mark = mark
	}
}

// facts resolves the numbers in a Sealed.
type facts struct{ m *Meter }

func (f facts) Device(i uint32) *attribution.Device   { return &f.m.devices.numbers[i].value }
func (f facts) Owner(i uint32) *attribution.Owner     { return &f.m.owners.numbers[i].value }
func (f facts) Method(i uint16) string                { return f.m.cutter.methods[i] }
func (f facts) Subject(i uint32) *attribution.Subject { return &f.m.subjects.numbers[i].value.facts }
func (f facts) Measure(i uint16) attribution.Measure  { return (*f.m.measureNames.Load())[i] }
