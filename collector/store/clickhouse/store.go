package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// Store is a ledger on ClickHouse servers. It implements [store.Store] and
// [store.Shared].
type Store struct {
	options Options
	client  *client
	log     *slog.Logger

	// writing is held by whoever writes. It guards session.
	writing  sync.Mutex
	session  entry
	doubt    *doubt // of a write before that may be in the log or may yet come
	loading  bool   // between the first Load and Loaded
	known    known  // of this session: what need not be written again
	limits   limits
	journals plan.Journals

	mu     sync.Mutex // guards what follows
	closed bool
	rules  *ruled
	facts  facts
	seen   marks // of documents, as of the last Refresh
}

var _ store.Shared = (*Store)(nil)

// Open opens the ledger on the servers, or makes an empty one. Servers that
// cannot be reached give an error that wraps [store.ErrUnavailable].
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{options: o, client: newClient(&o), log: o.Logger, limits: defaultLimits(), rules: &ruled{}}
	s.begin()
	err = s.prepare(ctx)
	if err == nil {
		err = s.checkLoaded(ctx)
	}
	if err == nil {
		s.seen, err = s.marks(ctx)
	}
	if err != nil {
		s.client.close()
		if errors.Is(err, errNewer) || errors.Is(err, errImpossible) {
			return nil, fmt.Errorf("store: %w", err)
		}
		return nil, unavailable("open the ledger", err)
	}
	return s, nil
}

// Close ends all use of the ledger.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.client.close()
	return nil
}

var errClosed = errors.New("store: closed")

func (s *Store) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return nil
}

// begin begins a session. What the one before it wrote and did not log is never
// seen.
func (s *Store) begin() {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	s.session = begun(s.options.Name)
	s.session.session = binary.LittleEndian.Uint64(b[:])
	s.known = known{}
}

// View implements [store.Store].
func (s *Store) View(ctx context.Context, f func(store.Reader) error) error {
	if err := s.open(); err != nil {
		return err
	}
	st, err := s.readState(ctx)
	if err != nil {
		return unavailable("read", err)
	}
	return f(s.reader(st))
}

func (s *Store) reader(st *state) *reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &reader{store: s, client: s.client, state: st, rules: s.rules, commits: st.lane(s.options.Name).number}
}

// SetMapping implements [store.Store].
func (s *Store) SetMapping(_ context.Context, m store.Mapping) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = &ruled{rules: m}
	return nil
}
