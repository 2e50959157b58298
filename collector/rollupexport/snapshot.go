package rollupexport

import (
	"cmp"
	"math/big"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// Snapshot is the counters at one time, in order of their labels. It is not
// changed once it is given out.
type Snapshot struct {
	Since    attribution.Second // the epoch: where all counters began at zero
	At       time.Time
	Currency string
	Labels   []string // names of the dimensions
	Series   []*Series
	Counts   []*Count
	Groups   int // with series of their own
	Others   int // groups that are summed under Other
}

// Series is the device time of a group on a basis, and what it costs.
type Series struct {
	Values               []string // as Snapshot.Labels; "" where there is no value
	Basis                attribution.Basis
	Time, Cost, Unpriced big.Int // ns, nano units, ns of the time
}

// Priced reports whether any of the time has a price.
func (s *Series) Priced() bool { return s.Time.Cmp(&s.Unpriced) > 0 || s.Cost.Sign() != 0 }

// Metric is what a Count counts.
type Metric string

// The metrics. Inferences are in millionths.
const (
	Inferences Metric = "inferences"
	Tokens     Metric = "tokens"
	Within     Metric = "within"
)

// Count is what a group served.
type Count struct {
	Values []string
	Metric Metric
	Type   string // outcome, token type, or target
	Value  big.Int
}

// continues reports whether every counter of an earlier snapshot is here, with
// as much or more.
func (s *Snapshot) continues(earlier *Snapshot) bool {
	for _, a := range earlier.Series {
		i, ok := slices.BinarySearchFunc(s.Series, a, func(x, a *Series) int {
			return cmp.Or(slices.Compare(x.Values, a.Values), cmp.Compare(x.Basis, a.Basis))
		})
		if !ok || s.Series[i].Time.Cmp(&a.Time) < 0 || s.Series[i].Cost.Cmp(&a.Cost) < 0 || s.Series[i].Unpriced.Cmp(&a.Unpriced) < 0 {
			return false
		}
	}
	for _, a := range earlier.Counts {
		i, ok := slices.BinarySearchFunc(s.Counts, a, func(x, a *Count) int {
			return cmp.Or(slices.Compare(x.Values, a.Values), cmp.Compare(x.Metric, a.Metric), cmp.Compare(x.Type, a.Type))
		})
		if !ok || s.Counts[i].Value.Cmp(&a.Value) < 0 {
			return false
		}
	}
	return true
}

// float is the nearest float64 of n ÷ scale.
func float(n *big.Int, scale int64) float64 {
	f, _ := new(big.Rat).SetFrac(n, big.NewInt(scale)).Float64()
	return f
}
