package loadgen

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func priced(t interface{ Fatal(...any) }) *rating.Rater {
	card, err := rating.Parse([]byte("currency: USD\nprices:\n  - model: \"*\"\n    per_device_hour: \"2.50\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	card.Revision = 3
	r, err := rating.NewRater(card)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever the fleet, its seconds keep the laws, a chunk is what its seconds
// make, and it is made again the same.
func TestLaws1And4WhatIsPlayedKeepsTheLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &Fleet{
			Cluster: "c", Devices: rapid.IntRange(1, 9).Draw(t, "devices"), Owners: rapid.IntRange(1, 6).Draw(t, "owners"),
			Seed: rapid.Uint64().Draw(t, "seed"), Life: rapid.Int64Range(1, 100).Draw(t, "life"),
		}
		if rapid.Bool().Draw(t, "priced") {
			f.Rater = priced(t)
		}
		n := f.node(rapid.IntRange(0, 20_000).Draw(t, "node"))
		from := attribution.Second(rapid.Int64Range(1_700_000_000, 1_700_000_100).Draw(t, "from"))
		seconds := rapid.IntRange(1, int(attribution.ChunkSeconds-from%attribution.ChunkSeconds)).Draw(t, "seconds")
		c, _ := n.chunk(from, seconds, nil, &scratch{})
		id := c.Roster.Fingerprint()
		want, err := wire.Digest(c, id)
		if err != nil {
			t.Fatal(err)
		}
		var parts []*attribution.Chunk
		var last *cast
		slices := int64(0)
		for s := from; s < c.End(); s++ {
			last = n.castAt(s, last)
			part := n.second(s, last, &scratch{})
			for i := range part.Windows {
				slices += int64(len(part.Windows[i].Slices))
			}
			parts = append(parts, part)
		}
		if slices != f.slicesOfSecond()*int64(seconds) {
			t.Fatalf("%d slices in %d seconds: want %d in each", slices, seconds, f.slicesOfSecond())
		}
		whole := attribution.Join(c.Key, seconds, parts)
		if err := whole.Check(); err != nil {
			t.Fatal(err)
		}
		if got, err := wire.Digest(whole, whole.Roster.Fingerprint()); err != nil || got != want {
			t.Fatalf("the seconds make another chunk (%v)", err)
		}
		again, _ := f.node(n.index).chunk(from, seconds, last, &scratch{})
		if got, err := wire.Digest(again, again.Roster.Fingerprint()); err != nil || got != want {
			t.Fatalf("made again it is another chunk (%v)", err)
		}
		next, _ := f.node(n.index+1).chunk(from, seconds, nil, &scratch{})
		if got, err := wire.Digest(next, next.Roster.Fingerprint()); err != nil || got == want {
			t.Fatalf("two nodes have the same chunk (%v)", err)
		}
	})
}

func BenchmarkSecond(b *testing.B) {
	f := &Fleet{Cluster: "c", Devices: 8, Owners: 4, Life: 3600, Rater: priced(b)}
	n := f.node(1)
	x := &scratch{}
	var last *cast
	var lives wire.LiveEncoder
	s := attribution.Second(1_700_000_000)
	b.ReportAllocs()
	for b.Loop() {
		last = n.castAt(s, last)
		if _, err := lives.Encode(n.second(s, last, x), last.id); err != nil {
			b.Fatal(err)
		}
		s++
	}
}
