package duckdb

import (
	"fmt"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// statement is a query in the making: text and the arguments of its marks, in
// their order.
type statement struct {
	text strings.Builder
	args []any
}

func (s *statement) add(text string, args ...any) {
	s.text.WriteString(text)
	s.args = append(s.args, args...)
}

// rowsOf adds the union of the pieces that rows answer for, each row with the
// time of its bucket in the answer, as t.
func (s *statement) rowsOf(q *store.Query, pieces []plan.Piece, prefix, columns string) {
	for i, p := range pieces {
		if i > 0 {
			s.add(` UNION ALL `)
		}
		at := fmt.Sprintf("bucket::BIGINT * %d", p.Resolution)
		if q.Step == 0 {
			at = fmt.Sprint(int64(q.From))
		} else {
			at = fmt.Sprintf("greatest(%d, %s - ((%s) %% %d + %d) %% %d)", q.From, at, at, q.Step, q.Step, q.Step)
		}
		s.add(fmt.Sprintf(`SELECT %s AS t, series, %s FROM %s%s WHERE bucket >= %d AND bucket < %d`, at, columns,
			prefix, plan.Name(p.Resolution), int64(p.From)/int64(p.Resolution), int64(p.To)/int64(p.Resolution)))
	}
}

// joins are the dimensions that a query touches.
type joins struct {
	device, owner, mapped, served, method bool
	labels                                []string
}

// label is the alias of a label's join.
func (j *joins) label(key string) string {
	for i, l := range j.labels {
		if l == key {
			return fmt.Sprint("l", i)
		}
	}
	j.labels = append(j.labels, key)
	return fmt.Sprint("l", len(j.labels)-1)
}

func orNull(column string) string { return `nullif(` + column + `, '')` }

// ownerKey is a dimension of owners as an expression, NULL where missing.
func (j *joins) ownerKey(d store.Dimension) string {
	switch d {
	case store.Namespace, store.Pod, store.Container:
		j.owner = true
		return orNull("o." + string(d))
	case store.Controller:
		j.owner = true
		return `CASE WHEN o.controller <> '' THEN o.controller_kind || '/' || o.controller END`
	case store.OwnerID:
		j.owner = true
		return `replace(o.fingerprint::VARCHAR, '-', '')`
	case store.Kind:
		j.owner = true
		return kindName
	case store.Team, store.Environment, store.Class, store.Tier, store.Run:
		j.mapped = true
		return orNull("m." + string(d))
	case store.BudgetOwner:
		j.mapped = true
		return orNull("m.budget_owner")
	case store.Model:
		j.mapped, j.served = true, true
		return `coalesce(nullif(m.model, ''), nullif(v.model, ''))`
	case store.Counted:
		j.served = true
		return `CASE WHEN v.counted THEN 'true' ELSE 'false' END`
	case store.Mixed:
		j.served = true
		return `CASE WHEN v.mixed THEN 'true' ELSE 'false' END`
	default:
		if key, ok := d.Label(); ok {
			return j.label(key) + ".value"
		}
		panic("BUG: no such dimension of owners: " + string(d))
	}
}

// sliceKey is a dimension of slices as an expression.
func (j *joins) sliceKey(d store.Dimension) string {
	switch d {
	case store.Cluster, store.Node:
		j.device = true
		return orNull("d." + string(d))
	case store.DeviceID:
		j.device = true
		return orNull("d.uuid")
	case store.DeviceModel:
		j.device = true
		return orNull("d.model")
	case store.Basis:
		return basisName
	case store.Method:
		j.method = true
		return orNull("w.name")
	case store.Revision:
		return `s.revision::VARCHAR`
	case store.Tenant, store.OwnTier:
		return none
	default:
		return j.ownerKey(d)
	}
}

// none is the key of what no row has.
const none = `NULL::VARCHAR`

// basisName and kindName are the names of what is stored as a number.
var (
	basisName = func() string {
		var s strings.Builder
		for _, b := range attribution.Bases {
			fmt.Fprintf(&s, " WHEN %d THEN '%s'", b, b)
		}
		return `CASE s.basis` + s.String() + ` END`
	}()
	kindName = func() string {
		var s strings.Builder
		for k := attribution.Nobody; k.Valid(); k++ {
			fmt.Fprintf(&s, " WHEN %d THEN '%s'", k, k)
		}
		return `CASE o.kind` + s.String() + ` END`
	}()
)

// tallyKey is a dimension of tallies as an expression.
func (j *joins) tallyKey(d store.Dimension) string {
	switch d {
	case store.Cluster, store.Node:
		j.owner = true
		return orNull("o." + string(d))
	case store.DeviceID, store.DeviceModel, store.Basis, store.Method, store.Revision:
		return none
	case store.Model:
		j.mapped, j.served = true, true
		return `coalesce(nullif(m.model, ''), nullif(s.model, ''), nullif(v.model, ''))`
	case store.Tier:
		j.mapped = true
		return `coalesce(nullif(s.tier, ''), nullif(m.tier, ''))`
	case store.OwnTier:
		return orNull("s.tier")
	case store.Tenant:
		return orNull("s.tenant")
	default:
		return j.ownerKey(d)
	}
}

func (s *statement) join(j *joins) {
	for _, t := range []struct {
		on   bool
		text string
	}{
		{j.device, ` JOIN device d ON d.id = s.device`},
		{j.method, ` JOIN method w ON w.id = s.method`},
		{j.owner, ` JOIN owner o ON o.id = s.owner`},
		{j.mapped, ` LEFT JOIN owner_map m ON m.owner = s.owner`},
		{j.served, ` LEFT JOIN served v ON v.owner = s.owner`},
	} {
		if t.on {
			s.add(t.text)
		}
	}
	for i, key := range j.labels {
		s.add(fmt.Sprintf(` LEFT JOIN (SELECT owner, value FROM owner_label WHERE key = ?) l%d ON l%d.owner = s.owner`, i, i), key)
	}
}

// condition is a filter on an expression.
func condition(f *store.Filter, expression string) (string, []any) {
	var parts []string
	var args []any
	for _, v := range f.Values {
		switch {
		case v == "":
			parts = append(parts, `coalesce(`+expression+`, '') = ''`)
		case strings.Contains(v, "*"):
			parts = append(parts, `coalesce(`+expression+` LIKE ? ESCAPE '\', false)`)
			args = append(args, like.Replace(v))
		default:
			parts = append(parts, `coalesce(`+expression+` = ?, false)`)
			args = append(args, v)
		}
	}
	text := `(` + strings.Join(parts, ` OR `) + `)`
	if f.Negate {
		text = `NOT ` + text
	}
	return text, args
}

var like = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`)

// form is what a query over slices and one over tallies differ in.
type form struct {
	prefix   string // of the fact tables
	columns  string // of the facts
	series   string // the table of series
	facts    string // of a series, beside its id and keys
	by       string // of those, what an answer is always told apart by
	answer   string // the sums
	measured bool   // whether series have measures
	key      func(*joins, store.Dimension) string
}

// build puts a query together: every series that passes the filters with its
// keys, joined to the pieces' rows, summed per bucket and keys. Rows are not
// summed per series first: pods come and go, so that would leave about as many.
func build(p *plan.Plan, f *form, j *joins) *statement {
	q := p.Query
	keys := make([]string, len(q.GroupBy))
	for i, d := range q.GroupBy {
		keys[i] = f.key(j, d)
	}
	var where []string
	var args []any
	for i := range q.Filters {
		text, a := condition(&q.Filters[i], f.key(j, q.Filters[i].Dimension))
		where, args = append(where, text), append(args, a...)
	}
	if f.measured && len(q.Measures) > 0 {
		var any []string
		for _, m := range q.Measures {
			any, args = append(any, `s.measure = ?`), append(args, string(m))
			if strings.HasSuffix(string(m), "/") {
				any[len(any)-1] = `starts_with(s.measure, ?)`
			}
		}
		where = append(where, `(`+strings.Join(any, ` OR `)+`)`)
	}
	s := &statement{}
	s.add(`WITH k AS (SELECT s.id AS id, ` + f.facts)
	for i, key := range keys {
		s.add(fmt.Sprintf(", %s AS k%d", key, i))
	}
	s.add(` FROM ` + f.series + ` s`)
	s.join(j)
	if len(where) > 0 {
		s.add(` WHERE `+strings.Join(where, ` AND `), args...)
	}
	s.add(`) SELECT f.t, ` + f.by + `, ` + f.answer)
	for i := range keys {
		s.add(fmt.Sprintf(", k.k%d", i))
	}
	s.add(` FROM (`)
	s.rowsOf(q, p.Rows, f.prefix, f.columns)
	// One more than there may be tells that there are too many.
	s.add(fmt.Sprintf(`) f JOIN k ON k.id = f.series GROUP BY ALL LIMIT %d`, q.Most()+1))
	return s
}
