package query

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// Limit is a part of the ledger: what lies in one of the clusters, in one of
// the namespaces and, by the rules in force, with one of the teams. No values:
// in any. Whatever has no namespace or team (idle devices, unknown processes)
// is in no limit that names some.
type Limit struct{ Clusters, Namespaces, Teams []string }

// Scope is what a question may see: the union of limits. The zero Scope sees
// nothing. It is laid over every question that a [Snapshot] answers, beside the
// asker's own filters, which can only make it less. A Scope never changes and
// may be shared.
//
// A union is no filter of the store, but a sum over disjoint parts is: each
// limit is cut by those before it, and what remains are boxes of "one of" and
// "none of" over the three dimensions.
type Scope struct{ boxes []box }

// MaxBoxes bounds the disjoint parts of a scope: each is a query of its own.
const MaxBoxes = 64

// ErrScope is wrapped by what [NewScope] refuses.
var ErrScope = errors.New("not a scope")

// Everything is the scope that narrows nothing.
func Everything() Scope { return Scope{[]box{whole()}} }

// NewScope is the union of limits. A value is meant as it is written: * and ""
// would mean more to a filter, and are refused.
func NewScope(limits ...Limit) (Scope, error) {
	var s Scope
	var before []box
	for _, b := range joined(limits) {
		for _, x := range b {
			for _, v := range x.values {
				if v == "" || strings.Contains(v, "*") {
					return Scope{}, errors.Join(ErrScope, Invalid("%q names no one cluster, namespace or team", clip(v)))
				}
			}
		}
		parts := []box{b}
		for _, earlier := range before {
			var left []box
			for _, p := range parts {
				left = append(left, p.without(earlier)...)
			}
			if len(left) > MaxBoxes {
				return Scope{}, errors.Join(ErrScope, Invalid("more than %d parts that overlap: name fewer mixed limits", MaxBoxes))
			}
			parts = left
		}
		before = append(before, b)
		if s.boxes = append(s.boxes, parts...); len(s.boxes) > MaxBoxes {
			return Scope{}, errors.Join(ErrScope, Invalid("more than %d parts: name fewer mixed limits", MaxBoxes))
		}
	}
	return s, nil
}

// All reports whether the scope narrows nothing.
func (s Scope) All() bool { return len(s.boxes) == 1 && s.boxes[0].all() }

// Narrowed reports whether the asker sees a part of the ledger only: what is
// made of all of it cannot be told then.
func (s *Snapshot) Narrowed() bool { return !s.scope.All() }

// scoped are the dimensions of a box.
var scoped = [...]store.Dimension{store.Cluster, store.Namespace, store.Team}

type box [len(scoped)]side

// side is one of the values, or none of them.
type side struct {
	not    bool
	values []string // sorted, each once
}

func whole() (b box) {
	for i := range b {
		b[i].not = true
	}
	return b
}

func (b *box) all() bool {
	return !slices.ContainsFunc(b[:], func(s side) bool { return !s.not || len(s.values) > 0 })
}

func sideOf(values []string) side {
	if len(values) == 0 {
		return side{not: true}
	}
	return side{values: slices.Compact(slices.Sorted(slices.Values(values)))}
}

// joined are the boxes of limits: those that differ in one dimension are one,
// so that a hundred teams are.
func joined(limits []Limit) []box {
	var out []box
	for _, l := range limits {
		b := box{sideOf(l.Clusters), sideOf(l.Namespaces), sideOf(l.Teams)}
		if b.all() {
			return []box{b}
		}
		if i := slices.IndexFunc(out, func(o box) bool { return b.alike(&o) >= 0 }); i >= 0 {
			d := b.alike(&out[i])
			out[i][d] = sideOf(slices.Concat(out[i][d].values, b[d].values))
			continue
		}
		out = append(out, b)
	}
	return out
}

