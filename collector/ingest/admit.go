package ingest

import (
	"context"

	"google.golang.org/grpc/status"
)

// firstChunk is what a stream's first chunk is taken for, in bytes, before it is
// made.
const firstChunk = 4 << 10

// makeChunk has a chunk made once there is room for one like the stream's last, so
// that what waits is a message, and not what becomes of it, which is many times as
// large. What make does not use of the room is given back.
func (st *stream) makeChunk(ctx context.Context, make func(room *charge) error) error {
	bytes := st.usual
	if bytes == 0 {
		bytes = firstChunk
	}
	if err := st.await(ctx, bytes); err != nil {
		return err
	}
	room := charge{st.node.holder, 1, bytes}
	err := apart(func() error { return make(&room) })
	st.s.budget.give(room)
	return err
}

// await takes room for a chunk. An agent whose chunk waits for long is told to send
// nothing meanwhile. It has a backlog then, and needs a turn to go on.
func (st *stream) await(ctx context.Context, bytes int64) error {
	waited := false
	err := st.s.budget.take(ctx, st.node.holder, bytes, func() {
		waited = true
		st.pacing.set(&st.pacing.full, true)
	})
	if err != nil {
		return status.FromContextError(err).Err()
	}
	if waited {
		st.turn.need()
		st.pacing.set(&st.pacing.full, false)
	}
	return nil
}

// apart runs f on a goroutine of its own, and waits for it. Making a chunk needs a
// deep stack, once in ten seconds; a goroutine that stays has it until the garbage
// collector finds it unused, and there are as many that stay as there are agents.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// admit accepts a chunk that keeps the laws, in the room that was taken for it. It
// gives back the work that the chunk was made in.
func (st *stream) admit(ctx context.Context, c *chunk, w *work, room *charge) error {
	s, n := st.s, st.node
	if why := s.tooEarlyOrLate(c.from(), c.end()); why != "" {
		s.benches.give(w)
		s.count.rejected.Add(1)
		return st.reject(c.key(), why)
	}
	if st.fits(c, room) {
		n.mu.Lock()
		return st.place(c, w)
	}
	// It is larger than was thought. It waits as it is stored.
	c.decoded, c.lent = nil, false
	s.benches.give(w)
	s.budget.give(*room)
	*room = charge{by: n.holder}
	if err := st.await(ctx, c.bytes); err != nil {
		return err
	}
	c.decoded = c.decode(nil)
	n.mu.Lock()
	return st.place(c, nil)
}

// fits has a chunk have the room, which is then no longer there to be given back,
// where it is no larger than that, or there is more.
func (st *stream) fits(c *chunk, room *charge) bool {
	st.usual = c.bytes
	if !st.s.budget.more(st.node.holder, c.bytes-room.bytes) {
		return false
	}
	*room = charge{by: st.node.holder}
	return true
}

// place puts a chunk for which memory is taken among its node's, unless its
// seconds are there. The node's mutex must be held: place lets go of it, and then
// gives back the work, if any.
func (st *stream) place(c *chunk, w *work) error {
	s, n, whole := st.s, st.node, c.decoded // which it may not keep
	gs, taken, err := st.placeLocked(c)
	if w != nil {
		n.ownLive(w)
		defer s.benches.give(w)
	}
	n.mu.Unlock()
	if !taken {
		s.budget.give(charge{n.holder, 1, c.bytes})
		return err
	}
	s.queue.add(gs, s.o.Clock())
	select {
	case <-s.draining: // perhaps after Drain made everything ready
		s.flush(n)
	default:
	}
	s.count.accepted.Add(1)
	s.count.slices.Add(sliceCount(whole))
	s.count.unpriced.Add(s.unpriced.note(whole, c.roster.content, s.o.Clock()))
	return err
}

func (st *stream) placeLocked(c *chunk) (gs []*group, taken bool, err error) {
	s, n := st.s, st.node
	if n.stream != st {
		return nil, false, errSuperseded
	}
	switch n.has.judge(c.span()) {
	case duplicate:
		return nil, false, st.noteDuplicate(c.from(), c.end())
	case conflict:
		s.count.conflict.Add(1)
		return nil, false, st.rejectLocked(c.key(), "conflict: the node has other data in these seconds, from another boot or in other chunks")
	case fresh:
	}
	if len(n.has.spans) >= s.o.Limits.Ranges && n.has.opens(c.span()) {
		s.count.rejected.Add(1)
		return nil, false, st.rejectLocked(c.key(), "the node's seconds have too many gaps: raise limits.ranges")
	}
	if gs, err = n.accept(c, s.journal.Load(), s.o.Clock()); err != nil {
		s.count.rejected.Add(1)
		return nil, false, st.rejectLocked(c.key(), err.Error())
	}
	return gs, true, st.note(receipt{c.from(), c.end(), awaiting})
}
