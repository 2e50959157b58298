package meter

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// span is an interval with amounts that are spread evenly over it.
type span struct {
	from, to     int64
	a, b         int64 // as in Record
	doneA, doneB int64 // of them, what has been taken
	owner        *ownerEntry
	subject      *subjectEntry
	measure      MeasureHandle
	processSM    bool
	sharedServer bool
}

// take is what the amounts come to between the last take and time t.
func (s *span) take(t int64) (a, b int64) {
	if s.doneA != s.a {
		done := apportion.Until(s.a, s.from, s.to, t)
		a, s.doneA = done-s.doneA, done
	}
	if s.doneB != s.b {
		done := apportion.Until(s.b, s.from, s.to, t)
		b, s.doneB = done-s.doneB, done
	}
	return a, b
}

// sameKey reports whether two spans of one queue may be joined.
func (s *span) sameKey(x *span) bool {
	return s.owner == x.owner && s.subject == x.subject && s.measure == x.measure &&
		s.processSM == x.processSM && s.sharedServer == x.sharedServer
}

// before is the order of a queue: by start, then by owner in canonical order.
func (s *span) before(x *span) bool {
	if s.from != x.from || s.owner == x.owner {
		return s.from < x.from
	}
	return compareOwners(s.owner, x.owner) < 0
}

func compareOwners(a, b *ownerEntry) int {
	switch {
	case a == b:
		return 0
	case a == nil: // nobody comes first
		return -1
	case b == nil:
		return 1
	}
	return attribution.CompareOwners(&a.value, &b.value)
}

// queue holds spans in order. Those that have passed leave at the front.
type queue struct {
	items []span
	head  int
}

func (q *queue) all() []span { return q.items[q.head:] }

// started is how many spans begin before t.
func (q *queue) started(t int64) int {
	n := 0
	for _, s := range q.items[q.head:] {
		if s.from >= t {
			break
		}
		n++
	}
	return n
}

// insert puts a span in its place: mostly the end.
func (q *queue) insert(s span) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, s)
	xs := q.items[q.head:]
	for i := len(xs) - 1; i > 0 && s.before(&xs[i-1]); i-- {
		xs[i], xs[i-1] = xs[i-1], s
	}
}

// join adds a span to the newest one of its key, and reports whether there is
// one. Nothing of s has been taken before now.
func (q *queue) join(s span, now int64) bool {
	xs := q.all()
	for i := len(xs) - 1; i >= 0; i-- {
		if !xs[i].sameKey(&s) {
			continue
		}
		x := xs[i]
		s.from, s.to = min(max(x.from, now), s.from), max(x.to, s.to)
		s.a, s.b = apportion.SaturatingAdd(s.a-s.doneA, x.a-x.doneA), apportion.SaturatingAdd(s.b-s.doneB, x.b-x.doneB)
		s.doneA, s.doneB = 0, 0
		copy(xs[i:], xs[i+1:])
		xs[len(xs)-1] = span{}
		q.items = q.items[:len(q.items)-1]
		q.insert(s)
		return true
	}
	return false
}

// retire lets those of the first n spans go that end by t.
func (q *queue) retire(n int, t int64) {
	started := q.items[q.head : q.head+n]
	keep := n
	for i := n - 1; i >= 0; i-- {
		if started[i].to > t {
			keep--
			if i != keep {
				started[keep] = started[i]
			}
		}
	}
	if keep == 0 {
		return
	}
	clear(started[:keep])
	q.head += keep
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
}

// skip lets time pass up to t without anybody looking.
func (q *queue) skip(t int64) {
	n := q.started(t)
	for i := range q.all()[:n] {
		q.all()[i].take(t)
	}
	q.retire(n, t)
}
