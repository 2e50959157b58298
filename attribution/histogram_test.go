package attribution_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestHistogramBounds(t *testing.T) {
	h := attribution.NewHistogram()
	for i, want := range map[int]int64{0: 1_000_000, 1: 1_189_207, 2: 1_414_213, 3: 1_681_792, 4: 2_000_000, 44: 2_048_000_000} {
		if got := h.Bound(i); got != want {
			t.Errorf("bucket %d ends at %d ns, want %d", i, got, want)
		}
	}
	for ns, want := range map[int64]int{math.MinInt64: 0, 0: 0, 1_000_000: 0, 1_000_001: 1, 2_000_000_000: 44, math.MaxInt64: attribution.Buckets - 1} {
		if got := h.Bucket(ns); got != want {
			t.Errorf("%d ns fall in bucket %d, want %d", ns, got, want)
		}
	}
}

// Every duration lies in exactly one bucket, the one whose bounds hold it.
func TestHistogramPartition(t *testing.T) {
	h := attribution.NewHistogram()
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.Int64Range(1, h.Bound(attribution.Buckets-1)).Draw(t, "ns")
		i := h.Bucket(ns)
		if ns > h.Bound(i) || i > 0 && ns <= h.Bound(i-1) {
			t.Fatalf("%d ns in bucket %d", ns, i)
		}
		m := attribution.BucketMeasure(attribution.LatencyPrefix, i)
		if got, ok := attribution.BucketOf(m, attribution.LatencyPrefix); !ok || got != i {
			t.Fatalf("%s is bucket %d, %v", m, got, ok)
		}
	})
	for _, m := range []attribution.Measure{"latency/", "latency/128", "latency/-1", "latency/01", "first-token/3", "success"} {
		if i, ok := attribution.BucketOf(m, attribution.LatencyPrefix); ok {
			t.Errorf("%s passes for bucket %d", m, i)
		}
	}
}
