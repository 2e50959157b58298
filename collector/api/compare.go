package api

import (
	"context"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// CompareRules tells what rules would move, without applying them.
func (s *Server) CompareRules(ctx context.Context, req *pb.CompareRulesRequest) (*pb.CompareRulesResponse, error) {
	if req.GetRules() == nil {
		return nil, s.fail(query.Invalid("the request has no rules"))
	}
	rules := DecodeRules(req.GetRules())
	if err := rules.Validate(); err != nil {
		return nil, s.fail(err)
	}
	c, err := s.cfg.Query.CompareRules(ctx, &query.CompareRequest{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Rules: rules, Targets: req.GetTargets(),
	})
	if err != nil {
		return nil, s.fail(err)
	}
	currency, err := s.currency(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &pb.CompareRulesResponse{
		From: int64(c.From), To: int64(c.To), Currency: currency, Moves: make([]*pb.RuleMove, 0, len(c.Moves)),
		MovedCost: cost(&c.Moved.Cost, c.Moved.Priced()), TotalCost: cost(&c.Total.Cost, c.Total.Priced()),
	}
	for i := range c.Moves {
		m := &c.Moves[i]
		values, missing := keys([]store.Key{m.From, m.To})
		out.Moves = append(out.Moves, &pb.RuleMove{
			Target: m.Target, From: values[0], FromMissing: missing[0], To: values[1], ToMissing: missing[1],
			Cost: cost(&m.Cost, m.Priced()), DeviceTimeNs: m.DeviceTime.String(), Owners: m.Owners,
		})
	}
	return out, nil
}
