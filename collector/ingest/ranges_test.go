package ingest

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

// The set of seconds against a map of them.
func TestSecondsAgainstAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var r seconds
		m := make(map[attribution.Second]attribution.Boot)
		for range rapid.IntRange(1, 60).Draw(rt, "n") {
			from := attribution.Second(rapid.IntRange(0, 60).Draw(rt, "from"))
			s := span{from, from + attribution.Second(rapid.IntRange(1, 10).Draw(rt, "len")), attribution.Boot{byte(rapid.IntRange(0, 1).Draw(rt, "boot"))}}
			want, there, same := fresh, 0, 0
			for x := s.from; x < s.to; x++ {
				if b, ok := m[x]; ok {
					there++
					if b == s.boot {
						same++
					}
				}
			}
			if there > 0 {
				want = conflict
			}
			if same == int(s.to-s.from) {
				want = duplicate
			}
			if got := r.judge(s); got != want {
				rt.Fatalf("%v in %v: %v, want %v", s, r.spans, got, want)
			}
			if want != fresh {
				continue
			}
			left, lok := m[s.from-1]
			right, rok := m[s.to]
			if opens := (!lok || left != s.boot) && (!rok || right != s.boot); r.opens(s) != opens {
				rt.Fatalf("%v opens a span in %v: %v, want %v", s, r.spans, !opens, opens)
			}
			r.add(s)
			for x := s.from; x < s.to; x++ {
				m[x] = s.boot
			}
		}
		for x := attribution.Second(-1); x < 75; x++ {
			if _, ok := m[x]; r.has(x) != ok {
				rt.Fatalf("second %d in %v: %v, want %v", x, r.spans, !ok, ok)
			}
		}
		for i := 1; i < len(r.spans); i++ {
			a, b := r.spans[i-1], r.spans[i]
			if a.to > b.from || (a.to == b.from && a.boot == b.boot) {
				rt.Fatalf("spans %v and %v overlap, or are not one", a, b)
			}
		}
	})
}
