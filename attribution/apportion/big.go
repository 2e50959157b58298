package apportion

import (
	"cmp"
	"math/big"
	"slices"
)

// Big is [ByWeight] for sums beyond 64 bits: ⌊total·w/Σw⌋ each, and what is
// left one by one to the largest remainders, of equal ones the earlier first.
// The parts sum to total. Neither total nor a weight may be negative and
// Σ weights must be positive: anything else is a caller's bug and panics.
func Big(total *big.Int, weights []*big.Int) []*big.Int {
	sum := new(big.Int)
	for _, w := range weights {
		if w.Sign() < 0 {
			panic("BUG: apportion: a negative weight")
		}
		sum.Add(sum, w)
	}
	if sum.Sign() == 0 || total.Sign() < 0 {
		panic("BUG: apportion: a negative total, or no weight to split it by")
	}
	parts := make([]*big.Int, len(weights))
	rests := make([]*big.Int, len(weights))
	order := make([]int, len(weights))
	left := new(big.Int).Set(total)
	for i, w := range weights {
		parts[i], rests[i] = new(big.Int).QuoRem(new(big.Int).Mul(total, w), sum, new(big.Int))
		left.Sub(left, parts[i])
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(0, rests[a].Cmp(rests[b])) })
	for _, i := range order[:left.Int64()] { // fewer than there are remainders
		parts[i].Add(parts[i], big.NewInt(1))
	}
	return parts
}
