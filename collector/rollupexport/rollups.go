package rollupexport

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Other is the value of all dimensions of what has no series of its own.
const Other = "__other__"

// defaultDimensions are those that series are told apart by.
var defaultDimensions = [...]store.Dimension{store.Cluster, store.Team, store.Model, store.Class}

// DefaultDimensions lists what series are told apart by where nothing is said.
func DefaultDimensions() []string {
	out := make([]string, len(defaultDimensions))
	for i, d := range defaultDimensions {
		out[i] = string(d)
	}
	return out
}

// notOfSeries are dimensions that not everything here has.
var notOfSeries = [...]store.Dimension{store.Basis, store.Method, store.Revision, store.Counted, store.Kind, store.Tenant}

// Options are what Rollups need.
type Options struct {
	Query *query.Engine
	// Changed tells when what was counted last changed its meaning: when rules
	// were applied, or the past was priced anew. Zero: never.
	Changed func(context.Context) (time.Time, error)
	// Retention is the one in force; nil: everything is kept.
	Retention func() store.Retention
	// Currency is the rate card's, "" while there is none.
	Currency func() string
	Now      func() time.Time
	Log      *slog.Logger

	Dimensions  []string        // nil: DefaultDimensions
	Targets     []time.Duration // latencies that successes are counted within
	MaxGroups   int             // default 2000
	MinInterval time.Duration   // between questions; default 15 s
}

// Validate checks the dimensions, targets and numbers.
func (o *Options) Validate() error {
	dims, err := query.ParseDimensions(o.Dimensions)
	if err != nil {
		return err
	}
	taken := map[string]store.Dimension{}
	for _, d := range dims {
		if slices.Contains(notOfSeries[:], d) {
			return fmt.Errorf("series can't be told apart by %s: basis is a label anyway, and the others are not of both cost and inferences", d)
		}
		l := label(d)
		if other, ok := taken[l]; ok {
			return fmt.Errorf("%s and %s would both be the label %s", other, d, l)
		}
		taken[l] = d
	}
	for i, t := range o.Targets {
		if t <= 0 || t > time.Hour || slices.Contains(o.Targets[:i], t) {
			return fmt.Errorf("latency target %v: want times up to 1h, each once", t)
		}
	}
	if len(o.Targets) > 8 {
		return fmt.Errorf("%d latency targets: at most 8 are allowed", len(o.Targets))
	}
	if o.MaxGroups < 0 || o.MaxGroups > 20_000 || o.MinInterval < 0 {
		return fmt.Errorf("%d groups every %v: want up to 20000, and no negative time", o.MaxGroups, o.MinInterval)
	}
	return nil
}

// label is a dimension's name as a label.
func label(d store.Dimension) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, string(d))
}

// Rollups keeps the newest answer. Its methods may be called by any number of
// goroutines.
type Rollups struct {
	o       Options
	dims    []store.Dimension
	labels  []string
	buckets []int // of o.Targets
	asking  chan struct{}

	mu    sync.Mutex
	last  *Snapshot
	stats Stats

	// Of the one who asks.
	asked   time.Time
	since   attribution.Second
	floor   attribution.Second // the epoch is not before it
	members map[string]bool    // groups with series of their own
}

// Stats are counts since New.
type Stats struct {
	Questions uint64 // answered
	Failures  uint64
	Restarts  uint64 // of the counters, because one would have gone back
}

// New makes Rollups. Nothing is asked before the first Snapshot.
func New(o Options) (*Rollups, error) {
	if o.Dimensions == nil {
		o.Dimensions = DefaultDimensions()
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.MaxGroups == 0 {
		o.MaxGroups = 2000
	}
	if o.MinInterval == 0 {
		o.MinInterval = 15 * time.Second
	}
	if o.Retention == nil {
		o.Retention = func() store.Retention { return store.Retention{} }
	}
	r := &Rollups{o: o, asking: make(chan struct{}, 1)}
	for _, name := range o.Dimensions {
		r.dims = append(r.dims, store.Dimension(name))
		r.labels = append(r.labels, label(store.Dimension(name)))
	}
	h := attribution.NewHistogram()
	for _, t := range o.Targets {
		r.buckets = append(r.buckets, h.Bucket(int64(t)))
	}
	return r, nil
}

// Snapshot is the counters as they are: the last answer while it is younger
// than MinInterval, else a new one. Where that fails it returns the last one of
// the epoch, if there is one, and the error. A snapshot is not changed any
// more.
func (r *Rollups) Snapshot(ctx context.Context) (*Snapshot, error) {
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return r.newest(), ctx.Err()
	}
	now := r.o.Now()
	if s := r.newest(); s != nil && !now.Before(r.asked) && now.Sub(r.asked) < r.o.MinInterval {
		return s, nil
	}
	s, err := r.ask(ctx, now)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.stats.Failures++
		return r.last, err
	}
	r.asked = now
	r.stats.Questions++
	r.last = s
	return s, nil
}

