package apportion_test

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// slowByWeight is the definition: floors in big integers, then one unit each
// in order of remainder and index.
func slowByWeight(total int64, weights []int64) []int64 {
	sum := new(big.Int)
	for _, w := range weights {
		sum.Add(sum, big.NewInt(w))
	}
	parts, rems, order := make([]int64, len(weights)), make([]*big.Int, len(weights)), make([]int, len(weights))
	left := total
	for i, w := range weights {
		q, r := new(big.Int).DivMod(new(big.Int).Mul(big.NewInt(total), big.NewInt(w)), sum, new(big.Int))
		parts[i], rems[i], order[i] = q.Int64(), r, i
		left -= parts[i]
	}
	slices.SortStableFunc(order, func(a, b int) int { return rems[b].Cmp(rems[a]) })
	for _, i := range order[:left] {
		parts[i]++
	}
	return parts
}

func TestLaw1PartsSumToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "n")
		weights := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, math.MaxInt64/200)), n, n).Draw(t, "weights")
		weights[rapid.IntRange(0, n-1).Draw(t, "positive")]++
		total := rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, math.MaxInt64)).Draw(t, "total")
		parts := make([]int64, n)
		apportion.ByWeight(total, weights, parts)
		if want := slowByWeight(total, weights); !slices.Equal(parts, want) {
			t.Fatalf("%d by %v is %v, want %v", total, weights, parts, want)
		}
		sum := int64(0)
		for _, p := range parts {
			sum += p
		}
		if sum != total {
			t.Fatalf("%d by %v sums to %d", total, weights, sum)
		}
		apportion.ByWeight(total, weights, weights) // in place
		if !slices.Equal(parts, weights) {
			t.Fatalf("in place %v, apart %v", weights, parts)
		}
	})
}

func TestByWeightByHand(t *testing.T) {
	for _, tc := range []struct {
		total         int64
		weights, want []int64
	}{
		{10, []int64{1, 1, 1}, []int64{4, 3, 3}},
		{11, []int64{1, 1, 1}, []int64{4, 4, 3}},
		{1, []int64{1, 2, 1}, []int64{0, 1, 0}},
		{1, []int64{0, 1, 1}, []int64{0, 1, 0}},
		{0, []int64{5, 5}, []int64{0, 0}},
		{7, []int64{math.MaxInt64}, []int64{7}},
		{math.MaxInt64, []int64{math.MaxInt64 - 1, 1}, []int64{math.MaxInt64 - 1, 1}},
	} {
		parts := make([]int64, len(tc.weights))
		apportion.ByWeight(tc.total, tc.weights, parts)
		if !slices.Equal(parts, tc.want) {
			t.Errorf("%d by %v is %v, want %v", tc.total, tc.weights, parts, tc.want)
		}
	}
}

func TestByWeightRefusesTheImpossible(t *testing.T) {
	for name, f := range map[string]func(){
		"negative total":  func() { apportion.ByWeight(-1, []int64{1, 1}, make([]int64, 2)) },
		"negative weight": func() { apportion.ByWeight(1, []int64{2, -1}, make([]int64, 2)) },
		"no weight":       func() { apportion.ByWeight(1, []int64{0, 0}, make([]int64, 2)) },
		"no parts":        func() { apportion.ByWeight(1, nil, nil) },
		"unequal lengths": func() { apportion.ByWeight(1, []int64{1}, nil) },
		"overflow":        func() { apportion.ByWeight(1, []int64{math.MaxInt64, 1}, make([]int64, 2)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "BUG: ") {
					t.Errorf("recovered %v", r)
				}
			}()
			f()
		})
	}
}

// However a stretch is cut, its parts sum to the whole.
func TestLaw1StretchesSumToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(0, math.MaxInt64).Draw(t, "total")
		from := rapid.Int64().Draw(t, "from")
		to := from + rapid.Int64Range(0, math.MaxInt64).Draw(t, "length")
		if to < from {
			to = math.MaxInt64
		}
		cuts := append(rapid.SliceOf(rapid.Int64()).Draw(t, "cuts"), math.MinInt64, math.MaxInt64)
		slices.Sort(cuts)
		sum, last := int64(0), apportion.Until(total, from, to, cuts[0])
		for _, c := range cuts[1:] {
			x := apportion.Until(total, from, to, c)
			if x < last {
				t.Fatalf("it shrinks at %d", c)
			}
			sum, last = sum+x-last, x
		}
		begun := apportion.Until(total, from, to, cuts[0])
		if from < to && to < math.MaxInt64 && from > math.MinInt64 && (begun != 0 || sum != total) {
			t.Fatalf("sums to %d of %d", sum, total)
		}
	})
}

func BenchmarkByWeight(b *testing.B) {
	for _, n := range []int{2, 4, 8, 64, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			weights, parts := make([]int64, n), make([]int64, n)
			for i := range weights {
				weights[i] = int64(1 + i*i)
			}
			for b.Loop() {
				apportion.ByWeight(694_444_444, weights, parts)
			}
		})
	}
}

func TestArithmeticIsHeldToTheRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.OneOf(rapid.Int64Range(0, 100), rapid.Int64Range(0, math.MaxInt64), rapid.Just(int64(math.MaxInt64)))
		a, b, c := amount.Draw(t, "a"), amount.Draw(t, "b"), max(amount.Draw(t, "c"), 1)
		held := func(x *big.Int) int64 {
			if !x.IsInt64() {
				return math.MaxInt64
			}
			return x.Int64()
		}
		x, y := big.NewInt(a), big.NewInt(b)
		product := new(big.Int).Mul(x, y)
		if got, want := apportion.MulDiv(a, b, c), held(product.Quo(product, big.NewInt(c))); got != want {
			t.Fatalf("%d·%d/%d is %d, want %d", a, b, c, got, want)
		}
		if got, want := apportion.SaturatingAdd(a, b), held(new(big.Int).Add(x, y)); got != want {
			t.Fatalf("%d+%d is %d, want %d", a, b, got, want)
		}
	})
}
