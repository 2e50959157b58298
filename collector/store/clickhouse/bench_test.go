package clickhouse_test

import (
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// BenchmarkCommit commits a minute of 100 nodes: 600 chunks.
func BenchmarkCommit(b *testing.B) {
	s, err := clickhouse.Open(b.Context(), options(single.place(b)))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	n := uint64(0)
	for b.Loop() {
		b.StopTimer()
		n++
		var chunks []*attribution.Chunk
		for node := range 100 {
			chunks = append(chunks, storetest.Minute(node, day+attribution.Second(n)*60)...)
		}
		batch := storetest.Batch(n, chunks...)
		b.StartTimer()
		if err := s.Commit(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}
