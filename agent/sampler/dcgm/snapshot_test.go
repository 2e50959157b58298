package dcgm

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestSnapshotAnswersAsAMapDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const now, good = 1000, 100
		one := rapid.Custom(func(t *rapid.T) Reading {
			return Reading{
				GPU:             rapid.SampledFrom([]string{gpuA, gpuB}).Draw(t, "gpu"),
				GPUInstance:     rapid.IntRange(-1, 2).Draw(t, "instance"),
				ComputeInstance: rapid.IntRange(-1, 1).Draw(t, "compute instance"),
				Field:           rapid.SampledFrom([]Field{SMActive, DRAMActive}).Draw(t, "field"),
				Share:           rapid.Int64Range(0, 3).Draw(t, "share"),
				At:              rapid.Int64Range(now-2*good, now+future+2).Draw(t, "at"),
			}
		})
		readings := rapid.SliceOfN(one, 0, 20).Draw(t, "readings")
		first, contradictions := map[Reading]Reading{}, 0
		for _, r := range readings {
			key := r
			key.Share, key.At = 0, 0
			if kept, known := first[key]; !known {
				first[key] = r
			} else if kept.Share != r.Share {
				contradictions++
			}
		}
		s, contradicting := newSnapshot(readings, good)
		if contradicting != contradictions || len(s.readings) != len(first) {
			t.Fatalf("%d kept, %d contradicting; want %d, %d", len(s.readings), contradicting, len(first), contradictions)
		}
		for _, gpu := range []string{gpuA, gpuB, ""} {
			for instance := -1; instance <= 2; instance++ {
				want, known := first[Reading{GPU: gpu, GPUInstance: instance, ComputeInstance: -1, Field: SMActive}]
				known = known && now-want.At <= good && want.At <= now+future
				got, ok := s.find(gpu, instance, SMActive, now)
				if ok != known || ok && got != want {
					t.Fatalf("%s/%d: %+v, %v; want %+v, %v", gpu, instance, got, ok, want, known)
				}
			}
		}
	})
}

func TestMillionths(t *testing.T) {
	for in, want := range map[float64]int64{0: 0, 1: 1_000_000, 0.0000004: 0, 0.0000005: 1, 0.123456: 123_456, math.Copysign(0, -1): 0, math.Nextafter(1, 2): 1_000_000, 8.0 / 7: 1_000_000} {
		if got, ok := millionths(in); !ok || got != want {
			t.Errorf("%v: %d, %v; want %d", in, got, ok, want)
		}
	}
	for _, in := range []float64{-1e-9, 1.26, math.NaN(), math.Inf(1), math.Inf(-1), blankAbove} {
		if got, ok := millionths(in); ok {
			t.Errorf("%v: %d", in, got)
		}
	}
}

func TestFieldsHaveNames(t *testing.T) {
	for f := GREngineActive; f <= DRAMActive; f++ {
		if got, err := ParseField(f.String()); got != f || err != nil {
			t.Errorf("%s is %d: %v", f, got, err)
		}
	}
	if _, err := ParseField("1002"); err == nil {
		t.Error("a number passes for a name")
	}
}
