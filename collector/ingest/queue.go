package ingest

import (
	"slices"
	"sync"
	"time"
)

// queue holds the groups that are ready, in the order in which they are to be
// committed. Its length is bounded by the budget.
//
// The order is fair by bytes between nodes (start-time fair queueing): a node
// that has much in it waits behind others' first groups with its later ones.
// The groups of one node stay in order.
type queue struct {
	wake chan struct{} // has room for one: something changed

	mu     sync.Mutex
	groups []*group // by turn
	turn   int64    // of the group taken last
	rows   int
	first  time.Time // when the queue was last empty before these
	hurry  bool      // commit without waiting for more
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) add(gs []*group, now time.Time) {
	if len(gs) == 0 {
		return
	}
	q.mu.Lock()
	if len(q.groups) == 0 {
		q.first = now
	}
	for _, g := range gs {
		g.turn = max(q.turn, g.node.nextTurn)
		g.node.nextTurn = g.turn + g.bytes
		i, _ := slices.BinarySearchFunc(q.groups, g.turn, func(x *group, turn int64) int {
			if x.turn <= turn {
				return -1
			}
			return 1
		})
		q.groups = slices.Insert(q.groups, i, g)
		q.rows += g.rows()
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.groups) == 0
}

// rush has what is there committed at once.
func (q *queue) rush() {
	q.mu.Lock()
	q.hurry = len(q.groups) > 0
	q.mu.Unlock()
	q.signal()
}

// take takes groups of about so many rows and bytes off the queue, at least
// one, if it is time: when there are rows enough, someone is in a hurry, or the
// first has lingered. Otherwise it returns none and how long to wait, −1 where
// the queue is empty.
func (q *queue) take(now time.Time, linger time.Duration, rows int, bytes int64) ([]*group, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.groups) == 0 {
		q.hurry = false
		return nil, -1
	}
	if waited := now.Sub(q.first); !q.hurry && q.rows < rows && waited < linger {
		return nil, linger - max(waited, 0)
	}
	k := 0
	for n := 0; k < len(q.groups); k++ {
		g := q.groups[k]
		if k > 0 && (n+g.rows() > rows || bytes < g.bytes) {
			break
		}
		n += g.rows()
		bytes -= g.bytes
		q.rows -= g.rows()
	}
	gs := append([]*group(nil), q.groups[:k]...)
	q.turn = gs[k-1].turn
	left := copy(q.groups, q.groups[k:])
	clear(q.groups[left:])
	q.groups = q.groups[:left]
	return gs, 0
}

func (g *group) rows() int { return len(g.fold.Rows()) + len(g.fold.Tallies()) }
