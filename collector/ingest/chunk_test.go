package ingest

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rollup"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Whatever is kept decoded, questions see the same; what is kept so stays within
// its bound, and the room is free again once all is stored. What is decoded for
// questions shares its rosters.
func TestPendingChunksAreDecodedAgain(t *testing.T) {
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 6)
	one := memory(all[0])
	for _, c := range []struct {
		bound int64
		kept  int
	}{{1, 0}, {5 * one, 0}, {100 * one, 6}} { // six are a minute
		st := newMemStore()
		o := quick()
		o.Limits.DecodedBytes = c.bound
		r := start(t, st, o)
		a := r.connect(id, boot)
		for _, c := range all[:5] {
			a.chunk(c)
		}
		awaitAccepted(t, r, 5)
		used := r.s.decoded.used.Load()
		if want := min(int64(c.kept), 5) * one; used > c.bound || used < want-one/2 || used > want+one/2 {
			t.Errorf("bound %d: %d bytes are decoded: want about %d", c.bound, used, want)
		}
		ask := func() (got []*attribution.Chunk) {
			if err := since(r.s, 0, base+5, base+45, func(c *attribution.Chunk) { got = append(got, c) }); err != nil {
				t.Fatal(err)
			}
			return got
		}
		first, second := ask(), ask()
		for i := range all[:5] {
			if !reflect.DeepEqual(first[i].Windows, all[i].Windows) || !reflect.DeepEqual(first[i].Key, all[i].Key) {
				t.Errorf("bound %d: chunk %d is another", c.bound, i)
			}
			if !reflect.DeepEqual(first[i], second[i]) || first[i].Roster != second[i].Roster {
				t.Errorf("bound %d: chunk %d is another for the second that asks, or has a roster of its own", c.bound, i)
			}
		}
		a.chunk(all[5])
		a.flush()
		a.awaitAck(all[5])
		// The ack goes out a moment before the memory is given back.
		for _, bytes := r.s.Pending(); bytes != 0; _, bytes = r.s.Pending() {
			wait(t)
		}
		if used := r.s.decoded.used.Load(); used != 0 {
			t.Errorf("bound %d: %d bytes are decoded of what is stored", c.bound, used)
		}
		r.drain()
		st.wantExactly(t, all)
	}
}

// No chunk adds more rows than it is charged for.
func TestMostRowsAreEnough(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := drawLives(rt, drawRoster(rt))
		whole := attribution.Join(attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: base}, 10, c)
		f := rollup.NewFold()
		if err := f.Add(whole, rollup.FactsOf(whole.Roster)); err != nil {
			rt.Fatal(err)
		}
		if n := len(f.Rows()) + len(f.Tallies()); n > mostRows(whole) {
			rt.Fatalf("%d rows: at most %d were expected", n, mostRows(whole))
		}
	})
}

// A chunk made of live seconds is the one that Join makes of them, whether its
// roster is theirs, an excerpt that the last chunk had too, or another.
func TestLaw4ChunksOfLiveSecondsAreTheAgents(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		st := &stream{rosters: rosters{most: 4, mostBytes: 1 << 20, pool: &pool{most: 1 << 20}, room: &room{}}}
		var rs []*roster
		for range rapid.IntRange(1, 2).Draw(rt, "rosters") {
			r, err := decodeRoster(wire.EncodeRoster(drawRoster(rt)))
			if err != nil {
				rt.Fatal(err)
			}
			rs = append(rs, r)
		}
		parts := [][]*attribution.Chunk{drawLives(rt, rs[0].facts.Roster())}
		if rapid.Bool().Draw(rt, "another") {
			parts = append(parts, drawLives(rt, rs[len(rs)-1].facts.Roster()))
		}
		for i := range 4 { // the same again, from what is known by then
			cs := parts[i%len(parts)]
			of := rs[0]
			if i%len(parts) == 1 {
				of = rs[len(rs)-1]
			}
			seconds := make([]*live, len(cs))
			for i, c := range cs {
				seconds[i] = &live{chunk: c, roster: of}
			}
			key := attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}, Sequence: base}
			want := attribution.Join(key, 10, cs)
			got, r := st.rebuild(key, 10, seconds, &work{})
			if got == nil {
				rt.Fatal("no chunk")
			}
			got.Roster = r.content() // in place of an outline
			if err := got.Check(); err != nil || got.Roster.Fingerprint() != r.id || r.content().Fingerprint() != r.id {
				rt.Fatalf("the chunk's roster is not its own: %v", err)
			}
			a, err := wire.Digest(got, r.id)
			b, err2 := wire.Digest(want, want.Roster.Fingerprint())
			if err != nil || err2 != nil || a != b {
				rt.Fatalf("got  %+v\nwant %+v", got, want)
			}
		}
	})
}

