package apportion_test

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// Where 64 bits are enough, both ways give the same parts.
func TestLaw1BigIsByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(0, 1<<62).Draw(t, "total")
		weights := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 80).Draw(t, "weights")
		weights[0]++
		want := make([]int64, len(weights))
		apportion.ByWeight(total, weights, want)
		big64 := make([]*big.Int, len(weights))
		for i, w := range weights {
			big64[i] = big.NewInt(w)
		}
		for i, p := range apportion.Big(big.NewInt(total), big64) {
			if !p.IsInt64() || p.Int64() != want[i] {
				t.Fatalf("part %d is %v, want %d", i, p, want[i])
			}
		}
	})
}

// Beyond 64 bits the parts still sum to the whole, and none is a unit or more
// away from its share.
func TestLaw1BigConserves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := func(name string) *big.Int {
			return new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, name))
		}
		total, sum, all := number("total"), new(big.Int), new(big.Int)
		weights := []*big.Int{big.NewInt(1)}
		for range rapid.IntRange(0, 6).Draw(t, "more") {
			weights = append(weights, number("weight"))
		}
		for _, w := range weights {
			all.Add(all, w)
		}
		for i, p := range apportion.Big(total, weights) {
			sum.Add(sum, p)
			off := new(big.Int).Mul(p, all)
			off.Sub(off, new(big.Int).Mul(total, weights[i]))
			if off.CmpAbs(all) >= 0 {
				t.Fatalf("part %d is %v, a unit or more from its share", i, p)
			}
		}
		if sum.Cmp(total) != 0 {
			t.Fatalf("the parts sum to %v, not %v", sum, total)
		}
	})
}
