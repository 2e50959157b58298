// Package economics says what a thousand inferences, or a million tokens,
// cost; for whom; what of it was wasted; and what a training run cost.
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
// coverage says which share of the allocation cost had counters at all: that of
// owners which have ever counted requests or tokens, on the days (UTC) on which
// their workload did.
//
// # Several models
//
// Where groups are told apart by what a tally says of itself (model, family,
// tenant, tier), an owner that served several has its cost of each UTC day
// split over what it served that day: by input + output tokens, else by
// requests (successes and failures) where it has no tokens, else equally. The
// split is exact (largest remainder, ties to the first key): each owner's cost
// counts once, groups sum to the total, and days add up. Owners without tallies
// that day keep the key that they have by rules, or a missing one.
//
// # Customers
//
// Few servers know whom they serve; gateways before them do. A gateway's
// tallies own no time. They are joined to owners by backend (package
// gateway/join) and model, and split the cost of what they are joined to:
//
//   - A server that counts by tenant itself is believed: nothing is split
//     again.
//   - Owners that share a backend, and backends that share an owner, make a
//     pool. The cost of a pool's day is split over the tenants and tiers that
//     gateways saw that day, by tokens or requests: requests, too, where a
//     server or a gateway of the pool counts no tokens of what it serves. What the
//     pool's servers counted beyond that is a row of its own, without tenant:
//     "unseen". Where gateways saw more than the servers did, their shares are
//     taken of the servers' cost, so nothing exceeds it.
//   - What no gateway is joined to has no tenant: "unseen", too.
//
// Of one day, the split is the same for all groups of a pool. What tenants were
// served is what gateways counted. A tier is the one that the server's own tally
// names, else the tenant's, else the owner's by rules.
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

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Request asks for unit costs.
type Request struct {
	From, To attribution.Second // [From, To); 0 and 0: everything
	GroupBy  []string           // nil: model
	Filters  []string
	SplitBy  string    // what gateways split cost by: ByTokens (also ""), or ByRequests
	Gateways *join.Set // rules of configured gateways; nil: none
	Step     int64     // seconds; > 0: a row for each group and bucket of so many seconds
}

// What gateways split cost by. Where they, or the servers behind them, count no
// tokens, it is requests.
const (
	ByTokens   = "tokens"
	ByRequests = "requests"
)

// Answer holds unit costs by time, allocation cost (highest first), device
// time, and keys. The rows sum to Total exactly.
type Answer struct {
	From, To attribution.Second
	GroupBy  []store.Dimension
	SplitBy  string
	Rows     []TimedRow
	Total    Row
	Missing  []string // as query.Snapshot.Missing
}

// TimedRow is a row of a bucket of the request's step: Time is its start. All
// rows of a request without a step have the answer's.
type TimedRow struct {
	Time attribution.Second
	Row
}

// UnitCosts answers a request. Errors are those of [query.Engine.Report].
func UnitCosts(ctx context.Context, e *query.Engine, req *Request) (*Answer, error) {
	p, err := plan(req)
	if err != nil {
		return nil, err
	}
	var out *Answer
	err = e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *query.Snapshot) error {
		out, err = p.ask(ctx, e, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ask answers from a snapshot.
func (p *asked) ask(ctx context.Context, e *query.Engine, s *query.Snapshot) (*Answer, error) {
	out := &Answer{From: s.From, To: s.To, GroupBy: p.groupBy, SplitBy: p.splitBy, Missing: s.Missing}
	if s.Empty() {
		return out, nil
	}
	if err := p.checkStep(s.From, s.To); err != nil {
		return nil, err
	}
	f, err := newFold(ctx, p, s)
	if err == nil {
		err = f.read(ctx, s, s.From, s.To)
	}
	if err != nil {
		return nil, e.Explain(ctx, err, s, p.interval)
	}
	f.answer(out)
	return out, nil
}

func compareRows(a, b TimedRow) int {
	x, y := a.Allocation(), b.Allocation()
	return cmp.Or(cmp.Compare(a.Time, b.Time), y.Cost.Cmp(&x.Cost), y.Time.Cmp(&x.Time), query.CompareKeys(a.Keys, b.Keys))
}
