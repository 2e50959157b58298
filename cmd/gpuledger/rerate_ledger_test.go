package main

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// smallReratings rerates a small ledger, at a fixed time.
type smallReratings struct{ store *querytest.Store }

func (r smallReratings) Journal(ctx context.Context) (*rerating.Journal, error) {
	return r.store.Journal(ctx)
}

func (r smallReratings) Preview(ctx context.Context, e rerating.Entry) (*plan.Plan, error) {
	planner := plan.Planner{Decode: decodeStored}
	e.Applied = time.Unix(int64(querytest.Start)+3600, 0).UTC()
	if e.Undoes != 0 {
		return planner.Undo(ctx, r.store, e)
	}
	return planner.Rerate(ctx, r.store, e)
}

func (r smallReratings) Apply(ctx context.Context, e rerating.Entry) (*plan.Plan, error) {
	p, err := r.Preview(ctx, e)
	if err != nil {
		return nil, err
	}
	return p, r.store.Rerate(ctx, p.Rerating())
}

func decodeStored(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	var m pb.Roster
	if err := proto.Unmarshal(r.Body, &m); err != nil {
		return nil, err
	}
	roster, err := wire.DecodeRoster(&m)
	if err != nil {
		return nil, err
	}
	return wire.DecodeChunk(&pb.Chunk{
		Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds),
		RosterId: c.RosterID[:], Body: c.Body, Digest: c.Digest,
	}, c.Key.Cluster, c.Key.Node, roster)
}
