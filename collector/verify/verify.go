// Package verify recomputes the laws over what a ledger has stored, from the
// chunks up, trusting nothing but their bytes:
//
//   - every kept chunk is decoded, its digest and the laws that a chunk can
//     keep by itself are checked (1, 2, 4, 6);
//   - chunks and the ranges on record agree: no second of a node is there
//     twice, none that was acknowledged is gone (3, 4);
//   - the chunks of a node are one chain, as it closed them: none was changed,
//     left out or put in since (4);
//   - every record of the audit log holds the hash of the one before (4);
//   - every minute row is the sum of its chunks, none is missing and none is
//     there without a chunk behind it, for tallies too (1, 2, 4);
//   - the device times of a device's minute sum to whole seconds, and its
//     costs to the price of exactly those seconds (1);
//   - hours are the sums of their minutes, days of their hours;
//   - what reratings in force moved is what their rows hold, at every
//     resolution, and rows of others are none; where chunks are kept, what
//     undoing them would give back is what the chunks say (1, 6).
//
// Chunks are taken at the prices that the journal of reratings gives them.
//
// It ends with the first break, by time. What can't be checked, because a
// retention has dropped what it would be recomputed from, is said.
//
// The range is worked through in slabs of minutes: a slab's chunks are decoded
// by several workers into sums by series, then the stored rows stream by and
// are struck off. Memory is bounded by a slab and an hour of series.
package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Config is what a Verifier needs.
type Config struct {
	Store store.Store
	// Retention and Now tell from when on each resolution must be there; nil:
	// everything must. Where a retention was shorter before, what it dropped
	// then is taken for lost.
	Retention func() store.Retention
	Now       func() attribution.Second
	// Workers decode chunks. Default: one per CPU.
	Workers int
	// Audit checks the log of changes: *attribution.Broken where a record is not
	// as it was written. nil: there is none.
	Audit func(context.Context) error
}

// Verifier checks ledgers. It may be used by any number of goroutines.
type Verifier struct{ cfg Config }

// New makes a Verifier.
func New(cfg Config) *Verifier {
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if (cfg.Retention == nil) != (cfg.Now == nil) {
		panic("BUG: verify: a retention needs a clock, and a clock a retention")
	}
	return &Verifier{cfg}
}

// Progress is what has been checked so far.
type Progress struct {
	Chunks, ChunksTotal int64 // the total is an estimate until Done
	Windows, Slices     int64
	Rows                int64 // stored rows compared: minutes, hours, days, tallies
	Done                bool
	Broken              *attribution.Broken // the first break; nil: none
	// Unchecked is what could not be checked and why, and where a node has
	// gaps. At most MaxNotes, and how many more.
	Unchecked []string
	// Heads are the ends of all chains, once Done.
	Heads []Head
}

// Head is how far the chain of a node's chunks has come: the link behind its
// newest chunk, which ends at a second.
type Head struct {
	Cluster, Node string
	Boot          attribution.Boot
	At            attribution.Second
	Link          []byte
}

// Request is what is to be checked.
type Request struct {
	From, To attribution.Second // widened to whole minutes; 0 and 0: everything
	// Noted are heads of an earlier run. The chains must go through them; where
	// the chunks at one are no longer kept, that is said.
	Noted []Head
}

// MaxNotes bounds Progress.Unchecked.
const MaxNotes = 50

const (
	minSecond = attribution.Second(math.MinInt64 / 4)
	maxSecond = attribution.Second(math.MaxInt64 / 4)
)

// Run is Check of [from, to).
func (v *Verifier) Run(ctx context.Context, from, to attribution.Second, report func(*Progress) error) (*Progress, error) {
	return v.Check(ctx, &Request{From: from, To: to}, report)
}

// Check checks what is asked for. It calls report, which may be nil, now and
// then from one goroutine; an error of it ends the run. The result has Done set
// and says what broke, if anything did; the error is for what kept it from
// finding out.
func (v *Verifier) Check(ctx context.Context, req *Request, report func(*Progress) error) (*Progress, error) {
	from, to := req.From, req.To
	if (from != 0 || to != 0) && (from < 0 || to <= from || to > maxSecond) {
		return nil, fmt.Errorf("range %d to %d: want Unix seconds, from before to, or 0 and 0 for everything stored", from, to)
	}
	r := &run{cfg: &v.cfg, report: report, facts: newFacts(), chains: newChains(req.Noted)}
	err := v.cfg.Store.View(ctx, func(reader store.Reader) error {
		r.reader = reader
		if err := r.all(ctx, from, to); err != nil {
			return err
		}
		r.noteAnew()
		return r.checkNoted()
	})
	if broken := (*attribution.Broken)(nil); errors.As(err, &broken) {
		r.progress.Broken, err = broken, nil
	}
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	p := &r.progress
	p.Done, p.ChunksTotal = true, max(p.Chunks, p.ChunksTotal)
	if p.Broken == nil {
		p.ChunksTotal = p.Chunks
	}
	p.Unchecked, p.Heads = r.notes.list(), r.chains.heads
	return p, nil
}

