package collector

import (
	"context"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// status tells how the collector and its agents do.
func (c *Collector) status(ctx context.Context) (*pb.StatusResponse, error) {
	var from, to attribution.Second
	err := c.store.View(ctx, func(r store.Reader) (err error) {
		from, to, err = r.Extent(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	openFrom, openTo := c.ingest.Extent()
	if openTo > openFrom {
		if to == from || openFrom < from {
			from = openFrom
		}
		to = max(to, openTo)
	}
	res := &pb.StatusResponse{Version: c.deps.Version, Warnings: append(c.ingest.Warnings(), c.cfg.storeWarnings()...)}
	if to > from {
		res.FirstSecond, res.LastSecond = int64(from), int64(to-1)
	}
	if card := c.docs.card.Load(); card != nil {
		res.RateCardRevision = card.Revision
	} else {
		res.Warnings = append(res.Warnings, "there is no rate card: all device time is UNPRICED until one is applied (gpuledger ratecard apply)")
	}
	res.Warnings = append(res.Warnings, c.certificateWarnings()...)
	res.RulesRevision = c.docs.rules.Load().Revision
	res.PendingChunks, res.PendingBytes = c.ingest.Pending()
	res.Nodes = c.nodes(false)
	c.addOthers(ctx, res)
	res.Warnings = append(res.Warnings, c.follower.Load().warning()...)
	for _, g := range c.gateways.Status() {
		res.Warnings = append(res.Warnings, g.Warnings...)
		res.Gateways = append(res.Gateways, &pb.GatewayStatus{
			Cluster: g.Cluster, Name: g.Name, Format: g.Format, LastScrape: int64(g.LastScrape), Addresses: int32(g.Addresses),
			Answering: int32(g.Answering), Error: g.Error, StoredThrough: int64(g.StoredThrough), Tenants: int32(g.Tenants),
		})
	}
	return res, nil
}
