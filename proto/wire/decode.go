package wire

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// DecodeColumns rebuilds a chunk from its columns and checks it; costs and
// energies are derived, so that the whole passes [attribution.Chunk.Check].
// The columns must cover the seconds from key.Sequence on. The chunk shares
// nothing with m; it keeps the roster.
func DecodeColumns(m *pb.Columns, key attribution.ChunkKey, roster *attribution.Roster) (*attribution.Chunk, error) {
	return decodeColumns(m, nil, key, roster, (*attribution.Chunk).Derive, nil)
}

func decodeColumns(
	m *pb.Columns, b base, key attribution.ChunkKey, roster *attribution.Roster, derive func(*attribution.Chunk) error, mem *Arena,
) (*attribution.Chunk, error) {
	if attribution.Second(m.GetFirstSecond()) != key.Sequence {
		return nil, malformed(4, "columns.first_second", "%d in chunk %d", m.GetFirstSecond(), key.Sequence)
	}
	if s := m.GetSeconds(); s < 1 || s > attribution.ChunkSeconds {
		return nil, malformed(4, "columns.seconds", "%d: want 1 to 10", s)
	}
	windows := len(m.GetSliceCount())
	if windows == 0 {
		windows = len(b)
	}
	slices, err := countSlices(m, b, windows)
	if err != nil {
		return nil, err
	}
	c := &attribution.Chunk{Key: key, Seconds: int(m.GetSeconds()), Roster: roster}
	d := newColumnsReader(m, b, mem.Slices(slices))
	c.Windows = mem.Windows(windows)
	for i := range c.Windows {
		if err := d.window(c, i); err != nil {
			return nil, err
		}
	}
	if field := d.unread(); field != "" {
		return nil, malformed(4, "columns."+field, "does not have as many entries as slice_count tells")
	}
	if c.Tallies, err = decodeTallies(m, mem); err != nil {
		return nil, err
	}
	if err := derive(c); err != nil {
		return nil, err
	}
	return c, nil
}

// countSlices finds how many slices the windows have, within the limits, before
// any is made. It takes no more than the columns pay for: pairs of owner and
// basis are sent, and a device's windows are few. With a base whose devices do
// not match in place, it may be off.
func countSlices(m *pb.Columns, b base, windows int) (int, error) {
	counts := column[uint32]{values: m.GetSliceCount()}
	if err := checkCount("columns.slice_count", windows, MaxWindows); err != nil {
		return 0, err
	}
	total, pairs, last, repeats := 0, 0, 0, 0
	for i := range windows {
		n := int(counts.next())
		switch k := b.sliceCount(i); {
		case n > MaxSlices:
			return 0, malformed(8, "columns.slice_count", "%d slices in window %d: at most %d are taken", n, i, MaxSlices)
		case n > 0:
			last, repeats = n, 0
			pairs += n
		case k > 0:
			last, repeats = k, 0
		default:
			if repeats++; repeats >= attribution.ChunkSeconds {
				return 0, malformed(8, "columns.slice_count", "window %d is one of too many of a device", i)
			}
		}
		if total += last; total > MaxSlices {
			return 0, malformed(8, "columns.slice_count", "more than %d slices", MaxSlices)
		}
	}
	if sent := len(m.GetOwnerBasisStep()); sent != pairs && (sent > 0 || pairs > windows) {
		return 0, malformed(4, "columns.owner_basis_step", "%d pairs: slice_count tells of %d", sent, pairs)
	}
	return total, nil
}

// column is read entry by entry. One that was sent empty yields zeros.
type column[T int64 | uint32] struct {
	values []T
	n      int
}

func (c *column[T]) next() T {
	i := c.n
	c.n++
	if i < len(c.values) {
		return c.values[i]
	}
	return 0
}

// whole reports whether as many entries were read as there are.
func (c *column[T]) whole() bool { return len(c.values) == 0 || c.n == len(c.values) }

type columnsReader struct {
	base  base
	arena []attribution.Slice // not yet given to a window
	given int                 // slices

	deviceStep, secondStep, sliceCount, ownerBasisStep column[uint32]
	method, energy, price, revision, time, sm, memory  column[int64]
}

func newColumnsReader(m *pb.Columns, b base, arena []attribution.Slice) columnsReader {
	return columnsReader{
		base:           b,
		arena:          arena,
		deviceStep:     column[uint32]{values: m.GetDeviceStep()},
		secondStep:     column[uint32]{values: m.GetSecondStep()},
		sliceCount:     column[uint32]{values: m.GetSliceCount()},
		ownerBasisStep: column[uint32]{values: m.GetOwnerBasisStep()},
		method:         column[int64]{values: m.GetMethodDelta()},
		energy:         column[int64]{values: m.GetEnergyUjDelta()},
		price:          column[int64]{values: m.GetPriceNanoPerHourDelta()},
		revision:       column[int64]{values: m.GetPriceRevisionDelta()},
		time:           column[int64]{values: m.GetTimeNsDelta()},
		sm:             column[int64]{values: m.GetIdleSmNs()},
		memory:         column[int64]{values: m.GetMemoryByteSecondsDelta()},
	}
}

// unread names a column that has more or fewer entries than were read.
func (d *columnsReader) unread() string {
	for _, c := range []struct {
		field string
		whole bool
	}{
		{"device_step", d.deviceStep.whole()},
		{"second_step", d.secondStep.whole()},
		{"owner_basis_step", d.ownerBasisStep.whole()},
		{"method_delta", d.method.whole()},
		{"energy_uj_delta", d.energy.whole()},
		{"price_nano_per_hour_delta", d.price.whole()},
		{"price_revision_delta", d.revision.whole()},
		{"time_ns_delta", d.time.whole()},
		{"idle_sm_ns", d.sm.whole()},
		{"memory_byte_seconds_delta", d.memory.whole()},
	} {
		if !c.whole {
			return c.field
		}
	}
	return ""
}

