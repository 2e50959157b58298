package ingest

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Whatever agents do, no more have a turn than may, none waits while a turn is free,
// and every agent was last told what is so.
func TestTurns(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ts := &turns{most: rapid.IntRange(1, 4).Draw(rt, "most")}
		all := make([]*turn, rapid.IntRange(1, 9).Draw(rt, "streams"))
		told := make(map[*turn]bool) // to wait
		gone := make(map[*turn]bool)
		for i := range all {
			x := &turn{of: ts}
			x.hold = func(on bool) { told[x] = on }
			all[i] = x
			x.welcome(x.hold)
		}
		for range rapid.IntRange(0, 300).Draw(rt, "steps") {
			x := rapid.SampledFrom(all).Draw(rt, "of")
			if gone[x] {
				continue
			}
			switch rapid.SampledFrom([]string{"chunks", "chunks", "need", "caught up", "late", "end"}).Draw(rt, "what") {
			case "chunks":
				for range rapid.IntRange(1, 2*turnChunks).Draw(rt, "chunks") {
					if told[x] {
						break
					}
					x.took()
				}
			case "need":
				x.need()
			case "caught up":
				x.caughtUp()
			case "late":
				x.tooLate(x.had)
				x.tooLate(x.had - 1)
			case "end":
				x.end()
				gone[x] = true
			}
			wantTurns(rt, ts, all, gone, told)
		}
		for len(gone) < len(all) { // whoever waits has its turn in the end
			for _, x := range all {
				if !gone[x] && !told[x] {
					x.caughtUp()
					gone[x] = true
				}
			}
		}
		if len(ts.waiting) > 0 || ts.taken > 0 {
			rt.Fatalf("%d wait and %d turns are taken when all have had theirs", len(ts.waiting), ts.taken)
		}
	})
}

func wantTurns(rt *rapid.T, ts *turns, all []*turn, gone map[*turn]bool, told map[*turn]bool) {
	have, had := 0, 0
	for _, x := range all {
		if x.has.Load() {
			have++
		}
		if x.has.Load() && x.queued || gone[x] && (x.has.Load() || x.queued) {
			rt.Fatalf("a stream has a turn: %v, waits: %v, is gone: %v", x.has.Load(), x.queued, gone[x])
		}
		if !gone[x] && x.queued != told[x] {
			rt.Fatalf("a stream waits: %v, and was told to: %v", x.queued, told[x])
		}
	}
	if have != ts.taken || have > ts.most || (len(ts.waiting) > 0 && have < ts.most) {
		rt.Fatalf("%d have a turn, %d are counted, of %d; %d wait", have, ts.taken, ts.most, len(ts.waiting))
	}
	for _, x := range ts.waiting {
		if x.had < had {
			rt.Fatalf("one that had %d turns waits behind one that had %d", x.had, had)
		}
		had = x.had
	}
}

// pace is what an agent may send, as it was last told.
func (a *agent) pace() (p pb.Pace) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.got {
		switch m := m.GetMessage().(type) {
		case *pb.ToAgent_Welcome:
			p = m.Welcome.GetPace()
		case *pb.ToAgent_Pace:
			p = m.Pace
		}
	}
	return p
}

// rigOfTurns has agents of which one at a time has a turn.
func rigOfTurns(t *testing.T, n int) (*rig, *memStore, []*agent) {
	st := newMemStore()
	o := quick()
	o.Limits.CatchingUp = 1
	r := start(t, st, o)
	as := make([]*agent, n)
	for i := range as {
		as[i] = r.connect(nodeID{"c", fmt.Sprint("n", i)}, attribution.Boot{1})
		synctest.Wait()
	}
	return r, st, as
}

func wantPaces(t *testing.T, when string, as []*agent, want ...pb.Pace) {
	t.Helper()
	synctest.Wait()
	for i, a := range as {
		if got := a.pace(); got != want[i] {
			t.Errorf("%s: agent %d was told %v: want %v", when, i, got, want[i])
		}
	}
}

