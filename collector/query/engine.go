package query

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Overlay is what the collector has accepted and the store's commit N has not:
// pending chunks and open windows.
type Overlay interface {
	// Since calls f with every chunk (open windows count as chunks) that
	// overlaps [from, to) and is not in the store's state of that many
	// commits. They may be kept. An error, before any call of f, says that the
	// state is too old to be completed: a new view of the store cures it.
	Since(commits uint64, from, to attribution.Second, f func(store.Pending)) error
}

// Config is what an Engine needs.
type Config struct {
	Store store.Store
	// Overlay is what lies over the store; nil: nothing does.
	Overlay Overlay
	// Peers are the other collectors of a shared store; nil: there are none.
	Peers Peers
	// Mapping is what the rules in force say, the same that the store was
	// given; nil: they say nothing.
	Mapping func() store.Mapping
	// Card returns the rate card of a revision that costs were rated by, or an
	// error that wraps store.ErrNotFound; nil: there are none.
	Card func(ctx context.Context, revision uint32) (*rating.Card, error)
	// Names is what the rules in force say of names; nil: nothing.
	Names func() *mapping.Names
	// Retention is the retention in force, for messages; nil: the default one.
	Retention func() store.Retention
	// Timeout bounds one question, waiting included. Default 30 s.
	Timeout time.Duration
	// Concurrency is how many questions are answered at once; others wait, and
	// whoever has the fewest is next. Default 4.
	Concurrency int
	// Asker names who asks, behind a context; nil: all are one.
	Asker func(context.Context) string
	// Scope is what the asker behind a context may see, or an error for one who
	// may ask nothing; nil: everything.
	Scope func(context.Context) (Scope, error)
}

// Engine answers questions. Its methods may be called by any number of
// goroutines.
type Engine struct {
	cfg    Config
	slots  *slots
	shared bool // the store is one that other collectors write to
}

// New makes an Engine.
func New(cfg Config) *Engine {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 4
	}
	if cfg.Retention == nil {
		cfg.Retention = func() store.Retention { return store.DefaultRetention }
	}
	if cfg.Card == nil {
		cfg.Card = func(context.Context, uint32) (*rating.Card, error) { return nil, store.ErrNotFound }
	}
	if cfg.Mapping == nil {
		cfg.Mapping = func() store.Mapping { return nil }
	}
	if cfg.Names == nil {
		cfg.Names = func() *mapping.Names { return nil }
	}
	if cfg.Scope == nil {
		cfg.Scope = func(context.Context) (Scope, error) { return Everything(), nil }
	}
	if cfg.Asker == nil {
		cfg.Asker = func(context.Context) string { return "" }
	}
	_, shared := cfg.Store.(store.Shared)
	return &Engine{cfg: cfg, slots: newSlots(cfg.Concurrency), shared: shared}
}

// Snapshot is one consistent state: the store's commit N and the open chunks
// that are not in it. It is valid until the function that was given it
// returns, and used by one goroutine.
type Snapshot struct {
	From, To attribution.Second // as asked, or everything there is
	// Missing are the collectors that did not say in time what they have open:
	// the newest seconds of their nodes are not there until they are stored.
	Missing []string

	reader  store.Reader
	open    []store.Pending
	journal *rerating.Journal // what open chunks cost
	mapping store.Mapping
	names   *mapping.Names
	scope   Scope
	// Of the open chunks' owners, once asked for.
	served scan.Served
	fresh  []string
}

// Snapshot calls f with a state of the ledger over [from, to); 0 and 0 mean
// everything stored or open. Where nothing is, From and To are 0 and queries
// answer nothing. It waits for a free slot and bounds f's context in time.
func (e *Engine) Snapshot(ctx context.Context, from, to attribution.Second, f func(context.Context, *Snapshot) error) error {
	if err := CheckRange(from, to); err != nil {
		return err
	}
	scope, err := e.cfg.Scope(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	asker := e.cfg.Asker(ctx)
	if err := e.slots.take(ctx, asker); err != nil {
		return fmt.Errorf("%w: %d are being answered: %w", ErrBusy, e.cfg.Concurrency, err)
	}
	defer e.slots.give(asker)
	// Before the view, see Peers.
	others, missing := e.others(ctx, from, to)
	begin := func(ctx context.Context, s *Snapshot) error {
		s.Missing = missing
		return f(ctx, s)
	}
	err = e.view(ctx, scope, from, to, others, begin)
	for try := 1; errors.As(err, new(staleError)) && try < maxViews; try++ {
		err = e.view(ctx, scope, from, to, others, begin)
	}
	if err != nil && ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the query took longer than %v: ask for a shorter range, a longer step or fewer dimensions: %w", e.cfg.Timeout, context.DeadlineExceeded)
	}
	return err
}

