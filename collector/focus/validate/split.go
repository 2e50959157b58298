package validate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
)

// maxCharges bounds how many split charges are held; what comes on top is not
// summed up, and the report says so.
const maxCharges = 4_000_000

// splits sums up the parts of charges.
type splits struct {
	active   bool  // the file has any column of a split
	columns  []int // which
	byOrigin bool  // x_OriginChargeId names the origin
	charges  map[id]*charge
	order    []*charge
	whole    map[id]wholeness
	full     bool

	// The first row of the charge seen last: its parts mostly come one after
	// the other, so that the column that differs can be named.
	last   *charge
	values []string
}

type id [16]byte

// charge is a charge that was split.
type charge struct {
	row      int64 // its first part's
	rows     int64
	facts    id // of what all parts agree in
	ratio    decimal
	told     bool // that its parts disagree on the whole
	noRatio  bool
	cost     decimal
	quantity decimal
	list     decimal
	// What the parts say of the whole, if anything.
	wantCost, wantQuantity, price *decimal
}

// wholeness tells whether a charge is there whole, in parts, or both.
type wholeness struct {
	row          int64
	whole, split bool
	told         bool
}

func newSplits() *splits {
	return &splits{charges: map[id]*charge{}, whole: map[id]wholeness{}}
}

func (s *splits) begin(c *checker) {
	for i, name := range c.names {
		if c.rules[name].split {
			s.columns = append(s.columns, i)
		}
	}
	s.active = len(s.columns) > 0
	if s.active && !c.has("AllocatedMethodId") {
		c.find("column-missing", "AllocatedMethodId", "is not in the file, but other columns of a split are")
	}
	s.byOrigin = c.has("x_OriginChargeId")
}

// row checks the row's split, and adds it to its charge.
func (s *splits) row(c *checker, row []value) {
	if !s.active {
		return
	}
	split := !c.get(row, "AllocatedMethodId").null
	for _, i := range s.columns {
		if !split && !row[i].null {
			c.find("split-method", c.names[i], "is not null, but AllocatedMethodId is")
		}
	}
	if c.has("AllocatedResourceName") && c.get(row, "AllocatedResourceId").null != c.get(row, "AllocatedResourceName").null {
		c.find("split-name", "AllocatedResourceName", "one of AllocatedResourceId and AllocatedResourceName is null")
	}
	s.twice(c, row, split)
	if !split {
		return
	}
	s.tags(c, row)
	ratio, ok := s.details(c, row)
	g := s.charge(c, row)
	if g == nil {
		return
	}
	g.rows++
	s.wants(c, row, g)
	g.noRatio = g.noRatio || !ok
	g.ratio.add(ratio)
	for _, x := range []struct {
		sum  *decimal
		name string
	}{{&g.cost, "EffectiveCost"}, {&g.quantity, "PricingQuantity"}, {&g.list, "ListCost"}} {
		if d := c.numbers[x.name]; d != nil {
			x.sum.add(d)
		}
	}
	if cost := c.numbers["EffectiveCost"]; ok && g.wantCost != nil && cost != nil && !g.wantCost.zero() {
		if diff := g.wantCost.times(ratio).minus(cost); !diff.within(g.wantCost, 6) {
			c.find("split-ratio", "AllocatedMethodDetails", "AllocatedRatio %s of %s is not the cost %s", ratio, g.wantCost, cost)
		}
	}
}

// twice finds charges that are there whole and in parts. A whole of 0 is what
// some write beside the parts.
func (s *splits) twice(c *checker, row []value, split bool) {
	if c.get(row, "ResourceId").null {
		return
	}
	if d := c.numbers["EffectiveCost"]; !split && (d == nil || d.zero()) {
		return
	}
	k := hash(row, c, "BillingAccountId", "ChargeCategory", "ChargeClass", "ChargePeriodEnd", "ChargePeriodStart", "ResourceId", "SkuPriceId", "SubAccountId")
	w, seen := s.whole[k]
	if !seen && len(s.whole) >= maxCharges {
		s.full = true
		return
	}
	if !seen {
		w.row = c.row
	}
	w.whole, w.split = w.whole || !split, w.split || split
	if w.whole && w.split && !w.told {
		w.told = true
		c.find("split-twice", "AllocatedMethodId", "the charge for resource %q is there whole and in parts, see row %d", clip(c.get(row, "ResourceId").text), w.row)
	}
	s.whole[k] = w
}

