package wire

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// EncodeRateCard translates a rate card.
func EncodeRateCard(c *rating.Card) *pb.RateCard {
	m := &pb.RateCard{Revision: c.Revision, Currency: c.Currency, Policy: c.Policy}
	for i := range c.Prices {
		r := &c.Prices[i]
		m.Prices = append(m.Prices, &pb.PriceRule{
			Model: r.Model, CapacityType: r.CapacityType, NodeLabels: r.NodeLabels.Map(),
			From: int64(r.From), To: int64(r.To), NanoPerDeviceHour: int64(r.PerDeviceHour),
		})
	}
	for i := range c.Overheads {
		o := &c.Overheads[i]
		m.Overheads = append(m.Overheads, &pb.Overhead{
			Name: o.Name, NodeLabels: o.NodeLabels.Map(), From: int64(o.From), To: int64(o.To),
			NanoPerNodeHour: int64(o.PerNodeHour), NanoPerDeviceHour: int64(o.PerDeviceHour),
		})
	}
	return m
}

// DecodeRateCard translates and validates a rate card. A missing policy is the
// default one.
func DecodeRateCard(m *pb.RateCard) (*rating.Card, error) {
	if err := checkCount("rate_card.prices", len(m.GetPrices()), rating.MaxPrices); err != nil {
		return nil, err
	}
	if err := checkCount("rate_card.overheads", len(m.GetOverheads()), rating.MaxOverheads); err != nil {
		return nil, err
	}
	c := &rating.Card{Revision: m.GetRevision(), Currency: m.GetCurrency(), Policy: m.GetPolicy()}
	if c.Policy == "" {
		c.Policy = attribution.PolicySM.Name
	}
	for _, r := range m.GetPrices() {
		c.Prices = append(c.Prices, rating.PriceRule{
			Model: r.GetModel(), CapacityType: r.GetCapacityType(), NodeLabels: attribution.MakeLabels(r.GetNodeLabels()),
			From: attribution.Second(r.GetFrom()), To: attribution.Second(r.GetTo()), PerDeviceHour: money.Amount(r.GetNanoPerDeviceHour()),
		})
	}
	for _, o := range m.GetOverheads() {
		c.Overheads = append(c.Overheads, rating.Overhead{
			Name: o.GetName(), NodeLabels: attribution.MakeLabels(o.GetNodeLabels()),
			From: attribution.Second(o.GetFrom()), To: attribution.Second(o.GetTo()),
			PerNodeHour: money.Amount(o.GetNanoPerNodeHour()), PerDeviceHour: money.Amount(o.GetNanoPerDeviceHour()),
		})
	}
	if err := rating.Validate(c); err != nil {
		return nil, err
	}
	return c, nil
}
