package api

import (
	"context"
	"math/big"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// SLO judges latency, errors and cost per successful request.
func (s *Server) SLO(ctx context.Context, req *pb.SLORequest) (*pb.SLOResponse, error) {
	targets, err := economics.ParseTargets(req.GetLatencyP95Ms(), req.GetErrorRate(), req.GetCostPerSuccess())
	if err != nil {
		return nil, s.fail(err)
	}
	ans, err := economics.SLO(ctx, s.cfg.Query, &economics.Request{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Step: req.GetStep(),
		GroupBy: req.GetGroupBy(), Filters: req.GetFilter(), Gateways: s.cfg.Gateways,
	}, targets)
	if err != nil {
		return nil, s.fail(err)
	}
	currency, err := s.currency(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &pb.SLOResponse{
		From: int64(ans.From), To: int64(ans.To), Step: ans.Step, Currency: currency, GroupBy: names(ans.GroupBy),
		Rows: make([]*pb.SLORow, 0, len(ans.Rows)), LatencyP95Ms: targets.LatencyP95(),
		ErrorRate: decimal(targets.ErrorRate), CostPerSuccess: decimal(targets.CostPerSuccess),
	}
	for i := range ans.Rows {
		out.Rows = append(out.Rows, encodeSLO(&ans.Rows[i]))
	}
	return out, nil
}

// decimal is a target as text, "" where there is none.
func decimal(x *big.Rat) string {
	if x == nil {
		return ""
	}
	return economics.DecimalOf(x)
}

func encodeSLO(r *economics.SLORow) *pb.SLORow {
	m := &pb.SLORow{
		LatencyP95Ms: r.P95, ErrorRate: r.ErrorRate, CostPerSuccess: r.CostPerSuccess,
		Latency: r.Latency.String(), Errors: r.Errors.String(), Cost: r.Cost.String(), Joint: r.Joint.String(),
		Intervals: int64(r.Judged), IntervalsMet: int64(r.Met), IntervalsUnknown: int64(r.Unknown), Reason: r.Reason,
	}
	m.Keys, m.Missing = keys(r.Keys)
	for i := range r.Intervals {
		x := &r.Intervals[i]
		m.ByInterval = append(m.ByInterval, &pb.SLOInterval{
			Time: int64(x.Time), LatencyP95Ms: x.P95, ErrorRate: x.ErrorRate, CostPerSuccess: x.CostPerSuccess, Joint: x.Joint.String(),
		})
	}
	return m
}
