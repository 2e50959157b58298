package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Store is a ledger on ClickHouse servers. It implements [store.Store] and
// [store.Shared].
type Store struct {
	options Options
	client  *client
	log     *slog.Logger

	// writing is held by whoever writes. It guards session.
	writing sync.Mutex
	session entry
	loading bool  // between the first Load and Loaded
	known   known // of this session: what need not be written again

	mu      sync.Mutex // guards what follows
	closed  bool
	mapping store.Mapping
	facts   facts
	journal *rerating.Journal // the newest that was read
	seen    marks             // of documents, as of the last Refresh
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
	s := &Store{options: o, client: newClient(&o), log: o.Logger}
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
		if errors.Is(err, errNewer) {
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
	s.session = entry{
		session: binary.LittleEndian.Uint64(b[:]), lane: s.options.Name, hourRolled: never, dayRolled: never,
		secondKept: never, minuteKept: never, hourKept: never, dayKept: never, compacted: never,
		first: math.MaxInt64, last: math.MinInt64,
	}
	s.known = known{}
}

// writing is one write: rows under a number of their own, and an entry of the
// log that makes all of them be there at once.
type writing struct {
	store *Store
	state *state // as it was before
	entry        // as it will be
}

// write runs f and logs what it wrote. After an error nothing of it is there.
func (s *Store) write(ctx context.Context, what string, f func(*writing) error) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return unavailable(what, err)
	}
	st, err := s.readState(ctx)
	if err != nil {
		return unavailable(what, err)
	}
	w := &writing{store: s, state: st, entry: s.session}
	l := st.lane(s.options.Name)
	w.number, w.hourRolled, w.dayRolled = l.number, l.hourRolled, l.dayRolled
	w.seq++
	err = f(w)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		if err = s.logged(ctx, w); err == nil {
			s.session = w.entry
			return nil
		}
	}
	if !errors.Is(err, errRefused) {
		s.begin()
	}
	return unavailable(what, err)
}

// errRefused is wrapped by errors from before the first row was written.
var errRefused = errors.New("refused")

// refused marks an error as one from before the first row was written.
type refused struct{ error }

func (refused) Is(target error) bool { return target == errRefused }
func (r refused) Unwrap() error      { return r.error }

// logged writes the entry of the log. Where the answer was lost, the log tells.
func (s *Store) logged(ctx context.Context, w *writing) error {
	x := w.entry
	var e encoder
	e.u64(x.session)
	e.str(x.lane)
	e.u32(x.seq)
	e.u64(x.number)
	for _, t := range x.times() {
		e.i64(int64(*t))
	}
	e.i64(time.Now().UnixNano())
	err := s.client.insert(ctx, "log", logNames, e)
	if err == nil {
		return nil
	}
	now, rerr := s.readState(context.WithoutCancel(ctx))
	if rerr == nil && now.holds(x.session, x.seq) {
		return nil
	}
	return errors.Join(err, rerr)
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
	return &reader{store: s, client: s.client, state: st, mapping: s.mapping, commits: st.lane(s.options.Name).number}
}

// SetMapping implements [store.Store].
func (s *Store) SetMapping(_ context.Context, m store.Mapping) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mapping = m
	return nil
}

func (x *entry) extend(first, last attribution.Second) {
	x.first, x.last = min(x.first, first), max(x.last, last)
}

// table calls an insert of rows, where there are any.
func (w *writing) insert(ctx context.Context, table, columns string, rows encoder) error {
	if len(rows) == 0 {
		return nil
	}
	if err := w.store.client.insert(ctx, table, columns, rows); err != nil {
		return fmt.Errorf("%s: %w", table, err)
	}
	return nil
}
