package query

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// CompareRequest asks what rules would move if they were applied.
type CompareRequest struct {
	From, To attribution.Second // 0 and 0: everything
	Rules    *mapping.Rules     // valid
	Targets  []string           // nil: all
}

// Move is what one value of a target loses to another.
type Move struct {
	Target   string
	From, To store.Key
	Moved
	Owners int64
}

// Moved is an amount on the allocation basis: used, reserved and unobserved.
type Moved struct {
	DeviceTime, Cost, Unpriced big.Int // ns; nano units, of the priced time; ns
}

// Priced reports whether the cost says something: any of the time has a price,
// or there is none.
func (m *Moved) Priced() bool {
	return m.DeviceTime.Sign() == 0 || m.DeviceTime.Cmp(&m.Unpriced) > 0 || m.Cost.Sign() != 0
}

func (m *Moved) add(time, cost, unpriced *big.Int) {
	add(&m.DeviceTime, time)
	add(&m.Cost, cost)
	add(&m.Unpriced, unpriced)
}

// Comparison answers a CompareRequest. Moves are by cost (highest first),
// device time, target and values.
type Comparison struct {
	From, To attribution.Second
	Moves    []Move
	Moved    Moved // by any of the targets, each owner once
	Total    Moved // whether it moves or not
}

// CompareRules tells what a Report over the range would put elsewhere under
// other rules. Nothing is applied: every owner with time in the range is
// judged by the rules in force and by the others. What only unit costs can
// tell apart, by what was served (the models of an owner that serves several,
// the tiers of customers), is not in it. Errors are those of Report.
func (e *Engine) CompareRules(ctx context.Context, req *CompareRequest) (*Comparison, error) {
	for _, t := range req.Targets {
		if all := mapping.Targets(); !slices.Contains(all, t) {
			hint := ""
			if n := nearest(t, all); n != "" {
				hint = fmt.Sprintf(" (did you mean %s?)", n)
			}
			return nil, Invalid("unknown target %q%s: want one of %s", clip(t), hint, strings.Join(all, ", "))
		}
	}
	c := comparer{
		targets: slices.Compact(slices.Sorted(slices.Values(req.Targets))), after: judge{req.Rules.Compile(), req.Rules.Names()},
		moves: map[move]*Move{}, out: &Comparison{},
	}
	if len(c.targets) == 0 {
		c.targets = mapping.Targets()
	}
	err := e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *Snapshot) error {
		c.out.From, c.out.To = s.From, s.To
		c.before = judge{s.mapping, s.names}
		if s.Empty() {
			return nil
		}
		return e.Explain(ctx, c.run(ctx, s), s, 0)
	})
	if err != nil {
		return nil, err
	}
	for _, m := range c.moves {
		c.out.Moves = append(c.out.Moves, *m)
	}
	slices.SortFunc(c.out.Moves, compareMoves)
	return c.out, nil
}

func compareMoves(a, b Move) int {
	return cmp.Or(b.Cost.Cmp(&a.Cost), b.DeviceTime.Cmp(&a.DeviceTime), cmp.Compare(a.Target, b.Target),
		CompareKeys([]store.Key{a.From, a.To}, []store.Key{b.From, b.To}))
}

// judge is what a set of rules says of an owner.
type judge struct {
	mapping store.Mapping
	names   *mapping.Names
}

func (j *judge) of(o *attribution.Owner, served store.Served) (v verdict) {
	if j.mapping != nil {
		v.Mapped = j.mapping(o)
	}
	v.Model = j.names.Model(cmp.Or(v.Model, served.Model))
	v.family = j.names.Family(v.Model)
	return v
}

// verdict is all that rules say of an owner.
type verdict struct {
	store.Mapped
	family string
}

func (v *verdict) on(target string) string {
	switch target {
	case mapping.Team:
		return v.Team
	case mapping.BudgetOwner:
		return v.BudgetOwner
	case mapping.Environment:
		return v.Environment
	case mapping.Model:
		return v.Model
	case mapping.Family:
		return v.family
	case mapping.Class:
		return v.Class
	case mapping.Tier:
		return v.Tier
	case mapping.Run:
		return v.Run
	}
	panic("BUG: query: no such target: " + target)
}

// comparer judges owners twice.
type comparer struct {
	targets       []string
	before, after judge
	moves         map[move]*Move
	out           *Comparison
}

type move struct{ target, from, to string }

// comparedAtOnce is how many owners' facts are held in memory at once.
const comparedAtOnce = 4096

func (c *comparer) run(ctx context.Context, s *Snapshot) error {
	rows, err := s.Query(ctx, &store.Query{
		From: s.From, To: s.To, GroupBy: []store.Dimension{store.OwnerID},
		Filters: []store.Filter{{Dimension: store.Basis, Values: []string{
			attribution.Used.String(), attribution.Reserved.String(), attribution.Unobserved.String(),
		}}},
	})
	if err != nil {
		return err
	}
	// Rows are in order of owners, some bases of each.
	for len(rows) > 0 {
		n := min(len(rows), comparedAtOnce)
		for n < len(rows) && rows[n].Keys[0] == rows[n-1].Keys[0] {
			n++
		}
		if err := c.part(ctx, s, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// part judges the owners of some rows.
func (c *comparer) part(ctx context.Context, s *Snapshot, rows []store.Row) error {
	ids := make([]rollup.Fingerprint, 0, len(rows))
	sums := make(map[rollup.Fingerprint]*Moved, len(rows))
	for i := range rows {
		r := &rows[i]
		f, err := fingerprint(r.Keys[0].Value)
		if err != nil {
			return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
		if sums[f] == nil {
			sums[f] = new(Moved)
			ids = append(ids, f)
		}
		sums[f].add(&r.DeviceTime, &r.Cost, &r.Unpriced)
	}
	owners, err := s.owners(ctx, ids)
	if err != nil {
		return err
	}
	served, err := s.reader.Served(ctx, ids)
	if err != nil {
		return err
	}
	for _, f := range ids {
		if open, ok := s.served[f]; ok { // what is stored is in it
			served[f] = open
		}
		o := owners[f]
		if o == nil {
			return fmt.Errorf("%w: owner %s has time, but no facts", store.ErrCorrupt, f)
		}
		if err := c.owner(o, served[f], sums[f]); err != nil {
			return err
		}
	}
	return nil
}

// owner notes what the rules move of one owner.
func (c *comparer) owner(o *attribution.Owner, served store.Served, sum *Moved) error {
	c.out.Total.add(&sum.DeviceTime, &sum.Cost, &sum.Unpriced)
	before, after := c.before.of(o, served), c.after.of(o, served)
	moved := false
	for _, t := range c.targets {
		k := move{t, before.on(t), after.on(t)}
		if k.from == k.to {
			continue
		}
		moved = true
		m := c.moves[k]
		if m == nil {
			if len(c.moves) == MaxRows {
				return TooMany(MaxRows + 1)
			}
			m = &Move{Target: t, From: named(k.from), To: named(k.to)}
			c.moves[k] = m
		}
		m.add(&sum.DeviceTime, &sum.Cost, &sum.Unpriced)
		m.Owners++
	}
	if moved {
		c.out.Moved.add(&sum.DeviceTime, &sum.Cost, &sum.Unpriced)
	}
	return nil
}

func named(s string) store.Key { return store.Key{Value: s, Missing: s == ""} }

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