// window reads window i of the chunk. Sums of hostile steps may wrap around:
// what comes out is judged, here where it must be and else by Check.
func (d *columnsReader) window(c *attribution.Chunk, i int) error {
	w := &c.Windows[i]
	w.Device = d.base.device(c, i) + d.deviceStep.next()
	r := d.base.reference(c, i)
	w.Second = r.second + attribution.Second(d.secondStep.next())

	method := int64(r.window.Method) + d.method.next()
	revision := int64(r.window.Price.Revision) + d.revision.next()
	w.Method, w.Price.Revision = uint16(method), uint32(revision)
	if int64(w.Method) != method {
		return malformed(4, "columns.method_delta", "window %d: method %d is out of range", i, method)
	}
	if int64(w.Price.Revision) != revision {
		return malformed(6, "columns.price_revision_delta", "window %d: revision %d is out of range", i, revision)
	}
	w.Energy = r.window.Energy + d.energy.next()
	w.Price.PerHour = r.window.Price.PerHour + money.Amount(d.price.next())
	if w.Energy < 0 || w.Price.PerHour < 0 {
		return malformed(1, "columns", "window %d: energy %d µJ or price %d nano is negative", i, w.Energy, w.Price.PerHour)
	}

	n := int(d.sliceCount.next())
	same := n == 0
	if same {
		if n = len(r.slices); n == 0 {
			return malformed(1, "columns.slice_count", "window %d is its device's first, and has no slices", i)
		}
	}
	if err := d.give(w, n); err != nil {
		return err
	}
	if err := d.pairs(w.Slices, r.slices, same, i); err != nil {
		return err
	}
	if err := d.times(w.Slices, r.slices, same, i); err != nil {
		return err
	}
	d.activity(w.Slices, r.slices, same)
	return nil
}

// give gives a window its slices.
func (d *columnsReader) give(w *attribution.DeviceWindow, n int) error {
	if d.given += n; d.given > MaxSlices {
		return malformed(8, "columns.slice_count", "more than %d slices", MaxSlices)
	}
	if len(d.arena) < n { // the base's devices are others
		d.arena = make([]attribution.Slice, n)
	}
	w.Slices, d.arena = d.arena[:n:n], d.arena[n:]
	return nil
}

func (d *columnsReader) pairs(ss, previous []attribution.Slice, same bool, window int) error {
	if same {
		for i := range ss {
			ss[i].Owner, ss[i].Basis = previous[i].Owner, previous[i].Basis
		}
		return nil
	}
	pair := uint64(0)
	for i := range ss {
		pair += uint64(d.ownerBasisStep.next())
		ss[i].Owner, ss[i].Basis = uint32(pair>>3), attribution.Basis(pair&7)
		if pair>>3 >= MaxOwners || !ss[i].Basis.Valid() {
			return malformed(2, "columns.owner_basis_step", "window %d slice %d: owner %d, basis %d", window, i, pair>>3, pair&7)
		}
	}
	return nil
}

func (d *columnsReader) times(ss, previous []attribution.Slice, same bool, window int) error {
	idle, last := 0, len(ss)-1 // the last in order of time_ns_delta
	for i := range ss {
		if !isBusy(ss[i].Basis) {
			idle++
			last = i
		}
	}
	left := attribution.WindowNanos
	take := func(i int, t int64) bool {
		ss[i].Time = t
		left -= t
		return t >= 0 && left >= 0 && t <= attribution.WindowNanos
	}
	at := cursor{slices: previous}
	for i := range ss {
		if s := &ss[i]; isBusy(s.Basis) && (i != last || idle > 0) {
			if !take(i, at.seek(s).Time+d.time.next()) {
				return malformed(1, "columns.time_ns_delta", "window %d slice %d: time %d ns", window, i, s.Time)
			}
		}
	}
	p := newIdlePredictor(previous, same, idle)
	for i := range ss {
		if s := &ss[i]; !isBusy(s.Basis) && i != last {
			if !take(i, p.next(left, i)+d.time.next()) {
				return malformed(1, "columns.time_ns_delta", "window %d slice %d: time %d ns", window, i, s.Time)
			}
		}
	}
	ss[last].Time = left
	return nil
}

func (d *columnsReader) activity(ss, previous []attribution.Slice, same bool) {
	at := cursor{slices: previous}
	for i := range ss {
		s := &ss[i]
		s.SMActive = d.sm.next()
		if isBusy(s.Basis) {
			s.SMActive = s.Time - s.SMActive
		}
		if same {
			s.Memory = previous[i].Memory + d.memory.next()
		} else {
			s.Memory = at.seek(s).Memory + d.memory.next()
		}
	}
}

func decodeTallies(m *pb.Columns, mem *Arena) ([]attribution.Tally, error) {
	steps, values := m.GetTallyKeyStep(), m.GetTallyValue()
	if err := checkCount("columns.tally_key_step", len(steps), MaxTallies); err != nil {
		return nil, err
	}
	if len(steps) != len(values) {
		return nil, malformed(4, "columns.tally_value", "%d values of %d tallies", len(values), len(steps))
	}
	ts := mem.Tallies(len(steps))
	key := uint64(0)
	for i := range ts {
		key += steps[i]
		ts[i] = attribution.Tally{
			Second:  attribution.Second(m.GetFirstSecond()) + attribution.Second(key>>48),
			Subject: uint32(key >> 16),
			Measure: uint16(key),
			Value:   values[i],
		}
	}
	return ts, nil
}
