package opencost

import (
	"cmp"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// share splits an amount over parts: over their groups in proportion to cost,
// or evenly, and within a group by cost. What each gets is added to what into
// points to. The shares sum to the amount. It reports false, and does nothing,
// where there is nobody to share with, or nothing to weigh by.
func share(amount *big.Int, targets []*piece, even bool, into func(*piece) *big.Int) bool {
	groups := map[*group][]*piece{}
	var order []*group
	for _, p := range targets {
		if groups[p.group] == nil {
			order = append(order, p.group)
		}
		groups[p.group] = append(groups[p.group], p)
	}
	// By name, so that the odd nano unit always goes the same way.
	slices.SortFunc(order, func(a, b *group) int { return cmp.Compare(a.id, b.id) })
	weights := make([]*big.Int, len(order))
	for i, g := range order {
		weights[i] = big.NewInt(1)
		if !even {
			weights[i] = sumOf(weigh(groups[g]))
		}
	}
	if sumOf(weights).Sign() == 0 {
		return false
	}
	for i, amount := range apportion.Big(amount, weights) {
		members := groups[order[i]]
		ws := weigh(members)
		if sumOf(ws).Sign() == 0 {
			for j := range ws {
				ws[j] = big.NewInt(1)
			}
		}
		for j, x := range apportion.Big(amount, ws) {
			sum := into(members[j])
			sum.Add(sum, x)
		}
	}
	return true
}

// weigh is what each part costs so far.
func weigh(ps []*piece) []*big.Int {
	ws := make([]*big.Int, len(ps))
	for i, p := range ps {
		ws[i] = new(big.Int).Add(&p.cost, &p.idle)
	}
	return ws
}

func sumOf(xs []*big.Int) *big.Int {
	sum := new(big.Int)
	for _, x := range xs {
		sum.Add(sum, x)
	}
	return sum
}
