package economics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// RunsRequest asks for training runs.
type RunsRequest struct {
	From, To attribution.Second // [From, To); 0 and 0: everything
	Filters  []string           // as in Request
	Limit    int                // runs at most, by cost; 0: MaxRuns
}

// MaxRuns is how many runs an answer has at most.
const MaxRuns = 10_000

// Run is what a training run cost, over all its pods: those that the rules give
// one name of a run, in one namespace of one cluster.
type Run struct {
	Run, Name, Namespace, Team string
	Row                                           // of which the bases are set
	Pods, Restarts             int                // with device time
	First, Last                attribution.Second // inclusive, to the resolution of RunsAnswer.Step; 0 without pods
	Checkpoints                Counter            // in millionths
	// Lost is the allocation basis of the work done again; nil where the run
	// reported no checkpoints.
	Lost   *Costs
	Reason string
}

// RunsAnswer holds runs by allocation cost, highest first. All runs, those that
// the limit left out included, sum to Total, and with Outside to the allocation
// basis of the range, exactly.
type RunsAnswer struct {
	From, To attribution.Second
	Step     int64 // seconds: the resolution of times and of lost work
	Rows     []Run
	Total    Run
	Outside  Costs // of owners that belong to no run
}

// Runs answers what training runs cost.
//
// A pod was interrupted if another pod of its run began after its end. What it
// did after its last checkpoint is then done again: that is lost. A pod that
// reports no checkpoints of its own, as most ranks of a training do, is held to
// the last one of its run. Times are those of the finest resolution that is
// kept and is not too much to read; work in the same second, minute, … as the
// checkpoint is not counted as lost. Errors are those of [UnitCosts].
func Runs(ctx context.Context, e *query.Engine, req *RunsRequest) (*RunsAnswer, error) {
	filters, err := query.ParseFilters(req.Filters)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if err := countable(f.Dimension); err != nil {
			return nil, err
		}
		if f.Dimension == store.Tenant {
			return nil, query.Invalid("runs have no %s: filter by team, namespace, controller, run, …", f.Dimension)
		}
	}
	if req.Limit < 0 || req.Limit > MaxRuns {
		return nil, query.Invalid("limit %d: want 1 to %d, or 0", req.Limit, MaxRuns)
	}
	out := &RunsAnswer{}
	err = e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *query.Snapshot) error {
		out.From, out.To = s.From, s.To
		if s.Empty() {
			return nil
		}
		if err := out.read(ctx, s, filters); err != nil {
			return e.Explain(ctx, err, s, 0)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out.Rows, compareRuns)
	out.Rows = out.Rows[:min(len(out.Rows), cmp.Or(req.Limit, MaxRuns))]
	return out, nil
}

func compareRuns(a, b Run) int {
	x, y := a.Allocation(), b.Allocation()
	return cmp.Or(y.Cost.Cmp(&x.Cost), y.Time.Cmp(&x.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Run, b.Run))
}

// secondsWithin is the longest range of which seconds are read: they are worked
// out of chunks one by one.
const secondsWithin = 2 * 3600

func (out *RunsAnswer) read(ctx context.Context, s *query.Snapshot, filters []store.Filter) error {
	belongs := func(no bool) []store.Filter {
		return slices.Concat(filters, []store.Filter{{Dimension: store.Run, Values: []string{""}, Negate: !no}})
	}
	rest, err := s.Query(ctx, &store.Query{From: s.From, To: s.To, Filters: belongs(true)})
	if err != nil {
		return err
	}
	var outside Row
	for i := range rest {
		outside.add(rowOf(&rest[i]))
	}
	out.Outside = *outside.Allocation()
	for _, out.Step = range []int64{1, 60, 3600, day} {
		if out.Step == 1 && s.To-s.From > secondsWithin {
			continue
		}
		var f *runFold
		if f, err = foldRuns(ctx, s, out.Step, belongs(false)); err == nil {
			return f.answer(ctx, s, out)
		}
		if !errors.Is(err, store.ErrTooFine) && !errors.Is(err, store.ErrTooMany) {
			return err
		}
	}
	return err
}

// runFold sums rows by the owners of runs.
type runFold struct {
	owners map[runOwner]*stint
}

type runOwner struct{ run, team, id string }

// stint is what an owner, or all owners of a pod, did over time.
type stint struct {
	byTime      map[attribution.Second]*Row
	checkpoints map[attribution.Second]*big.Int
}

func newStint() *stint {
	return &stint{byTime: map[attribution.Second]*Row{}, checkpoints: map[attribution.Second]*big.Int{}}
}

func (st *stint) add(at attribution.Second, r *Row) {
	if st.byTime[at] == nil {
		st.byTime[at] = &Row{}
	}
	st.byTime[at].add(r)
}

