package ingest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// ownChunk is a chunk of what a gateway told: tallies in its last second, and
// none where value is 0.
func ownChunk(boot attribution.Boot, from attribution.Second, n int, value int64) *attribution.Chunk {
	r := &attribution.Roster{
		Owners:   []attribution.Owner{{Kind: attribution.Gateway, Cluster: "c", Node: OwnPrefix + "g"}},
		Subjects: []attribution.Subject{{Model: "llama", Tenant: "acme"}},
		Measures: []attribution.Measure{attribution.Success},
	}
	var ts []attribution.Tally
	if value > 0 {
		ts = append(ts, attribution.Tally{Second: from + attribution.Second(n) - 1, Value: value})
	}
	key := attribution.ChunkKey{Cluster: "c", Node: OwnPrefix + "g", Boot: boot, Sequence: from}
	return attribution.BuildChunk(key, n, r.Facts(), nil, ts)
}

func seen(t *testing.T, s *Server) (sum int64) {
	t.Helper()
	if err := since(s, 0, 0, maxSecond, func(c *attribution.Chunk) {
		for _, x := range c.Tallies {
			sum += x.Value
		}
	}); err != nil {
		t.Fatal(err)
	}
	return sum
}

// A chunk of the collector's own is seen at once, stored once, and as durable
// as any.
func TestLaw4OwnChunks(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	all := []*attribution.Chunk{
		ownChunk(attribution.Boot{1}, base, 10, 0), ownChunk(attribution.Boot{1}, base+10, 5, 7), ownChunk(attribution.Boot{1}, base+15, 1, 4),
	}
	for _, c := range all {
		for range 2 {
			if err := r.s.Accept(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := seen(t, r.s); got != 11 {
		t.Errorf("queries see %d before anything is stored: want 11", got)
	}
	if r.s.Stored(all[0]) || !r.s.Has("c", OwnPrefix+"g", all[0].Key.Sequence) {
		t.Errorf("stored %v, there %v, before anything is stored", r.s.Stored(all[0]), r.s.Has("c", OwnPrefix+"g", all[0].Key.Sequence))
	}
	if through := r.s.StoredThrough("c", OwnPrefix+"g"); through != 0 {
		t.Errorf("stored through %d before anything is", through)
	}
	if err := r.kill(); err != nil {
		t.Fatal(err)
	}
	if _, chunks, _ := st.state(); chunks != 0 {
		t.Fatalf("%d chunks were stored before their minute was over", chunks)
	}
	r = start(t, st, quick()) // after the crash all of it is given again
	for _, c := range all {
		if err := r.s.Accept(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	r.drain()
	st.wantExactly(t, all)
	if through := r.s.StoredThrough("c", OwnPrefix+"g"); through != base+16 {
		t.Errorf("stored through %d: want %d", through, base+16)
	}
	if err := r.s.Accept(t.Context(), ownChunk(attribution.Boot{1}, base+60, 1, 1)); err == nil || errors.Is(err, ErrRejected) {
		t.Errorf("after the end: %v", err)
	}
	r = start(t, st, quick())
	for _, c := range all {
		if !r.s.Stored(c) {
			t.Errorf("chunk %d is not stored after the end", c.Key.Sequence)
		}
	}
	other := ownChunk(attribution.Boot{2}, all[0].Key.Sequence, 1, 1)
	if r.s.Stored(other) || r.s.Has("c", OwnPrefix+"g", base+60) || r.s.Has("c", OwnPrefix+"none", base) {
		t.Error("another boot's chunk, a second that nobody has, or a node that is not there, is stored")
	}
	if err := r.s.Accept(t.Context(), all[1]); err != nil {
		t.Errorf("what is stored is given again: %v", err)
	}
	for name, c := range map[string]*attribution.Chunk{
		"another boot": ownChunk(attribution.Boot{2}, base+15, 1, 4),
		"overlapping":  ownChunk(attribution.Boot{1}, base+15, 2, 4),
		"broken":       {Key: attribution.ChunkKey{Node: OwnPrefix + "g"}},
	} {
		if err := r.s.Accept(t.Context(), c); !errors.Is(err, ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.drain()
	st.wantExactly(t, all)
}

// Chunks of many at once, while the nodes that they make are being forgotten.
func TestOwnChunksBesideTheWriter(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 20 {
				c := ownChunk(attribution.Boot{1}, base+attribution.Second(60*(20*i+k)), 10, 1)
				if err := r.s.Accept(context.Background(), c); err != nil {
					t.Error(err)
				}
				for _, n := range r.s.allNodes() {
					r.s.forgetNode(n)
				}
			}
		})
	}
	wg.Wait()
	r.drain()
	if _, chunks, _ := st.state(); chunks != 160 {
		t.Errorf("%d chunks are stored: want 160", chunks)
	}
}

func TestNoAgentIsAGateway(t *testing.T) {
	r := start(t, newMemStore(), quick())
	a := r.dial(nodeID{"c", OwnPrefix + "g"}, attribution.Boot{1})
	a.send(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: "c", Node: OwnPrefix + "g", Boot: make([]byte, 16)}}})
	if err := <-a.ended; err == nil || !strings.Contains(err.Error(), "the collector's own") {
		t.Errorf("%v", err)
	}
	r.drain()
}
