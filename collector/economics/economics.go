// Package economics says what a thousand inferences, or a million tokens,
// cost.
//
// Cost comes from slices, inferences and tokens from tallies, and both belong
// to an owner: that is where they meet. Two bases are given side by side:
//
//   - allocation: used + reserved + unobserved, all that the owners answer
//     for. With the unallocated and unattributed cost, which is shown apart, it
//     makes the whole bill.
//   - usage: used alone.
//
// All cost counts, that of failures and of owners without counters included;
// coverage says which share of the allocation cost had counters at all.
//
// # Several models
//
// Where groups are told apart by what a tally says of itself (model, tier), an
// owner that served several has its cost split over them: by input + output
// tokens, else by successes where it has no tokens, else equally. The split is
// exact (largest remainder, ties to the first key): each owner's cost counts
// once, and groups sum to the total. Owners without tallies in the range keep
// the key that they have by rules, or a missing one.
//
// # Zero is not unknown (law 9)
//
// A figure that can't be given is absent, and the reason says why: "not
// measured" (no counters), "no inferences" (counted: none), "unpriced" (cost
// unknown). Figures of partly unpriced time count the priced part, and say so.
//
// All arithmetic is exact; only [Decimal] rounds.
package economics

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Request asks for unit costs.
type Request struct {
	From, To attribution.Second // [From, To); 0 and 0: everything
	GroupBy  []string           // nil: model
	Filters  []string
}

// Costs is an amount of device time with its cost.
type Costs struct {
	Time, Cost, Unpriced big.Int // ns; nano units, of the priced time; ns
}

func (c *Costs) add(x *Costs) {
	c.Time.Add(&c.Time, &x.Time)
	c.Cost.Add(&c.Cost, &x.Cost)
	c.Unpriced.Add(&c.Unpriced, &x.Unpriced)
}

// Priced reports whether any of the time has a price.
func (c *Costs) Priced() bool { return c.Time.Cmp(&c.Unpriced) > 0 || c.Cost.Sign() != 0 }

// Counter is a count that may not have been measured at all.
type Counter struct {
	Measured bool
	Value    big.Int
}

func (c *Counter) add(x *Counter) {
	c.Measured = c.Measured || x.Measured
	c.Value.Add(&c.Value, &x.Value)
}

// Served is what was served. Inferences are in millionths.
type Served struct {
	Successes, Failures, Input, Cached, Output Counter
}

func (s *Served) add(x *Served) {
	s.Successes.add(&x.Successes)
	s.Failures.add(&x.Failures)
	s.Input.add(&x.Input)
	s.Cached.add(&x.Cached)
	s.Output.add(&x.Output)
}

func (s *Served) count(m attribution.Measure, v *big.Int) {
	c := Counter{Measured: true}
	c.Value.Set(v)
	switch {
	case m == attribution.Success:
		s.Successes.add(&c)
	case strings.HasPrefix(string(m), string(attribution.FailurePrefix)):
		s.Failures.add(&c)
	case m == attribution.TokensInput:
		s.Input.add(&c)
	case m == attribution.TokensCached:
		s.Cached.add(&c)
	case m == attribution.TokensOutput:
		s.Output.add(&c)
	}
}

// Row is the economics of one group. The parts are disjoint: Used, Reserved
// and Unobserved make the allocation basis.
type Row struct {
	Keys                                                  []store.Key
	Used, Reserved, Unobserved, Unallocated, Unattributed Costs
	// Covered is the part of the allocation basis whose owners had counters.
	Covered Costs
	Served  Served
}

// Allocation is the allocation basis: used + reserved + unobserved.
func (r *Row) Allocation() *Costs {
	var c Costs
	c.add(&r.Used)
	c.add(&r.Reserved)
	c.add(&r.Unobserved)
	return &c
}

func (r *Row) add(x *Row) {
	for _, b := range attribution.Bases {
		r.basis(b).add(x.basis(b))
	}
	r.Covered.add(&x.Covered)
	r.Served.add(&x.Served)
}

func (r *Row) basis(b attribution.Basis) *Costs {
	switch b {
	case attribution.Used:
		return &r.Used
	case attribution.Reserved:
		return &r.Reserved
	case attribution.Unobserved:
		return &r.Unobserved
	case attribution.Unallocated:
		return &r.Unallocated
	case attribution.Unattributed:
		return &r.Unattributed
	}
	panic(fmt.Sprintf("BUG: economics: %v is no basis", b))
}

// Answer holds unit costs by group, by allocation cost (highest first), device
// time, and keys. The rows sum to Total exactly.
type Answer struct {
	From, To attribution.Second
	GroupBy  []store.Dimension
	Rows     []Row
	Total    Row
}

// owner is what tells owners apart in a query. Two that share all of it (a
// pod created anew under its name) count as one.
var owner = []store.Dimension{store.Cluster, store.Node, store.Namespace, store.Pod, store.Container}

// UnitCosts answers a request. Errors are those of [query.Engine.Report].
func UnitCosts(ctx context.Context, e *query.Engine, req *Request) (*Answer, error) {
	p, err := plan(req)
	if err != nil {
		return nil, err
	}
	out := &Answer{GroupBy: p.groupBy}
	err = e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *query.Snapshot) error {
		out.From, out.To = s.From, s.To
		if s.Empty() {
			return nil
		}
		f := newFold(p)
		if err := f.read(ctx, s); err != nil {
			return e.Explain(ctx, err, s, 0)
		}
		return f.answer(ctx, out)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// asked is a checked request.
type asked struct {
	groupBy []store.Dimension
	dims    []store.Dimension // groupBy, and what filters on tallies need
	// Filters on model and tier count after the split; the rest the store
	// applies.
	before []store.Filter
	after  []store.Filter
}

func ofTally(d store.Dimension) bool { return d == store.Model || d == store.Tier }

func plan(req *Request) (*asked, error) {
	names := req.GroupBy
	if len(names) == 0 {
		names = []string{string(store.Model)}
	}
	groupBy, err := query.ParseDimensions(names)
	if err != nil {
		return nil, err
	}
	filters, err := query.ParseFilters(req.Filters)
	if err != nil {
		return nil, err
	}
	p := &asked{groupBy: groupBy, dims: slices.Clone(groupBy)}
	for _, d := range groupBy {
		if err := countable(d); err != nil {
			return nil, err
		}
	}
	for _, f := range filters {
		if err := countable(f.Dimension); err != nil {
			return nil, err
		}
		if !ofTally(f.Dimension) {
			p.before = append(p.before, f)
			continue
		}
		p.after = append(p.after, f)
		if !slices.Contains(p.dims, f.Dimension) {
			p.dims = append(p.dims, f.Dimension)
		}
	}
	return p, nil
}

func countable(d store.Dimension) error {
	if d == store.DeviceID || d == store.DeviceModel || d == store.Basis || d == store.Method {
		return query.Invalid("unit costs can't be told apart by %s: inferences are counted per owner, not per device or slice; ask for a report by %s instead", d, d)
	}
	return nil
}

func compareRows(a, b Row) int {
	x, y := a.Allocation(), b.Allocation()
	return cmp.Or(y.Cost.Cmp(&x.Cost), y.Time.Cmp(&x.Time), query.CompareKeys(a.Keys, b.Keys))
}