const (
	everything = pb.Pace_PACE_EVERYTHING
	onlyChunks = pb.Pace_PACE_CHUNKS
	nothing    = pb.Pace_PACE_NOTHING
)

func TestAgentsTakeTurnsWithTheirBacklogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, st, as := rigOfTurns(t, 3)
		wantPaces(t, "at the hello", as, everything, nothing, nothing)
		if held := r.s.Stats().Held; held != 2 {
			t.Errorf("%d are held: want 2", held)
		}
		var all []*attribution.Chunk
		for i, a := range as {
			chunks := chunksOf(a.id, a.boot, base, 3)
			for _, c := range chunks {
				a.chunk(c)
			}
			for _, s := range secondsOf(makeChunk(a.id, a.boot, chunks[2].End(), 1)) {
				a.live(s)
			}
			want := []pb.Pace{everything, everything, everything}
			for k := i + 2; k < len(want); k++ {
				want[k] = nothing
			}
			wantPaces(t, fmt.Sprintf("agent %d is live", i), as, want...)
			all = append(all, chunks...)
		}
		r.drain()
		st.wantExactly(t, all)
	})
}

func TestALongBacklogIsBroughtInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, st, as := rigOfTurns(t, 2)
		first := chunksOf(as[0].id, as[0].boot, base, 2*turnChunks)
		for _, c := range first[:turnChunks] {
			as[0].chunk(c)
		}
		wantPaces(t, "after its share", as, nothing, everything)
		as[0].chunk(first[turnChunks]) // it was on its way
		wantPaces(t, "while it waits", as, nothing, everything)
		second := chunksOf(as[1].id, as[1].boot, base, 1)
		as[1].chunk(second[0])
		as[1].flush()
		as[1].awaitAck(second[0])
		as[1].hangUp()
		wantPaces(t, "when the other has gone", as[:1], everything)
		for _, c := range first[turnChunks+1:] {
			as[0].chunk(c)
		}
		wantPaces(t, "with nobody else", as[:1], everything)
		r.drain()
		st.wantExactly(t, append(first, second...))
	})
}

// An agent that has a turn and sends nothing, or a byte now and then, does not keep
// it.
func TestWhoKeepsTheCollectorWaitingLosesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, as := rigOfTurns(t, 3)
		time.Sleep(turnPatience - time.Millisecond)
		wantPaces(t, "a moment before", as, everything, nothing, nothing)
		as[0].flush()
		wantPaces(t, "for a message", as, everything, nothing, nothing)
		time.Sleep(time.Millisecond)
		wantPaces(t, "at once after", as, everything, everything, nothing)
		time.Sleep(turnPatience)
		wantPaces(t, "of one that was let go on and is silent", as, everything, everything, everything)
		r.drain()
	})
}

// What the collector takes to make room for a chunk is not the agent's time.
func TestATurnLastsWhileTheCollectorIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &turns{most: 1}
		first, second := &turn{of: ts, hold: func(bool) {}}, &turn{of: ts, hold: func(bool) {}}
		first.welcome(func(bool) {})
		second.welcome(func(bool) {})
		for range 9 {
			first.await()
			time.Sleep(turnPatience / 10)
			first.came()
			time.Sleep(time.Hour)
		}
		if synctest.Wait(); !first.has.Load() {
			t.Error("it lost its turn before the collector's patience ended")
		}
		second.await() // its turn begins while it is waited for
		first.await()
		time.Sleep(turnPatience / 5)
		if synctest.Wait(); first.has.Load() || !second.has.Load() {
			t.Error("it has its turn still, after the collector's patience")
		}
		first.came()
		time.Sleep(turnPatience)
		if synctest.Wait(); second.has.Load() || ts.taken != 0 {
			t.Error("the second has its turn still")
		}
	})
}

