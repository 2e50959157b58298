package economics

import (
	"context"
	"errors"
	"maps"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// fold brings slices and tallies together, owner by owner (or, where that
// makes no difference, group by group), stretch by stretch.
type fold struct {
	*asked
	full   []store.Dimension // dims, and the owner
	group  []store.Dimension // dims, and what a plain owner's group is told by
	join   *joiner           // nil: no gateway told anything in this range
	groups map[string]*TimedRow
	buf    []byte
}

// maxRows is how many rows of the store are in memory at a time.
const maxRows = 300_000

func newFold(ctx context.Context, p *asked, s *query.Snapshot) (*fold, error) {
	f := &fold{asked: p, groups: map[string]*TimedRow{}}
	if p.customers {
		seen, err := anyGateway(ctx, s)
		if err != nil {
			return nil, err
		}
		if seen {
			f.asked = p.late()
			f.join = newJoiner(p.gateways)
		}
	}
	f.full = append(slices.Clone(f.dims), store.OwnerID)
	f.group = f.groupOf()
	return f, nil
}

// read folds a stretch of the range, in two halves where it is too much at
// once. Halves meet where a split begins anyway.
func (f *fold) read(ctx context.Context, s *query.Snapshot, from, to attribution.Second) error {
	err := f.stretch(ctx, s, from, to)
	if !errors.Is(err, store.ErrTooMany) {
		return err
	}
	middle := from + (to-from)/2
	middle -= attribution.Second(int64(middle) % f.step)
	if middle <= from {
		return err
	}
	if err := f.read(ctx, s, from, middle); err != nil {
		return err
	}
	return f.read(ctx, s, middle, to)
}

// stretch is what is in memory of one stretch of time.
type stretch struct {
	*fold
	from, to attribution.Second
	units    map[string]*unit
	plain    map[string]*plain
	pools    map[attribution.Second]*pools
}

// unit is one owner within one step and the groups that do not depend on
// tallies: its cost, and what it served under which keys.
type unit struct {
	time  attribution.Second
	owner string // its id
	parts []part
	costs map[string]*Row // by the keys that its slices have, Keys set
}

// part is what a unit served under one tuple of keys.
type part struct {
	keys   []store.Key // as asked.dims
	served Served
}

// stretch reads and settles [from, to). It changes nothing where it fails.
func (f *fold) stretch(ctx context.Context, s *query.Snapshot, from, to attribution.Second) error {
	x := &stretch{fold: f, from: from, to: to, units: map[string]*unit{}, plain: map[string]*plain{}}
	if err := x.gateways(ctx, s); err != nil {
		return err
	}
	if err := x.owners(ctx, s); err != nil {
		return err
	}
	if err := x.known(ctx, s); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(x.units)) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		x.settle(x.units[k])
	}
	for _, k := range slices.Sorted(maps.Keys(x.plain)) {
		x.settlePlain(k, x.plain[k])
	}
	for at, p := range x.pools {
		err := p.settle(ctx, f.splitBy, func(keys []store.Key, r *Row) error {
			x.into(at, keys, r)
			return f.bounded()
		})
		if err != nil {
			return err
		}
	}
	return f.bounded()
}

// bounded refuses more rows than an answer may have.
func (f *fold) bounded() error {
	if len(f.groups) > query.MaxRows {
		return query.TooMany(len(f.groups))
	}
	return nil
}

func (x *stretch) query(groupBy []store.Dimension, filters ...store.Filter) *store.Query {
	return &store.Query{From: x.from, To: x.to, Step: x.step, GroupBy: groupBy, Filters: filters, MaxRows: maxRows}
}

// owners reads what each owner cost and served: those whose tallies may have
// other keys than their slices one by one, the others by their groups.
func (x *stretch) owners(ctx context.Context, s *query.Snapshot) error {
	mixed, plain, err := x.kinds(ctx, s)
	if err != nil {
		return err
	}
	for _, fs := range mixed {
		if err := x.read(ctx, s, x.full, fs, x.slice, x.tally); err != nil {
			return err
		}
	}
	if plain == nil {
		return nil
	}
	return x.read(ctx, s, x.group, plain, x.plainSlice, x.plainTally)
}

// read hands over all slices and tallies that pass some filters, those of
// gateways left out.
func (x *stretch) read(ctx context.Context, s *query.Snapshot, by []store.Dimension, fs []store.Filter, slice func(*store.Row), tally func(*store.TallyRow)) error {
	q := x.query(by, slices.Concat(x.before, fs, []store.Filter{{Dimension: store.Kind, Values: []string{attribution.Gateway.String()}, Negate: true}})...)
	stored, err := s.StoredTallies(ctx, q)
	if err != nil {
		return err
	}
	rows, err := s.Stored(ctx, q)
	if err != nil {
		return err
	}
	openRows, open, err := s.Open(ctx, q)
	if err != nil {
		return err
	}
	for _, ts := range [][]store.TallyRow{stored, open} {
		for i := range ts {
			tally(&ts[i])
		}
	}
	for _, rs := range [][]store.Row{rows, openRows} {
		for i := range rs {
			slice(&rs[i])
		}
	}
	return nil
}

