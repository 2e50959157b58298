package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// writer is the state of the one goroutine that changes the store.
type writer struct {
	commits    uint64     // the newest commit's number
	kept       []keptOnes // the newest commits' chunks, for queries that do not see them
	swept      time.Time
	cleaned    time.Time          // when rows were last rolled and dropped
	cleanAgain time.Duration      // after that
	rolledTo   attribution.Second // of data, then
}

// keptOnes is what one commit holds.
type keptOnes struct {
	number uint64
	groups []*group
	bytes  int64
	since  time.Time
}

const (
	// keepCommits is how many commits stay in memory after they are durable. A
	// query asks for what its view does not see within microseconds of taking
	// the view; several commits in that time are possible, not likely.
	keepCommits = 4
	keepFor     = 10 * time.Second // at most
	keepPart    = 8                // of what may be pending, but the newest always
	// commitPart of what may be pending is committed at a time.
	commitPart = 4
	sweepEvery = time.Second
	// liveAfterLeaving is how long the open seconds of a node stay visible
	// after its stream has ended. An agent that comes back sends them again.
	liveAfterLeaving = 2 * time.Minute
	// dataBetweenRolls makes replays roll too, which pass days in seconds.
	dataBetweenRolls = 6 * attribution.Second(rollup.Hour)
)

