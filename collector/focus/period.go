package focus

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// reratedBit marks prices of a rerating: the rest is its number.
const reratedBit = 1 << 31

// period collects what one charge period cost.
type period struct {
	x        *export
	from, to attribution.Second
	nodes    map[nodeKey][]attribution.Device
	charges  map[chargeKey]*charge
	unpriced big.Int
	origins  int64
	averaged int64
}

type nodeKey struct{ cluster, node string }

type chargeKey struct {
	nodeKey
	device, model string
	revision      uint32
}

// charge is an origin charge in the making.
type charge struct {
	chargeKey
	shares map[string]*share
}

// share is one owner's part of a charge.
type share struct {
	portion    Portion
	keys       []store.Key
	method     string
	cost, time big.Int
	energy     big.Int
	hasEnergy  bool
	byBasis    [len(attribution.Bases)]big.Int
	occurs     [len(attribution.Bases)]bool
	used       big.Int // cost
}

func newPeriod(x *export, from, to attribution.Second, ds []query.Device) *period {
	b := &period{x: x, from: from, to: to, nodes: map[nodeKey][]attribution.Device{}, charges: map[chargeKey]*charge{}}
	for i := range ds {
		d := &ds[i].Device
		k := nodeKey{d.Cluster, d.Node}
		b.nodes[k] = append(b.nodes[k], *d)
	}
	return b
}

// add takes one row of the ledger's answer.
func (b *period) add(r *store.Row) error {
	if r.DeviceTime.Sign() < 0 || r.Unpriced.Sign() < 0 {
		return fmt.Errorf("device %s between %d and %d: %w: %w", r.Keys[2].Value, b.from, b.to, errNegative, store.ErrCorrupt)
	}
	b.unpriced.Add(&b.unpriced, &r.Unpriced)
	revision, err := strconv.ParseUint(r.Keys[4].Value, 10, 32)
	if err != nil {
		return fmt.Errorf("the revision of a price: %w: %w", err, store.ErrCorrupt)
	}
	if revision == 0 || r.DeviceTime.Sign() == 0 && r.Cost.Sign() == 0 {
		return nil // without a price, or rerated since
	}
	k := chargeKey{nodeKey{r.Keys[0].Value, r.Keys[1].Value}, r.Keys[2].Value, r.Keys[3].Value, uint32(revision)}
	c := b.charges[k]
	if c == nil {
		c = &charge{chargeKey: k, shares: map[string]*share{}}
		b.charges[k] = c
	}
	c.add(r, b.x.by)
	return nil
}

func (c *charge) add(r *store.Row, by []store.Dimension) {
	var s share
	if by != nil {
		s.method, s.keys = r.Keys[5].Value, r.Keys[7:]
		s.portion = portionOf(r.Basis, r.Keys[6].Value, s.keys)
		if s.portion != Owned {
			s.keys = nil
		}
	}
	k := string(query.AppendKeys([]byte(string(s.portion)+"\x00"+s.method+"\x00"), s.keys))
	h := c.shares[k]
	if h == nil {
		h = &s
		c.shares[k] = h
	}
	h.cost.Add(&h.cost, &r.Cost)
	h.time.Add(&h.time, &r.DeviceTime)
	h.energy.Add(&h.energy, &r.Energy)
	h.hasEnergy = h.hasEnergy || r.HasEnergy
	i := r.Basis - attribution.Used
	h.byBasis[i].Add(&h.byBasis[i], &r.DeviceTime)
	h.occurs[i] = true
	if r.Basis == attribution.Used {
		h.used.Add(&h.used, &r.Cost)
	}
}

func portionOf(b attribution.Basis, kind string, keys []store.Key) Portion {
	switch {
	case b == attribution.Unattributed:
		return Unattributed
	case b == attribution.Unallocated || kind == attribution.Nobody.String():
		return Unallocated
	case slices.ContainsFunc(keys, func(k store.Key) bool { return !k.Missing }):
		return Owned
	}
	return Unmapped
}

// rows are the period's rows, by device, and per device by portion and owner.
func (b *period) rows(ctx context.Context) ([]Row, error) {
	keys := make([]chargeKey, 0, len(b.charges))
	for k := range b.charges {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b chargeKey) int {
		return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.node, b.node), cmp.Compare(a.device, b.device),
			cmp.Compare(a.model, b.model), cmp.Compare(a.revision, b.revision))
	})
	var rows []Row
	for _, k := range keys {
		rs, err := b.charge(ctx, b.charges[k])
		if err != nil {
			return nil, fmt.Errorf("device %s from %d: %w", k.device, b.from, err)
		}
		rows = append(rows, rs...)
	}
	return rows, nil
}

