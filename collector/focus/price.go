package focus

import (
	"context"
	"errors"
	"math/big"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// prices finds the hourly price behind what the ledger charged. Sums do not
// hold it, so it is taken from the rate card of their revision, and believed
// if it explains the cost. Where none does (a price that changed within the
// period, a card that is gone) the average stands in, and is called that.
type prices struct {
	cards  Cards
	raters map[uint32]*rating.Rater // nil: there is no card
}

func newPrices(c Cards) *prices { return &prices{cards: c, raters: map[uint32]*rating.Rater{}} }

func (p *prices) rater(ctx context.Context, revision uint32) (*rating.Rater, error) {
	if r, ok := p.raters[revision]; ok {
		return r, nil
	}
	card, err := p.cards.RateCard(ctx, revision)
	if errors.Is(err, store.ErrNotFound) {
		p.raters[revision] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// A rerating's card is priced as any other; it only needs a number.
	numbered := *card
	numbered.Revision = max(1, numbered.Revision)
	r, err := rating.NewRater(&numbered)
	if err != nil {
		return nil, err
	}
	p.raters[revision] = r
	return r, nil
}

// maxTries bounds the moments of a period at which a card is asked.
const maxTries = 8

// find is the price per hour of node[at] that explains a cost for some device
// time within [from, to), and whether a card says it.
func (p *prices) find(ctx context.Context, revision uint32, node []attribution.Device, at int, from, to attribution.Second, cost, time *big.Int) (Decimal, bool, error) {
	r, err := p.rater(ctx, revision)
	if err != nil {
		return Decimal{}, false, err
	}
	if r != nil && at >= 0 {
		out := make([]attribution.Price, len(node))
		s := from
		for range maxTries {
			r.Prices(node, s, out)
			if out[at].Known() && explains(out[at].PerHour, cost, time) {
				return decimalOf(int64(out[at].PerHour), moneyScale), true, nil
			}
			if s = r.NextChange(s); s >= to {
				break
			}
		}
	}
	return average(cost, time), false, nil
}

// hour is an hour in ns.
const hour = 3600 * attribution.WindowNanos

// explains reports whether a price per hour makes a cost of some device time:
// to a nano unit per second, which is how far a second is from its price.
func explains(perHour money.Amount, cost, time *big.Int) bool {
	exact := new(big.Int).Mul(time, big.NewInt(int64(perHour)))
	diff := new(big.Int).Mul(cost, big.NewInt(hour))
	diff.Sub(diff, exact)
	return diff.CmpAbs(new(big.Int).Mul(time, big.NewInt(hour/attribution.WindowNanos))) <= 0
}

// average is cost ÷ time per hour, to the nearest nano unit, ties to even.
func average(cost, time *big.Int) Decimal {
	if time.Sign() == 0 || cost.Sign() < 0 {
		return decimalOf(0, moneyScale)
	}
	return NewDecimal(divideHalfEven(new(big.Int).Mul(cost, big.NewInt(hour)), time), moneyScale)
}

// divideHalfEven is a ÷ b for a ≥ 0 and b > 0, to the nearest integer.
func divideHalfEven(a, b *big.Int) *big.Int {
	q, r := new(big.Int).QuoRem(a, b, new(big.Int))
	r.Lsh(r, 1)
	if c := r.Cmp(b); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return q
}
