package economics

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Costs is an amount of device time with its cost.
type Costs struct {
	Time, Cost, Unpriced big.Int // ns; nano units, of the priced time; ns
}

func (c *Costs) add(x *Costs) {
	c.Time.Add(&c.Time, &x.Time)
	c.Cost.Add(&c.Cost, &x.Cost)
	c.Unpriced.Add(&c.Unpriced, &x.Unpriced)
}

// Priced reports whether any of the time has a price.
func (c *Costs) Priced() bool { return c.Time.Cmp(&c.Unpriced) > 0 || c.Cost.Sign() != 0 }

// split divides costs in proportion to the weights. Priced time, cost and
// unpriced time are each exact, and so is time, their sum: a part never has more
// unpriced time than time.
func (c *Costs) split(weights []*big.Int, to func(int) *Costs) {
	for i, p := range apportion.Big(new(big.Int).Sub(&c.Time, &c.Unpriced), weights) {
		to(i).Time.Set(p)
	}
	for i, p := range apportion.Big(&c.Cost, weights) {
		to(i).Cost.Set(p)
	}
	for i, p := range apportion.Big(&c.Unpriced, weights) {
		to(i).Unpriced.Set(p)
		to(i).Time.Add(&to(i).Time, p)
	}
}

// Counter is a count that may not have been measured at all.
type Counter struct {
	Measured bool
	Value    big.Int
}

// Served is what was served, by measure. A measure that is not there was not
// measured; one that is there with 0 was measured: none (law 9).
type Served map[attribution.Measure]*big.Int

// Counter is what was counted of a measure.
func (s Served) Counter(m attribution.Measure) Counter {
	var c Counter
	if v, ok := s[m]; ok {
		c.Measured = true
		c.Value.Set(v)
	}
	return c
}

// Failures counts what did not succeed, whatever the reason.
func (s Served) Failures() Counter {
	var c Counter
	for m, v := range s {
		if isFailure(m) {
			c.Measured = true
			c.Value.Add(&c.Value, v)
		}
	}
	return c
}

// Tokens counts input and output, where both were measured.
func (s Served) Tokens() Counter {
	in, out := s.Counter(attribution.TokensInput), s.Counter(attribution.TokensOutput)
	c := Counter{Measured: in.Measured && out.Measured}
	c.Value.Add(&in.Value, &out.Value)
	return c
}

// Requests counts successes and failures, where successes were measured.
func (s Served) Requests() Counter {
	c, f := s.Counter(attribution.Success), s.Failures()
	c.Value.Add(&c.Value, &f.Value)
	return c
}

func (s *Served) add(x Served) {
	for m, v := range x {
		s.count(m, v)
	}
}

func (s *Served) count(m attribution.Measure, v *big.Int) {
	if *s == nil {
		*s = Served{}
	}
	sum := (*s)[m]
	if sum == nil {
		sum = new(big.Int)
		(*s)[m] = sum
	}
	sum.Add(sum, v)
}

// Inference reports whether requests or tokens were counted at all. A training
// process that reports its checkpoints serves nothing.
func (s Served) Inference() bool {
	for m := range s {
		if m == attribution.Success || isFailure(m) || m == attribution.TokensInput || m == attribution.TokensOutput {
			return true
		}
	}
	return false
}

// blind reports whether successes were counted, but no tokens of them.
func (s Served) blind() bool {
	successes := s.Counter(attribution.Success)
	return successes.Value.Sign() > 0 && !s.Counter(attribution.TokensInput).Measured && !s.Counter(attribution.TokensOutput).Measured
}

// any reports whether anything was counted that is not 0.
func (s Served) any() bool {
	for _, v := range s {
		if v.Sign() > 0 {
			return true
		}
	}
	return false
}

func isFailure(m attribution.Measure) bool {
	return strings.HasPrefix(string(m), string(attribution.FailurePrefix))
}

// Sources says who told of a row's customers. It is a set: a tenant may be
// known to one server by itself, and to another by a gateway.
type Sources uint8

// The sources.
const (
	FromServer  Sources = 1 << iota // the server counts by tenant itself
	FromGateway                     // split by what gateways saw
	Unseen                          // nobody told
)

// String lists the sources, "" where customers were not asked for.
func (s Sources) String() string {
	var names []string
	for i, name := range []string{"server", "gateway", "unseen"} {
		if s>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Row is the economics of one group. The parts are disjoint: Used, Reserved
// and Unobserved make the allocation basis.
type Row struct {
	Keys                                                  []store.Key
	Used, Reserved, Unobserved, Unallocated, Unattributed Costs
	// Covered is the part of the allocation basis of which something counted
	// the requests or tokens that it served, by day.
	Covered   Costs
	Served    Served
	Customers Sources
}

// Allocation is the allocation basis: used + reserved + unobserved.
func (r *Row) Allocation() *Costs {
	var c Costs
	c.add(&r.Used)
	c.add(&r.Reserved)
	c.add(&r.Unobserved)
	return &c
}

func (r *Row) add(x *Row) {
	for _, b := range attribution.Bases {
		r.basis(b).add(x.basis(b))
	}
	r.Covered.add(&x.Covered)
	r.Served.add(x.Served)
	r.Customers |= x.Customers
}

// split divides a row's costs, and nothing else, in proportion to the weights.
func (r *Row) split(weights []*big.Int) []Row {
	rows := make([]Row, len(weights))
	for _, b := range attribution.Bases {
		r.basis(b).split(weights, func(i int) *Costs { return rows[i].basis(b) })
	}
	return rows
}

func (r *Row) basis(b attribution.Basis) *Costs {
	switch b {
	case attribution.Used:
		return &r.Used
	case attribution.Reserved:
		return &r.Reserved
	case attribution.Unobserved:
		return &r.Unobserved
	case attribution.Unallocated:
		return &r.Unallocated
	case attribution.Unattributed:
		return &r.Unattributed
	}
	panic(fmt.Sprintf("BUG: economics: %v is no basis", b))
}

func rowOf(r *store.Row) *Row {
	var out Row
	c := out.basis(r.Basis)
	c.Time.Set(&r.DeviceTime)
	c.Cost.Set(&r.Cost)
	c.Unpriced.Set(&r.Unpriced)
	return &out
}