// maxViews bounds how often a view that is too old is taken anew. It takes
// several commits between two lines of code for that.
const maxViews = 3

type staleError struct{ error }

func (e staleError) Unwrap() error { return e.error }

func (e *Engine) view(ctx context.Context, scope Scope, from, to attribution.Second, others []store.Pending, f func(context.Context, *Snapshot) error) error {
	return e.cfg.Store.View(ctx, func(r store.Reader) error {
		s := &Snapshot{From: from, To: to, reader: r, mapping: e.cfg.Mapping(), names: e.cfg.Names(), scope: scope}
		if err := s.fill(ctx, e.cfg.Overlay, others, e.shared); err != nil {
			return err
		}
		return f(ctx, s)
	})
}

// fill takes the open chunks, this collector's and others', and, where the range
// is to be everything, sets it.
func (s *Snapshot) fill(ctx context.Context, o Overlay, others []store.Pending, shared bool) error {
	everything := s.From == 0 && s.To == 0
	from, to := s.From, s.To
	if everything {
		from, to = 0, maxSecond
	}
	if o != nil {
		err := o.Since(s.reader.Commits(), from, to, func(c store.Pending) { s.open = append(s.open, c) })
		if err != nil {
			return staleError{err}
		}
	}
	var err error
	if s.open = append(s.open, others...); shared || len(others) > 0 {
		if s.open, err = s.unstored(ctx, s.open); err != nil {
			return err
		}
	}
	if len(s.open) > 0 {
		// Open chunks cost what the journal says that the view holds.
		if s.journal, err = s.reader.Journal(ctx); err != nil {
			return err
		}
	}
	if !everything {
		return nil
	}
	if s.From, s.To, err = s.reader.Extent(ctx); err != nil {
		return err
	}
	for _, c := range s.open {
		from, to := spanOf(c)
		if s.To == 0 || from < s.From {
			s.From = from
		}
		s.To = max(s.To, to)
	}
	return nil
}

func spanOf(c store.Pending) (from, to attribution.Second) {
	from = c.Key().Sequence
	return from, from + attribution.Second(c.Seconds())
}

// eachOpen calls f with the open chunks, one decoded after another: f must not keep
// it. They cost what the journal says.
func (s *Snapshot) eachOpen(ctx context.Context, f func(*attribution.Chunk) error) error {
	var mem wire.Arena
	for _, c := range s.open {
		if err := ctx.Err(); err != nil {
			return err
		}
		mem.Reset()
		if err := f(s.journal.Rate(c.Chunk(&mem))); err != nil {
			return err
		}
	}
	return nil
}

// openRosters calls f with the rosters of the open chunks, and once where several in
// a row share it.
func (s *Snapshot) openRosters(ctx context.Context, f func(*attribution.Roster)) error {
	var last *attribution.Roster
	for _, c := range s.open {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r := c.Roster(); r != last {
			f(r)
			last = r
		}
	}
	return nil
}

// Empty reports whether the ledger holds nothing at all.
func (s *Snapshot) Empty() bool { return s.From == s.To }

func (s *Snapshot) stored(ctx context.Context, q *store.Query) ([]store.Row, error) {
	if s.Empty() {
		return nil, nil
	}
	n := s.naming(q, false)
	rows, err := s.reader.Query(ctx, n.query)
	if err != nil {
		return nil, err
	}
	return n.rows(rows), nil
}

func (s *Snapshot) openPart(ctx context.Context, q *store.Query) ([]store.Row, []store.TallyRow, error) {
	if len(s.open) == 0 {
		return nil, nil, nil
	}
	ofSlices, ofTallies := s.naming(q, false), s.naming(q, true)
	sc, err := s.scan(ctx, ofSlices.query)
	if err != nil {
		return nil, nil, err
	}
	rows := ofSlices.rows(sc.Rows())
	if ofTallies.query != q {
		if sc, err = s.scan(ctx, ofTallies.query); err != nil {
			return nil, nil, err
		}
	}
	return rows, ofTallies.tallyRows(sc.Tallies()), nil
}

// scan answers a query from the open chunks, where it matters once it is known who
// served what.
func (s *Snapshot) scan(ctx context.Context, q *store.Query) (*scan.Scan, error) {
	if q.OfServed() {
		if err := s.serve(ctx); err != nil {
			return nil, err
		}
	}
	sc := scan.New(q, scan.Env{Map: s.mapping, Served: s.served.Of})
	return sc, s.eachOpen(ctx, func(c *attribution.Chunk) error {
		sc.Chunk(c)
		return sc.Full()
	})
}

