package serving

import (
	"math"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestIntegrate(t *testing.T) {
	llama, qwen := Subject{Model: "llama"}, Subject{Model: "qwen"}
	got := Integrate([]Value{{llama, attribution.Queue, 3e6}, {llama, attribution.KVCache, 500_000}}, 2.5e9)
	want := []Value{
		{llama, attribution.Queue, 7_500_000}, {llama, attribution.KVCache, 1_250_000}, {llama, attribution.Observed, 2_500_000},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	two := Integrate([]Value{{llama, attribution.Queue, 0}, {qwen, attribution.Queue, 1e6}}, 1e9)
	if len(two) != 3 || two[2] != (Value{Subject{}, attribution.Observed, 1e6}) {
		t.Errorf("two models: %v", two)
	}
	if got := Integrate(nil, 1e9); got != nil {
		t.Errorf("no gauges: %v", got)
	}
	if got := Integrate(two, 0); got != nil {
		t.Errorf("no time: %v", got)
	}
	if got := Integrate([]Value{{llama, attribution.Queue, math.MaxInt64}}, math.MaxInt64)[0].Value; got != math.MaxInt64 {
		t.Errorf("huge: %d", got)
	}
}