func (r *Rollups) newest() *Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// Stats is a snapshot of the counts.
func (r *Rollups) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

const (
	minute = 60
	day    = 86400
)

// unit is what epochs are whole multiples of, so that they can be asked for as
// long as they last: minutes, or where those are dropped within a week, hours
// or days.
func (r *Rollups) unit() int64 {
	const enough = 8 * day * time.Second
	kept := r.o.Retention()
	switch {
	case kept.Minute == 0 || kept.Minute >= enough:
		return minute
	case kept.Hour == 0 || kept.Hour >= enough:
		return 3600
	}
	return day
}

// epoch is the second from which on is counted at a time.
func (r *Rollups) epoch(now, changed time.Time) attribution.Second {
	s := now.Unix()
	monday := s - (s/day+3)%7*day - s%day // the epoch of Unix time is a Thursday
	since := attribution.Second(monday)
	if changed.Unix() > monday {
		since = r.after(changed)
	}
	return max(since, r.floor)
}

// after is the first whole unit after a time.
func (r *Rollups) after(t time.Time) attribution.Second {
	u := r.unit()
	return attribution.Second((t.Unix()/u + 1) * u)
}

func (r *Rollups) ask(ctx context.Context, now time.Time) (*Snapshot, error) {
	changed, err := r.o.Changed(ctx)
	if err != nil {
		return nil, fmt.Errorf("when rules and past prices last changed: %w", err)
	}
	since := r.epoch(now, changed)
	if since != r.since {
		r.mu.Lock()
		r.last = nil // what was counted is not comparable any more
		r.mu.Unlock()
		r.since, r.members = since, map[string]bool{}
	}
	s := &Snapshot{Since: since, At: now, Currency: r.o.Currency(), Labels: r.labels}
	if attribution.Second(now.Unix()) < since {
		return s, nil // it has not begun
	}
	if err := r.count(ctx, s); err != nil {
		return nil, err
	}
	if last := r.newest(); last != nil && !s.continues(last) {
		r.floor = r.after(now)
		r.mu.Lock()
		r.stats.Restarts++
		r.mu.Unlock()
		r.o.Log.Warn("the exported counters begin again: an owner's model is another than before, and a counter would have gone back")
		return &Snapshot{Since: r.floor, At: now, Currency: s.Currency, Labels: r.labels}, nil
	}
	return s, nil
}

// ahead is how far after the clock stored time may lie.
const ahead = 3600

// count asks the store for what it has since the snapshot's epoch.
func (r *Rollups) count(ctx context.Context, s *Snapshot) error {
	now := s.At.Unix()
	to := attribution.Second(now - now%minute + minute + ahead)
	return r.o.Query.Snapshot(ctx, s.Since, to, func(ctx context.Context, q *query.Snapshot) error {
		rows, err := q.Stored(ctx, &store.Query{From: s.Since, To: to, GroupBy: r.dims})
		if err != nil {
			return err
		}
		tallies, err := q.StoredTallies(ctx, &store.Query{
			From: s.Since, To: to, GroupBy: r.dims,
			Filters: []store.Filter{{Dimension: store.Kind, Values: []string{attribution.Gateway.String()}, Negate: true}},
		})
		if err != nil {
			return err
		}
		c := newCounting(r, s)
		c.admit(rows)
		for i := range rows {
			c.row(&rows[i])
		}
		for i := range tallies {
			c.tally(&tallies[i])
		}
		c.finish()
		return nil
	})
}