// Who has lost its turn and brings more of its backlog waits for another. A chunk
// that was asked for is no backlog.
func TestMoreOfABacklogNeedsAnotherTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, as := rigOfTurns(t, 2)
		as[0].live(secondsOf(makeChunk(as[0].id, as[0].boot, base, 10))[0])
		wantPaces(t, "when the first is live", as, everything, everything)
		late := makeChunk(as[0].id, as[0].boot, base, 10)
		as[0].closed(late)
		as[0].await("resend", func(m *pb.ToAgent) bool { return m.GetResend() != nil })
		as[0].chunk(late)
		wantPaces(t, "after a resend", as, everything, everything)
		as[0].chunk(makeChunk(as[0].id, as[0].boot, base+10, 10))
		wantPaces(t, "with a backlog", as, nothing, everything)
		as[1].live(secondsOf(makeChunk(as[1].id, as[1].boot, base, 10))[0])
		wantPaces(t, "when the second is live", as, everything, everything)
		r.drain()
	})
}

// An agent that knows no pace is served all the same.
func TestAnAgentThatDoesNotWaitIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, st, as := rigOfTurns(t, 2)
		all := chunksOf(as[1].id, as[1].boot, base, 3*turnChunks)
		for _, c := range all {
			as[1].chunk(c)
		}
		as[1].flush()
		as[1].awaitAck(all[len(all)-1])
		r.drain()
		st.wantExactly(t, all)
	})
}

func TestPause(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var p pause
		now := time.Unix(int64(base), 0)
		least := time.Duration(math.MaxInt64)
		skew := time.Duration(rapid.Int64Range(-1e13, 1e13).Draw(rt, "skew"))
		for range rapid.IntRange(1, 100).Draw(rt, "seconds") {
			now = now.Add(time.Second)
			took := skew + time.Duration(rapid.Int64Range(0, 12e9).Draw(rt, "took"))
			if p.on() && now.Before(p.until) {
				if p.tooLate(took, now, func() float64 { return 0.5 }) {
					rt.Fatal("a pause began in a pause")
				}
				if rapid.IntRange(0, 9).Draw(rt, "chunk") == 0 && p.over(now) {
					rt.Fatal("a pause ended before its end")
				}
				continue
			}
			if rapid.Bool().Draw(rt, "chunk") && p.on() != p.over(now) {
				rt.Fatal("a pause goes on after its end")
			}
			least = min(least, took)
			began := p.tooLate(took, now, func() float64 { return 0.5 })
			if began != (took-least > livePatience) {
				rt.Fatalf("a pause began: %v, at %v later than the quickest", began, took-least)
			}
			if began {
				least = math.MaxInt64
			}
		}
	})
}

// Late live seconds make way for chunks in full; after a while the agent is live
// again, and everything is stored once.
func TestLateLiveSecondsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newMemStore()
		o := quick()
		o.Rand = func() float64 { return 0 }
		r := start(t, st, o)
		a := r.connect(nodeID{"c", "n"}, attribution.Boot{1})
		from := attribution.Second(time.Now().Unix()).ChunkStart() + 10
		time.Sleep(time.Until(time.Unix(int64(from)+1, 0)))
		all := chunksOf(a.id, a.boot, from, 12)
		seconds := secondsOf(all[0])
		for _, s := range seconds[:4] {
			a.live(s)
			time.Sleep(time.Second)
		}
		wantPaces(t, "in time", []*agent{a}, everything)
		time.Sleep(livePatience + time.Millisecond)
		a.live(seconds[4])
		wantPaces(t, "too late", []*agent{a}, onlyChunks)
		a.live(seconds[5]) // it was on its way
		for _, c := range all[:3] {
			a.chunk(c)
			time.Sleep(livePause / 3)
		}
		wantPaces(t, "in the pause", []*agent{a}, onlyChunks)
		a.chunk(all[3])
		wantPaces(t, "after it", []*agent{a}, everything)
		a.lives.Reset()
		for _, s := range secondsOf(all[4]) {
			a.live(s)
		}
		a.closed(all[4])
		synctest.Wait()
		if err := r.s.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		if s := r.s.Stats(); s.LivePaused != 1 || s.Resend != 0 || s.Accepted != 5 {
			t.Errorf("counted %+v", s)
		}
		a.hangUp()
		r.stop()
		if err := <-r.ran; err != nil {
			t.Error(err)
		}
		st.wantExactly(t, all[:5])
	})
}