// alike is the one dimension in which two boxes name different values, -1 where
// they cannot be joined.
func (b *box) alike(o *box) int {
	at := 0 // equal boxes are joined by any
	found := false
	for i := range b {
		if b[i].not == o[i].not && slices.Equal(b[i].values, o[i].values) {
			continue
		}
		if found || b[i].not || o[i].not {
			return -1
		}
		at, found = i, true
	}
	if !found && b[at].not {
		at = slices.IndexFunc(b[:], func(s side) bool { return !s.not })
	}
	return at
}

// without is what a box has outside another, as disjoint boxes.
func (b box) without(o box) []box {
	var out []box
	rest := b
	for i := range b {
		part := rest
		part[i] = rest[i].and(side{!o[i].not, o[i].values})
		if !part[i].empty() {
			out = append(out, part)
		}
		if rest[i] = rest[i].and(o[i]); rest[i].empty() {
			break
		}
	}
	return out
}

func (s side) empty() bool { return !s.not && len(s.values) == 0 }

func (s side) and(o side) side {
	in := func(x side) func(string) bool {
		return func(v string) bool { return slices.Contains(x.values, v) }
	}
	switch {
	case s.not && o.not:
		return side{true, slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.values, o.values))))}
	case s.not:
		return side{false, slices.DeleteFunc(slices.Clone(o.values), in(s))}
	case o.not:
		return side{false, slices.DeleteFunc(slices.Clone(s.values), in(o))}
	}
	return side{false, slices.DeleteFunc(slices.Clone(s.values), func(v string) bool { return !in(o)(v) })}
}

// narrow is a query as the scope has it: queries whose answers add up.
func (s Scope) narrow(q *store.Query) []*store.Query {
	if s.All() {
		return []*store.Query{q}
	}
	var out []*store.Query
	for _, b := range s.boxes {
		part := *q
		part.Filters = slices.Clone(q.Filters)
		for i, x := range b {
			if len(x.values) > 0 {
				part.Filters = append(part.Filters, store.Filter{Dimension: scoped[i], Negate: x.not, Values: x.values})
			}
		}
		out = append(out, &part)
	}
	return out
}

// Stored answers a query from the store alone.
func (s *Snapshot) Stored(ctx context.Context, q *store.Query) ([]store.Row, error) {
	return inParts(s.scope, q, func(q *store.Query) ([]store.Row, error) { return s.stored(ctx, q) }, scan.MergeRows)
}

// StoredTallies is Stored for tallies.
func (s *Snapshot) StoredTallies(ctx context.Context, q *store.Query) ([]store.TallyRow, error) {
	return inParts(s.scope, q, func(q *store.Query) ([]store.TallyRow, error) { return s.storedTallies(ctx, q) }, scan.MergeTallies)
}

// Open answers a query and the same query for tallies from the open chunks
// alone.
func (s *Snapshot) Open(ctx context.Context, q *store.Query) ([]store.Row, []store.TallyRow, error) {
	var tallies [][]store.TallyRow
	rows, err := inParts(s.scope, q, func(q *store.Query) ([]store.Row, error) {
		rows, ts, err := s.openPart(ctx, q)
		tallies = append(tallies, ts)
		return rows, err
	}, scan.MergeRows)
	switch {
	case err != nil || len(tallies) == 0:
		return nil, nil, err
	case len(tallies) == 1:
		return rows, tallies[0], nil
	}
	return rows, scan.MergeTallies(tallies...), nil
}

// inParts asks a query part by part and adds the answers up.
func inParts[R any](scope Scope, q *store.Query, ask func(*store.Query) ([]R, error), merge func(...[]R) []R) ([]R, error) {
	var parts [][]R
	n := 0
	for _, part := range scope.narrow(q) {
		rows, err := ask(part)
		if err != nil {
			return nil, err
		}
		if n += len(rows); n > q.Most() {
			return nil, store.ErrTooMany
		}
		parts = append(parts, rows)
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return merge(parts...), nil
}