// Seconds of two wall-clock tens, or more slices than a chunk may have, make no
// chunk.
func TestSecondsThatMakeNoChunk(t *testing.T) {
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	first, next := makeChunk(id, boot, base, 10), makeChunk(id, boot, base+10, 10)
	st := newMemStore()
	r := start(t, st, quick())
	a := r.connect(id, boot)
	for _, s := range append(secondsOf(first)[5:], secondsOf(next)[:5]...) {
		a.live(s)
	}
	across := makeChunk(id, boot, base+5, 10)
	a.closed(across)
	a.await("resend", func(m *pb.ToAgent) bool { return m.GetResend().GetSequence() == int64(base+5) })
	r.drain()
}

// drawRoster draws a canonical roster of one node.
func drawRoster(rt *rapid.T) *attribution.Roster {
	r := &attribution.Roster{Owners: []attribution.Owner{{}}, Methods: []string{"a", "b"}, Measures: []attribution.Measure{"success", "tokens/input"}}
	for i := range rapid.IntRange(1, 3).Draw(rt, "devices") {
		r.Devices = append(r.Devices, attribution.Device{ID: fmt.Sprintf("GPU-%d", i), Cluster: "c", Node: "n"})
	}
	for i := range rapid.IntRange(1, 4).Draw(rt, "owners") {
		r.Owners = append(r.Owners, attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Pod: fmt.Sprint(i)})
	}
	for i := range r.Owners {
		r.Subjects = append(r.Subjects, attribution.Subject{Owner: uint32(i), Model: "m"})
	}
	return r
}

// drawLives draws up to ten live seconds from base on, all in terms of a roster
// of which they use some.
func drawLives(rt *rapid.T, r *attribution.Roster) (cs []*attribution.Chunk) {
	owners := rapid.IntRange(1, len(r.Owners)-1).Draw(rt, "owners that occur")
	first := rapid.IntRange(1, len(r.Owners)-owners).Draw(rt, "first that occurs")
	for s := range attribution.Second(10) {
		if rapid.IntRange(0, 9).Draw(rt, "nothing") == 0 {
			continue
		}
		c := &attribution.Chunk{Key: attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}, Sequence: base + s}, Seconds: 1, Roster: r}
		for d := range r.Devices {
			if rapid.IntRange(0, 4).Draw(rt, "no window") == 0 {
				continue
			}
			w := attribution.DeviceWindow{
				Device: uint32(d), Method: uint16(rapid.IntRange(0, 1).Draw(rt, "method")), Second: base + s,
				Energy: rapid.Int64Range(0, 1e9).Draw(rt, "energy"), Price: attribution.Price{PerHour: money.Unit, Revision: 1},
			}
			left := attribution.WindowNanos
			for o := first; o < first+owners; o++ {
				t := rapid.Int64Range(0, left).Draw(rt, "time")
				left -= t
				w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(o), Basis: attribution.Used, Time: t, SMActive: t / 2, Memory: 5})
			}
			w.Slices[len(w.Slices)-1].Time += left
			attribution.Rate(&w)
			c.Windows = append(c.Windows, w)
		}
		if rapid.Bool().Draw(rt, "counted") {
			c.Tallies = []attribution.Tally{{Second: base + s, Subject: uint32(rapid.IntRange(0, len(r.Subjects)-1).Draw(rt, "subject")), Measure: 1, Value: 3}}
		}
		if err := c.Check(); err != nil {
			rt.Fatal(err)
		}
		cs = append(cs, c)
	}
	return cs
}
