package clickhouse

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// history is writes that claimed the same chunks, some of which may yet be logged.
type history struct {
	contests              []contest
	claimed, logged, late map[write]bool
}

var histories = rapid.Custom(func(t *rapid.T) (h history) {
	n := rapid.IntRange(1, 6).Draw(t, "writes")
	names := make([]write, n)
	h.claimed, h.logged, h.late = make(map[write]bool), make(map[write]bool), make(map[write]bool)
	for i := range names {
		w := write{uint64(i / 2), uint32(i%2) + 1}
		names[i], h.claimed[w], h.logged[w] = w, rapid.IntRange(0, 3).Draw(t, "claimed") == 0, rapid.Bool().Draw(t, "logged")
		h.late[w] = h.logged[w] || h.claimed[w] && rapid.Bool().Draw(t, "logged after all")
	}
	for range rapid.IntRange(0, 10).Draw(t, "contests") {
		i, j := rapid.IntRange(0, n-1).Draw(t, "by"), rapid.IntRange(0, n-1).Draw(t, "against")
		if i == j {
			continue
		}
		// Each write has two chunks, and their sources are in no order of writes.
		chunk := rapid.IntRange(0, 1).Draw(t, "chunk")
		source := func(w int) uint64 { return uint64((w*7+chunk*5)%13 + 1) }
		h.contests = append(h.contests, contest{source(i), source(j), names[i], names[j]})
	}
	return h
})

// TestLaw4WhatIsForgottenChangesNoLoser forgets contests of drawn histories, and
// then lets any of the writes that were still claimed come to the log, or not.
func TestLaw4WhatIsForgottenChangesNoLoser(t *testing.T) {
	something := 0
	for seed := range 5000 {
		h := histories.Example(seed)
		forgotten := decided(h.contests, h.claimed, func(w write) bool { return h.logged[w] })
		left := slices.DeleteFunc(slices.Clone(h.contests), func(x contest) bool { return slices.Contains(forgotten, x.by) })
		something += len(forgotten)
		for _, logged := range []map[write]bool{h.logged, h.late} {
			holds := func(w write) bool { return logged[w] }
			if got, want := losers(left, holds), losers(h.contests, holds); !slices.Equal(got, want) {
				t.Fatalf("seed %d: without %v of %v, of which %v are logged: %v lose, and %v did", seed, forgotten, h.contests, logged, got, want)
			}
		}
	}
	if something == 0 {
		t.Error("nothing is forgotten in any history")
	}
}

// TestWhatIsForgotten has each contest that nothing depends on be found.
func TestWhatIsForgotten(t *testing.T) {
	a, b, c := write{1, 1}, write{2, 1}, write{3, 1}
	for name, x := range map[string]struct {
		contests        []contest
		claimed, logged []write
		want            []write
	}{
		"with a write that failed":       {[]contest{{10, 20, a, b}}, nil, []write{a}, []write{a}},
		"by a write that failed":         {[]contest{{10, 20, a, b}}, nil, []write{b}, []write{a}},
		"of two that are stored":         {[]contest{{10, 20, a, b}}, nil, []write{a, b}, nil},
		"with one that may yet come":     {[]contest{{10, 20, a, b}}, []write{b}, []write{a}, nil},
		"by one that may yet come":       {[]contest{{10, 20, a, b}}, []write{a}, []write{b}, nil},
		"and another looked and saw it":  {[]contest{{10, 20, a, b}, {30, 10, c, a}}, nil, []write{a, c}, nil},
		"and one that failed saw it":     {[]contest{{10, 20, a, b}, {30, 10, c, a}}, nil, []write{a}, []write{c}},
		"one of them with one stored":    {[]contest{{10, 20, a, b}, {11, 31, a, c}}, nil, []write{a, c}, nil},
		"each with the other, one fails": {[]contest{{10, 20, a, b}, {20, 10, b, a}}, nil, []write{a}, []write{b}},
	} {
		set := func(ws []write) map[write]bool {
			out := make(map[write]bool)
			for _, w := range ws {
				out[w] = true
			}
			return out
		}
		logged := set(x.logged)
		got := decided(x.contests, set(x.claimed), func(w write) bool { return logged[w] })
		if !slices.Equal(got, x.want) {
			t.Errorf("a contest %s: %v are forgotten, want %v", name, got, x.want)
		}
	}
}
