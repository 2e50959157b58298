package economics

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// byWeight is apportion.ByWeight without its bounds.
func TestByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Int64Range(0, 1<<20), 1, 8).Draw(t, "weights")
		weights[0]++
		total := rapid.Int64Range(0, 1<<60).Draw(t, "total")
		want := make([]int64, len(weights))
		apportion.ByWeight(total, weights, want)
		var ws []*big.Int
		for _, w := range weights {
			ws = append(ws, big.NewInt(w))
		}
		sum := new(big.Int)
		for i, p := range byWeight(big.NewInt(total), ws) {
			if !p.IsInt64() || p.Int64() != want[i] {
				t.Fatalf("part %d is %v, want %d", i, p, want[i])
			}
			sum.Add(sum, p)
		}
		if sum.Int64() != total {
			t.Fatalf("parts sum to %v of %d", sum, total)
		}
	})
}
