package duckdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// fleet makes the minute rows of nodes with 8 devices that 4 owners share:
// each uses its part, differently every minute, holds an equal part of what is
// idle, and keeps its memory for an hour.
type fleet struct {
	nodes   int
	rand    *rand.Rand
	owners  map[rollup.Fingerprint]*attribution.Owner
	devices map[rollup.Fingerprint]*attribution.Device
	places  []place
	body    []byte
}

type place struct {
	device rollup.Fingerprint
	owners [4]rollup.Fingerprint
	memory [4]int64
	load   int64
}

func newFleet(nodes int) *fleet {
	f := &fleet{
		nodes: nodes, rand: rand.New(rand.NewPCG(1, 2)),
		owners: make(map[rollup.Fingerprint]*attribution.Owner), devices: make(map[rollup.Fingerprint]*attribution.Device),
		body: make([]byte, 1<<20),
	}
	for i := range f.body {
		f.body[i] = byte(f.rand.Uint32())
	}
	for n := range nodes {
		for d := range 8 {
			dev := &attribution.Device{
				ID: fmt.Sprintf("GPU-%08d-%d", n, d), Cluster: "prod", Node: fmt.Sprint("node-", n), Model: "NVIDIA H100 80GB HBM3",
				MemoryBytes: 80 << 30, Sensors: attribution.SensorEnergy | attribution.SensorMemory,
			}
			p := place{device: dev.Fingerprint(), load: f.rand.Int64N(100)}
			f.devices[p.device] = dev
			for o := range p.owners {
				team := (n*7 + o) % 50
				own := &attribution.Owner{
					Kind: attribution.Container, Cluster: "prod", Node: dev.Node, Namespace: fmt.Sprint("ns-", team), Pod: fmt.Sprintf("app-%d-%d-%d", n, d, o),
					PodUID: fmt.Sprintf("%08d-%d-%d", n, d, o), Container: "main", ControllerKind: "Deployment", Controller: fmt.Sprint("app-", team, "-", o),
					Labels: attribution.MakeLabels(map[string]string{"app": fmt.Sprint("app-", o), "team": fmt.Sprint("team-", team), "model": fmt.Sprint("model-", team%20)}),
				}
				p.owners[o] = own.Fingerprint()
				f.owners[p.owners[o]] = own
			}
			f.places = append(f.places, p)
		}
	}
	return f
}

// batch is one minute: rows only, or with the chunks' bodies too, of 4 bytes a
// slice.
func (f *fleet) batch(number uint64, at attribution.Second, chunks bool) *store.Batch {
	b := &store.Batch{Number: number, Owners: f.owners, Devices: f.devices}
	b.Rows = make([]rollup.Row, 0, 8*len(f.places))
	for i := range f.places {
		f.places[i].minute(f.rand, at, b)
	}
	for n := range f.nodes {
		key := attribution.ChunkKey{Cluster: "prod", Node: fmt.Sprint("node-", n), Sequence: at}
		if !chunks {
			break
		}
		roster := store.Roster{ID: rollup.Fingerprint{byte(n), byte(n >> 8)}, Body: f.body[:6000]}
		b.Rosters = append(b.Rosters, roster)
		for range 6 {
			off := f.rand.IntN(len(f.body) / 2)
			b.Chunks = append(b.Chunks, store.Chunk{Key: key, Seconds: 10, RosterID: roster.ID, Body: f.body[off : off+8*8*10*4], Digest: f.body[off : off+32]})
			key.Sequence += 10
		}
	}
	if len(b.Chunks) == 0 {
		// The ledger's extent comes from chunks.
		roster := store.Roster{ID: rollup.Fingerprint{1}}
		b.Rosters = []store.Roster{roster}
		b.Chunks = []store.Chunk{{Key: attribution.ChunkKey{Cluster: "prod", Node: "node", Sequence: at}, Seconds: 10, RosterID: roster.ID}}
	}
	return b
}

func (p *place) minute(r *rand.Rand, at attribution.Second, b *store.Batch) {
	p.load = min(max(p.load+r.Int64N(21)-10, 0), 100)
	idle := int64(60e9)
	energy := p.load*36e9/100 + 6e9 + r.Int64N(1e8) // 100 to 700 W
	add := func(o int, basis attribution.Basis, time, sm, memory int64) {
		b.Rows = append(b.Rows, rollup.Row{
			Bucket: at, Series: rollup.Series{Device: p.device, Owner: p.owners[o], Basis: basis, Method: "sm/process", Revision: 1},
			Sums: rollup.Sums{Time: time, SMActive: sm, Memory: memory, Energy: energy / 1000 * (time / 60e6), Cost: time / 1440 / 1000 * 1000},
		})
	}
	for o := range p.owners {
		if r.IntN(60) == 0 || p.memory[o] == 0 {
			p.memory[o] = (1 + r.Int64N(8000)) << 21
		}
		time := p.load*15e7/100 + r.Int64N(1e8)
		if p.load > 0 {
			time = p.load*150e6 - r.Int64N(150e6)
		}
		idle -= time
		add(o, attribution.Used, time, time, p.memory[o]*60)
	}
	for o := range p.owners {
		add(o, attribution.Reserved, idle/4, 0, 0)
	}
}

