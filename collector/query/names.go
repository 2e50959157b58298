package query

import (
	"slices"

	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// naming lays the rules over names on a store's answer to one query. The store
// is asked for the names that the rules judge in place of those that they
// make; its rows are renamed, judged by the filters that need the new names,
// and those that became equal are added up. No sum changes on the way.
//
// Model, Family and Tier are such dimensions as far as there are rules for
// them: a family always is, a tier is where tallies tell the customer. A query
// of none of them goes through as it is.
type naming struct {
	query *store.Query // what the store is asked

	names   *mapping.Names
	tallies bool
	asked   *store.Query
	filters []store.Filter          // of asked, which the store can't judge
	at      map[store.Dimension]int // of query.GroupBy

	// What the rules said before: names are few, rows are not.
	models, families, tiers map[string]string
}

// naming plans a query for slices, or for tallies.
func (s *Snapshot) naming(q *store.Query, tallies bool) *naming {
	n := &naming{query: q, names: s.names, tallies: tallies, asked: q}
	if !n.derivesAny(q) {
		return n
	}
	inner := *q
	inner.GroupBy, inner.Filters = nil, nil
	n.query, n.at = &inner, make(map[store.Dimension]int)
	n.models, n.families, n.tiers = make(map[string]string), make(map[string]string), make(map[string]string)
	for _, d := range q.GroupBy {
		n.ask(d)
	}
	for _, f := range q.Filters {
		if !n.derives(f.Dimension) {
			inner.Filters = append(inner.Filters, f)
			continue
		}
		n.filters = append(n.filters, f)
		n.ask(f.Dimension)
	}
	return n
}

// derives reports whether rules over names make a dimension of what the store
// answers.
func (n *naming) derives(d store.Dimension) bool {
	switch d {
	case store.Family:
		return true
	case store.Model:
		return n.names.RenamesModels()
	case store.Tier:
		return n.tallies && n.names.HasTiers()
	default:
		return false
	}
}

func (n *naming) derivesAny(q *store.Query) bool {
	return slices.ContainsFunc(q.GroupBy, n.derives) ||
		slices.ContainsFunc(q.Filters, func(f store.Filter) bool { return n.derives(f.Dimension) })
}

// ask has the store group by all that a dimension is made of.
func (n *naming) ask(d store.Dimension) {
	of := []store.Dimension{d}
	switch {
	case !n.derives(d):
	case d == store.Tier:
		of = []store.Dimension{store.Tier, store.OwnTier, store.Tenant}
	default:
		of = []store.Dimension{store.Model}
	}
	for _, d := range of {
		if _, ok := n.at[d]; !ok {
			n.at[d] = len(n.query.GroupBy)
			n.query.GroupBy = append(n.query.GroupBy, d)
		}
	}
}

// key is a dimension of a row by the keys that the store gave it.
func (n *naming) key(d store.Dimension, keys []store.Key) store.Key {
	switch {
	case !n.derives(d):
		return keys[n.at[d]]
	case d == store.Tier:
		if own := keys[n.at[store.OwnTier]]; !own.Missing {
			return own
		}
		if tier := memo(n.tiers, keys[n.at[store.Tenant]].Value, n.names.Tier); tier != "" {
			return store.Key{Value: tier}
		}
		return keys[n.at[store.Tier]]
	}
	k := keys[n.at[store.Model]]
	k.Value = memo(n.models, k.Value, n.names.Model)
	if d == store.Family {
		k.Value = memo(n.families, k.Value, n.names.Family)
		k.Missing = k.Value == ""
	}
	return k
}

func memo(known map[string]string, name string, f func(string) string) string {
	v, ok := known[name]
	if !ok {
		v = f(name)
		known[name] = v
	}
	return v
}

// rename makes the keys that were asked for of those that the store gave;
// false if a filter drops the row.
func (n *naming) rename(keys []store.Key) ([]store.Key, bool) {
	for i := range n.filters {
		if !n.filters[i].Match(n.key(n.filters[i].Dimension, keys)) {
			return nil, false
		}
	}
	out := make([]store.Key, len(n.asked.GroupBy))
	for i, d := range n.asked.GroupBy {
		out[i] = n.key(d, keys)
	}
	return out, true
}

// rows is the answer to what was asked. It takes the store's over.
func (n *naming) rows(rows []store.Row) []store.Row {
	if n.query == n.asked {
		return rows
	}
	kept := rows[:0]
	for _, r := range rows {
		var ok bool
		if r.Keys, ok = n.rename(r.Keys); ok {
			kept = append(kept, r)
		}
	}
	return scan.MergeRows(kept)
}

// tallyRows is rows for tallies.
func (n *naming) tallyRows(rows []store.TallyRow) []store.TallyRow {
	if n.query == n.asked {
		return rows
	}
	kept := rows[:0]
	for _, r := range rows {
		var ok bool
		if r.Keys, ok = n.rename(r.Keys); ok {
			kept = append(kept, r)
		}
	}
	return scan.MergeTallies(kept)
}