func hash(row []value, c *checker, names ...string) id {
	h := sha256.New()
	for _, n := range names {
		v := c.get(row, n)
		writeValue(h, v)
	}
	return id(h.Sum(nil)[:16])
}

func writeValue(w io.Writer, v value) {
	var n [9]byte
	if !v.null {
		n[0] = 1
	}
	binary.LittleEndian.PutUint64(n[1:], uint64(len(v.text)))
	_, _ = w.Write(n[:]) // a hash takes everything
	_, _ = io.WriteString(w, v.text)
}

// charge finds the charge that a row is part of, and holds the row against the
// parts before it.
func (s *splits) charge(c *checker, row []value) *charge {
	h := sha256.New()
	for _, i := range c.fixed {
		writeValue(h, row[i])
	}
	facts := id(h.Sum(nil)[:16])
	k := facts
	if s.byOrigin {
		k = hash(row, c, "x_OriginChargeId")
	}
	g := s.charges[k]
	if g == nil {
		if len(s.charges) >= maxCharges {
			s.full = true
			return nil
		}
		g = &charge{row: c.row, facts: facts, price: c.numbers["ListUnitPrice"]}
		g.wantCost, g.wantQuantity = extra(c, row, "x_OriginEffectiveCost"), extra(c, row, "x_OriginPricingQuantity")
		s.charges[k] = g
		s.order = append(s.order, g)
	}
	if g != s.last && g.row == c.row {
		s.last = g
		s.values = s.values[:0]
		for _, i := range c.fixed {
			s.values = append(s.values, strings.Clone(row[i].text))
		}
	}
	if g.facts != facts {
		s.differs(c, g, row)
	}
	return g
}

func (s *splits) differs(c *checker, g *charge, row []value) {
	if g == s.last {
		for at, i := range c.fixed {
			if row[i].text != s.values[at] {
				c.find("split-dimensions", c.names[i], "differs from row %d, of the same charge", g.row)
				return
			}
		}
	}
	c.find("split-dimensions", "", "a column differs from row %d, of the same charge", g.row)
}

// wants finds parts that say another whole than the first.
func (s *splits) wants(c *checker, row []value, g *charge) {
	if g.told || g.row == c.row {
		return
	}
	for _, x := range []struct {
		name string
		want *decimal
	}{{"x_OriginEffectiveCost", g.wantCost}, {"x_OriginPricingQuantity", g.wantQuantity}} {
		if d := extra(c, row, x.name); (d == nil) != (x.want == nil) || d != nil && d.cmp(x.want) != 0 {
			g.told = true
			c.find("split-dimensions", x.name, "differs from row %d, of the same charge", g.row)
		}
	}
}

// extra is a number in a column of the writer's own.
func extra(c *checker, row []value, name string) *decimal {
	v := c.get(row, name)
	if v.null {
		return nil
	}
	d := new(decimal)
	if p := parseDecimal(v.text, d); p != "" {
		c.find("number", name, "%q %s", clip(v.text), p)
		return nil
	}
	return d
}

// tags finds what AllocatedTags repeat.
func (s *splits) tags(c *checker, row []value) {
	own, all := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if json.Unmarshal([]byte(c.get(row, "AllocatedTags").text), &own) != nil ||
		json.Unmarshal([]byte(c.get(row, "Tags").text), &all) != nil {
		return // null, or found already
	}
	for k := range own {
		if _, ok := all[k]; ok {
			c.find("split-tags", "AllocatedTags", "key %q is in Tags", clip(k))
		}
	}
}

