package rating

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// GPULine names the line of a price that its rule makes. Overheads have names
// of their own; one of this name is counted into it.
const GPULine = "gpu"

// Line is the part of a device-hour's price that one line of the card makes.
type Line struct {
	Name    string
	PerHour money.Amount
}

// Lines itemises what [Rater.Prices] says: for each device of one node, in
// order, the lines of its price at second s. They sum to the price; those of
// one name are one line, and lines of 0 are among them. An unpriced device has
// none. The lines of a MIG instance, and of the uncut rest, are in proportion
// to those of the whole (largest remainder, ties to the first line).
func (r *Rater) Lines(devices []attribution.Device, s attribution.Second) [][]Line {
	prices := make([]attribution.Price, len(devices))
	r.Prices(devices, s, prices)
	wholes := map[string][]Line{}
	r.wholes(devices, s, func(g *gpu, name string, perHour money.Amount) {
		ls := wholes[g.id]
		i := slices.IndexFunc(ls, func(l Line) bool { return l.Name == name })
		if i < 0 {
			wholes[g.id] = append(ls, Line{name, perHour})
			return
		}
		ls[i].PerHour += perHour
	})
	out := make([][]Line, len(devices))
	for i := range devices {
		if prices[i].Known() {
			out[i] = itemise(prices[i].PerHour, wholes[gpuID(&devices[i])])
		}
	}
	return out
}

// itemise divides a price in proportion to the lines of the whole. Where they
// come to nothing, so does the price.
func itemise(price money.Amount, whole []Line) []Line {
	weights, parts := make([]int64, len(whole)), make([]int64, len(whole))
	var sum money.Amount
	for i, l := range whole {
		weights[i] = int64(l.PerHour)
		sum += l.PerHour
	}
	out := slices.Clone(whole)
	if sum == 0 {
		return out
	}
	apportion.ByWeight(int64(price), weights, parts)
	for i := range out {
		out[i].PerHour = money.Amount(parts[i])
	}
	return out
}
