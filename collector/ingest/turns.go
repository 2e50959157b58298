package ingest

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// turns has agents that bring a backlog take turns. What a stream has sent and
// nobody has read takes memory, up to its flow-control window, so that only so many
// may send at once; after an outage that is most of the fleet. A turn is some
// minutes of a node's seconds. Who has had fewest goes first: agents that were away
// for a moment are live again before those that were away for a day.
//
// A turn begins with the hello, for what an agent may bring is not known then, or
// with a chunk in full. It ends when the agent has caught up, which its first live
// second or announced chunk says, when it has kept the collector waiting, and when
// others wait and it has had its share: then it is told to send nothing, and waits
// again. Who was told to send nothing because its chunk waited for memory needs a turn
// to go on.
type turns struct {
	most int // at once

	mu      sync.Mutex
	taken   int
	waiting []*turn // by the turns that they had, then in order of arrival
}

const (
	// turnChunks is how many chunks are a turn while others wait: ten minutes.
	turnChunks = 64
	// turnPatience is how long in all the collector waits for the agent in a turn.
	// One whose messages it waits for has nothing that waits to be read.
	turnPatience = 500 * time.Millisecond
)

// turn is one stream's part in it.
type turn struct {
	of   *turns
	hold func(bool) // has the agent wait, or go on; must not block

	// Read without a lock with each message. Who changes one of them looks at the
	// other after it.
	has      atomic.Bool // changed under of.mu
	awaiting atomic.Bool // the agent's next message

	// Guarded by of.mu.
	queued bool
	had    int           // turns
	chunks int           // in this turn
	waited time.Duration // for the agent in this turn, until `since`
	since  time.Time
	late   *time.Timer // not nil: the agent is waited for in its turn, since `since`
}

// welcome begins a stream's first turn, or has it wait for it. begin is called with
// whether it waits, before hold is.
func (t *turn) welcome(begin func(waits bool)) {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	begin(!t.ask())
}

// took notes a chunk that came in full, and so was kept for the collector.
func (t *turn) took() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	switch {
	case t.queued: // it was on its way
	case !t.has.Load():
		if !t.ask() {
			t.hold(true)
		}
	case t.chunks+1 < turnChunks:
		t.chunks++
	case len(t.of.waiting) == 0:
		t.chunks = 0
	default:
		t.leave()
		t.of.wait(t)
		t.hold(true)
	}
}

// need has an agent that is to have a backlog wait for a turn, unless it has one.
func (t *turn) need() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if !t.queued && !t.has.Load() && !t.ask() {
		t.hold(true)
	}
}

// end gives a turn back, or the wait for one up. An agent that waits must not be
// left waiting: it has gone.
func (t *turn) end() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if t.has.Load() {
		t.leave()
	}
	if t.queued {
		t.queued = false
		t.of.waiting = slices.DeleteFunc(t.of.waiting, func(o *turn) bool { return o == t })
	}
}

// caughtUp ends a turn whose agent has nothing more to bring. One that waits for
// its turn goes on waiting: it has been told to.
func (t *turn) caughtUp() {
	if !t.has.Load() {
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if t.has.Load() {
		t.leave()
	}
}

// await is called before the collector waits for the agent's next message, came
// after it.
func (t *turn) await() {
	t.awaiting.Store(true)
	if !t.has.Load() {
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if t.has.Load() && t.late == nil {
		t.start()
	}
}

func (t *turn) came() {
	t.awaiting.Store(false)
	if !t.has.Load() {
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.stop()
}

// start has the turn end when the collector's patience does.
func (t *turn) start() {
	nth := t.had
	t.since = time.Now()
	t.late = time.AfterFunc(turnPatience-t.waited, func() { t.tooLate(nth) })
}

func (t *turn) stop() {
	if t.late != nil {
		t.late.Stop()
		t.late, t.waited = nil, t.waited+time.Since(t.since)
	}
}

// tooLate ends the nth turn.
func (t *turn) tooLate(nth int) {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if t.has.Load() && t.had == nth {
		t.leave()
	}
}

// ask takes a turn where there is one, and waits for one otherwise.
func (t *turn) ask() bool {
	if t.of.taken < t.of.most {
		t.of.give(t)
		return true
	}
	t.of.wait(t)
	return false
}

// leave passes a turn on to who is next.
func (t *turn) leave() {
	t.stop()
	t.has.Store(false)
	t.of.taken--
	if len(t.of.waiting) > 0 {
		next := t.of.waiting[0]
		t.of.waiting[0] = nil
		t.of.waiting = t.of.waiting[1:]
		t.of.give(next)
		next.hold(false)
	}
}

func (s *turns) give(t *turn) {
	s.taken++
	t.queued, t.chunks, t.waited = false, 0, 0
	t.had++
	t.has.Store(true)
	if t.awaiting.Load() {
		t.start()
	}
}

func (s *turns) wait(t *turn) {
	t.queued = true
	at, _ := slices.BinarySearchFunc(s.waiting, t.had+1, func(o *turn, had int) int { return cmp.Compare(o.had, had) })
	s.waiting = slices.Insert(s.waiting, at, t)
}

// held is how many wait.
func (s *turns) held() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.waiting))
}
