package ingest

import (
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// A live second that is lost takes those with it that are told by it, until one
// stands alone. Their chunk is asked for, and right.
// A rejected chunk's live seconds are no longer seen: they will never be stored.
func TestARejectedChunkTakesItsLiveSecondsAlong(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id := nodeID{"c", "n"}
	first := makeChunk(id, attribution.Boot{1}, base, 5)
	a := r.connect(id, attribution.Boot{1})
	a.chunk(first)
	a.flush()
	a.awaitAck(first)
	a = r.connect(id, attribution.Boot{2})
	other := makeChunk(id, attribution.Boot{2}, base+2, 8)
	for _, s := range secondsOf(other) {
		a.live(s)
	}
	a.chunk(other)
	a.awaitReject(other)
	if seen := view(t, r.s, st); len(seen) != 5 {
		t.Errorf("%d seconds are seen: want the 5 that are stored", len(seen))
	}
	r.drain()
}

// Seconds that travel together are seen, and make their chunk, as those that came
// alone; that they are to is in the welcome. One that is lost has its chunk asked for.
func TestLaw4LiveSecondsTravelTogether(t *testing.T) {
	o := quick()
	o.LiveEvery = 4
	st := newMemStore()
	r := start(t, st, o)
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	a := r.connect(id, boot)
	if n := a.await("welcome", func(m *pb.ToAgent) bool { return m.GetWelcome() != nil }).GetWelcome().GetLiveEvery(); n != 4 {
		t.Errorf("welcomed with %d", n)
	}
	c, next := makeChunk(id, boot, base, 10), makeChunk(id, boot, base+10, 10)
	s := secondsOf(c)
	a.live(s[:4]...)
	a.live(s[4:9]...)
	a.live(s[9])
	a.closed(c)
	s = secondsOf(next)
	a.live(s[:4]...)
	if _, err := a.lives.Encode(s[4], s[4].Roster.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	a.live(s[5:]...)
	a.closed(next)
	a.await("resend", func(m *pb.ToAgent) bool { return m.GetResend().GetSequence() == int64(next.Key.Sequence) })
	if s := r.s.Stats(); s.Live != 14 || s.LiveDropped != 5 || s.Resend != 1 {
		t.Errorf("counted %+v", s)
	}
	a.chunk(next)
	a.flush()
	a.awaitAck(next)
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{c, next})
}

func TestLaw4LostLiveSecondsAreAskedFor(t *testing.T) {
	for lost := range 10 {
		st := newMemStore()
		r := start(t, st, quick())
		id, boot := nodeID{"c", "n"}, attribution.Boot{1}
		a := r.connect(id, boot)
		c, next := makeChunk(id, boot, base, 10), makeChunk(id, boot, base+10, 10)
		for i, s := range secondsOf(c) {
			if i == lost {
				if _, err := a.lives.Encode(s, s.Roster.Fingerprint()); err != nil {
					t.Fatal(err)
				}
				continue
			}
			a.live(s)
		}
		a.closed(c)
		a.await("resend", func(m *pb.ToAgent) bool { return m.GetResend().GetSequence() == int64(base) })
		if s := r.s.Stats(); s.Live != int64(lost) || s.LiveDropped != int64(9-lost) || s.Resend != 1 {
			t.Errorf("second %d lost: counted %+v", lost, s)
		}
		a.lives.Reset()
		for _, s := range secondsOf(next) {
			a.live(s)
		}
		a.closed(next)
		a.chunk(c)
		a.flush()
		a.awaitAck(next)
		if s := r.s.Stats(); s.Resend != 1 || s.LiveDropped != int64(9-lost) {
			t.Errorf("second %d lost, then none: counted %+v", lost, s)
		}
		r.drain()
		st.wantExactly(t, []*attribution.Chunk{c, next})
	}
}
