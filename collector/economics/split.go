package economics

import (
	"cmp"
	"context"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// fold brings slices and tallies together, owner by owner.
type fold struct {
	*asked
	units  map[string]*unit
	groups map[string]*Row
	buf    []byte
}

// unit is one owner within the groups that do not depend on tallies: its cost,
// and what it served under which keys.
type unit struct {
	parts []part
	costs map[string]*Row // by the keys that its slices have, Keys set
}

// part is what a unit served under one tuple of keys.
type part struct {
	keys   []store.Key // as asked.dims
	served Served
}

func newFold(p *asked) *fold {
	return &fold{asked: p, units: map[string]*unit{}, groups: map[string]*Row{}}
}

// read asks the store and the open chunks. Owners that never had counters are
// not told apart: only their groups matter.
func (f *fold) read(ctx context.Context, s *query.Snapshot) error {
	full := slices.Clone(f.dims)
	for _, d := range owner {
		if !slices.Contains(full, d) {
			full = append(full, d)
		}
	}
	with := func(groupBy []store.Dimension, more ...store.Filter) *store.Query {
		return &store.Query{From: s.From, To: s.To, GroupBy: groupBy, Filters: slices.Concat(f.before, more)}
	}
	tallies, err := s.StoredTallies(ctx, with(full))
	if err != nil {
		return err
	}
	openRows, openTallies, err := s.Open(ctx, with(full))
	if err != nil {
		return err
	}
	for _, ts := range [][]store.TallyRow{tallies, openTallies} {
		for i := range ts {
			f.tally(full, &ts[i])
		}
	}
	counted := func(v string) store.Filter {
		return store.Filter{Dimension: store.Counted, Values: []string{v}}
	}
	rows, err := s.Stored(ctx, with(full, counted("true")))
	if err != nil {
		return err
	}
	for _, rs := range [][]store.Row{rows, openRows} {
		for i := range rs {
			f.slice(full, &rs[i])
		}
	}
	if rows, err = s.Stored(ctx, with(f.dims, counted("false"))); err != nil {
		return err
	}
	for i := range rows {
		f.into(rows[i].Keys, rowOf(&rows[i]))
	}
	return nil
}

// unit finds the owner that a row is about: by all its keys but those that
// its tallies may say otherwise.
func (f *fold) unit(full []store.Dimension, keys []store.Key) *unit {
	f.buf = f.buf[:0]
	for i, d := range full {
		if !ofTally(d) {
			f.buf = query.AppendKeys(f.buf, keys[i:i+1])
		}
	}
	u := f.units[string(f.buf)]
	if u == nil {
		u = &unit{costs: map[string]*Row{}}
		f.units[string(f.buf)] = u
	}
	return u
}

func (f *fold) tally(full []store.Dimension, t *store.TallyRow) {
	u := f.unit(full, t.Keys)
	keys := t.Keys[:len(f.dims)]
	i, found := slices.BinarySearchFunc(u.parts, keys, func(p part, k []store.Key) int { return query.CompareKeys(p.keys, k) })
	if !found {
		u.parts = slices.Insert(u.parts, i, part{keys: keys})
	}
	u.parts[i].served.count(t.Measure, &t.Value)
}

func (f *fold) slice(full []store.Dimension, r *store.Row) {
	u := f.unit(full, r.Keys)
	keys := r.Keys[:len(f.dims)]
	f.buf = query.AppendKeys(f.buf[:0], keys)
	c := u.costs[string(f.buf)]
	if c == nil {
		c = &Row{Keys: keys}
		u.costs[string(f.buf)] = c
	}
	c.add(rowOf(r))
}

func rowOf(r *store.Row) *Row {
	var out Row
	c := out.basis(r.Basis)
	c.Time.Set(&r.DeviceTime)
	c.Cost.Set(&r.Cost)
	c.Unpriced.Set(&r.Unpriced)
	return &out
}

// into adds a row to its group, if the filters on model and tier keep it.
func (f *fold) into(keys []store.Key, r *Row) {
	for i := range f.after {
		if !f.after[i].Match(keys[slices.Index(f.dims, f.after[i].Dimension)]) {
			return
		}
	}
	keys = keys[:len(f.groupBy)]
	f.buf = query.AppendKeys(f.buf[:0], keys)
	g := f.groups[string(f.buf)]
	if g == nil {
		g = &Row{Keys: slices.Clone(keys)}
		f.groups[string(f.buf)] = g
	}
	g.add(r)
}

// answer settles every owner and puts the groups in order.
func (f *fold) answer(ctx context.Context, out *Answer) error {
	for _, u := range f.units {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.settle(u)
	}
	if len(f.groups) > query.MaxRows {
		return query.TooMany(len(f.groups))
	}
	for _, g := range f.groups {
		out.Rows = append(out.Rows, *g)
		out.Total.add(g)
	}
	slices.SortFunc(out.Rows, compareRows)
	return nil
}

// settle gives a unit's cost to what it served.
func (f *fold) settle(u *unit) {
	if len(u.parts) == 0 {
		for _, c := range u.costs {
			f.into(c.Keys, c)
		}
		return
	}
	var whole Row
	for _, c := range u.costs {
		whole.add(c)
	}
	rows := make([]Row, len(u.parts))
	weights := weigh(u.parts)
	for _, b := range attribution.Bases {
		whole.basis(b).split(weights, func(i int) *Costs { return rows[i].basis(b) })
	}
	for i := range rows {
		rows[i].Covered = *rows[i].Allocation()
		rows[i].Served = u.parts[i].served
		f.into(u.parts[i].keys, &rows[i])
	}
}

// weigh is how a unit's cost is split over what it served: by input and output
// tokens, else by successes, else equally.
func weigh(parts []part) []*big.Int {
	by := func(w func(*Served) *big.Int) (ws []*big.Int, ok bool) {
		for i := range parts {
			ws = append(ws, w(&parts[i].served))
			ok = ok || ws[i].Sign() > 0
		}
		return ws, ok
	}
	if ws, ok := by(func(s *Served) *big.Int { return new(big.Int).Add(&s.Input.Value, &s.Output.Value) }); ok {
		return ws
	}
	if ws, ok := by(func(s *Served) *big.Int { return &s.Successes.Value }); ok {
		return ws
	}
	ws, _ := by(func(*Served) *big.Int { return big.NewInt(1) })
	return ws
}

// split divides costs in proportion to the weights. Time and cost are each
// exact; the unpriced part follows the time.
func (c *Costs) split(weights []*big.Int, to func(int) *Costs) {
	for i, p := range byWeight(&c.Time, weights) {
		to(i).Time.Set(p)
	}
	for i, p := range byWeight(&c.Cost, weights) {
		to(i).Cost.Set(p)
	}
	for i, p := range byWeight(&c.Unpriced, weights) {
		to(i).Unpriced.Set(p)
	}
}

// byWeight is apportion.ByWeight for sums beyond 64 bits: ⌊total·w/Σw⌋ each,
// and what is left one by one to the largest remainders, the earlier first.
// total and weights must not be negative, Σ weights must be positive.
func byWeight(total *big.Int, weights []*big.Int) []*big.Int {
	sum := new(big.Int)
	for _, w := range weights {
		sum.Add(sum, w)
	}
	if sum.Sign() <= 0 || total.Sign() < 0 {
		panic("BUG: economics: a negative total, or no weight to split it by")
	}
	parts := make([]*big.Int, len(weights))
	rests := make([]*big.Int, len(weights))
	order := make([]int, len(weights))
	left := new(big.Int).Set(total)
	for i, w := range weights {
		parts[i], rests[i] = new(big.Int).QuoRem(new(big.Int).Mul(total, w), sum, new(big.Int))
		left.Sub(left, parts[i])
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(0, rests[a].Cmp(rests[b])) })
	for _, i := range order[:left.Int64()] {
		parts[i].Add(parts[i], big.NewInt(1))
	}
	return parts
}