func openBench(tb testing.TB, dir string) *duckdb.Store {
	s, err := duckdb.Open(context.Background(), duckdb.Options{Dir: dir, Decode: storetest.Decode})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func commit(tb testing.TB, s *duckdb.Store, b *store.Batch) {
	if err := s.Commit(context.Background(), b); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkCommit commits minute after minute of a fleet, with its chunks.
func BenchmarkCommit(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint("nodes=", nodes), func(b *testing.B) {
			f := newFleet(nodes)
			s := openBench(b, b.TempDir())
			defer s.Close() //nolint:errcheck // a benchmark
			commit(b, s, f.batch(1, storetest.Day, true))
			n := uint64(1)
			rows := 0
			var slowest time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				n++
				batch := f.batch(n, storetest.Day+attribution.Second(n)*60, true)
				rows += len(batch.Rows)
				b.StartTimer()
				began := time.Now()
				commit(b, s, batch)
				slowest = max(slowest, time.Since(began))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
			b.ReportMetric(float64(rows)*30/b.Elapsed().Seconds(), "slices/s") // 60 s, two bases a slice
			b.ReportMetric(slowest.Seconds()*1e3, "max-ms")
		})
	}
}

// BenchmarkShowback asks for 30 days of 125 nodes (1,000 devices, 4 owners
// each) up to the middle of a minute, by team and by model.
func BenchmarkShowback(b *testing.B) {
	ctx := context.Background()
	f := newFleet(125)
	s := openBench(b, b.TempDir())
	defer s.Close() //nolint:errcheck // a benchmark
	if err := s.SetMapping(ctx, func(o *attribution.Owner) store.Mapped {
		team, _ := o.Labels.Get("team")
		model, _ := o.Labels.Get("model")
		return store.Mapped{Team: team, Model: model, Class: "serving", Tier: "gold"}
	}); err != nil {
		b.Fatal(err)
	}
	n := uint64(0)
	add := func(at attribution.Second) {
		n++
		commit(b, s, f.batch(n, at, false))
	}
	for day := range attribution.Second(30) {
		add(storetest.Day + day*86400)
		if err := s.Roll(ctx, storetest.Day+day*86400); err != nil {
			b.Fatal(err)
		}
	}
	now := storetest.Day + 30*86400
	for hour := range attribution.Second(12) {
		add(now + hour*3600)
	}
	now += 12 * 3600
	for minute := range attribution.Second(40) {
		add(now + minute*60)
	}
	now += 40 * 60
	if err := s.Roll(ctx, now); err != nil {
		b.Fatal(err)
	}
	for _, by := range []store.Dimension{store.Team, store.Model, store.Pod, "label:app"} {
		b.Run(fmt.Sprint("by=", by), func(b *testing.B) {
			q := &store.Query{From: storetest.Day, To: now, GroupBy: []store.Dimension{by}}
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := s.View(ctx, func(r store.Reader) error {
					rows, err := r.Query(ctx, q)
					if len(rows) == 0 {
						b.Error("no answer")
					}
					return err
				}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
			b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
		})
	}
}

// BenchmarkBytes stores minutes without their chunks, rolls them, and reports
// what each takes on disk.
func BenchmarkBytes(b *testing.B) {
	for _, c := range []struct{ nodes, minutes int }{{1000, 61}, {100, 61}, {100, 1441}} {
		minutes := c.minutes
		b.Run(fmt.Sprintf("nodes=%d/minutes=%d", c.nodes, minutes), func(b *testing.B) {
			var bytes int64
			var slowest time.Duration
			f := newFleet(c.nodes)
			for b.Loop() {
				dir := b.TempDir()
				s := openBench(b, dir)
				for m := range minutes {
					commit(b, s, f.batch(uint64(m+1), storetest.Day+attribution.Second(m)*60, false))
					began := time.Now()
					if err := s.Roll(context.Background(), storetest.Day+attribution.Second(m)*60); err != nil {
						b.Fatal(err)
					}
					slowest = max(slowest, time.Since(began))
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				info, err := os.Stat(filepath.Join(dir, duckdb.FileName))
				if err != nil {
					b.Fatal(err)
				}
				bytes = info.Size()
			}
			b.ReportMetric(slowest.Seconds()*1e3, "max-roll-ms")
			b.ReportMetric(float64(bytes)/float64(minutes*8*len(f.places)), "B/row")
			b.ReportMetric(float64(bytes)/float64(minutes*4*len(f.places)), "B/device-owner-minute")
		})
	}
}
