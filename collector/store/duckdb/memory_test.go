package duckdb_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// DuckDB has much of what is in its log in memory when it folds it into the file, and
// 2,048 rosters at once: where that was too much, no commit succeeded ever again. A
// collector of the least memory takes a fleet of dense nodes of which it knows nothing.
func TestDenseNodesFitIntoTheLeastMemory(t *testing.T) {
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Decode: storetest.Decode, MemoryBytes: 128 << 20, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	for number := range uint64(10) {
		// limits.batch_rows is 100,000, two of each.
		if err := s.Commit(t.Context(), newcomers(number+1, &next, 50_000)); err != nil {
			t.Fatalf("commit %d: %v", number+1, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// newcomers are so many pods that nobody has heard of, for a minute.
func newcomers(number uint64, next *int, n int) *store.Batch {
	b := &store.Batch{Number: number, Owners: make(map[rollup.Fingerprint]*attribution.Owner), Devices: make(map[rollup.Fingerprint]*attribution.Device)}
	for i := range n {
		k := *next + i
		node := fmt.Sprintf("gpu-node-%05d.example.internal", k/512)
		dev := &attribution.Device{ID: fmt.Sprintf("GPU-%08d-5a3c-4b7e-9d1f-%012d", k/64, k/64), Cluster: "prod", Node: node, Model: "NVIDIA H100 80GB HBM3", MemoryBytes: 80 << 30}
		own := &attribution.Owner{
			Kind: attribution.Container, Cluster: "prod", Node: node, Namespace: fmt.Sprint("team-", k%50), Pod: fmt.Sprintf("inference-server-%08x-%05d", k, k%99999),
			PodUID: fmt.Sprintf("%08x-5a3c-4b7e-9d1f-%012x", k, k), Container: "server", ControllerKind: "Deployment", Controller: fmt.Sprint("inference-server-", k%5000),
			Labels: attribution.MakeLabels(map[string]string{"app": fmt.Sprint("app-", k%5000), "team": fmt.Sprint("team-", k%50), "model": fmt.Sprint("model-", k%20)}),
		}
		d, o := dev.Fingerprint(), own.Fingerprint()
		b.Devices[d], b.Owners[o] = dev, own
		for _, basis := range []attribution.Basis{attribution.Used, attribution.Reserved} {
			b.Rows = append(b.Rows, rollup.Row{
				Bucket: storetest.Day + 60*attribution.Second(number), Series: rollup.Series{Device: d, Owner: o, Basis: basis, Method: "sm/process", Revision: 1},
				Sums: rollup.Sums{Time: int64(k), SMActive: int64(k) / 2, Memory: int64(k) << 20, Energy: int64(k) * 700, Cost: int64(k) * 3},
			})
		}
	}
	random := rand.NewChaCha8([32]byte{byte(number)})
	for i := range n / 512 { // nodes
		r := store.Roster{ID: rollup.Fingerprint{byte(number), byte(i), byte(i >> 8)}}
		for o := range 512 { // as many facts as an owner has, a fourth of them no other's
			r.Body = fmt.Appendf(r.Body, "%s%s%d%040x", strings.Repeat("a pod's names and labels", 5), r.ID, o, random.Uint64())
		}
		b.Rosters = append(b.Rosters, r)
		for c := range attribution.Second(6) {
			body := make([]byte, 12_000)
			_, _ = random.Read(body)
			b.Chunks = append(b.Chunks, store.Chunk{
				Key:     attribution.ChunkKey{Cluster: "prod", Node: fmt.Sprint(number, "-", i), Sequence: storetest.Day + attribution.Second(60*number) + 10*c},
				Seconds: 10, RosterID: r.ID, Body: body, Digest: make([]byte, 32),
			})
		}
	}
	*next += n
	return b
}