// unit finds the owner that a row is about: by its time and all its keys but
// those that its tallies may say otherwise.
func (x *stretch) unit(at attribution.Second, keys []store.Key) *unit {
	x.buf = appendTime(x.buf[:0], at)
	for i, d := range x.full {
		if !ofTally(d) {
			x.buf = query.AppendKeys(x.buf, keys[i:i+1])
		}
	}
	u := x.units[string(x.buf)]
	if u == nil {
		u = &unit{time: at, owner: keys[len(keys)-1].Value, costs: map[string]*Row{}}
		x.units[string(x.buf)] = u
	}
	return u
}

func (x *stretch) tally(t *store.TallyRow) {
	u := x.unit(t.Time, t.Keys)
	keys := t.Keys[:len(x.dims)]
	i, found := slices.BinarySearchFunc(u.parts, keys, func(p part, k []store.Key) int { return query.CompareKeys(p.keys, k) })
	if !found {
		u.parts = slices.Insert(u.parts, i, part{keys: keys})
	}
	u.parts[i].served.count(t.Measure, &t.Value)
}

func (x *stretch) slice(r *store.Row) {
	u := x.unit(r.Time, r.Keys)
	keys := r.Keys[:len(x.dims)]
	x.buf = query.AppendKeys(x.buf[:0], keys)
	c := u.costs[string(x.buf)]
	if c == nil {
		c = &Row{Keys: keys}
		u.costs[string(x.buf)] = c
	}
	c.add(rowOf(r))
}

// settle gives a unit's cost to what it served.
func (x *stretch) settle(u *unit) {
	if len(u.parts) == 0 {
		for _, c := range u.costs {
			x.emit(u, u.time, c.Keys, c)
		}
		return
	}
	var whole Row
	for _, c := range u.costs {
		whole.add(c)
	}
	for i, r := range whole.split(weigh(u.parts)) {
		r.Served = u.parts[i].served
		if r.Served.Inference() {
			r.Covered = *r.Allocation()
		}
		x.emit(u, u.time, u.parts[i].keys, &r)
	}
}

// weigh is how a unit's cost is split over what it served: by input and output
// tokens, else by requests, else equally over what counts any, else over all.
func weigh(parts []part) []*big.Int {
	by := func(w func(Served) *big.Int) (ws []*big.Int, ok bool) {
		for i := range parts {
			ws = append(ws, w(parts[i].served))
			ok = ok || ws[i].Sign() > 0
		}
		return ws, ok
	}
	if ws, ok := by(tokens); ok {
		return ws
	}
	if ws, ok := by(requests); ok {
		return ws
	}
	if ws, ok := by(servers); ok {
		return ws
	}
	ws, _ := by(func(Served) *big.Int { return big.NewInt(1) })
	return ws
}

// tokens and requests weigh what was served; not measured weighs nothing.
func tokens(s Served) *big.Int {
	in, out := s.Counter(attribution.TokensInput), s.Counter(attribution.TokensOutput)
	return new(big.Int).Add(&in.Value, &out.Value)
}

func requests(s Served) *big.Int {
	ok, not := s.Counter(attribution.Success), s.Failures()
	return new(big.Int).Add(&ok.Value, &not.Value)
}

// servers weighs what counts inferences 1, and checkpoints or gauges nothing.
func servers(s Served) *big.Int {
	if s.Inference() {
		return big.NewInt(1)
	}
	return new(big.Int)
}

// emit sends a row of an owner (nil: of many) to its group: by way of the
// gateways, where customers are asked for and the owner tells none.
func (x *stretch) emit(u *unit, at attribution.Second, keys []store.Key, r *Row) {
	if x.customers {
		switch {
		case !keys[slices.Index(x.dims, store.Tenant)].Missing:
			r.Customers = FromServer
		case u != nil && x.pooled(u, keys, r):
			return
		default:
			r.Customers = Unseen
		}
	}
	x.into(at, keys, r)
}

// into adds a row to its group, if the later filters keep it.
func (f *fold) into(at attribution.Second, keys []store.Key, r *Row) {
	for i := range f.after {
		if !f.after[i].Match(keys[slices.Index(f.dims, f.after[i].Dimension)]) {
			return
		}
	}
	if f.interval == 0 {
		at = 0
	} else if f.interval > f.step {
		at -= attribution.Second(int64(at) % f.interval)
	}
	keys = keys[:len(f.groupBy)]
	f.buf = query.AppendKeys(appendTime(f.buf[:0], at), keys)
	g := f.groups[string(f.buf)]
	if g == nil {
		g = &TimedRow{Time: at, Row: Row{Keys: slices.Clone(keys)}}
		f.groups[string(f.buf)] = g
	}
	g.add(r)
}

// answer puts the groups in order.
func (f *fold) answer(out *Answer) {
	for _, g := range f.groups {
		g.Time = max(g.Time, out.From)
		out.Rows = append(out.Rows, *g)
		out.Total.add(&g.Row)
	}
	slices.SortFunc(out.Rows, compareRows)
}

func appendTime(b []byte, at attribution.Second) []byte {
	return append(b, byte(at>>56), byte(at>>48), byte(at>>40), byte(at>>32), byte(at>>24), byte(at>>16), byte(at>>8), byte(at))
}