// run is the state of one Run.
type run struct {
	cfg      *Config
	reader   store.Reader
	report   func(*Progress) error
	progress Progress
	notes    notes
	facts    *facts

	from, to attribution.Second // whole minutes
	// From when on each resolution must be there.
	keptSeconds, keptMinutes, keptHours attribution.Second
	rolledHours, rolledDays             attribution.Second

	journal *rerating.Journal
	rerated rerated // of the rows that are being read

	ranges []nodeRange
	nodes  int
	chains chains
	hours  level // sums of minute rows, by hour
	days   level // sums of hour rows, by day
}

func (r *run) all(ctx context.Context, from, to attribution.Second) error {
	var err error
	if r.cfg.Audit != nil {
		if err := r.cfg.Audit(ctx); err != nil {
			return err
		}
	}
	if from == 0 && to == 0 {
		if from, to, err = r.reader.Extent(ctx); err != nil || from == to {
			return err
		}
		from, to = rollup.Day.Start(from), rollup.Day.Start(to+attribution.Second(rollup.Day)-1)
	}
	r.from, r.to = rollup.Minute.Start(from), rollup.Minute.Start(to+59)
	r.horizons()
	if r.journal, err = r.reader.Journal(ctx); err != nil {
		return err
	}
	if err := r.readRanges(ctx); err != nil {
		return err
	}
	r.hours = newLevel(rollup.Hour, r.from, max(r.keptMinutes, minSecond), r.rolledHours)
	r.days = newLevel(rollup.Day, r.from, r.keptHours, r.rolledDays)
	// Before this, hours and days are all there is.
	begin := min(r.to, max(r.from, rollup.Minute.Start(min(r.keptSeconds, r.keptMinutes))))
	if err := r.oldHours(ctx, begin); err != nil {
		return err
	}
	size := slabSize(r.nodes)
	for t := begin; t < r.to; {
		end := min(r.to, t-attribution.Second(int64(t)%size)+attribution.Second(size))
		if err := r.slab(ctx, t, end); err != nil {
			return err
		}
		if err := r.close(ctx, end); err != nil {
			return err
		}
		if err := r.tell(0); err != nil {
			return err
		}
		t = end
	}
	r.noteRolls()
	return nil
}

// horizons is asked within the view: what a retention dropped before the view
// was taken is before the horizon for sure.
func (r *run) horizons() {
	r.keptSeconds, r.keptMinutes, r.keptHours = minSecond, minSecond, minSecond
	if r.cfg.Retention != nil {
		keep, now := r.cfg.Retention(), r.cfg.Now()
		horizon := func(d time.Duration) attribution.Second {
			if d <= 0 {
				return minSecond
			}
			return now - attribution.Second(d/time.Second)
		}
		r.keptSeconds, r.keptMinutes, r.keptHours = horizon(keep.Second), horizon(keep.Minute), horizon(keep.Hour)
	}
	r.rolledHours, r.rolledDays = r.reader.Rolled(rollup.Hour), r.reader.Rolled(rollup.Day)
}

// slabSize is the length of a slab in seconds: shorter, the more nodes share
// the memory. Each divides the next.
func slabSize(nodes int) int64 {
	switch {
	case nodes <= 4:
		return 6 * int64(rollup.Hour)
	case nodes <= 50:
		return int64(rollup.Hour)
	case nodes <= 500:
		return 10 * int64(rollup.Minute)
	}
	return int64(rollup.Minute)
}

// tell reports the progress, with chunks that are being decoded.
func (r *run) tell(decoding int64) error {
	if r.report == nil {
		return nil
	}
	p := r.progress
	p.Chunks += decoding
	p.ChunksTotal = max(p.ChunksTotal, p.Chunks)
	return r.report(&p)
}

// oldHours adds up the hours of a time of which no minutes are kept.
func (r *run) oldHours(ctx context.Context, end attribution.Second) error {
	const day = attribution.Second(rollup.Day)
	for t := r.from; t < end; {
		next := min(end, rollup.Day.Start(t)+day)
		if err := r.close(ctx, next); err != nil {
			return err
		}
		if err := r.tell(0); err != nil {
			return err
		}
		t = next
	}
	return nil
}

// close compares the hours, and then the days, that are over by a time.
func (r *run) close(ctx context.Context, t attribution.Second) error {
	if err := r.closeLevel(ctx, &r.hours, t, &r.days); err != nil {
		return err
	}
	return r.closeLevel(ctx, &r.days, t, nil)
}

func (r *run) noteRolls() {
	if r.keptMinutes > r.from {
		r.notes.add("hours before %s: the minutes that they are the sums of are no longer kept", clock(r.keptMinutes))
	}
	if r.keptHours > r.from {
		r.notes.add("days before %s: the hours that they are the sums of are no longer kept", clock(r.keptHours))
	}
}

// notes is a bounded list.
type notes struct {
	texts []string
	more  int
}

func (n *notes) add(format string, args ...any) {
	if len(n.texts) == MaxNotes {
		n.more++
		return
	}
	n.texts = append(n.texts, fmt.Sprintf(format, args...))
}

func (n *notes) list() []string {
	if n.more == 0 {
		return n.texts
	}
	return append(n.texts, fmt.Sprintf("and %d more", n.more))
}

// clock is a second as people read it.
func clock(s attribution.Second) string {
	return time.Unix(int64(s), 0).UTC().Format("2006-01-02T15:04:05Z")
}

func broken(law int, where, format string, args ...any) error {
	return &attribution.Broken{Law: law, Where: where, Reason: fmt.Sprintf(format, args...)}
}
