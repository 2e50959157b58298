package attribution

import (
	"math/big"
	"sort"
	"strconv"
)

// Buckets is how many buckets a histogram measure has. The last one also holds
// everything longer than its bound, and what has no bound.
const Buckets = 128

// Histogram lays out the buckets of the histogram measures: bucket i holds
// durations of at most ⌊2^(i/4) ms⌋ ns and more than bucket i−1's bound. Four
// buckets double a duration, so a bound is at most 19 % above what is in it;
// and because all servers share them, histograms add up. It never changes; any
// number of goroutines may use it.
//
// A server's own bucket goes wholly into the one that its upper bound lies in:
// a quantile is an upper bound, never an optimistic guess.
type Histogram struct{ bounds [Buckets]int64 }

// NewHistogram works the bounds out.
func NewHistogram() *Histogram {
	h := new(Histogram)
	for i := range h.bounds {
		// ⌊2^(i/4)·10⁶⌋ is the fourth root of 2^i·10²⁴, rounded down.
		n := new(big.Int).Exp(big.NewInt(10), big.NewInt(24), nil)
		n.Lsh(n, uint(i))
		h.bounds[i] = n.Sqrt(n.Sqrt(n)).Int64()
	}
	return h
}

// Bound is the upper bound of a bucket, in ns.
func (h *Histogram) Bound(bucket int) int64 { return h.bounds[bucket] }

// Bucket is the bucket that a duration in ns falls in. Negative ones fall in
// the first.
func (h *Histogram) Bucket(ns int64) int {
	return min(sort.Search(Buckets, func(i int) bool { return ns <= h.bounds[i] }), Buckets-1)
}

// BucketMeasure is a bucket's measure under a prefix, such as "latency/44".
func BucketMeasure(prefix Measure, bucket int) Measure {
	return prefix + Measure(strconv.Itoa(bucket))
}

// BucketOf is the bucket of a histogram measure under a prefix.
func BucketOf(m, prefix Measure) (bucket int, ok bool) {
	if len(m) <= len(prefix) || m[:len(prefix)] != prefix {
		return 0, false
	}
	digits := string(m[len(prefix):])
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n >= Buckets || strconv.Itoa(n) != digits {
		return 0, false
	}
	return n, true
}
