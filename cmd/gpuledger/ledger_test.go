package main

import (
	"context"
	"net"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	checks "github.com/gpuledger/gpuledger/collector/verify"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// smallLedger serves ten minutes of package querytest's world on loopback to
// a script, which finds it at GPULEDGER_COLLECTOR: 2023-11-15 00:00 UTC on,
// three devices, five owners.
func smallLedger(env *testscript.Env) error {
	s := querytest.NewStore(querytest.NewWorld().Chunks(0, 600)...)
	rules := mapping.Default()
	s.Map = rules.Compile()
	server := grpc.NewServer()
	pb.RegisterLedgerServer(server, api.New(api.Config{
		Query: query.New(query.Config{
			Store: s, Mapping: func() store.Mapping { return s.Map }, Names: func() *mapping.Names { return rules.Names() },
		}),
		Verify: checks.New(checks.Config{Store: s}), Documents: smallDocuments{}, Reratings: smallReratings{s}, Backups: &api.Backups{Store: s, Version: "1.2.3"},
		Status: func(context.Context) (*pb.StatusResponse, error) { return &pb.StatusResponse{Version: "test"}, nil },
		Now:    func() time.Time { return time.Unix(int64(querytest.Start)+600, 0) },
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	env.Defer(func() {
		server.Stop()
		if err := <-done; err != nil {
			env.T().Log(err)
		}
	})
	env.Setenv("GPULEDGER_COLLECTOR", l.Addr().String())
	return nil
}

// smallDocuments are a rate card and the default rules; nothing can be applied.
type smallDocuments struct{}

func (smallDocuments) RateCard(context.Context, uint32) (*rating.Card, error) {
	return &rating.Card{
		Revision: 1, Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "NVIDIA H100", PerDeviceHour: 5 * money.Unit / 2}},
	}, nil
}

func (smallDocuments) ApplyRateCard(context.Context, *rating.Card) (*rating.Card, error) {
	return nil, store.ErrUnavailable
}

func (smallDocuments) Rules(context.Context, uint32) (*mapping.Rules, error) {
	return mapping.Default(), nil
}

func (smallDocuments) ApplyRules(context.Context, *mapping.Rules) (*mapping.Rules, error) {
	return nil, store.ErrUnavailable
}
