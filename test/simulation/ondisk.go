package simulation

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/test/simulation/memory"
)

// onDisk is a ledger in DuckDB. A collector that is killed leaves its files as
// they are at that moment; the next goes on with a copy of them.
type onDisk struct {
	dir string

	mu      sync.Mutex
	decoder decoder
	life    int // of the files
}

func (l *onDisk) decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.decoder.decode(c, r)
}

func (l *onDisk) at(life int) string { return filepath.Join(l.dir, fmt.Sprint(life)) }

func (l *onDisk) open(ask func(what string) trouble) (ledgerStore, error) {
	st, err := duckdb.Open(context.Background(), duckdb.Options{Dir: l.at(l.life), Decode: l.decode, MemoryBytes: 128 << 20, Threads: 1, Readers: 2})
	if err != nil {
		return nil, err
	}
	if ask == nil {
		ask = func(string) trouble { return trouble{} }
	}
	return &onDiskStore{Store: st, l: l, ask: ask, dead: make(chan struct{})}, nil
}

// onDiskStore is one collector's.
type onDiskStore struct {
	*duckdb.Store
	l    *onDisk
	ask  func(what string) trouble
	dead chan struct{}

	mu     sync.Mutex // held while the files change
	killed bool
}

// Kill copies the files as they are, and lets go of them.
func (s *onDiskStore) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed {
		return
	}
	s.killed = true
	close(s.dead)
	from, to := s.l.at(s.l.life), s.l.at(s.l.life+1)
	s.l.life++
	if err := copyFiles(from, to); err != nil {
		panic("BUG: simulation: " + err.Error())
	}
	_ = s.Close() // nobody looks at these files any more
	_ = os.RemoveAll(from)
}

// copyFiles copies a ledger's file and its log.
func copyFiles(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{duckdb.FileName, duckdb.FileName + ".wal"} {
		b, err := os.ReadFile(filepath.Join(from, name)) //nolint:gosec // it is the test's own folder
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write does something, with the trouble that there is.
func (s *onDiskStore) write(ctx context.Context, what string, f func() error) error {
	t := s.ask(what)
	if t.Delay > 0 {
		timer := time.NewTimer(t.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.dead:
			return memory.ErrDead
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if t.Before != nil {
		return t.Before
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed {
		return memory.ErrDead
	}
	if err := f(); err != nil {
		return err
	}
	return t.After
}

func (s *onDiskStore) Commit(ctx context.Context, b *store.Batch) error {
	return s.write(ctx, "commit", func() error { return s.Store.Commit(ctx, b) })
}

func (s *onDiskStore) Rerate(ctx context.Context, r *store.Rerating) error {
	return s.write(ctx, "rerate", func() error { return s.Store.Rerate(ctx, r) })
}

func (s *onDiskStore) Roll(ctx context.Context, through attribution.Second) error {
	return s.write(ctx, "roll", func() error { return s.Store.Roll(ctx, through) })
}

func (s *onDiskStore) PutDocument(ctx context.Context, kind store.DocumentKind, body []byte, at time.Time) (n uint32, err error) {
	err = s.write(ctx, "put", func() error {
		n, err = s.Store.PutDocument(ctx, kind, body, at)
		return err
	})
	return n, err
}
