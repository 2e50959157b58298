package attribution

import (
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// Rate fills the cost and the energy of a window's slices: the price of the
// second (law 1) and the device's energy, both split by device time. The
// slices must be in their final order, which decides ties; the result depends
// on price, second, energy and device times alone (law 6).
func Rate(w *DeviceWindow) {
	n := len(w.Slices)
	if n == 0 {
		return
	}
	var cost money.Amount
	if w.Price.Known() {
		cost = money.SecondPrice(w.Price.PerHour, int64(w.Second))
	}
	if n == 1 {
		w.Slices[0].Cost, w.Slices[0].Energy = cost, w.Energy
		return
	}
	switch {
	case n <= 16:
		var scratch [32]int64
		rate(w, cost, scratch[:n], scratch[16:16+n])
	case n <= 256:
		var scratch [512]int64
		rate(w, cost, scratch[:n], scratch[256:256+n])
	default:
		rate(w, cost, make([]int64, n), make([]int64, n))
	}
}

func rate(w *DeviceWindow, cost money.Amount, weights, parts []int64) {
	for i := range w.Slices {
		weights[i] = w.Slices[i].Time
	}
	apportion.ByWeight(int64(cost), weights, parts)
	for i := range w.Slices {
		w.Slices[i].Cost = money.Amount(parts[i])
	}
	apportion.ByWeight(w.Energy, weights, parts)
	for i := range w.Slices {
		w.Slices[i].Energy = parts[i]
	}
}