// details reads AllocatedMethodDetails and sums its ratios up.
func (s *splits) details(c *checker, row []value) (sum *decimal, ok bool) {
	const name = "AllocatedMethodDetails"
	sum = new(decimal)
	v := c.get(row, name)
	if v.null {
		return sum, false // it should be there, but need not
	}
	var top map[string]json.RawMessage
	var elements []map[string]json.RawMessage
	if json.Unmarshal([]byte(v.text), &top) != nil {
		return sum, false // found already
	}
	if json.Unmarshal(top["Elements"], &elements) != nil || len(elements) == 0 {
		c.find("split-details", name, "has no list of Elements")
		return sum, false
	}
	ownKeys(c, top, "Elements")
	for _, e := range elements {
		d := new(decimal)
		if p := parseDecimal(string(e["AllocatedRatio"]), d); p != "" {
			c.find("split-details", name, "AllocatedRatio %q %s", clip(string(e["AllocatedRatio"])), p)
			return sum, false
		}
		if d.unscaled.Sign() < 0 || d.cmp(one()) > 0 {
			c.find("split-ratio", name, "AllocatedRatio is %s", d)
		}
		sum.add(d)
		element(c, e)
	}
	return sum, true
}

// element checks what a factor of a split says of itself.
func element(c *checker, e map[string]json.RawMessage) {
	const name = "AllocatedMethodDetails"
	unit, hasUnit := e["UsageUnit"]
	quantity, has := e["UsageQuantity"]
	if has && !hasUnit {
		c.find("split-details", name, "has a UsageQuantity without a UsageUnit")
	}
	var s string
	if hasUnit && (json.Unmarshal(unit, &s) != nil || strings.TrimSpace(s) == "") {
		c.find("split-details", name, "UsageUnit %q is no text", clip(string(unit)))
	}
	if has {
		if p := parseDecimal(string(quantity), new(decimal)); p != "" {
			c.find("split-details", name, "UsageQuantity %q %s", clip(string(quantity)), p)
		}
	}
	ownKeys(c, e, "AllocatedRatio", "UsageUnit", "UsageQuantity")
}

// ownKeys finds keys that are neither FOCUS's nor marked as the writer's own.
func ownKeys(c *checker, o map[string]json.RawMessage, known ...string) {
	for k := range o {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, "x_") {
			c.find("split-details", "AllocatedMethodDetails", "key %q is none of FOCUS's and lacks x_", clip(k))
		}
	}
}

func one() *decimal {
	d := &decimal{}
	d.unscaled.SetInt64(1)
	return d
}

// complete reports whether the ratios of a charge sum to 1. Where nothing
// names the charge, several that agree in everything are held as one: theirs
// sum to how many they are.
func (s *splits) complete(g *charge) bool {
	if s.byOrigin {
		return g.ratio.cmp(one()) == 0
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(g.ratio.scale)), nil)
	return g.ratio.unscaled.Sign() > 0 && new(big.Int).Rem(&g.ratio.unscaled, unit).Sign() == 0
}

// finish checks the sums.
func (s *splits) finish(c *checker) {
	for _, g := range s.order {
		parts := fmt.Sprintf("%d parts", g.rows)
		if !g.noRatio && !s.complete(g) {
			c.findAt(g.row, "split-ratio", "AllocatedMethodDetails", "the ratios of %s sum to %s", parts, &g.ratio)
		}
		if g.wantCost != nil && g.cost.cmp(g.wantCost) != 0 {
			c.findAt(g.row, "split-sum", "EffectiveCost", "%s sum to %s, the charge is %s", parts, &g.cost, g.wantCost)
		}
		if g.wantQuantity == nil {
			continue
		}
		if g.quantity.cmp(g.wantQuantity) != 0 {
			c.findAt(g.row, "split-sum", "PricingQuantity", "%s sum to %s, the charge is %s", parts, &g.quantity, g.wantQuantity)
		}
		if g.price != nil && g.price.times(g.wantQuantity).cmp(&g.list) != 0 {
			c.findAt(g.row, "split-sum", "ListCost", "%s sum to %s, the charge is %s", parts, &g.list, g.price.times(g.wantQuantity))
		}
	}
	if s.full {
		c.report.Unchecked = append(c.report.Unchecked, fmt.Sprintf("sums of split charges beyond the first %d", maxCharges))
	}
}
