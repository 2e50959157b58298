package ingest

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// The tests of this file are of what becomes of chunks that are made of live seconds
// with an outline of their roster: whatever is seen of them has every fact.

var (
	someNode = nodeID{"c", "n"}
	itsBoot  = attribution.Boot{1}
)

// before is what a stream begins with: its roster is checked by then, so that what
// follows is made with an outline.
func before() *attribution.Chunk { return makeChunk(someNode, itsBoot, base-10, 10) }

// goLive sends before, and a chunk's seconds, to a collector whose ledger has a journal.
func goLive(t *testing.T, o Options, j *rerating.Journal, c *attribution.Chunk) (*rig, *memStore, *agent) {
	st := newMemStore()
	st.journal = j
	r := start(t, st, o)
	a := r.connect(someNode, itsBoot)
	for _, s := range secondsOf(before()) {
		a.live(s)
	}
	a.closed(before())
	for _, s := range secondsOf(c) {
		a.live(s)
	}
	return r, st, a
}

func awaitAccepted(t *testing.T, r *rig, n int64) {
	for r.s.Stats().Accepted < n {
		if r.s.Stats().Resend > 0 {
			t.Fatal("a chunk is asked for in full")
		}
		wait(t)
	}
}

// sinceAll is all from base on that is not stored.
func sinceAll(t *testing.T, r *rig) (cs []*attribution.Chunk) {
	t.Helper()
	if err := since(r.s, 0, base, maxSecond, func(c *attribution.Chunk) { cs = append(cs, c) }); err != nil {
		t.Fatal(err)
	}
	return cs
}

func TestAChunkMadeOfLiveSecondsIsSeenInFull(t *testing.T) {
	want := makeChunk(someNode, itsBoot, base, 10)
	for _, room := range []int64{0, 1} { // kept decoded, and not
		o := quick()
		o.Limits.DecodedBytes = room
		r, st, a := goLive(t, o, nil, want)
		a.closed(want)
		awaitAccepted(t, r, 2)
		if got := sinceAll(t, r); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("with room for %d bytes: seen %+v", room, got)
		}
		r.drain()
		st.wantExactly(t, []*attribution.Chunk{before(), want})
	}
}

// Live seconds that were decoded for a chunk that is not what they make stay.
func TestLiveSecondsThatMakeNoChunkAreSeenInFull(t *testing.T) {
	c := makeChunk(someNode, itsBoot, base, 10)
	other := makeChunk(someNode, itsBoot, base, 10)
	other.Tallies[3].Value++
	r, _, a := goLive(t, quick(), nil, c)
	a.closed(other)
	a.await("resend", func(m *pb.ToAgent) bool { return m.GetResend() != nil })
	got := sinceAll(t, r)
	for i, want := range secondsOf(c) {
		if i >= len(got) {
			t.Fatalf("%d seconds are seen", len(got))
		}
		own := attribution.BuildChunk(got[i].Key, 1, got[i].Roster.Facts(), slices.Clone(got[i].Windows), slices.Clone(got[i].Tallies))
		if !reflect.DeepEqual(own, want) {
			t.Errorf("second %d is seen as %+v, of %+v", i, own, own.Roster)
		}
	}
	r.drain()
}

// A roster that changes within the chunk has it made anew, of all facts.
func TestAChunkOfSeveralRostersIsSeenInFull(t *testing.T) {
	first, second := makeChunk(someNode, itsBoot, base, 4), makeChunk(someNode, itsBoot, base+4, 6)
	for i := range second.Roster.Owners {
		if o := &second.Roster.Owners[i]; o.Pod == "pod-0" {
			o.Pod = "pod-2"
		}
	}
	second = attribution.BuildChunk(second.Key, 6, second.Roster.Facts(), second.Windows, second.Tallies)
	want := attribution.Join(first.Key, 10, []*attribution.Chunk{first, second})
	r, st, a := goLive(t, quick(), nil, want)
	a.closed(want)
	awaitAccepted(t, r, 2)
	if got := sinceAll(t, r); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("seen %+v", got)
	}
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{before(), want})
}

// A rerating may go by any fact.
func TestLaw6AChunkMadeOfLiveSecondsIsRatedByItsFacts(t *testing.T) {
	c := makeChunk(someNode, itsBoot, base, 10)
	j, err := (*rerating.Journal)(nil).With(rerating.Entry{ID: 1, From: base, To: base + 60, Card: &rating.Card{
		Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "H100", PerDeviceHour: 7 * money.Unit}, {Model: "*", PerDeviceHour: money.Unit}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r, st, a := goLive(t, quick(), j, c)
	a.closed(c)
	awaitAccepted(t, r, 2)
	r.drain()
	if got, want := sumOf(st)-cost(before()), cost(j.Rate(c)); got != want || want == cost(c) {
		t.Errorf("rows cost %d, want %d; %d before", got, want, cost(c))
	}
}

func TestADeviceWithoutAPriceIsToldByItsModel(t *testing.T) {
	c := makeChunk(someNode, itsBoot, base, 10)
	for i := range c.Windows {
		c.Windows[i].Price = attribution.Price{}
	}
	c = attribution.BuildChunk(c.Key, 10, c.Roster.Facts(), c.Windows, c.Tallies)
	r, _, a := goLive(t, quick(), nil, c)
	a.closed(c)
	awaitAccepted(t, r, 2)
	r.drain()
	if ws := strings.Join(r.s.Warnings(), "; "); !strings.Contains(ws, `"H100"`) {
		t.Errorf("warned %q", ws)
	}
}
