package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Trouble is what is wrong with one write.
type Trouble struct {
	Delay  time.Duration // before it happens
	Before error         // it does not happen
	After  error         // it happens, and says this
}

// ErrDead is what a collector that is dead gets; it tells nobody.
var ErrDead = errors.New("the collector is dead")

// Store is one collector's way to a ledger. The contract of [store.Store], or
// for several collectors of [store.Shared], says how it is used.
type Store struct {
	l       *Ledger
	shared  bool
	trouble func(what string) Trouble
	dead    chan struct{}

	// Under the ledger's mutex.
	killed  bool
	commits uint64 // of this collector, where it is one of several
	refresh struct {
		cards, reratings int
	}
}

var (
	_ store.Shared = (*Store)(nil)
	_ store.Knower = (*Store)(nil)
)

// Open opens a ledger. trouble is asked before every write, and may be nil.
func (l *Ledger) Open(shared bool, trouble func(what string) Trouble) *Store {
	if trouble == nil {
		trouble = func(string) Trouble { return Trouble{} }
	}
	return &Store{l: l, shared: shared, trouble: trouble, dead: make(chan struct{})}
}

// Kill has nothing of this store happen any more.
func (s *Store) Kill() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if !s.killed {
		s.killed = true
		close(s.dead)
	}
}

// write does something, as a whole or not at all.
func (s *Store) write(ctx context.Context, what string, f func() error) error {
	t := s.trouble(what)
	if t.Delay > 0 {
		timer := time.NewTimer(t.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.dead:
			return ErrDead
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if t.Before != nil {
		return fmt.Errorf("%s: %w", what, t.Before)
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.killed {
		return ErrDead
	}
	if err := f(); err != nil {
		return err
	}
	if t.After != nil {
		return fmt.Errorf("%s: %w", what, t.After)
	}
	return nil
}

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, b *store.Batch) error {
	return s.write(ctx, "commit", func() error {
		if n := s.count(); b.Number != n+1 {
			return fmt.Errorf("%w: number %d after %d", store.ErrBadBatch, b.Number, n)
		}
		if err := s.l.commit(b, s.shared); err != nil {
			return err
		}
		s.commits++
		return nil
	})
}

// count is how many commits count here. It is called with mu held.
func (s *Store) count() uint64 {
	if s.shared {
		return s.commits
	}
	return s.l.writes
}

// KnowsOwner implements [store.Knower].
func (s *Store) KnowsOwner(f attribution.Fingerprint) bool { return knows(s.l, s.l.owners, f) }

// KnowsDevice implements [store.Knower].
func (s *Store) KnowsDevice(f attribution.Fingerprint) bool { return knows(s.l, s.l.devices, f) }

// KnowsRoster implements [store.Knower].
func (s *Store) KnowsRoster(f attribution.Fingerprint) bool { return knows(s.l, s.l.rosters, f) }

func knows[T any](l *Ledger, m map[attribution.Fingerprint]*T, f attribution.Fingerprint) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return m[f] != nil
}

// Rerate implements [store.Store].
func (s *Store) Rerate(ctx context.Context, r *store.Rerating) error {
	return s.write(ctx, "rerate", func() error { return s.l.rerate(r, s.shared) })
}

// Roll implements [store.Store].
func (s *Store) Roll(ctx context.Context, through attribution.Second) error {
	return s.write(ctx, "roll", func() error {
		s.l.roll(through)
		return nil
	})
}

// Retain keeps everything.
func (s *Store) Retain(context.Context, store.Retention, attribution.Second) error { return nil }

// SetMapping has no rules.
func (s *Store) SetMapping(context.Context, store.Mapping) error { return nil }

// PutDocument implements [store.Store].
func (s *Store) PutDocument(ctx context.Context, kind store.DocumentKind, body []byte, at time.Time) (n uint32, err error) {
	err = s.write(ctx, "put", func() error {
		n = s.l.put(kind, body, at)
		return nil
	})
	return n, err
}

// Document implements [store.Store].
func (s *Store) Document(_ context.Context, kind store.DocumentKind, revision uint32) (store.Document, error) {
	s.l.mu.RLock()
	defer s.l.mu.RUnlock()
	docs := s.l.docs[kind]
	if revision == 0 {
		revision = uint32(len(docs))
	}
	if revision == 0 || int(revision) > len(docs) {
		return store.Document{}, store.ErrNotFound
	}
	return docs[revision-1], nil
}

// View implements [store.Store].
func (s *Store) View(_ context.Context, f func(store.Reader) error) error {
	s.l.mu.RLock()
	defer s.l.mu.RUnlock()
	if s.killed {
		return ErrDead
	}
	return f(&reader{s.l, s.count()})
}

// NodeRanges implements [store.Shared].
func (s *Store) NodeRanges(_ context.Context, cluster, node string) ([]store.Range, error) {
	s.l.mu.RLock()
	defer s.l.mu.RUnlock()
	return slices.Clone(s.l.ranges(NodeID{cluster, node})), nil
}

// Refresh implements [store.Shared].
func (s *Store) Refresh(context.Context) (bool, error) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	cards, reratings := len(s.l.docs[store.RateCards]), len(s.l.docs[store.Reratings])
	changed := cards != s.refresh.cards || reratings != s.refresh.reratings
	s.refresh.cards, s.refresh.reratings = cards, reratings
	return changed, nil
}

// Close does nothing: there is nothing to let go of.
func (s *Store) Close() error { return nil }