// charge makes the rows of one origin charge.
func (b *period) charge(ctx context.Context, c *charge) ([]Row, error) {
	names := make([]string, 0, len(c.shares))
	for k := range c.shares {
		names = append(names, k)
	}
	slices.Sort(names) // owned, unallocated, unattributed, unmapped; then method and owner
	shares := make([]*share, len(names))
	var cost, time big.Int
	for i, k := range names {
		shares[i] = c.shares[k]
		cost.Add(&cost, &shares[i].cost)
		time.Add(&time, &shares[i].time)
	}
	o, err := b.origin(ctx, c, &cost, &time)
	if err != nil {
		return nil, err
	}
	cut, err := divide(shares, &cost, &time)
	if err != nil {
		return nil, err
	}
	if b.x.by != nil {
		total, quantity := NewDecimal(&cost, moneyScale), decimalOf(cut.whole, quantityScale)
		o.originCost, o.originQuantity = &total, &quantity
	}
	rows := make([]Row, len(shares))
	for i, s := range shares {
		rows[i] = b.row(o, s, cut.quantities[i], cut.ratios[i])
	}
	return rows, nil
}

// cut is how an origin's quantity and its ratios are divided.
type cut struct {
	whole              int64 // 10^-12 GPU hours
	quantities, ratios []int64
}

// divide apportions the hours by time, and the ratios by cost, or by time
// where the cost is 0.
func divide(shares []*share, cost, time *big.Int) (*cut, error) {
	n := len(shares)
	c := &cut{quantities: make([]int64, n), ratios: make([]int64, n)}
	costs, times := make([]int64, n), make([]int64, n)
	// ns ÷ 3.6e12 in units of 10^-12 is ns · 5/18.
	whole := divideHalfEven(new(big.Int).Mul(time, big.NewInt(5)), big.NewInt(18))
	if !cost.IsInt64() || !time.IsInt64() || !whole.IsInt64() {
		return nil, fmt.Errorf("the charge exceeds 64 bits: %w", store.ErrCorrupt)
	}
	byCost := cost.Sign() > 0
	for i, s := range shares {
		costs[i], times[i] = s.cost.Int64(), s.time.Int64()
		byCost = byCost && s.cost.Sign() >= 0 // what a rerating left may be a nano unit below 0
	}
	c.whole = whole.Int64()
	if time.Sign() > 0 {
		apportion.ByWeight(c.whole, times, c.quantities)
	}
	switch all := pow10(ratioScale).Int64(); {
	case byCost:
		apportion.ByWeight(all, costs, c.ratios)
	case time.Sign() > 0:
		apportion.ByWeight(all, times, c.ratios)
	default:
		c.ratios[0] = all
	}
	return c, nil
}

func (b *period) row(o *origin, s *share, quantity, ratio int64) Row {
	r := Row{
		origin: o, portion: s.portion,
		cost: NewDecimal(&s.cost, moneyScale), seconds: NewDecimal(&s.time, secondsScale), quantity: decimalOf(quantity, quantityScale),
	}
	r.list = o.unitPrice.Times(r.quantity)
	if o.names.Provider == o.names.InvoiceIssuer {
		r.billed = r.cost
	}
	for i, out := range []**Decimal{&r.used, &r.reserved, &r.unallocated, &r.unattributed, &r.unobserved} {
		if s.occurs[i] {
			d := NewDecimal(&s.byBasis[i], secondsScale)
			*out = &d
		}
	}
	if s.occurs[0] {
		d := NewDecimal(&s.used, moneyScale)
		r.usedCost = &d
	}
	if s.hasEnergy {
		d := NewDecimal(&s.energy, joulesScale)
		r.energy = &d
	}
	if b.x.by != nil {
		r.method = "gpuledger/" + s.method
		r.details = fmt.Sprintf(`{"Elements":[{"AllocatedRatio":%s,"UsageUnit":"GPU-Seconds","UsageQuantity":%s}]}`,
			decimalOf(ratio, ratioScale), r.seconds)
		r.own(s.keys, b.x.by)
	}
	return r
}

// month is the calendar month (UTC) that a second lies in: the billing period.
func month(s attribution.Second) [2]int64 {
	t := time.Unix(int64(s), 0).UTC()
	first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	return [2]int64{first.Unix(), first.AddDate(0, 1, 0).Unix()}
}
