// Package apportion divides integers so that the parts sum to the whole,
// exactly: by weights (largest remainder) and over time (floor differences).
// Beside that it has the arithmetic that sums of hostile amounts need.
package apportion

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// ByWeight divides total over len(weights) parts in proportion to the weights
// and writes them to parts: ⌊total·w/Σw⌋ each, and the units left over one by
// one to the largest remainders; of equal remainders the earlier index comes
// first. The parts sum to total. parts must be as long as weights.
//
// total and the weights must not be negative, Σ weights must be positive and
// fit an int64: anything else is a caller's bug and panics. parts may be
// weights. It does not allocate for up to 64 parts.
func ByWeight(total int64, weights, parts []int64) {
	if len(parts) != len(weights) {
		panic(fmt.Sprintf("BUG: apportion: %d parts for %d weights", len(parts), len(weights)))
	}
	var sum int64
	for _, w := range weights {
		if w < 0 || sum+w < sum {
			panic(fmt.Sprintf("BUG: apportion: weight %d is negative or overflows the sum", w))
		}
		sum += w
	}
	if total < 0 || sum == 0 {
		panic(fmt.Sprintf("BUG: apportion: total %d over weights summing to %d", total, sum))
	}
	if len(weights) == 1 {
		parts[0] = total
		return
	}
	switch n := len(weights); {
	case n <= 16:
		var rems [16]uint64
		divide(total, sum, weights, parts, rems[:n])
	case n <= 64:
		var rems [64]uint64
		divide(total, sum, weights, parts, rems[:n])
	default:
		divide(total, sum, weights, parts, make([]uint64, n))
	}
}

func divide(total, sum int64, weights, parts []int64, rems []uint64) {
	left := total
	for i, w := range weights {
		hi, lo := bits.Mul64(uint64(total), uint64(w))
		q, r := bits.Div64(hi, lo, uint64(sum)) // hi < sum, for w ≤ sum and total < 2^63
		parts[i], rems[i] = int64(q), r
		left -= int64(q)
	}
	// left < number of non-zero remainders ≤ len(weights): at most one each.
	if len(rems) > 64 {
		largest(rems, int(left), parts)
		return
	}
	for ; left > 0; left-- {
		best := 0
		for i, r := range rems {
			if r > rems[best] {
				best = i
			}
		}
		parts[best]++
		rems[best] = 0
	}
}

// largest adds one to the n parts with the largest remainders.
func largest(rems []uint64, n int, parts []int64) {
	order := make([]int, len(rems))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(rems[b], rems[a]), a-b) })
	for _, i := range order[:n] {
		parts[i]++
	}
}

// Until is the part of total, spread evenly over [from, to), that has come by
// time t: ⌊total·(t−from)/(to−from)⌋, held to 0 before and total after. The
// part within [a, b) is Until(b) − Until(a); consecutive parts therefore sum
// to total without remainder. total must not be negative.
func Until(total, from, to, t int64) int64 {
	switch {
	case t <= from:
		return 0
	case t >= to:
		return total
	}
	hi, lo := bits.Mul64(uint64(total), uint64(t-from))
	q, _ := bits.Div64(hi, lo, uint64(to-from))
	return int64(q)
}

// MulDiv is ⌊a·b/c⌋ for non-negative a, b and positive c, held at MaxInt64.
func MulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, math.MaxInt64))
}

// SaturatingAdd is a + b for non-negative a and b, held at MaxInt64.
func SaturatingAdd(a, b int64) int64 {
	if s := a + b; s >= a {
		return s
	}
	return math.MaxInt64
}
