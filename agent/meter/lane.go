package meter

import (
	"runtime"
	"sync/atomic"
)

// Records that a lane keeps beyond its ring, and of them those for holdings
// and existence alone, which must not be crowded out by readings.
const (
	spillRecords  = 64
	spillReserved = 16
)

type cacheLine [64]byte

// Lane is one producer's way to the sealer: a ring with a single writer and a
// single reader. Its methods are for the one goroutine that has it.
type Lane struct {
	// The producer's own.
	tail uint64 // records put into the ring, ever
	seen uint64 // records taken out of it, as far as the producer looked
	size uint64 // 0 once closed
	mask uint64
	ring []Record
	seq  uint32
	id   uint32
	_    cacheLine

	published atomic.Uint64 // tail, for the sealer
	_         cacheLine
	consumed  atomic.Uint64 // by the sealer, for the producer
	_         cacheLine

	// What the ring had no room for. Whoever holds the table has taken the
	// pointer out; the sealer leaves another, so the producer never waits.
	spill   atomic.Pointer[spill]
	spilled atomic.Uint64 // grows with every change to the table
	closed  atomic.Bool
	stats   *counters

	// The sealer's own.
	spare *spill
	taken uint64 // spilled, when the table was last taken
}

type spill struct {
	n       int
	records [spillRecords]Record
}

func newLane(id uint32, size int, stats *counters) *Lane {
	l := &Lane{id: id, size: uint64(size), mask: uint64(size - 1), ring: make([]Record, size), stats: stats, spare: new(spill)}
	l.spill.Store(new(spill))
	return l
}

// Record hands one record to the sealer. It never blocks and never allocates.
//
// While the ring is full, records go to a small table, where a record is joined
// with the newest one of its key (kind, device, owner, subject, measure):
//
//   - If their intervals meet, or the table is full, they become one interval
//     with the sum of both amounts. No time and no activity is lost, only where
//     in the interval it was; a gap between them passes for observed.
//   - Of two statements about the same holding the newer counts.
//   - A record of another key takes a place of its own. If there is none left,
//     Record returns false: the amounts are counted in [Stats.Lost], and the
//     time will be sealed as unobserved. A quarter of the table is kept for
//     holdings and existence; a caller repeats those until they are taken.
func (l *Lane) Record(r Record) bool {
	if l.tail-l.seen >= l.size && !l.room(1) {
		return l.overflow(r)
	}
	l.seq++
	// Word by word: copied as a whole, the words just spilled to the stack are
	// loaded again in pairs, for which the processor waits.
	slot := &l.ring[l.tail&l.mask]
	slot.tag = r.tag.withSeq(l.seq)
	slot.device, slot.owner, slot.subject = r.device, r.owner, r.subject
	slot.from, slot.to = r.from, r.to
	slot.a, slot.b = r.a, r.b
	l.tail++
	l.published.Store(l.tail)
	return true
}

// RecordAll hands records to the sealer so that, where the ring has room for
// them, it sees all or none of them. It returns false if one was lost.
func (l *Lane) RecordAll(rs []Record) bool {
	if l.size-min(l.size, l.tail-l.seen) < uint64(len(rs)) && !l.room(uint64(len(rs))) {
		ok := true
		for i := range rs {
			ok = l.Record(rs[i]) && ok
		}
		return ok
	}
	for i := range rs {
		l.seq++
		slot := &l.ring[l.tail&l.mask]
		*slot = rs[i]
		slot.tag = slot.tag.withSeq(l.seq)
		l.tail++
	}
	l.published.Store(l.tail)
	return true
}

// Room is how many records surely fit the ring now.
func (l *Lane) Room() int {
	l.room(l.size)
	return int(l.size - min(l.size, l.tail-l.seen))
}

// Close says that no more will be recorded. What the lane holds is still
// drained; then the meter forgets it. Recording on a closed lane panics.
func (l *Lane) Close() {
	l.size = 0
	l.closed.Store(true)
}

// room looks how far the sealer is and reports whether n records fit.
func (l *Lane) room(n uint64) bool {
	l.seen = l.consumed.Load()
	return l.size-min(l.size, l.tail-l.seen) >= n && l.size > 0
}

func (l *Lane) overflow(r Record) bool {
	l.seq++
	r.tag = r.tag.withSeq(l.seq)
	if l.closed.Load() {
		panic("BUG: meter: a record on a closed lane")
	}
	s := l.spill.Swap(nil) // the sealer never leaves it nil
	ok := s.put(&r, l.stats)
	l.spill.Store(s)
	l.spilled.Add(1)
	return ok
}

// put joins a record into the table, or gives it a place.
func (s *spill) put(r *Record, stats *counters) bool {
	limit := spillRecords - spillReserved
	if r.tag.kind().control() {
		limit = spillRecords
	}
	for i := s.n - 1; i >= 0; i-- {
		if x := &s.records[i]; x.sameKey(r) && (r.tag.kind().control() || x.touches(r) || s.n >= limit) {
			x.join(r)
			stats.mergedRecords.Add(1)
			return true
		}
	}
	if s.n >= limit {
		stats.lost.record(r)
		return false
	}
	s.records[s.n] = *r
	s.n++
	return true
}

// drain hands everything recorded before the call to absorb, and reports
// whether the lane is closed and empty. Only the sealer calls it.
func (l *Lane) drain(absorb func(*Record, uint32)) bool {
	closed := l.closed.Load()
	head, tail := l.consumed.Load(), l.published.Load()
	for ; head != tail; head++ {
		absorb(&l.ring[head&l.mask], l.id)
	}
	l.consumed.Store(head)
	if n := l.spilled.Load(); n != l.taken {
		l.taken = n
		s := l.takeSpill()
		for i := range s.n {
			absorb(&s.records[i], l.id)
		}
		clear(s.records[:s.n])
		s.n = 0
		l.spare = s
	}
	return closed
}

// takeSpill exchanges the table for an empty one. It waits for the producer
// where that is just adding to it, which takes a bounded number of steps.
func (l *Lane) takeSpill() *spill {
	for {
		if s := l.spill.Load(); s != nil && l.spill.CompareAndSwap(s, l.spare) {
			return s
		}
		runtime.Gosched()
	}
}
