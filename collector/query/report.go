package query

import (
	"cmp"
	"context"
	"encoding/binary"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Sum is a sum of slices, in the units of package attribution.
type Sum struct {
	DeviceTime, SMActive, Memory, Energy big.Int
	Cost                                 big.Int // nano units, of the priced time
	Unpriced                             big.Int // ns of device time whose cost is unknown
	// Whether any device in the sum could measure it; otherwise 0 is not known
	// to be 0 (law 9).
	HasMemory, HasEnergy bool
}

// Priced reports whether any of the time has a price, so that Cost says
// something.
func (s *Sum) Priced() bool { return s.DeviceTime.Cmp(&s.Unpriced) > 0 || s.Cost.Sign() != 0 }

func (s *Sum) addRow(r *store.Row) {
	add(&s.DeviceTime, &r.DeviceTime)
	add(&s.SMActive, &r.SMActive)
	add(&s.Memory, &r.Memory)
	add(&s.Energy, &r.Energy)
	add(&s.Cost, &r.Cost)
	add(&s.Unpriced, &r.Unpriced)
	s.HasMemory = s.HasMemory || r.HasMemory
	s.HasEnergy = s.HasEnergy || r.HasEnergy
}

// BasisSum is the part of a sum on one basis.
type BasisSum struct {
	Basis attribution.Basis
	Sum
}

// Row is one row of a Report. Its sum is the sum of its bases.
type Row struct {
	Time    attribution.Second
	Keys    []store.Key // as Report.GroupBy; none in "other"
	Other   bool
	ByBasis []BasisSum // those that occur, in the bases' order
	Sum     Sum
	Lines   []Line // if asked for, by name: they sum to Sum.Cost
}

func (r *Row) addRow(x *store.Row) {
	i, found := slices.BinarySearchFunc(r.ByBasis, x.Basis, func(b BasisSum, k attribution.Basis) int { return cmp.Compare(b.Basis, k) })
	if !found {
		r.ByBasis = slices.Insert(r.ByBasis, i, BasisSum{Basis: x.Basis})
	}
	r.ByBasis[i].addRow(x)
	r.Sum.addRow(x)
}

// Report answers a Request. Rows are ordered by time, then cost (highest
// first, "other" last), device time, and keys; they sum to Total exactly.
type Report struct {
	From, To attribution.Second // as answered
	Step     int64
	GroupBy  []store.Dimension
	Rows     []Row
	Total    Row
	Missing  []string // as Snapshot.Missing
}

// Report answers a showback question. Errors wrap ErrInvalid, ErrTooMany,
// ErrBusy, store.ErrTooFine, store.ErrUnavailable or a context's error.
func (e *Engine) Report(ctx context.Context, req *Request) (*Report, error) {
	groupBy, err := ParseDimensions(req.GroupBy)
	if err != nil {
		return nil, err
	}
	filters, err := ParseFilters(req.Filters)
	if err != nil {
		return nil, err
	}
	if err := ofSlices(groupBy, filters); err != nil {
		return nil, err
	}
	if req.Limit < 0 {
		return nil, Invalid("limit %d: want 1 or more, or 0 for no limit", req.Limit)
	}
	out := &Report{Step: req.Step, GroupBy: groupBy}
	err = e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *Snapshot) error {
		out.From, out.To, out.Missing = s.From, s.To, s.Missing
		if err := checkStep(s.From, s.To, req.Step); err != nil {
			return err
		}
		q := &store.Query{From: s.From, To: s.To, Step: req.Step, GroupBy: groupBy, Filters: filters}
		if s.Empty() {
			return nil
		}
		rows, err := s.Query(ctx, q)
		if err != nil {
			return e.Explain(ctx, err, s, req.Step)
		}
		var lines []lineRow
		if req.Lines {
			if lines, err = e.lines(ctx, s, q); err != nil {
				return e.Explain(ctx, err, s, req.Step)
			}
		}
		return out.fold(ctx, rows, lines, req.Limit)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ofSlices refuses what no slice has a value of, so that a report would put
// all cost under a missing one.
func ofSlices(groupBy []store.Dimension, fs []store.Filter) error {
	asked := slices.Contains(groupBy, store.Tenant)
	for _, f := range fs {
		asked = asked || f.Dimension == store.Tenant
	}
	if asked {
		return Invalid("device time has no %s: customers are told apart by what was served to them, so ask what inferences cost by %s (gpuledger inferences --by %s)",
			store.Tenant, store.Tenant, store.Tenant)
	}
	return nil
}

// fold adds up the store's rows, which come per basis and from two sides, and
// what their costs are made of.
func (p *Report) fold(ctx context.Context, in []store.Row, lines []lineRow, limit int) error {
	g := newGrouping()
	index := map[rowKey]int{}
	for i := range in {
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		x := &in[i]
		k := rowKey{x.Time, g.id(x.Keys)}
		at, ok := index[k]
		if !ok {
			at = len(p.Rows)
			index[k] = at
			p.Rows = append(p.Rows, Row{Time: x.Time, Keys: g.keys[k.group]})
		}
		p.Rows[at].addRow(x)
		p.Total.addRow(x)
	}
	for i := range lines {
		l := &lines[i]
		at, ok := index[rowKey{l.time, g.id(l.keys)}]
		if !ok {
			panic("BUG: query: cost lines of a row that is not there")
		}
		p.Rows[at].addLines(l.lines)
		p.Total.addLines(l.lines)
	}
	p.Total.Time = p.From
	if limit > 0 && len(g.keys) > limit {
		p.limit(g, limit)
	}
	if len(p.Rows) > MaxRows {
		return TooMany(len(p.Rows))
	}
	slices.SortFunc(p.Rows, compareRows)
	return nil
}

type rowKey struct {
	time  attribution.Second
	group int
}

func compareRows(a, b Row) int {
	if a.Other != b.Other {
		if c := cmp.Compare(a.Time, b.Time); c != 0 {
			return c
		}
		if a.Other {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(a.Time, b.Time), b.Sum.Cost.Cmp(&a.Sum.Cost),
		b.Sum.DeviceTime.Cmp(&a.Sum.DeviceTime), CompareKeys(a.Keys, b.Keys))
}

// limit keeps the groups that cost most over the whole range and sums the rest
// of each step into one row.
func (p *Report) limit(g *grouping, limit int) {
	type total struct{ cost, time big.Int }
	totals := make([]total, len(g.keys))
	order := make([]int, len(g.keys))
	for i := range order {
		order[i] = i
	}
	for i := range p.Rows {
		t := &totals[g.id(p.Rows[i].Keys)]
		add(&t.cost, &p.Rows[i].Sum.Cost)
		add(&t.time, &p.Rows[i].Sum.DeviceTime)
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(totals[b].cost.Cmp(&totals[a].cost), totals[b].time.Cmp(&totals[a].time), CompareKeys(g.keys[a], g.keys[b]))
	})
	kept := make([]bool, len(g.keys))
	for _, i := range order[:limit] {
		kept[i] = true
	}
	others := map[attribution.Second]*Row{}
	rows := p.Rows[:0]
	for i := range p.Rows {
		r := p.Rows[i]
		if kept[g.id(r.Keys)] {
			rows = append(rows, r)
			continue
		}
		o := others[r.Time]
		if o == nil {
			o = &Row{Time: r.Time, Other: true}
			others[r.Time] = o
		}
		o.merge(&r)
	}
	for _, o := range others {
		rows = append(rows, *o)
	}
	p.Rows = rows
}

func (r *Row) merge(x *Row) {
	for i := range x.ByBasis {
		b := &x.ByBasis[i]
		r.addRow(&store.Row{
			Basis: b.Basis, DeviceTime: b.DeviceTime, SMActive: b.SMActive, Memory: b.Memory, Energy: b.Energy,
			Cost: b.Cost, Unpriced: b.Unpriced, HasMemory: b.HasMemory, HasEnergy: b.HasEnergy,
		})
	}
	r.addLines(x.Lines)
}

// grouping numbers distinct key tuples.
type grouping struct {
	ids  map[string]int
	keys [][]store.Key
	buf  []byte
}

func newGrouping() *grouping { return &grouping{ids: map[string]int{}} }

func (g *grouping) id(ks []store.Key) int {
	g.buf = AppendKeys(g.buf[:0], ks)
	if i, ok := g.ids[string(g.buf)]; ok {
		return i
	}
	i := len(g.keys)
	g.ids[string(g.buf)] = i
	g.keys = append(g.keys, slices.Clone(ks))
	return i
}

// AppendKeys appends an encoding of a key tuple that differs for different
// tuples.
func AppendKeys(dst []byte, ks []store.Key) []byte {
	for _, k := range ks {
		if k.Missing {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(k.Value))+1)
		dst = append(dst, k.Value...)
	}
	return dst
}
