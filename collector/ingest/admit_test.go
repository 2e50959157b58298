package ingest

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// full is a collector whose store commits nothing until it is let, and two agents:
// the chunks of the first are all that may be pending.
func full(t *testing.T, turns int) (r *rig, st *memStore, greedy, other *agent, sent []*attribution.Chunk, let func()) {
	st = newMemStore()
	stuck := make(chan struct{})
	st.fault = func(*store.Batch) error {
		<-stuck
		return nil
	}
	o := quick()
	o.Limits.PendingChunks, o.Limits.CatchingUp = 6, turns
	r = start(t, st, o)
	greedy = r.connect(nodeID{"c", "greedy"}, attribution.Boot{1})
	other = r.connect(nodeID{"c", "other"}, attribution.Boot{1})
	sent = chunksOf(greedy.id, greedy.boot, base, 6)
	for _, c := range sent {
		greedy.chunk(c)
	}
	synctest.Wait()
	if n, _ := r.s.Pending(); n != 6 {
		t.Fatalf("%d chunks are pending: want as many as may be", n)
	}
	return r, st, greedy, other, sent, sync.OnceFunc(func() { close(stuck) })
}

// While an agent's chunk waits for memory the agent sends nothing: what it would send
// would wait in memory too. Then it goes on.
func TestWhoseChunkWaitsIsToldToSendNothing(t *testing.T) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		r, st, greedy, other, sent, let := full(t, 0)
		defer let()
		as := []*agent{greedy, other}
		c := makeChunk(other.id, other.boot, base, 10)
		other.chunk(c)
		time.Sleep(budgetPatience - time.Millisecond) // virtual
		wantPaces(t, "a moment before", as, everything, everything)
		time.Sleep(time.Millisecond)
		wantPaces(t, "when it has waited", as, everything, nothing)
		if n := r.s.Stats().Waiting; n != 1 {
			t.Errorf("%d chunks wait: want 1", n)
		}
		let()
		wantPaces(t, "when there is room", as, everything, everything)
		other.flush()
		other.awaitAck(c)
		r.drain()
		st.wantExactly(t, append(sent, c))
	})
}

// Who was told to send nothing needs a turn to go on: it has a backlog by then.
func TestWhoWaitedForMemoryGoesOnInTurn(t *testing.T) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		r, st, _, other, sent, let := full(t, 1)
		defer let()
		as := []*agent{other}
		for i := range 4 {
			as = append(as, r.connect(nodeID{"c", fmt.Sprint(i)}, attribution.Boot{1}))
		}
		time.Sleep(6 * turnPatience) // virtual: all have had their first turn
		for _, a := range as {
			c := makeChunk(a.id, a.boot, base, 10)
			sent = append(sent, c)
			a.chunk(c)
		}
		time.Sleep(budgetPatience)
		wantPaces(t, "when all have waited", as, nothing, nothing, nothing, nothing, nothing)
		let()
		for n := 1; n <= len(as); n++ {
			synctest.Wait()
			going := 0
			for _, a := range as {
				if a.pace() == everything {
					going++
				}
			}
			if going != n {
				t.Errorf("%d go on at the time of turn %d", going, n)
			}
			time.Sleep(turnPatience)
		}
		r.drain()
		st.wantExactly(t, sent)
	})
}

// What waits for memory is what came, not what becomes of it.
func TestLaw8WhatWaitsForMemoryIsNotDecoded(t *testing.T) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		r, st, _, other, sent, let := full(t, 0)
		defer let()
		c := makeChunk(other.id, other.boot, base, 10)
		for _, s := range secondsOf(c) {
			other.live(s)
		}
		other.closed(c)
		synctest.Wait()
		n := r.s.nodeOf("c", "other")
		n.mu.Lock()
		decoded := 0
		for _, l := range n.live {
			if l.message == nil {
				decoded++
			}
		}
		if len(n.live) != 10 || decoded > 1 { // the first stands alone
			t.Errorf("%d of %d live seconds are decoded", decoded, len(n.live))
		}
		n.mu.Unlock()
		let()
		other.flush()
		other.awaitAck(c)
		r.drain()
		st.wantExactly(t, append(sent, c))
	})
}

// A chunk that turns out larger than the stream's last waits for the room that it
// needs, and what may be pending is not exceeded.
func TestLaw8AChunkLargerThanTheLastWaits(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.Int64Range(0, 40<<10).Draw(rt, "bytes")
		spans := rapid.SliceOfN(rapid.IntRange(1, 10), 1, 20).Draw(rt, "seconds")
		emptyPools()
		defer emptyPools()
		var over int64
		synctest.Test(t, func(t *testing.T) {
			st := newMemStore()
			o := quick()
			o.Limits.PendingBytes = 1 + most
			r := start(t, st, o)
			st.fault = func(*store.Batch) error {
				if chunks, bytes := r.s.Pending(); chunks > 1 {
					over = max(over, bytes-o.Limits.PendingBytes)
				}
				return nil
			}
			a := r.connect(nodeID{"c", "n"}, attribution.Boot{1})
			var all []*attribution.Chunk
			for i, n := range spans {
				c := makeChunk(a.id, a.boot, base+attribution.Second(10*i), n)
				a.chunk(c)
				all = append(all, c)
			}
			a.flush()
			a.awaitAck(all[len(all)-1])
			r.drain()
			st.wantExactly(t, all)
			if chunks, bytes := r.s.Pending(); chunks != 0 || bytes != 0 {
				t.Errorf("%d chunks of %d bytes are pending when all are stored", chunks, bytes)
			}
		})
		if over > 0 {
			rt.Fatalf("%d bytes more than may be were pending", over)
		}
	})
}

// Whoever changes the reasons in whatever order, an agent was last told what is so,
// and nothing twice.
func TestLaw4AnAgentIsToldWhatIsSo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		box := &outbox{wake: make(chan struct{}, 1)}
		p := &pacing{outbox: box}
		told := everything
		reasons := []*bool{&p.queued, &p.full, &p.paused}
		for range rapid.IntRange(1, 50).Draw(rt, "rounds") {
			var wg sync.WaitGroup
			for range rapid.IntRange(1, 4).Draw(rt, "at once") {
				reason, on := rapid.SampledFrom(reasons).Draw(rt, "reason"), rapid.Bool().Draw(rt, "on")
				wg.Go(func() { p.set(reason, on) })
			}
			wg.Wait()
			for _, m := range box.take() {
				if m.GetPace() == told {
					rt.Fatalf("told %v twice", told)
				}
				told = m.GetPace()
			}
			want := everything
			switch {
			case p.queued || p.full:
				want = nothing
			case p.paused:
				want = onlyChunks
			}
			if told != want {
				rt.Fatalf("queued %v, full %v, paused %v, and told %v", p.queued, p.full, p.paused, told)
			}
		}
	})
}
