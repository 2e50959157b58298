package verify_test

import (
	"fmt"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/verify"
)

// wide is a node of many devices, each held by an owner of its own.
func wide(devices int) *querytest.World {
	w := querytest.NewWorld()
	d, o := w.Devices[0], w.Owners[querytest.Llama]
	w.Devices, w.Owners = nil, w.Owners[:1]
	for i := range devices {
		d.ID, o.Pod = fmt.Sprintf("GPU-%03d", i), fmt.Sprintf("pod-%03d", i)
		w.Devices, w.Owners = append(w.Devices, d), append(w.Owners, o)
	}
	return w
}

func wideChunk(w *querytest.World, from attribution.Second) *attribution.Chunk {
	var ws []attribution.DeviceWindow
	for s := from; s < from+10; s++ {
		for i := range w.Devices {
			used := (int64(s)*7919 + int64(i)*104729) % 400_000_000
			ws = append(ws, attribution.DeviceWindow{Device: uint32(i), Second: s, Price: querytest.Price, Slices: []attribution.Slice{
				{Owner: uint32(i + 1), Basis: attribution.Used, Time: used, SMActive: used},
				{Owner: uint32(i + 1), Basis: attribution.Reserved, Time: attribution.WindowNanos - used},
			}})
		}
	}
	key := attribution.ChunkKey{Cluster: "east", Node: "n1", Sequence: from}
	return attribution.BuildChunk(key, 10, w, ws, nil)
}

// BenchmarkRun verifies chunks of 96 devices, in memory: what is not the
// store's part.
func BenchmarkRun(b *testing.B) {
	w := wide(96)
	var cs []*attribution.Chunk
	for i := range 360 {
		cs = append(cs, wideChunk(w, start+attribution.Second(10*i)))
	}
	s := querytest.NewStore(cs...)
	v := verify.New(verify.Config{Store: s})
	for b.Loop() {
		p, err := v.Run(b.Context(), 0, 0, nil)
		if err != nil || p.Broken != nil || p.Windows != 360*960 {
			b.Fatalf("%+v, %v", p, err)
		}
	}
	b.ReportMetric(float64(360*960)*float64(b.N)/b.Elapsed().Seconds(), "windows/s")
}
