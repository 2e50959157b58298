package ingest

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

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
