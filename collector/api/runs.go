package api

import (
	"context"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Runs answers what training runs cost.
func (s *Server) Runs(ctx context.Context, req *pb.RunsRequest) (*pb.RunsResponse, error) {
	ans, err := economics.Runs(ctx, s.cfg.Query, &economics.RunsRequest{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Filters: req.GetFilter(), Limit: int(req.GetLimit()),
	})
	if err != nil {
		return nil, s.fail(err)
	}
	currency, err := s.currency(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &pb.RunsResponse{
		From: int64(ans.From), To: int64(ans.To), Currency: currency, Rows: make([]*pb.Run, 0, len(ans.Rows)),
		Total: encodeRun(&ans.Total), OutsideCost: cost(&ans.Outside.Cost, ans.Outside.Priced()),
	}
	for i := range ans.Rows {
		out.Rows = append(out.Rows, encodeRun(&ans.Rows[i]))
	}
	return out, nil
}

func encodeRun(r *economics.Run) *pb.Run {
	alloc := r.Allocation()
	m := &pb.Run{
		Run: r.Run, Name: r.Name, Namespace: r.Namespace, Team: r.Team,
		Pods: int64(r.Pods), Restarts: int64(r.Restarts), FirstSecond: int64(r.First), LastSecond: int64(r.Last),
		DeviceTimeNs: alloc.Time.String(), UsedTimeNs: r.Used.Time.String(), UnpricedTimeNs: alloc.Unpriced.String(),
		AllocationCost: cost(&alloc.Cost, alloc.Priced()), UsageCost: partOf(&r.Used, alloc),
		IdleCost:    partOf(&r.Reserved, alloc),
		Checkpoints: r.Checkpoints.Inferences(), Reason: r.Reason,
	}
	if r.Lost != nil {
		m.CheckpointLossTimeNs = r.Lost.Time.String()
		m.CheckpointLossCost = partOf(r.Lost, alloc)
	}
	return m
}
