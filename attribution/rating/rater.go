package rating

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// Never is the answer of [Rater.NextChange] where prices stay as they are.
const Never attribution.Second = math.MaxInt64

// Rater prices devices by one revision of the rate card. It never changes;
// any number of goroutines may use it.
type Rater struct {
	card    *Card
	policy  attribution.Policy
	rules   []*PriceRule // most specific first
	changes []attribution.Second
}

// NewRater takes a valid card that has its revision. The card must not change
// afterwards.
func NewRater(c *Card) (*Rater, error) {
	if err := Validate(c); err != nil {
		return nil, err
	}
	if c.Revision == 0 {
		return nil, errors.New("rate card: it has no revision yet: only an applied card sets prices")
	}
	policy, err := attribution.PolicyByName(c.Policy)
	if err != nil {
		return nil, err
	}
	r := &Rater{card: c, policy: policy}
	note := func(s attribution.Second) {
		if s != 0 {
			r.changes = append(r.changes, s)
		}
	}
	for i := range c.Prices {
		p := &c.Prices[i]
		r.rules = append(r.rules, p)
		note(p.From)
		note(p.To)
	}
	for i := range c.Overheads {
		note(c.Overheads[i].From)
		note(c.Overheads[i].To)
	}
	slices.SortStableFunc(r.rules, func(a, b *PriceRule) int { return compareSpecificity(b, a) })
	slices.Sort(r.changes)
	r.changes = slices.Compact(r.changes)
	return r, nil
}

// Card is the card that the rater was made from.
func (r *Rater) Card() *Card { return r.card }

// Policy is how the card wants "used" decided.
func (r *Rater) Policy() attribution.Policy { return r.policy }

// NextChange is the first second after s at which any price may change, or
// [Never]. Until then, prices of the same devices may be reused.
func (r *Rater) NextChange(s attribution.Second) attribution.Second {
	i, found := slices.BinarySearch(r.changes, s)
	if found {
		i++
	}
	if i == len(r.changes) {
		return Never
	}
	return r.changes[i]
}

// Prices writes the prices of all devices of one node at second s to out,
// which must be as long as devices. A device that has no price gets the zero
// Price, "unpriced".
//
// Wholes are priced first: the rule's price plus the overheads, those per node
// divided over the GPUs that they match by largest remainder in order of
// device ID. A MIG instance then costs its share of its whole, rounded down,
// and a remainder device what the instances on the list leave of it. Where
// instances overlap so that they cost more than the whole, that is nothing;
// it never turns negative. An instance whose shares are not known is unpriced.
func (r *Rater) Prices(devices []attribution.Device, s attribution.Second, out []attribution.Price) {
	if len(out) != len(devices) {
		panic("BUG: rating: as many prices as devices, please")
	}
	gpus := r.wholes(devices, s, nil)
	find := func(d *attribution.Device) *gpu {
		i, _ := slices.BinarySearchFunc(gpus, gpuID(d), func(g gpu, id string) int { return cmp.Compare(g.id, id) })
		return &gpus[i]
	}
	for i := range devices {
		d := &devices[i]
		out[i] = attribution.Price{}
		if g := find(d); isInstance(d) && g.priced {
			if p, ok := instancePrice(g.perHour, d.Share); ok {
				out[i] = attribution.Price{PerHour: p, Revision: r.card.Revision}
				g.cut = addUpTo(g.cut, p, g.perHour)
			}
		}
	}
	for i := range devices {
		d := &devices[i]
		if g := find(d); !isInstance(d) && g.priced {
			out[i] = attribution.Price{PerHour: g.perHour, Revision: r.card.Revision}
			if d.Remainder {
				out[i].PerHour -= g.cut
			}
		}
	}
}

// gpu is a whole GPU, whether it is on the list itself or only cut up.
type gpu struct {
	id      string
	facts   *attribution.Device // its own, else those of one of its instances
	priced  bool
	perHour money.Amount
	cut     money.Amount // what its instances cost, at most perHour
}

func isInstance(d *attribution.Device) bool { return d.Parent != "" && !d.Remainder }

func gpuID(d *attribution.Device) string {
	if isInstance(d) {
		return d.Parent
	}
	return d.ID
}

// wholes lists the node's GPUs in order of their ID, each with its price. note,
// if not nil, is told of every line that a GPU's price is the sum of.
func (r *Rater) wholes(devices []attribution.Device, s attribution.Second, note func(g *gpu, name string, perHour money.Amount)) []gpu {
	gpus := make([]gpu, 0, len(devices))
	for i := range devices {
		gpus = append(gpus, gpu{id: gpuID(&devices[i]), facts: &devices[i]})
	}
	// The GPU's own facts come before its instances'; of those, the canonical
	// first counts.
	slices.SortFunc(gpus, func(a, b gpu) int {
		return cmp.Or(cmp.Compare(a.id, b.id), compareBools(isInstance(a.facts), isInstance(b.facts)),
			attribution.CompareDevices(a.facts, b.facts))
	})
	gpus = slices.CompactFunc(gpus, func(a, b gpu) bool { return a.id == b.id })
	for i := range gpus {
		g := &gpus[i]
		for _, p := range r.rules {
			if p.matches(g.facts, s) {
				g.priced, g.perHour = true, p.PerDeviceHour
				if note != nil {
					note(g, GPULine, p.PerDeviceHour)
				}
				break
			}
		}
	}
	for i := range r.card.Overheads {
		addOverhead(&r.card.Overheads[i], gpus, s, note)
	}
	return gpus
}

func addOverhead(o *Overhead, gpus []gpu, s attribution.Second, note func(*gpu, string, money.Amount)) {
	var matched []*gpu
	for i := range gpus {
		if o.matches(gpus[i].facts, s) {
			matched = append(matched, &gpus[i])
		}
	}
	if len(matched) == 0 {
		return
	}
	weights, parts := make([]int64, len(matched)), make([]int64, len(matched))
	for i := range weights {
		weights[i] = 1
	}
	apportion.ByWeight(int64(o.PerNodeHour), weights, parts)
	for i, g := range matched {
		// Validate bounds amounts and their number: this can't overflow.
		part := o.PerDeviceHour + money.Amount(parts[i])
		g.perHour += part
		if note != nil {
			note(g, o.Name, part)
		}
	}
}

// instancePrice is ⌊whole · (compute share + memory share) / 2⌋. It is not ok
// where a share is unknown or more than the whole.
func instancePrice(whole money.Amount, s attribution.MIGShare) (p money.Amount, ok bool) {
	if s.Compute < 0 || s.Memory < 0 || s.ComputeOf <= 0 || s.MemoryOf <= 0 || s.Compute > s.ComputeOf || s.Memory > s.MemoryOf {
		return 0, false
	}
	// Factors have 31 bits: the sum of two products has 63.
	num := int64(s.Compute)*int64(s.MemoryOf) + int64(s.Memory)*int64(s.ComputeOf)
	den := 2 * int64(s.ComputeOf) * int64(s.MemoryOf)
	p, err := money.MulDivFloor(whole, num, den)
	return p, err == nil // num ≤ den, so it fits
}

func addUpTo(a, b, limit money.Amount) money.Amount {
	if b > limit-a {
		return limit
	}
	return a + b
}
