package bench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// BenchmarkUnitCosts asks for 30 days of 1,000 GPUs, each with four servers of
// 20 models that count requests, tokens and 20 latency buckets, and a gateway
// before them that knows 200 customers: what did their inferences cost?
func BenchmarkUnitCosts(b *testing.B) {
	kinds := ledgers(storetest.Decode)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		at := kinds[kind]
		b.Run("store="+kind, func(b *testing.B) { unitCosts(b, at(b, b.TempDir()).open(b)) })
	}
}

func unitCosts(b *testing.B, s store.Store) {
	const days = 30
	ctx := context.Background()
	defer s.Close() //nolint:errcheck // a benchmark
	for day := range attribution.Second(days) {
		if err := s.Commit(ctx, servedDay(uint64(day)+1, storetest.Day+day*86400)); err != nil {
			b.Fatal(err)
		}
		if err := s.Roll(ctx, storetest.Day+(day+1)*86400); err != nil {
			b.Fatal(err)
		}
	}
	e := query.New(query.Config{Store: s, Timeout: 5 * time.Minute})
	set := join.NewSet([]join.Gateway{{Cluster: "prod", Name: "litellm"}})
	for _, by := range []string{"namespace", "model", "tenant"} {
		b.Run("by="+by, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				ans, err := economics.UnitCosts(ctx, e, &economics.Request{
					From: storetest.Day, To: storetest.Day + days*86400, GroupBy: []string{by}, Gateways: set,
				})
				if err != nil {
					b.Fatal(err)
				}
				if len(ans.Rows) < 20 {
					b.Errorf("%d rows", len(ans.Rows))
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
		})
	}
}

// servedDay is one batch whose minute stands for a day.
func servedDay(number uint64, at attribution.Second) *store.Batch {
	batch := &store.Batch{Number: number, Owners: map[rollup.Fingerprint]*attribution.Owner{}, Devices: map[rollup.Fingerprint]*attribution.Device{}}
	tally := func(owner rollup.Fingerprint, model, tenant string, m attribution.Measure, v int64) {
		batch.Tallies = append(batch.Tallies, rollup.TallyRow{Bucket: at, Series: rollup.TallySeries{Owner: owner, Model: model, Tenant: tenant, Measure: m}, Value: v})
	}
	for gpu := range 1000 {
		node := fmt.Sprint("node-", gpu/8)
		dev := &attribution.Device{ID: fmt.Sprintf("GPU-%04d", gpu), Cluster: "prod", Node: node, Model: "NVIDIA H100 80GB HBM3"}
		d := dev.Fingerprint()
		batch.Devices[d] = dev
		for i := range 4 {
			n := gpu*4 + i
			model := fmt.Sprint("model-", n%20)
			own := &attribution.Owner{
				Kind: attribution.Container, Cluster: "prod", Node: node, Namespace: fmt.Sprint("ns-", n%50), Pod: fmt.Sprint("pod-", n),
				PodUID: fmt.Sprint("uid-", n), Container: "main", ControllerKind: "Deployment", Controller: model,
			}
			o := own.Fingerprint()
			batch.Owners[o] = own
			for basis, ns := range map[attribution.Basis]int64{attribution.Used: 6e9, attribution.Reserved: 9e9} {
				batch.Rows = append(batch.Rows, rollup.Row{
					Bucket: at, Series: rollup.Series{Device: d, Owner: o, Basis: basis, Method: "sm/process", Revision: 1},
					Sums: rollup.Sums{Time: ns, Cost: ns / 1440},
				})
			}
			tally(o, model, "", attribution.Success, 100e6)
			tally(o, model, "", attribution.FailurePrefix+"timeout", 1e6)
			tally(o, model, "", attribution.TokensInput, 90_000)
			tally(o, model, "", attribution.TokensOutput, 25_000)
			for k := range 20 {
				tally(o, model, "", attribution.BucketMeasure(attribution.LatencyPrefix, 30+k), 5e6)
			}
		}
	}
	for m := range 20 {
		model := fmt.Sprint("model-", m)
		own := &attribution.Owner{Kind: attribution.Gateway, Cluster: "prod", Node: "gateway/litellm", ControllerKind: "Backend", Controller: "http://" + model + ":8000"}
		o := own.Fingerprint()
		batch.Owners[o] = own
		for c := range 200 {
			tally(o, model, fmt.Sprint("customer-", c), attribution.Success, 90e6)
			tally(o, model, fmt.Sprint("customer-", c), attribution.TokensInput, 80_000)
			tally(o, model, fmt.Sprint("customer-", c), attribution.TokensOutput, 22_000)
		}
	}
	roster := store.Roster{ID: rollup.Fingerprint{1}}
	batch.Rosters = []store.Roster{roster}
	batch.Chunks = []store.Chunk{{Key: attribution.ChunkKey{Cluster: "prod", Node: "node", Sequence: at}, Seconds: 10, RosterID: roster.ID}}
	return batch
}
