package api

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Report answers a showback question.
func (s *Server) Report(ctx context.Context, req *pb.ReportRequest) (*pb.ReportResponse, error) {
	rep, err := s.cfg.Query.Report(ctx, &query.Request{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Step: req.GetStep(),
		GroupBy: req.GetGroupBy(), Filters: req.GetFilter(), Limit: int(req.GetLimit()), Lines: req.GetLines(),
	})
	if err != nil {
		return nil, s.fail(err)
	}
	currency, err := s.currency(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &pb.ReportResponse{
		From: int64(rep.From), To: int64(rep.To), Step: rep.Step, Currency: currency, GroupBy: names(rep.GroupBy),
		Rows: make([]*pb.ReportRow, 0, len(rep.Rows)), Total: encodeRow(&rep.Total), Notes: notes(rep.Missing),
	}
	for i := range rep.Rows {
		out.Rows = append(out.Rows, encodeRow(&rep.Rows[i]))
	}
	return out, nil
}

// notes says what an answer lacks that other collectors have. Which they are is
// left to the status, where not every caller sees it.
func notes(missing []string) []string {
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return []string{"what another collector has not stored yet: it did not say in time (gpuledger status names it)"}
	}
	return []string{fmt.Sprintf("what %d other collectors have not stored yet: they did not say in time (gpuledger status names them)", len(missing))}
}

func names(ds []store.Dimension) []string {
	out := make([]string, 0, len(ds))
	for _, d := range ds {
		out = append(out, string(d))
	}
	return out
}

func keys(ks []store.Key) (values []string, missing []bool) {
	for _, k := range ks {
		values, missing = append(values, k.Value), append(missing, k.Missing)
	}
	return values, missing
}

func encodeRow(r *query.Row) *pb.ReportRow {
	m := &pb.ReportRow{Time: int64(r.Time), Other: r.Other, Sum: encodeSum("", &r.Sum)}
	m.Keys, m.Missing = keys(r.Keys)
	for i := range r.ByBasis {
		m.ByBasis = append(m.ByBasis, encodeSum(r.ByBasis[i].Basis.String(), &r.ByBasis[i].Sum))
	}
	for i := range r.Lines {
		m.Lines = append(m.Lines, &pb.CostLine{Name: r.Lines[i].Name, Cost: money.Text(&r.Lines[i].Cost)})
	}
	return m
}

func encodeSum(basis string, s *query.Sum) *pb.BasisSum {
	m := &pb.BasisSum{
		Basis: basis, DeviceTimeNs: s.DeviceTime.String(), SmActiveNs: s.SMActive.String(),
		Cost: cost(&s.Cost, s.Priced()), UnpricedTimeNs: s.Unpriced.String(),
	}
	if s.HasMemory {
		m.MemoryByteSeconds = s.Memory.String()
	}
	if s.HasEnergy {
		m.EnergyUj = s.Energy.String()
	}
	return m
}

// cost is an amount, "" where nothing was priced (law 9).
func cost(nanos *big.Int, priced bool) string {
	if !priced {
		return ""
	}
	return money.Text(nanos)
}

// Devices lists devices with what they cost now.
func (s *Server) Devices(ctx context.Context, req *pb.DevicesRequest) (*pb.DevicesResponse, error) {
	card, err := s.cfg.Documents.RateCard(ctx, 0)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, s.fail(err)
	}
	out := &pb.DevicesResponse{}
	ask := &query.DevicesRequest{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Filters: req.GetFilter(),
	}
	if card != nil {
		out.Currency = card.Currency
		if ask.Prices, err = s.prices(card); err != nil {
			return nil, s.fail(err)
		}
	}
	ds, err := s.cfg.Query.Devices(ctx, ask)
	if err != nil {
		return nil, s.fail(err)
	}
	out.Devices = make([]*pb.DeviceRow, 0, len(ds))
	for i := range ds {
		d := &ds[i].Device
		m := &pb.DeviceRow{
			Id: d.ID, Cluster: d.Cluster, Node: d.Node, Model: d.Model, CapacityType: d.CapacityType,
			Parent: d.Parent, Profile: d.Profile, MemoryBytes: d.MemoryBytes,
			FirstSecond: int64(ds[i].First), LastSecond: int64(ds[i].Last) - 1,
			Sum: encodeSum("", &ds[i].Sum), UsedTimeNs: ds[i].Used.String(),
		}
		if ds[i].Price.Known() {
			m.PricePerHour = ds[i].Price.PerHour.String()
		}
		out.Devices = append(out.Devices, m)
	}
	return out, nil
}

// prices prices a node's devices under a card, as of now: overheads are shared
// by them. A question that leaves out some of a node's devices divides a node's
// overhead over the rest.
func (s *Server) prices(card *rating.Card) (func([]attribution.Device, []attribution.Price), error) {
	rater, err := rating.NewRater(card)
	if err != nil {
		return nil, err
	}
	now := attribution.SecondOf(s.cfg.Now().UnixNano())
	return func(node []attribution.Device, out []attribution.Price) { rater.Prices(node, now, out) }, nil
}
