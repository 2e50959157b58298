package opencost

import (
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Limits of a filter.
const (
	maxFilterText  = 8 << 10
	maxFilterDepth = 16
	maxFilterTerms = 256
)

// predicate says which allocations a filter keeps: a comparison, or a group of
// predicates of which all (or any) must hold.
type predicate struct {
	all, any []predicate
	*comparison
}

// comparison holds where a property matches one of the patterns or, negated,
// none of them.
type comparison struct {
	field    field
	patterns []pattern
	negate   bool
}

// pattern is a text that a value equals, begins with, ends with, or contains.
// An empty one, and __unallocated__, is met by no value at all, too.
type pattern struct {
	op   patternOp
	text string
}

type patternOp uint8

const (
	equals patternOp = iota
	begins
	ends
	contains
)

func (p pattern) match(v string, ok bool) bool {
	switch {
	case !ok:
		return p.op == equals && (p.text == "" || p.text == noValueName)
	case p.op == begins:
		return strings.HasPrefix(v, p.text)
	case p.op == ends:
		return strings.HasSuffix(v, p.text)
	case p.op == contains:
		return strings.Contains(v, p.text)
	}
	return v == p.text
}

// keep reports whether the predicate holds of what has these keys.
func (p *predicate) keep(key func(store.Dimension) store.Key) bool {
	switch {
	case p.comparison != nil:
		v, ok := p.field.value(key(p.field.dim))
		hit := slices.ContainsFunc(p.patterns, func(x pattern) bool { return x.match(v, ok) })
		return hit != p.negate
	case p.any != nil:
		return slices.ContainsFunc(p.any, func(q predicate) bool { return q.keep(key) })
	}
	return !slices.ContainsFunc(p.all, func(q predicate) bool { return !q.keep(key) })
}

// dims adds the dimensions that the predicate looks at.
func (p *predicate) dims(ds []store.Dimension) []store.Dimension {
	if p.comparison != nil && !slices.Contains(ds, p.field.dim) {
		ds = append(ds, p.field.dim)
	}
	for i := range p.all {
		ds = p.all[i].dims(ds)
	}
	for i := range p.any {
		ds = p.any[i].dims(ds)
	}
	return ds
}

// split takes out of a conjunction what the store can apply by itself.
func (p *predicate) split() (filters []store.Filter, rest predicate) {
	for _, q := range p.all {
		if f, ok := q.stored(); ok {
			filters = append(filters, f)
		} else {
			rest.all = append(rest.all, q)
		}
	}
	return filters, rest
}

// stored is a comparison as a filter of the store, whose only wildcard is *.
func (p *predicate) stored() (store.Filter, bool) {
	if p.comparison == nil || p.field.part != whole {
		return store.Filter{}, false
	}
	f := store.Filter{Dimension: p.field.dim, Negate: p.negate}
	for _, x := range p.patterns {
		if x.text == "" || x.text == noValueName || strings.Contains(x.text, "*") {
			return f, false
		}
		v := x.text
		if x.op == begins || x.op == contains {
			v += "*"
		}
		if x.op == ends || x.op == contains {
			v = "*" + v
		}
		f.Values = append(f.Values, v)
	}
	return f, true
}

// parseFilter reads a filter of OpenCost's second grammar:
//
//	filter     = term { "+" term } | term { "|" term }
//	term       = comparison | "(" filter ")"
//	comparison = property operator value { "," value }
//	property   = name | "label" "[" key "]"
//	operator   = ":" | "!:" | "~:" | "!~:" | "<~:" | "!<~:" | "~>:" | "!~>:"
//	value      = '"' text '"'
//
// + is and, | is or; they don't mix without parentheses. Several values are
// alternatives, and all excluded where the operator begins with "!".
func parseFilter(text string) (predicate, error) {
	if len(text) > maxFilterText {
		return predicate{}, query.Invalid("the filter has %d bytes: at most %d are allowed", len(text), maxFilterText)
	}
	p := filterParser{text: text}
	if p.space(); p.done() {
		return predicate{}, nil
	}
	out, err := p.filter(0)
	if err == nil && !p.done() {
		err = p.errorf("want + or |")
	}
	if err != nil {
		return predicate{}, err
	}
	if out.any != nil || out.comparison != nil {
		out = predicate{all: []predicate{out}}
	}
	return out, nil
}

type filterParser struct {
	text  string
	at    int
	terms int
}

func (p *filterParser) done() bool { return p.at == len(p.text) }

func (p *filterParser) space() {
	for !p.done() && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// take skips a token, and the space after it, if it is next.
func (p *filterParser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.at:], token) {
		return false
	}
	p.at += len(token)
	p.space()
	return true
}

func (p *filterParser) errorf(want string) error {
	if p.done() {
		return query.Invalid(`filter: it ends too early: %s (for instance namespace:"a"+label[app]:"b")`, want)
	}
	return query.Invalid(`filter: at byte %d, %.20q: %s (for instance namespace:"a"+label[app]:"b")`, p.at, p.text[p.at:], want)
}

// and skips a +, if it is next. A + that a client did not escape arrives as a
// space: two terms side by side are an and, too.
func (p *filterParser) and() bool {
	return p.take("+") || !p.done() && (p.text[p.at] == '(' || isLetter(p.text[p.at]))
}

func (p *filterParser) or() bool { return p.take("|") }

