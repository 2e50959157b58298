package api

import (
	"context"
	"math/big"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/economics"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// UnitCosts answers what inferences and tokens cost.
func (s *Server) UnitCosts(ctx context.Context, req *pb.UnitCostsRequest) (*pb.UnitCostsResponse, error) {
	terms, err := economics.ParseTerms(req.GetLatencyTargetMs(), req.GetInputWeight(), req.GetCachedWeight(), req.GetOutputWeight())
	if err != nil {
		return nil, s.fail(err)
	}
	ans, err := economics.UnitCosts(ctx, s.cfg.Query, &economics.Request{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()),
		GroupBy: req.GetGroupBy(), Filters: req.GetFilter(), SplitBy: req.GetSplitBy(), Gateways: s.cfg.Gateways,
	})
	if err != nil {
		return nil, s.fail(err)
	}
	currency, err := s.currency(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &pb.UnitCostsResponse{
		From: int64(ans.From), To: int64(ans.To), Currency: currency, GroupBy: names(ans.GroupBy),
		Rows: make([]*pb.UnitCost, 0, len(ans.Rows)), Total: encodeUnitCost(&ans.Total, terms),
		LatencyTargetMs: terms.LatencyTarget(), SplitBy: ans.SplitBy, Notes: notes(ans.Missing),
		InputWeight: economics.DecimalOf(terms.Input), CachedWeight: economics.DecimalOf(terms.Cached), OutputWeight: economics.DecimalOf(terms.Output),
	}
	for i := range ans.Rows {
		out.Rows = append(out.Rows, encodeUnitCost(&ans.Rows[i].Row, terms))
	}
	return out, nil
}

func encodeUnitCost(r *economics.Row, terms *economics.Terms) *pb.UnitCost {
	alloc := r.Allocation()
	m := &pb.UnitCost{
		AllocationCost: cost(&alloc.Cost, alloc.Priced()), UsageCost: partOf(&r.Used, alloc),
		DeviceTimeNs: alloc.Time.String(), UsedTimeNs: r.Used.Time.String(), UnpricedTimeNs: alloc.Unpriced.String(),
		UnallocatedCost: cost(&r.Unallocated.Cost, r.Unallocated.Priced()), UnattributedCost: cost(&r.Unattributed.Cost, r.Unattributed.Priced()),
		UnallocatedTimeNs: r.Unallocated.Time.String(), UnattributedTimeNs: r.Unattributed.Time.String(),
		TenantSource: r.Customers.String(),
	}
	m.Keys, m.Missing = keys(r.Keys)
	encodeServed(m, r.Served)
	encodeFigures(m, r.Figures(terms))
	return m
}

// partOf is the cost of a part of a whole: of no time it is 0, where the whole
// has a price at all.
func partOf(part, whole *economics.Costs) string {
	return cost(&part.Cost, part.Priced() || part.Time.Sign() == 0 && whole.Priced())
}

func encodeServed(m *pb.UnitCost, s economics.Served) {
	inferences := func(c economics.Counter) string { return c.Inferences() }
	tokens := func(of attribution.Measure) string {
		c := s.Counter(of)
		return c.Tokens()
	}
	m.Inferences, m.Failures = inferences(s.Counter(attribution.Success)), inferences(s.Failures())
	m.InputTokens, m.CachedTokens, m.OutputTokens = tokens(attribution.TokensInput), tokens(attribution.TokensCached), tokens(attribution.TokensOutput)
	m.AbortedTokens = tokens(attribution.TokensAborted)
}

func encodeFigures(m *pb.UnitCost, f economics.Figures) {
	for _, p := range []struct {
		from              economics.PerBasis
		allocation, usage *string
	}{
		{f.Per1k, &m.Per_1KInferencesAllocation, &m.Per_1KInferencesUsage},
		{f.Per1MTokens, &m.Per_1MTokensAllocation, &m.Per_1MTokensUsage},
		{f.Per1MInput, &m.Per_1MInputAllocation, &m.Per_1MInputUsage},
		{f.Per1MCached, &m.Per_1MCachedAllocation, &m.Per_1MCachedUsage},
		{f.Per1MOutput, &m.Per_1MOutputAllocation, &m.Per_1MOutputUsage},
		{f.PerSuccess, &m.PerSuccessAllocation, &m.PerSuccessUsage},
		{f.PerGood, &m.PerGoodAllocation, &m.PerGoodUsage},
	} {
		*p.allocation, *p.usage = p.from.Allocation, p.from.Usage
	}
	m.Coverage, m.Good, m.ErrorRate = f.Coverage, f.Good, f.ErrorRate
	m.LatencyP50Ms, m.LatencyP95Ms, m.LatencyP99Ms, m.FirstTokenP95Ms = f.P50, f.P95, f.P99, f.FirstTokenP95
	m.FailedCost, m.AbortedCost = known(f.FailedCost), known(f.AbortedCost)
	for i := range f.ByReason {
		r := &f.ByReason[i]
		m.FailuresByReason = append(m.FailuresByReason, &pb.FailureCount{Reason: r.Reason, Count: r.Count.Inferences(), Cost: known(r.Cost)})
	}
	m.QueueMean, m.RunningMean, m.KvCacheMean = f.QueueMean, f.RunningMean, f.KVCacheMean
	m.Reason, m.Reasons = f.Reason, f.Reasons
}

// known is an amount, "" where there is none.
func known(nanos *big.Int) string {
	if nanos == nil {
		return ""
	}
	return money.Text(nanos)
}
