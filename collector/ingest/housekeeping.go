package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// recently is how long a connected node that stores nothing new holds up
// rolling.
const recently = time.Minute

// clean rolls finished hours and days, and drops what is older than the
// retention, when it is time. Both go by the data's time: a replay of last year
// rolls as it goes, and is not dropped for being of last year.
func (s *Server) clean(ctx context.Context, now time.Time) error {
	w := &s.writer
	newest := attribution.Second(s.newest.Load())
	if newest == 0 || (now.Sub(w.cleaned) < w.cleanAgain && newest-w.rolledTo < dataBetweenRolls) {
		return nil
	}
	complete := s.complete(now)
	if now.Sub(w.cleaned) < w.cleanAgain && complete-w.rolledTo < dataBetweenRolls {
		return nil
	}
	w.cleaned, w.cleanAgain, w.rolledTo = now, s.cleanAgain(), complete
	err := s.rollAndRetain(ctx, complete)
	switch {
	case errors.Is(err, store.ErrUnavailable):
		s.trouble.Store(&err)
		s.o.Log.Error("rolling and dropping rows failed and will be tried again", "error", err)
		return nil
	case err == nil:
		s.trouble.Store(nil)
	}
	return err
}

func (s *Server) rollAndRetain(ctx context.Context, complete attribution.Second) error {
	if err := s.store.Roll(ctx, complete); err != nil {
		return fmt.Errorf("roll: %w", err)
	}
	if err := s.store.Retain(ctx, s.o.Retention, s.DataTime()); err != nil {
		return fmt.Errorf("retain: %w", err)
	}
	return nil
}

// DataTime is now, as far as keeping data goes: the end of what is stored, but
// not after the clock, since a node whose clock runs ahead must not have
// others' data dropped. 0 where nothing is stored.
func (s *Server) DataTime() attribution.Second {
	newest := attribution.Second(s.newest.Load())
	if !s.o.AllowFuture {
		newest = min(newest, attribution.Second(s.o.Clock().Unix()))
	}
	return newest
}

// complete is the second up to which no node that is sending has more to send:
// what is rolled before that stays rolled. Later arrivals are right all the
// same, they only make more rows.
func (s *Server) complete(now time.Time) attribution.Second {
	through := attribution.Second(s.newest.Load())
	for _, n := range s.allNodes() {
		n.mu.Lock()
		if n.stream != nil && !n.storedAt.IsZero() && now.Sub(n.storedAt) < recently {
			through = min(through, n.storedThrough)
		}
		n.mu.Unlock()
	}
	return through
}

// dropDuplicates takes out of groups what the store has already, as it says
// now. That happens where another collector writes to the same store, or a
// commit failed to say that it succeeded.
func (s *Server) dropDuplicates(ctx context.Context, gs []*group, cause error) error {
	stored := make(map[nodeID]*seconds)
	for _, g := range gs {
		stored[g.node.id] = &seconds{}
	}
	if err := s.storedNow(ctx, stored); err != nil {
		return fmt.Errorf("read what is stored: %w", err)
	}
	// What is dropped here is in the store by now, and a view from before that
	// can no longer be completed, see Since.
	s.forgotten.Store(s.writer.commits)
	dropped := 0
	for _, g := range gs {
		dropped += s.dropStored(g, stored[g.node.id])
	}
	if dropped == 0 {
		return s.refuted(fmt.Errorf("the store refuses as duplicate what it does not have: %w", cause))
	}
	return nil
}

// dropStored takes the chunks that are stored out of a group, acknowledges or
// rejects them, and returns how many there were.
func (s *Server) dropStored(g *group, have *seconds) int {
	have.sort()
	n := g.node
	n.mu.Lock()
	defer n.mu.Unlock()
	var kept, gone []*chunk
	bytes := int64(0)
	for _, c := range g.chunks {
		v := have.judge(c.span())
		if v == fresh {
			kept = append(kept, c)
			continue
		}
		gone = append(gone, c)
		bytes += c.bytes
		c.release(n.decoded)
		if v == duplicate {
			s.count.duplicate.Add(1)
			n.storedThrough = max(n.storedThrough, c.end())
			continue
		}
		s.count.conflict.Add(1)
		if n.stream != nil && n.stream.boot == c.key().Boot {
			// An agent that does not read its answers is told again when it
			// sends the chunk again.
			_ = n.stream.rejectLocked(c.key(), "conflict: the ledger has other data in these seconds")
		}
	}
	g.sumAnew(kept, s.journal.Load())
	g.batch = 0
	g.bytes -= bytes
	n.pending = slices.DeleteFunc(n.pending, func(c *chunk) bool { return slices.Contains(gone, c) })
	for _, c := range gone {
		n.has.remove(c.span())
	}
	n.has.learn(have.spans)
	if len(kept) == 0 {
		n.forget(map[*group]bool{g: true})
	}
	if n.stream != nil {
		n.stream.acknowledge()
	}
	s.budget.give(charge{n.holder, int64(len(gone)), bytes})
	return len(gone)
}

func filled(gs []*group) []*group {
	return slices.DeleteFunc(gs, func(g *group) bool { return len(g.chunks) == 0 })
}
