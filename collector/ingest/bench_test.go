package ingest

import (
	"context"
	"fmt"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// voidStore commits to nothing, in no time.
type voidStore struct {
	store.Store
	commits uint64
}

func (v *voidStore) Commit(context.Context, *store.Batch) error { v.commits++; return nil }

func (*voidStore) Roll(context.Context, attribution.Second) error { return nil }

func (*voidStore) Retain(context.Context, store.Retention, attribution.Second) error { return nil }

func (v *voidStore) View(_ context.Context, f func(store.Reader) error) error {
	return f(memReader{m: &memStore{}, commits: v.commits})
}

// BenchmarkStream is everything but the network and the store: decode, check,
// fold, batch, acknowledge, for nodes of 8 devices and 4 owners on each.
func BenchmarkStream(b *testing.B) {
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	st := &voidStore{}
	o := quick()
	o.Timing = Timing{}
	r := start(b, st, o)
	a := r.connect(id, boot)
	const distinct = 360 // an hour
	c := benchChunk(id, boot, base)
	a.roster(c.Roster)
	var ms []*pb.Chunk
	for i := range distinct {
		m, err := wire.EncodeChunk(benchChunk(id, boot, base+attribution.Second(10*i)), c.Roster.Fingerprint())
		if err != nil {
			b.Fatal(err)
		}
		ms = append(ms, m)
	}
	b.ReportAllocs()
	slices := 0
	for hour := 0; b.Loop(); hour++ {
		if hour > 0 { // the same again, as another node's
			b.StopTimer()
			id.node = fmt.Sprint(hour)
			a.hangUp()
			a = r.connect(id, boot)
			a.roster(benchChunk(id, boot, base).Roster)
			for i := range ms {
				c := benchChunk(id, boot, base+attribution.Second(10*i))
				ms[i], _ = wire.EncodeChunk(c, c.Roster.Fingerprint())
			}
			b.StartTimer()
		}
		for _, m := range ms {
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})
			slices += 320
		}
		a.flush()
		a.awaitAck(benchChunk(id, boot, base+10*(distinct-1)))
	}
	b.StopTimer()
	b.ReportMetric(float64(slices)/b.Elapsed().Seconds(), "slices/s")
	r.drain()
}

func benchChunk(id nodeID, boot attribution.Boot, from attribution.Second) *attribution.Chunk {
	r := &attribution.Roster{Owners: []attribution.Owner{{}}, Methods: []string{"sm/process"}}
	for d := range 8 {
		r.Devices = append(r.Devices, attribution.Device{ID: fmt.Sprintf("GPU-%s-%d", id.node, d), Cluster: id.cluster, Node: id.node, Model: "H100"})
	}
	for o := range 32 {
		r.Owners = append(r.Owners, attribution.Owner{Kind: attribution.Container, Cluster: id.cluster, Node: id.node, Pod: fmt.Sprint(o)})
	}
	var ws []attribution.DeviceWindow
	for s := from; s < from+10; s++ {
		for d := range 8 {
			w := attribution.DeviceWindow{Device: uint32(d), Second: s, Energy: 300_000_000 + int64(s%97), Price: attribution.Price{PerHour: money.Unit, Revision: 1}}
			left := attribution.WindowNanos
			for o := range 4 {
				t := left
				if o < 3 {
					t = left/4 + (int64(s)*7919+int64(d*o)*31)%1_000_000
				}
				left -= t
				w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(1 + 4*d + o), Basis: attribution.Used, Time: t, SMActive: t, Memory: 1 << 33})
			}
			ws = append(ws, w)
		}
	}
	return attribution.BuildChunk(attribution.ChunkKey{Cluster: id.cluster, Node: id.node, Boot: boot, Sequence: from}, 10, r.Facts(), ws, nil)
}