// serve finds out what is known of the tallies of the open chunks' owners: the
// model that one served is known from what is stored, too.
func (s *Snapshot) serve(ctx context.Context) error {
	if s.served != nil {
		return nil
	}
	var owners []rollup.Fingerprint
	if err := s.openRosters(ctx, func(r *attribution.Roster) {
		for i := range r.Owners {
			owners = append(owners, r.Owners[i].Fingerprint())
		}
	}); err != nil {
		return err
	}
	slices.SortFunc(owners, func(a, b rollup.Fingerprint) int { return bytes.Compare(a[:], b[:]) })
	owners = slices.Compact(owners)
	stored, err := s.reader.Served(ctx, owners)
	if err != nil {
		return err
	}
	served := make(scan.Served, len(stored))
	maps.Copy(served, stored)
	if err := s.eachOpen(ctx, func(c *attribution.Chunk) error {
		served.Chunk(c)
		return nil
	}); err != nil {
		return err
	}
	for _, f := range owners {
		if served.Of(f) != stored[f] {
			s.fresh = append(s.fresh, hex.EncodeToString(f[:]))
		}
	}
	s.served = served
	return nil
}

// Fresh are the ids of the owners of which the open chunks tell something that
// the store does not know yet: what they serve, or that they serve at all. What
// a query says of them by Model, Counted and Mixed differs between what is
// stored and what is open.
func (s *Snapshot) Fresh(ctx context.Context) ([]string, error) {
	if len(s.open) == 0 {
		return nil, nil
	}
	err := s.serve(ctx)
	return s.fresh, err
}

// Query answers a query from both sides, in order of time, keys and basis.
func (s *Snapshot) Query(ctx context.Context, q *store.Query) ([]store.Row, error) {
	stored, err := s.Stored(ctx, q)
	if err != nil {
		return nil, err
	}
	open, _, err := s.Open(ctx, q)
	if err != nil || len(open) == 0 {
		return stored, err
	}
	return scan.MergeRows(stored, open), nil
}

func (s *Snapshot) storedTallies(ctx context.Context, q *store.Query) ([]store.TallyRow, error) {
	if s.Empty() {
		return nil, nil
	}
	n := s.naming(q, true)
	rows, err := s.reader.QueryTallies(ctx, n.query)
	if err != nil {
		return nil, err
	}
	return n.tallyRows(rows), nil
}

// Explain makes ErrTooFine of a query helpful: it tells what is kept, and the
// nearest range and step that can be answered, found by trying. Other errors
// are returned as they are.
func (e *Engine) Explain(ctx context.Context, err error, s *Snapshot, step int64) error {
	if !errors.Is(err, store.ErrTooFine) {
		return err
	}
	kept := e.cfg.Retention()
	for _, unit := range []struct {
		seconds int64
		name    string
	}{{60, "minutes"}, {3600, "hours"}, {86400, "days"}} {
		q := store.Query{From: floor(s.From, unit.seconds), To: ceil(s.To, unit.seconds)}
		if step > 0 {
			q.Step = (step + unit.seconds - 1) / unit.seconds * unit.seconds
		}
		if _, try := s.reader.Query(ctx, &q); try != nil {
			continue
		}
		with := ""
		if step > 0 && q.Step != step {
			with = fmt.Sprintf(", with a step of %d s", q.Step)
		}
		return fmt.Errorf("range %d to %d is finer than what is still kept (%s): ask for %d to %d, whole %s%s: %w",
			s.From, s.To, describe(kept), q.From, q.To, unit.name, with, store.ErrTooFine)
	}
	return fmt.Errorf("range %d to %d is finer than what is still kept (%s): ask for whole days (UTC): %w",
		s.From, s.To, describe(kept), store.ErrTooFine)
}

func floor(s attribution.Second, unit int64) attribution.Second {
	return s - attribution.Second(((int64(s)%unit)+unit)%unit)
}

func ceil(s attribution.Second, unit int64) attribution.Second {
	return floor(s+attribution.Second(unit)-1, unit)
}

func describe(r store.Retention) string {
	var b strings.Builder
	for _, x := range []struct {
		name string
		keep time.Duration
	}{{"seconds", r.Second}, {"minutes", r.Minute}, {"hours", r.Hour}, {"days", r.Day}} {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(x.name + " " + span(x.keep))
	}
	return b.String()
}

func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d <= 0:
		return "for ever"
	case d%day == 0:
		return fmt.Sprintf("for %d days", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("for %d hours", d/time.Hour)
	}
	return fmt.Sprintf("for %v", d)
}

func add(dst, x *big.Int) { dst.Add(dst, x) }
