package api

import (
	"math/big"
	"testing"

	"github.com/gpuledger/gpuledger/collector/economics"
)

// What used nothing cost 0 on the usage basis, unless the price is unknown.
func TestLaw9UnusedIsNotUnpriced(t *testing.T) {
	costs := func(time, cost, unpriced int64) economics.Costs {
		return economics.Costs{Time: *big.NewInt(time), Cost: *big.NewInt(cost), Unpriced: *big.NewInt(unpriced)}
	}
	for _, c := range []struct {
		used, reserved economics.Costs
		want           string
	}{
		{costs(0, 0, 0), costs(10, 5, 0), "0.00"},
		{costs(0, 0, 0), costs(10, 0, 10), ""},
		{costs(4, 0, 4), costs(10, 5, 0), ""},
		{costs(4, 2, 0), costs(10, 5, 0), "0.000000002"},
		{costs(0, 0, 0), costs(0, 0, 0), ""},
	} {
		row := economics.Row{Used: c.used, Reserved: c.reserved}
		if got := encodeUnitCost(&row, nil).GetUsageCost(); got != c.want {
			t.Errorf("used %v of %v: %q, want %q", &c.used.Time, &row.Allocation().Time, got, c.want)
		}
		if got := encodeRun(&economics.Run{Row: row}).GetUsageCost(); got != c.want {
			t.Errorf("a run that used %v of %v: %q, want %q", &c.used.Time, &row.Allocation().Time, got, c.want)
		}
	}
}
