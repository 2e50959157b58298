package wire

import (
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// EncodeColumns puts a chunk's windows and tallies into columns. The chunk
// must be one that [attribution.Chunk.Check] passes.
func EncodeColumns(c *attribution.Chunk) *pb.Columns {
	m := &pb.Columns{}
	encodeColumns(c, nil, m)
	return m
}

// encodeColumns appends to m, whose columns are empty.
func encodeColumns(c *attribution.Chunk, b base, m *pb.Columns) {
	m.FirstSecond, m.Seconds = int64(c.Key.Sequence), uint32(c.Seconds)
	for i := range c.Windows {
		w, r := &c.Windows[i], b.reference(c, i)
		same := samePairs(r.slices, w.Slices)
		m.DeviceStep = append(m.DeviceStep, w.Device-b.device(c, i))
		m.SecondStep = append(m.SecondStep, uint32(w.Second-r.second))
		m.MethodDelta = append(m.MethodDelta, int64(w.Method)-int64(r.window.Method))
		m.EnergyUjDelta = append(m.EnergyUjDelta, w.Energy-r.window.Energy)
		m.PriceNanoPerHourDelta = append(m.PriceNanoPerHourDelta, int64(w.Price.PerHour-r.window.Price.PerHour))
		m.PriceRevisionDelta = append(m.PriceRevisionDelta, int64(w.Price.Revision)-int64(r.window.Price.Revision))
		if same {
			m.SliceCount = append(m.SliceCount, 0)
		} else {
			m.SliceCount = append(m.SliceCount, uint32(len(w.Slices)))
			last := uint32(0)
			for j := range w.Slices {
				pair := w.Slices[j].Owner<<3 | uint32(w.Slices[j].Basis)
				m.OwnerBasisStep = append(m.OwnerBasisStep, pair-last)
				last = pair
			}
		}
		encodeTimes(w.Slices, r.slices, same, m)
		encodeActivity(w.Slices, r.slices, m)
	}
	encodeTallies(c, m)
	dropZeros(m)
	if len(b) > 0 && len(b) == len(c.Windows) {
		dropIfZero(&m.SliceCount)
	}
}

func encodeTimes(ss, previous []attribution.Slice, same bool, m *pb.Columns) {
	busy := 0
	for i := range ss {
		if isBusy(ss[i].Basis) {
			busy++
		}
	}
	idle := len(ss) - busy
	left := attribution.WindowNanos
	at := cursor{slices: previous}
	for i := range ss {
		s := &ss[i]
		if !isBusy(s.Basis) {
			continue
		}
		if busy--; busy == 0 && idle == 0 {
			return // what is left
		}
		m.TimeNsDelta = append(m.TimeNsDelta, s.Time-at.seek(s).Time)
		left -= s.Time
	}
	p := newIdlePredictor(previous, same, idle)
	for i := range ss {
		s := &ss[i]
		if isBusy(s.Basis) {
			continue
		}
		if idle--; idle == 0 {
			return // what is left
		}
		m.TimeNsDelta = append(m.TimeNsDelta, s.Time-p.next(left, i))
		left -= s.Time
	}
}

func encodeActivity(ss, previous []attribution.Slice, m *pb.Columns) {
	at := cursor{slices: previous}
	for i := range ss {
		s := &ss[i]
		x := s.SMActive
		if isBusy(s.Basis) {
			x = s.Time - s.SMActive
		}
		m.IdleSmNs = append(m.IdleSmNs, x)
		m.MemoryByteSecondsDelta = append(m.MemoryByteSecondsDelta, s.Memory-at.seek(s).Memory)
	}
}

func encodeTallies(c *attribution.Chunk, m *pb.Columns) {
	last := uint64(0)
	for _, t := range c.Tallies {
		key := (uint64(t.Second-c.Key.Sequence)<<32|uint64(t.Subject))<<16 | uint64(t.Measure)
		m.TallyKeyStep = append(m.TallyKeyStep, key-last)
		m.TallyValue = append(m.TallyValue, t.Value)
		last = key
	}
}

// dropZeros empties the columns that hold nothing but zeros.
func dropZeros(m *pb.Columns) {
	dropIfZero(&m.DeviceStep)
	dropIfZero(&m.SecondStep)
	dropIfZero(&m.OwnerBasisStep)
	for _, c := range []*[]int64{
		&m.MethodDelta, &m.EnergyUjDelta, &m.PriceNanoPerHourDelta, &m.PriceRevisionDelta,
		&m.TimeNsDelta, &m.IdleSmNs, &m.MemoryByteSecondsDelta,
	} {
		dropIfZero(c)
	}
}

func dropIfZero[T int64 | uint32](column *[]T) {
	for _, x := range *column {
		if x != 0 {
			return
		}
	}
	*column = (*column)[:0]
}

func isBusy(b attribution.Basis) bool { return b == attribution.Used || b == attribution.Unattributed }

// samePairs reports whether two windows have the same pairs of owner and
// basis.
func samePairs(a, b []attribution.Slice) bool {
	if len(a) != len(b) || len(a) == 0 {
		return false
	}
	for i := range a {
		if a[i].Owner != b[i].Owner || a[i].Basis != b[i].Basis {
			return false
		}
	}
	return true
}

// cursor finds slices by owner and basis in a previous window. Both are in the
// same order, so it only ever goes forward.
type cursor struct {
	slices []attribution.Slice
	i      int
}

// nothing stands for a slice that was not there.
var nothing attribution.Slice

func (c *cursor) seek(s *attribution.Slice) *attribution.Slice {
	for ; c.i < len(c.slices); c.i++ {
		p := &c.slices[c.i]
		if p.Owner == s.Owner && p.Basis == s.Basis {
			c.i++
			return p
		}
		if p.Owner > s.Owner || (p.Owner == s.Owner && p.Basis > s.Basis) {
			break
		}
	}
	return &nothing
}

// idlePredictor says what the times of a window's idle slices are expected to
// be. ledger.proto has the rule.
type idlePredictor struct {
	previous     []attribution.Slice // with the same pairs, else nil
	previousLeft int64
	n            int64 // idle slices yet to come
}

func newIdlePredictor(previous []attribution.Slice, same bool, idle int) idlePredictor {
	p := idlePredictor{n: int64(idle)}
	if same && idle > 1 {
		p.previous = previous
		for i := range previous {
			if !isBusy(previous[i].Basis) {
				p.previousLeft += previous[i].Time
			}
		}
	}
	return p
}

// next is the expected time of slice i, where the slices before it have left
// so much of the second. Factors are at most 10^9.
func (p *idlePredictor) next(left int64, i int) int64 {
	n := p.n
	p.n--
	if p.previousLeft == 0 {
		return left / n
	}
	t := p.previous[i].Time
	x := left * t / p.previousLeft
	p.previousLeft -= t
	return x
}
