package rendezvous_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/internal/rendezvous"
)

func names(kind string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", kind, i)
	}
	return out
}

// The order depends on the set of members alone, and is the one that Compare
// gives.
func TestOrderIsOfTheSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.String().Draw(t, "key")
		members := rapid.SliceOfDistinct(rapid.String(), rapid.ID[string]).Draw(t, "members")
		want := rendezvous.Order(key, members)
		again := append(slices.Clone(members), members...)
		rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed"))).Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if got := rendezvous.Order(key, again); !slices.Equal(got, want) || len(got) != len(members) {
			t.Fatalf("%q of %q in another order: want %q", got, again, want)
		}
		if !slices.IsSortedFunc(want, func(a, b string) int { return rendezvous.Compare(key, a, b) }) {
			t.Fatalf("%q is not in the order of Compare", want)
		}
	})
}

// When a member goes, the order of the others stays: only those keys move that
// it was the first choice of.
func TestMinimalMovement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.String().Draw(t, "key")
		members := rapid.SliceOfNDistinct(rapid.String(), 1, 20, rapid.ID[string]).Draw(t, "members")
		gone := rapid.SampledFrom(members).Draw(t, "gone")
		isGone := func(m string) bool { return m == gone }
		left := slices.DeleteFunc(slices.Clone(members), isGone)
		want := slices.DeleteFunc(rendezvous.Order(key, members), isGone)
		if got := rendezvous.Order(key, left); !slices.Equal(got, want) {
			t.Fatalf("without %q: %q, want %q", gone, got, want)
		}
	})
}

// Every member is the first choice of its share of keys, and those of one that
// goes spread over all others.
func TestBalance(t *testing.T) {
	const keys = 20_000
	for _, members := range []int{2, 3, 7, 16} {
		first, second := map[string]int{}, map[string]int{}
		ms := names("collector", members)
		for i := range keys {
			o := rendezvous.Order(fmt.Sprintf("gpu-node-%05d", i), ms)
			first[o[0]]++
			if o[0] == ms[0] {
				second[o[1]]++
			}
		}
		for _, m := range ms {
			if share := first[m] * members; share < keys*9/10 || share > keys*11/10 {
				t.Errorf("%s of %d has %d of %d keys", m, members, first[m], keys)
			}
		}
		for _, m := range ms[1:] {
			if share := second[m] * (members - 1); share < first[ms[0]]*3/4 || share > first[ms[0]]*5/4 {
				t.Errorf("%s of %d inherits %d of %d keys", m, members, second[m], first[ms[0]])
			}
		}
	}
}

// The weight is part of what agents of all versions agree on.
func TestWeightNeverChanges(t *testing.T) {
	for _, x := range []struct {
		key, member string
		want        uint64
	}{
		{"", "", 0xaf5570f5a1810b7a},
		{"node-1", "collector-0:9440", 0x5b36eb75c4ca3c7f},
		{"node-1c", "ollector-0:9440", 0x4292a78481dba73f},
	} {
		if got := rendezvous.Weight(x.key, x.member); got != x.want {
			t.Errorf("Weight(%q, %q) = %#x", x.key, x.member, got)
		}
	}
}