func (st *stint) checkpoint(at attribution.Second, v *big.Int) {
	if st.checkpoints[at] == nil {
		st.checkpoints[at] = new(big.Int)
	}
	st.checkpoints[at].Add(st.checkpoints[at], v)
}

func foldRuns(ctx context.Context, s *query.Snapshot, step int64, filters []store.Filter) (*runFold, error) {
	q := &store.Query{
		From: s.From, To: s.To, Step: step, MaxRows: maxRows, Filters: filters,
		GroupBy: []store.Dimension{store.Run, store.Team, store.OwnerID},
	}
	rows, err := s.Stored(ctx, q)
	if err != nil {
		return nil, err
	}
	tallies, err := s.StoredTallies(ctx, q)
	if err != nil {
		return nil, err
	}
	openRows, openTallies, err := s.Open(ctx, q)
	if err != nil {
		return nil, err
	}
	f := &runFold{owners: map[runOwner]*stint{}}
	for _, rs := range [][]store.Row{rows, openRows} {
		for i := range rs {
			f.of(rs[i].Keys).add(rs[i].Time, rowOf(&rs[i]))
		}
	}
	for _, ts := range [][]store.TallyRow{tallies, openTallies} {
		for i := range ts {
			if ts[i].Measure == attribution.Checkpoint {
				f.of(ts[i].Keys).checkpoint(ts[i].Time, &ts[i].Value)
			}
		}
	}
	return f, nil
}

func (f *runFold) of(keys []store.Key) *stint {
	k := runOwner{keys[0].Value, keys[1].Value, keys[2].Value}
	st := f.owners[k]
	if st == nil {
		st = newStint()
		f.owners[k] = st
	}
	return st
}

// answer puts owners together into pods, and pods into runs.
func (f *runFold) answer(ctx context.Context, s *query.Snapshot, out *RunsAnswer) error {
	var ids []string
	for k := range f.owners {
		ids = append(ids, k.id)
	}
	slices.Sort(ids)
	facts, err := s.Owners(ctx, slices.Compact(ids))
	if err != nil {
		return err
	}
	type name struct{ cluster, namespace, run string }
	runs := map[name]*podsOfRun{}
	order := slices.SortedFunc(maps.Keys(f.owners), func(a, b runOwner) int {
		return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.id, b.id), cmp.Compare(a.team, b.team))
	})
	for _, k := range order {
		o := facts[k.id]
		if o == nil {
			o = &attribution.Owner{}
		}
		n := name{o.Cluster, o.Namespace, k.run}
		if runs[n] == nil {
			runs[n] = &podsOfRun{run: k.run, pods: map[string]*pod{}}
		}
		runs[n].add(k, o, f.owners[k])
	}
	if len(runs) > query.MaxRows {
		return query.TooMany(len(runs))
	}
	for _, n := range slices.SortedFunc(maps.Keys(runs), func(a, b name) int {
		return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.run, b.run))
	}) {
		r := runs[n].settle(out)
		out.Rows = append(out.Rows, *r)
		out.Total.sum(r)
	}
	out.Total.Reason = strings.Join(out.Total.reasons(out.Step), "; ")
	return nil
}

// sum adds a run to a total.
func (t *Run) sum(r *Run) {
	t.add(&r.Row)
	t.Pods += r.Pods
	t.Restarts += r.Restarts
	if r.Pods > 0 { // else only its counts are on record
		if t.Last == 0 || r.First < t.First {
			t.First = r.First
		}
		t.Last = max(t.Last, r.Last)
	}
	t.Checkpoints.Measured = t.Checkpoints.Measured || r.Checkpoints.Measured
	t.Checkpoints.Value.Add(&t.Checkpoints.Value, &r.Checkpoints.Value)
	if r.Lost != nil {
		if t.Lost == nil {
			t.Lost = &Costs{}
		}
		t.Lost.add(r.Lost)
	}
}

// reasons say what a run's figures lack.
func (t *Run) reasons(step int64) (why []string) {
	switch a := t.Allocation(); {
	case a.Time.Sign() == 0:
		why = append(why, "no device time")
	case !a.Priced():
		why = append(why, "unpriced")
	case a.Unpriced.Sign() > 0:
		why = append(why, fmt.Sprintf("partly unpriced: %s %% of the device time has no price and is not in the cost", Decimal(ratio(&a.Unpriced, &a.Time, 100), 2)))
	}
	if !t.Checkpoints.Measured {
		why = append(why, "no checkpoints were reported")
	}
	if name := map[int64]string{60: "minute", 3600: "hour", day: "day"}[step]; name != "" {
		why = append(why, "times are to the "+name)
	}
	return why
}
