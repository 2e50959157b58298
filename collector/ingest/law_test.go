package ingest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base attribution.Second = 1_700_000_040 // a whole minute

func chunksOf(id nodeID, boot attribution.Boot, from attribution.Second, n int) []*attribution.Chunk {
	var cs []*attribution.Chunk
	for i := range n {
		cs = append(cs, makeChunk(id, boot, from+attribution.Second(10*i), 10))
	}
	return cs
}

// The same chunks in any order, repeated, over several streams, with the
// collector killed in between, leave the same store.
func TestLaw4SameChunksAnyOrderAnyOftenSameStore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var all []*attribution.Chunk
		nodes := rapid.IntRange(1, 3).Draw(rt, "nodes")
		for i := range nodes {
			id := nodeID{"c", fmt.Sprintf("n%d", i)}
			all = append(all, chunksOf(id, attribution.Boot{byte(i)}, base, rapid.IntRange(1, 14).Draw(rt, "chunks"))...)
		}
		st := newMemStore()
		var failures atomic.Int64
		failures.Store(int64(rapid.IntRange(0, 3).Draw(rt, "store failures")))
		st.fault = func(*store.Batch) error {
			if failures.Add(-1) >= 0 {
				return errDown
			}
			return nil
		}
		for range rapid.IntRange(0, 2).Draw(rt, "crashes") {
			r := start(t, st, quick())
			deliver(rt, r, all, rapid.IntRange(0, len(all)).Draw(rt, "sent before the crash"))
			if err := r.kill(); err != nil {
				rt.Fatal(err)
			}
		}
		r := start(t, st, quick())
		deliver(rt, r, all, rapid.IntRange(0, len(all)).Draw(rt, "sent in disorder"))
		finish(r, all)
		r.drain()
		st.wantExactly(rt, all)
	})
}

// deliver sends n of the chunks, shuffled and some twice, on streams that end
// and begin again at random. What a stream was sent last may get lost with it.
func deliver(rt *rapid.T, r *rig, all []*attribution.Chunk, n int) {
	rng := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(rt, "order")))
	streams := make(map[string]*agent)
	for _, i := range rng.Perm(len(all))[:n] {
		c := all[i]
		a := streams[c.Key.Node]
		if a == nil || rng.IntN(8) == 0 {
			a = r.connect(nodeID{c.Key.Cluster, c.Key.Node}, c.Key.Boot)
			streams[c.Key.Node] = a
		}
		a.chunk(c)
		if rng.IntN(4) == 0 {
			a.chunk(c)
		}
		if rng.IntN(8) == 0 {
			a.flush()
		}
	}
}

// finish sends everything again, as an agent does that was never acknowledged
// anything, and waits for the acks.
func finish(r *rig, all []*attribution.Chunk) {
	streams := make(map[string]*agent)
	last := make(map[string]*attribution.Chunk)
	for _, c := range all {
		if streams[c.Key.Node] == nil {
			streams[c.Key.Node] = r.connect(nodeID{c.Key.Cluster, c.Key.Node}, c.Key.Boot)
		}
		streams[c.Key.Node].chunk(c)
		last[c.Key.Node] = c
	}
	for node, a := range streams {
		a.flush()
		a.awaitAck(last[node])
	}
}

// No ack is sent before everything that it covers is in the store.
func TestLaw4AckOnlyAfterCommit(t *testing.T) {
	st := newMemStore()
	slow := make(chan struct{}, 1)
	st.fault = func(*store.Batch) error {
		select {
		case slow <- struct{}{}:
			return errDown // every other attempt
		default:
			<-slow
			return nil
		}
	}
	r := start(t, st, quick())
	id := nodeID{"c", "n"}
	all := chunksOf(id, attribution.Boot{1}, base, 200)
	a := r.connect(id, attribution.Boot{1})
	a.onAck = func(sequence attribution.Second) {
		for _, c := range all {
			if c.Key.Sequence <= sequence && !st.stored(c.Key) {
				t.Errorf("ack of %d, but %d is not stored", sequence, c.Key.Sequence)
			}
		}
	}
	// Acks replace one another, so that there are several only of what is sent
	// after an ack has come.
	for part := range slices.Chunk(all, 50) {
		for _, c := range part {
			a.chunk(c)
		}
		a.flush()
		a.awaitAck(part[len(part)-1])
	}
	if a.acks() < 4 {
		t.Errorf("%d acks of four parts", a.acks())
	}
	r.drain()
	st.wantExactly(t, all)
}

