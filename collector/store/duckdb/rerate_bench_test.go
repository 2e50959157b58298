package duckdb_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// BenchmarkRerate moves sums of a ledger of two hours and 1.9 million minute
// rows to other prices, and back: for so long the writer waits.
func BenchmarkRerate(b *testing.B) {
	const nodes, minutes = 250, 120
	ctx := context.Background()
	f := newFleet(nodes)
	var batches []*store.Batch
	s := openBench(b, b.TempDir())
	defer s.Close() //nolint:errcheck // a benchmark
	for m := range uint64(minutes) {
		batch := f.batch(m+1, storetest.Day+60*attribution.Second(m), false)
		commit(b, s, batch)
		batches = append(batches, batch)
	}
	if err := s.Roll(ctx, storetest.Day+minutes*60); err != nil {
		b.Fatal(err)
	}
	id := uint32(0)
	for _, sums := range []int{100_000, 500_000} {
		b.Run(fmt.Sprint("sums=", sums), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				id++
				r := &store.Rerating{Owners: f.owners, Devices: f.devices, Entry: rerating.Entry{
					ID: id, From: storetest.Day, To: storetest.Day + minutes*60, Currency: "USD",
					Card: &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: money.Unit}}},
				}}
				for _, batch := range batches {
					for i := range batch.Rows {
						if x := &batch.Rows[i]; len(r.Transfers) < sums {
							r.Transfers = append(r.Transfers, rerating.Transfer{
								Entry: id, Resolution: rollup.Minute, Bucket: x.Bucket, Series: x.Series, To: rerating.Revision(id), Sums: x.Sums, CostAfter: x.Cost / 2,
							})
						}
					}
				}
				b.StartTimer()
				began := time.Now()
				if err := s.Rerate(ctx, r); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(began).Seconds()*1e3, "there-ms")
				began = time.Now()
				id++
				if err := s.Rerate(ctx, &store.Rerating{Entry: rerating.Entry{ID: id, From: storetest.Day, To: storetest.Day + 60, Undoes: id - 1, Currency: "USD"}}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(time.Since(began).Seconds()*1e3, "back-ms")
			}
		})
	}
}