// Run is the writer: it commits what is ready, does jobs, rolls and drops rows.
// It returns nil when ctx ends, or the first error of the store that trying
// again won't cure; everything that was not acknowledged is still with the
// agents. It returns after the last stream has ended, so the gRPC server must
// be stopped too.
func (s *Server) Run(ctx context.Context) error {
	defer s.streams.Wait()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.dead)
	}()
	now := s.o.Clock()
	s.writer.swept, s.writer.cleaned, s.writer.cleanAgain = now, now, s.cleanAgain()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, err := s.turn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		timer.Reset(wait)
		select {
		case j := <-s.jobs:
			j.done <- j.do(j.ctx)
		case <-s.queue.wake:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// turn does what is due and returns how long nothing else is.
func (s *Server) turn(ctx context.Context) (time.Duration, error) {
	now := s.o.Clock()
	if s.pressed.Swap(false) && s.budget.wait() > 0 { // not granted by the last commit
		s.relieve()
	}
	if now.Sub(s.writer.swept) >= sweepEvery {
		s.writer.swept = now
		s.sweep(now)
		s.forgetKept(now)
		if err := s.clean(ctx, now); err != nil {
			return 0, err
		}
	}
	gs, wait := s.queue.take(now, s.o.Timing.Linger, s.o.Limits.BatchRows, s.o.Limits.PendingBytes/commitPart)
	if len(gs) > 0 {
		if err := s.commit(ctx, gs); err != nil {
			return 0, err
		}
		wait = 0
	}
	if wait < 0 || wait > sweepEvery {
		wait = sweepEvery
	}
	return wait, nil
}

// sweep makes groups ready that have waited long enough, and forgets nodes that
// left nothing behind.
func (s *Server) sweep(now time.Time) {
	for _, n := range s.allNodes() {
		n.mu.Lock()
		gs := n.makeReady(func(g *group) bool { return now.Sub(g.since) >= s.o.Timing.MaxAge })
		n.trimLive()
		if n.stream == nil && len(n.live) > 0 && now.Sub(n.left) >= liveAfterLeaving {
			n.dropLive(func(*live) bool { return true })
		}
		idle := n.idle()
		n.mu.Unlock()
		s.queue.add(gs, now)
		if idle {
			s.forgetNode(n)
		}
	}
}

func (s *Server) forgetNode(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.idle() {
		s.removeNode(n)
	}
}

// commit makes groups durable and acknowledges them. It returns an error only
// where it gives up.
func (s *Server) commit(ctx context.Context, gs []*group) error {
	backoff := s.o.Timing.Backoff
	failed := false
	for {
		number := s.writer.commits + 1
		err := s.store.Commit(ctx, s.batch(number, gs))
		if errors.Is(err, store.ErrDuplicate) || (failed && errors.Is(err, store.ErrBadBatch)) {
			// The latter where the attempt that failed did succeed.
			if err = s.dropDuplicates(ctx, gs, err); err == nil {
				if gs = filled(gs); len(gs) == 0 {
					return nil
				}
				continue
			}
		}
		if errors.Is(err, store.ErrOutdated) {
			if err = s.readJournal(ctx); err == nil {
				continue
			}
		}
		switch {
		case err == nil:
			s.trouble.Store(nil)
			s.committed(number, gs)
			return nil
		case ctx.Err() != nil:
			return err
		case !errors.Is(err, store.ErrUnavailable):
			return fmt.Errorf("commit %d: %w", number, err)
		}
		failed = true
		s.count.commitFailures.Add(1)
		s.trouble.Store(&err)
		s.o.Log.Error("the store fails; nothing is acknowledged until it works", "error", err, "again_in", backoff)
		if err := s.wait(ctx, backoff/2+time.Duration(s.o.Rand()*float64(backoff/2))); err != nil {
			return err
		}
		backoff = min(2*backoff, s.o.Timing.MaxBackoff)
	}
}

// wait waits, and does jobs meanwhile: a document may yet be read or written,
// and who asks should hear of the error rather than hang.
func (s *Server) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case j := <-s.jobs:
			j.done <- j.do(j.ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// batch puts groups into a batch, each under its number: from here on a view
// that sees the commit must not have them laid over it. Rosters are packed: only what
// the store does not have of them is unpacked.
func (s *Server) batch(number uint64, gs []*group) *store.Batch {
	b := &store.Batch{
		Number: number, Journal: s.journal.Load().Next() - 1,
		Owners: make(map[rollup.Fingerprint]*attribution.Owner), Devices: make(map[rollup.Fingerprint]*attribution.Device),
	}
	rosters := make(map[rollup.Fingerprint]bool, len(gs))
	rows, chunks := 0, 0
	for _, g := range gs {
		g.node.mu.Lock()
		g.batch = number
		s.rated(g)
		g.node.mu.Unlock()
		rows, chunks = rows+len(g.fold.Rows()), chunks+len(g.chunks)
	}
	var known rollup.Known
	if s.knower != nil {
		known = s.knower
	}
	b.Rows, b.Chunks = make([]rollup.Row, 0, rows), make([]store.Chunk, 0, chunks)
	for _, g := range gs {
		for _, c := range g.chunks {
			b.Chunks = append(b.Chunks, c.stored)
			if id := c.stored.RosterID; !rosters[id] {
				rosters[id] = true
				if s.knower == nil || !s.knower.KnowsRoster(id) {
					b.Rosters = append(b.Rosters, c.roster.stored())
				}
			}
		}
		b.Rows = append(b.Rows, g.fold.Rows()...)
		b.Tallies = append(b.Tallies, g.fold.Tallies()...)
		b.Transfers = append(b.Transfers, g.transfers.List()...)
		g.fold.CopyFacts(b.Owners, b.Devices, known)
	}
	return b
}

// committed acknowledges groups that are durable, and gives their memory back.
func (s *Server) committed(number uint64, gs []*group) {
	s.writer.commits = number
	s.count.commits.Add(1)
	now := s.o.Clock()
	byNode := make(map[*node][]*group)
	kept := keptOnes{number: number, groups: gs, since: now}
	var back []charge
	for _, g := range gs {
		byNode[g.node] = append(byNode[g.node], g)
		s.count.rows.Add(int64(g.rows()))
		kept.bytes += g.bytes
		back = append(back, charge{g.node.holder, int64(len(g.chunks)), g.bytes})
	}
	for n, gs := range byNode {
		n.mu.Lock()
		n.stored(gs, now)
		s.newest.Store(max(s.newest.Load(), int64(n.storedThrough)))
		if n.stream != nil {
			n.stream.acknowledge()
		}
		n.mu.Unlock()
	}
	s.writer.kept = append(s.writer.kept, kept)
	s.forgetKept(now)
	s.budget.give(back...)
}

// forgetKept forgets the oldest of the commits that are kept: those that are too
// many, too large together, or too old.
func (s *Server) forgetKept(now time.Time) {
	w := &s.writer
	bytes := int64(0)
	for _, k := range w.kept {
		bytes += k.bytes
	}
	for len(w.kept) > keepCommits || (len(w.kept) > 1 && bytes > s.o.Limits.PendingBytes/keepPart) ||
		(len(w.kept) > 0 && now.Sub(w.kept[0].since) >= keepFor) {
		old := w.kept[0]
		w.kept = append(w.kept[:0:0], w.kept[1:]...)
		bytes -= old.bytes
		s.forgotten.Store(old.number) // before any of them goes, see Since
		byNode := make(map[*node]map[*group]bool)
		for _, g := range old.groups {
			if byNode[g.node] == nil {
				byNode[g.node] = make(map[*group]bool)
			}
			byNode[g.node][g] = true
		}
		for n, gs := range byNode {
			n.mu.Lock()
			n.forget(gs)
			n.mu.Unlock()
		}
	}
}
