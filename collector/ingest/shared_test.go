package ingest

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func welcomeOf(a *agent) *pb.Welcome {
	return a.await("welcome", func(m *pb.ToAgent) bool { return m.GetWelcome() != nil }).GetWelcome()
}

// What another collector has stored since this one started is known with the
// hello: it is told, a duplicate when it comes again, and a conflict when it
// comes from another boot.
func TestLaw4WhatAnotherCollectorStoredIsThere(t *testing.T) {
	l := querytest.NewLedger()
	one, other := start(t, l.Open(), quick()), start(t, l.Open(), quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 12)
	last := all[len(all)-1]
	a := one.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(last)
	commits := l.Commits()
	b := other.connect(id, boot)
	if w := welcomeOf(b); w.GetStoredThrough() != int64(last.End()) {
		t.Fatalf("stored through %d: want %d", w.GetStoredThrough(), last.End())
	}
	for _, c := range all {
		b.chunk(c)
	}
	b.awaitAck(last)
	renamed := makeChunk(id, attribution.Boot{2}, base+10, 10)
	d := other.connect(id, attribution.Boot{2})
	d.chunk(renamed)
	d.awaitReject(renamed)
	if s := other.s.Stats(); s.Duplicate != 12 || s.Accepted != 0 || s.Conflict != 1 || l.Commits() != commits {
		t.Fatalf("%+v, %d commits after %d", s, l.Commits(), commits)
	}
	one.drain()
	other.drain()
}

// What a node left open when its stream ended is let go of, so that it is in
// memory and in answers of the collector that it has moved to alone; when it
// comes back, what was stored elsewhere is a duplicate and the rest is taken.
func TestLaw4OpenChunksAreLetGoOfWithTheirStream(t *testing.T) {
	l := querytest.NewLedger()
	o := quick()
	o.Timing.MaxAge = time.Hour
	one, other := start(t, l.Open(), o), start(t, l.Open(), o)
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 4) // of one minute: they wait for the rest
	a := one.connect(id, boot)
	for _, c := range all[:3] {
		a.chunk(c)
	}
	a.chunk(all[0]) // a round trip: the three are accepted
	for one.s.Stats().Duplicate == 0 {
		time.Sleep(time.Millisecond)
	}
	a.hangUp()
	<-a.ended
	if chunks, bytes := one.s.Pending(); chunks != 0 || bytes != 0 || len(openOf(t, one.s)) != 0 || one.s.Stats().LetGo != 3 {
		t.Fatalf("%d chunks of %d bytes are pending, %+v", chunks, bytes, one.s.Stats())
	}
	b := other.connect(id, boot)
	for _, c := range all[:2] {
		b.chunk(c)
	}
	b.flush()
	b.awaitAck(all[1])
	a = one.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[3])
	if s := one.s.Stats(); s.Accepted != 3+2 || s.Duplicate != 1+2 {
		t.Fatalf("%+v", s)
	}
	one.drain()
	other.drain()
	if got := l.Chunks(); len(got) != 4 {
		t.Fatalf("%d chunks are stored", len(got))
	}
}

// A store that is asked what it has of a node and does not answer costs the
// stream, not the chunks.
func TestHelloWithoutTheStoreIsRefused(t *testing.T) {
	l := querytest.NewLedger()
	r := start(t, l.Open(), quick())
	down := true
	l.Fault = func(method string) error {
		if method == "NodeRanges" && down {
			return errDown
		}
		return nil
	}
	id := nodeID{"c", "n"}
	a := r.connect(id, attribution.Boot{1})
	if err := <-a.ended; status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	a.hangUp()
	down = false
	c := makeChunk(id, attribution.Boot{1}, base, 10)
	a = r.connect(id, attribution.Boot{1})
	a.chunk(c)
	a.flush()
	a.awaitAck(c)
	r.drain()
}

// What is learnt from the store holds, the rest stays, and what was added can be
// taken out again: all as a plain map of seconds says.
func TestLearntSecondsAgainstAMap(t *testing.T) {
	boots := []attribution.Boot{{1}, {2}}
	rapid.Check(t, func(t *rapid.T) {
		var have seconds
		model := map[attribution.Second]attribution.Boot{}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			s := span{boot: rapid.SampledFrom(boots).Draw(t, "boot")}
			s.from = attribution.Second(rapid.IntRange(0, 60).Draw(t, "from"))
			s.to = s.from + attribution.Second(rapid.IntRange(1, 12).Draw(t, "length"))
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0: // add
				if have.judge(s) != fresh {
					continue
				}
				have.add(s)
				for x := s.from; x < s.to; x++ {
					model[x] = s.boot
				}
			case 1: // remove
				if have.judge(s) != duplicate {
					continue
				}
				have.remove(s)
				for x := s.from; x < s.to; x++ {
					delete(model, x)
				}
			case 2: // learn, of two runs that do not overlap
				stored := seconds{}
				stored.add(s)
				if o := (span{s.to + attribution.Second(rapid.IntRange(0, 3).Draw(t, "gap")), 0, boots[0]}); rapid.Bool().Draw(t, "two") {
					o.to = o.from + 5
					stored.add(o)
				}
				have.learn(stored.spans)
				for _, s := range stored.spans {
					for x := s.from; x < s.to; x++ {
						model[x] = s.boot
					}
				}
			}
			wantSeconds(t, &have, model)
		}
	})
}

func wantSeconds(t *rapid.T, have *seconds, model map[attribution.Second]attribution.Boot) {
	n := 0
	for i, s := range have.spans {
		if s.from >= s.to {
			t.Fatalf("an empty span: %v", have.spans)
		}
		if i > 0 && (have.spans[i-1].to > s.from || (have.spans[i-1].to == s.from && have.spans[i-1].boot == s.boot)) {
			t.Fatalf("spans overlap or are not joined: %v", have.spans)
		}
		for x := s.from; x < s.to; x++ {
			if b, ok := model[x]; !ok || b != s.boot {
				t.Fatalf("second %d: %v, want %v, %v", x, s.boot, b, ok)
			}
			n++
		}
	}
	if n != len(model) {
		t.Fatalf("%d seconds: want %d", n, len(model))
	}
}