// What is kept from one boot stays: another boot's chunks of the same seconds,
// and chunks cut otherwise, are conflicts.
func TestLaw4ConflictsAreRejected(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id := nodeID{"c", "n"}
	stored, pending := makeChunk(id, attribution.Boot{1}, base, 10), makeChunk(id, attribution.Boot{1}, base+10, 5)
	a := r.connect(id, attribution.Boot{1})
	a.chunk(stored)
	a.flush()
	a.awaitAck(stored)
	a.chunk(pending)
	overlapping := makeChunk(id, attribution.Boot{1}, base+13, 4)
	a.chunk(overlapping)
	if why := a.awaitReject(overlapping); why == "" {
		t.Error("rejected without a reason")
	}
	b := r.connect(id, attribution.Boot{2})
	for _, c := range []*attribution.Chunk{stored, pending} {
		other := makeChunk(id, attribution.Boot{2}, c.Key.Sequence, c.Seconds)
		b.chunk(other)
		b.awaitReject(other)
	}
	part := makeChunk(id, attribution.Boot{1}, base+2, 3) // wholly there, from the same boot
	a = r.connect(id, attribution.Boot{1})
	a.chunk(part)
	a.awaitAck(part)
	if s := r.s.Stats(); s.Conflict != 3 || s.Duplicate != 1 || s.Accepted != 2 {
		t.Errorf("counted %+v", s)
	}
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{stored, pending})
}

func TestLaw5LateChunkLandsInItsOwnTime(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	const week = 7 * 86400
	all := chunksOf(id, boot, base+week, 12)
	late := makeChunk(id, boot, base, 10)
	later := makeChunk(id, boot, base+30, 10)
	a := r.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[len(all)-1])
	for _, c := range []*attribution.Chunk{later, late} {
		a.chunk(c)
		a.flush()
		a.await("ack", func(*pb.ToAgent) bool { return st.stored(c.Key) })
	}
	if got := r.s.Nodes()[0].StoredThrough; got != all[len(all)-1].End() {
		t.Errorf("stored through %d after a late chunk: want %d", got, all[len(all)-1].End())
	}
	r.drain()
	st.wantExactly(t, append(all, late, later))
}

// While the store fails, pending chunks stay within the bound, agents wait, and
// nothing is acknowledged; afterwards everything is there once.
func TestLaw8StoreDownHoldsAgentsBack(t *testing.T) {
	const bound = 20
	st := newMemStore()
	var down atomic.Bool
	down.Store(true)
	attempts := make(chan int64, 100)
	r := (*rig)(nil)
	st.fault = func(*store.Batch) error {
		if !down.Load() {
			return nil
		}
		n, _ := r.s.Pending()
		select {
		case attempts <- n:
		default:
		}
		return errDown
	}
	o := quick()
	o.Limits.PendingChunks = bound
	r = start(t, st, o)
	var all []*attribution.Chunk
	var agents []*agent
	var sending sync.WaitGroup
	var finished atomic.Int64
	for i := range 3 {
		id, boot := nodeID{"c", fmt.Sprintf("n%d", i)}, attribution.Boot{byte(i)}
		cs := chunksOf(id, boot, base, 30)
		all = append(all, cs...)
		a := r.connect(id, boot)
		agents = append(agents, a)
		sending.Go(func() {
			for _, c := range cs {
				a.chunk(c)
			}
			a.flush()
			finished.Add(1)
		})
	}
	for full := 0; full < 20; {
		if n := <-attempts; n > bound {
			t.Fatalf("%d chunks are pending: at most %d may be", n, bound)
		} else if n == bound {
			full++
		}
	}
	if finished.Load() > 0 {
		t.Error("an agent could send everything")
	}
	if len(r.s.Warnings()) == 0 {
		t.Error("no warning while the store fails")
	}
	for _, a := range agents {
		if a.acks() > 0 {
			t.Error("an ack while the store fails")
		}
	}
	down.Store(false)
	sending.Wait()
	for i, a := range agents {
		a.awaitAck(all[30*i+29])
	}
	if len(r.s.Warnings()) != 0 {
		t.Errorf("warnings remain: %v", r.s.Warnings())
	}
	r.drain()
	st.wantExactly(t, all)
}

// Bytes bound too.
func TestLaw8PendingBytes(t *testing.T) {
	st := newMemStore()
	o := quick()
	o.Limits.PendingBytes = 64 << 10
	r := start(t, st, o)
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 100)
	st.fault = func(*store.Batch) error {
		if _, bytes := r.s.Pending(); bytes > o.Limits.PendingBytes {
			t.Errorf("%d bytes are pending", bytes)
		}
		return nil
	}
	a := r.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[99])
	r.drain()
	if st.largest >= 100 {
		t.Error("one batch of everything: the bound was never met")
	}
	st.wantExactly(t, all)
}

// Live seconds are bounded per node; their chunk brings again what was dropped.
func TestLaw8LiveSeconds(t *testing.T) {
	st := newMemStore()
	o := quick()
	o.Limits.LiveSeconds = 5
	r := start(t, st, o)
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	a := r.connect(id, boot)
	for _, s := range secondsOf(c) {
		a.live(s)
	}
	a.closed(c)
	a.await("resend", func(m *pb.ToAgent) bool { return m.GetResend() != nil })
	if s := r.s.Stats(); s.LiveDropped != 5 || s.Live != 10 || s.Resend != 1 {
		t.Errorf("counted %+v", s)
	}
	a.flush()
	a.chunk(c)
	a.flush()
	a.awaitAck(c)
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{c})
}