func (p *filterParser) filter(depth int) (predicate, error) {
	if depth > maxFilterDepth {
		return predicate{}, query.Invalid("filter: more than %d parentheses in each other", maxFilterDepth)
	}
	first, err := p.term(depth)
	if err != nil {
		return first, err
	}
	group := []predicate{first}
	joined, any := p.and, false
	if strings.HasPrefix(p.text[p.at:], "|") {
		joined, any = p.or, true
	}
	for joined() {
		next, err := p.term(depth)
		if err != nil {
			return next, err
		}
		group = append(group, next)
	}
	switch {
	case p.and() || p.or():
		return first, p.errorf("+ and | don't mix: put one of them in parentheses")
	case any:
		return predicate{any: group}, nil
	case len(group) > 1:
		return predicate{all: group}, nil
	}
	return first, nil
}

func (p *filterParser) term(depth int) (predicate, error) {
	if p.terms++; p.terms > maxFilterTerms {
		return predicate{}, query.Invalid("filter: more than %d comparisons", maxFilterTerms)
	}
	if !p.take("(") {
		return p.comparison()
	}
	out, err := p.filter(depth + 1)
	if err == nil && !p.take(")") {
		err = p.errorf("want )")
	}
	return out, err
}

// operators, longest first where one begins another.
var operators = []struct {
	token  string
	op     patternOp
	negate bool
}{
	{"!<~:", begins, true},
	{"!~>:", ends, true},
	{"!~:", contains, true},
	{"!:", equals, true},
	{"<~:", begins, false},
	{"~>:", ends, false},
	{"~:", contains, false},
	{":", equals, false},
}

func (p *filterParser) comparison() (predicate, error) {
	f, err := p.property()
	if err != nil {
		return predicate{}, err
	}
	for _, o := range operators {
		if !p.take(o.token) {
			continue
		}
		c := &comparison{field: f, negate: o.negate}
		for {
			v, err := p.value()
			if err != nil {
				return predicate{}, err
			}
			if f.part == kindOnly {
				v = strings.ToLower(v)
			}
			if p.terms++; p.terms > maxFilterTerms {
				return predicate{}, query.Invalid("filter: more than %d values", maxFilterTerms)
			}
			c.patterns = append(c.patterns, pattern{o.op, v})
			if !p.take(",") {
				return predicate{comparison: c}, nil
			}
		}
	}
	return predicate{}, p.errorf("want an operator: one of : !: ~: !~: <~: !<~: ~>: !~>:")
}

func (p *filterParser) property() (field, error) {
	end := p.at
	for end < len(p.text) && isLetter(p.text[end]) {
		end++
	}
	name := p.text[p.at:end]
	if name == "" {
		return field{}, p.errorf("want a property, such as namespace or label[app]")
	}
	p.at = end
	p.space()
	if name == "label" {
		key, rest, ok := strings.Cut(p.text[p.at:], "]")
		if key, inside := strings.CutPrefix(key, "["); ok && inside && key != "" {
			p.at = len(p.text) - len(rest)
			p.space()
			return lookup("label:" + key)
		}
		return field{}, p.errorf("want the label's key: label[app]")
	}
	return lookup(name)
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func (p *filterParser) value() (string, error) {
	if p.done() || p.text[p.at] != '"' {
		return "", p.errorf(`want a value in double quotes`)
	}
	v, rest, ok := strings.Cut(p.text[p.at+1:], `"`)
	if !ok {
		return "", p.errorf("this value has no closing quote")
	}
	p.at = len(p.text) - len(rest)
	p.space()
	return v, nil
}

// The filters of OpenCost's first grammar: a parameter per property, values
// separated by commas, * at a value's end for anything.
var oldFilters = map[string]string{
	"filterClusters": "cluster", "filterNodes": "node", "filterNamespaces": "namespace",
	"filterControllerKinds": "controllerKind", "filterControllers": "controller", "filterPods": "pod",
	"filterContainers": "container", "filterTeams": "team", "filterOwners": "owner", "filterEnvironments": "environment",
	"filterLabels": "label",
}

// parseOldFilter reads one of them.
func parseOldFilter(name, text string) (predicate, error) {
	var alternatives []predicate
	values := strings.Split(text, ",")
	if len(values) > maxFilterTerms {
		return predicate{}, query.Invalid("%s: more than %d values", name, maxFilterTerms)
	}
	for _, v := range values {
		v = strings.TrimSpace(v)
		property := oldFilters[name]
		switch property {
		case "label":
			key, value, ok := strings.Cut(v, ":")
			if !ok || key == "" {
				return predicate{}, query.Invalid("%s: %.80q: want KEY:VALUE", name, v)
			}
			property, v = "label:"+key, value
		case "controller":
			if kind, rest, ok := strings.Cut(v, ":"); ok {
				v = strings.ToLower(kind) + ":" + rest
			} else {
				property = "controllerName"
			}
		case "controllerKind":
			v = strings.ToLower(v)
		}
		f, err := lookup(property)
		if err != nil {
			return predicate{}, err
		}
		x := pattern{equals, v}
		if head, ok := strings.CutSuffix(v, "*"); ok {
			x = pattern{begins, head}
		}
		alternatives = append(alternatives, predicate{comparison: &comparison{field: f, patterns: []pattern{x}}})
	}
	// Those of one property are one comparison, which the store can apply.
	first := alternatives[0]
	if slices.ContainsFunc(alternatives, func(p predicate) bool { return p.field != first.field }) {
		return predicate{any: alternatives}, nil
	}
	for _, p := range alternatives[1:] {
		first.patterns = append(first.patterns, p.patterns...)
	}
	return first, nil
}
