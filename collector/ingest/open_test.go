package ingest

import (
	"cmp"
	"errors"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// decodeOpen reads what travels to another collector.
func decodeOpen(t testing.TB, o *Open) *attribution.Chunk {
	t.Helper()
	r, err := wire.DecodeRoster(o.Roster)
	if err != nil || r.Fingerprint() != o.RosterID {
		t.Fatalf("roster %v: %v", o.RosterID, err)
	}
	c, err := wire.DecodeChunk(o.Chunk, o.Cluster, o.Node, r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openOf(t testing.TB, s *Server) (cs []*attribution.Chunk) {
	t.Helper()
	if err := s.Open(func(o *Open) error {
		cs = append(cs, decodeOpen(t, o))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(cs, func(a, b *attribution.Chunk) int {
		return cmp.Or(cmp.Compare(a.Key.Node, b.Key.Node), cmp.Compare(a.Key.Sequence, b.Key.Sequence))
	})
	return cs
}

// What other collectors are told is what is pending and live, second by second,
// and the same whenever they ask.
func TestOpenTellsWhatIsNotStored(t *testing.T) {
	st := newMemStore()
	o := quick()
	r := start(t, st, o)
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	a := r.connect(id, boot)
	pending, next := makeChunk(id, boot, base, 10), makeChunk(id, boot, base+10, 10)
	a.chunk(pending)
	for _, s := range secondsOf(next)[:3] {
		a.live(s)
	}
	a.flush() // a round trip: everything before it is there
	a.awaitAck(pending)
	for range 2 {
		cs := openOf(t, r.s)
		if len(cs) != 4 || cs[0].Key.Sequence != base || cs[0].Seconds != 10 { // a moment after its commit
			t.Fatalf("%d are open", len(cs))
		}
		for i, c := range cs[1:] {
			if c.Key.Sequence != base+10+attribution.Second(i) || c.Seconds != 1 || len(c.Windows) != 2 {
				t.Fatalf("live second %d: %+v", i, c.Key)
			}
		}
	}
	stop := errors.New("enough")
	if err := r.s.Open(func(*Open) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("went on: %v", err)
	}
	r.drain()
}
