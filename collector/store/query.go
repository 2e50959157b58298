package store

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// What package query asks for, and people do not.
const (
	// OwnerID is the owner's fingerprint, in hex. [Reader.Owners] has the facts.
	OwnerID Dimension = "owner"
	// OwnTier is the tier that a tally itself names, whatever rules say of its
	// owner; slices have none.
	OwnTier Dimension = "own-tier"
	// Mixed is "true" where the owner's tallies ever named several models, a
	// tenant or a tier, else "false": where it is false, tallies have the keys
	// of the owner's slices.
	Mixed Dimension = "mixed"
)

// dimensions lists the fixed dimensions; labels come on top.
var dimensions = [...]Dimension{
	Cluster, Node, DeviceID, DeviceModel, Namespace, Controller, Pod, Container,
	Team, BudgetOwner, Environment, Model, Family, Class, Tier, Run, Tenant, Kind, Basis, Method, Revision, Counted,
}

// Label is the label key of a label dimension, and whether d is one.
func (d Dimension) Label() (key string, ok bool) { return strings.CutPrefix(string(d), LabelPrefix) }

// OfDevice reports whether d is a fact of devices.
func (d Dimension) OfDevice() bool {
	return d == Cluster || d == Node || d == DeviceID || d == DeviceModel
}

// OfServed reports whether d depends on what owners ever served.
func (d Dimension) OfServed() bool { return d == Model || d == Counted || d == Mixed }

// OfServed reports whether the answer depends on what owners ever served.
func (q *Query) OfServed() bool {
	return slices.ContainsFunc(q.GroupBy, Dimension.OfServed) ||
		slices.ContainsFunc(q.Filters, func(f Filter) bool { return f.Dimension.OfServed() })
}

// Check finds what makes a dimension unknown, and names the known ones.
func (d Dimension) Check() error {
	if key, ok := d.Label(); ok && key != "" || slices.Contains(dimensions[:], d) || d == OwnerID || d == OwnTier || d == Mixed {
		return nil
	}
	names := make([]string, len(dimensions))
	for i, d := range dimensions {
		names[i] = string(d)
	}
	return fmt.Errorf("%w: unknown dimension %q: want one of %s, or label:KEY", ErrBadQuery, string(d), strings.Join(names, ", "))
}

// stored is Check for what a store can answer.
func (d Dimension) stored() error {
	if d == Family {
		return fmt.Errorf("%w: no store has %q, which is what rules make of a model's name: ask package query", ErrBadQuery, string(d))
	}
	return d.Check()
}

// maxSecond keeps arithmetic on seconds far from overflow.
const maxSecond = math.MaxInt64 / 4

// Check refuses a query that is empty, reversed, or names what does not exist
// or is not stored ([Family]).
func (q *Query) Check() error {
	switch {
	case q.From >= q.To:
		return fmt.Errorf("%w: the range [%d, %d) is empty: from must lie before to", ErrBadQuery, q.From, q.To)
	case q.From < -maxSecond || q.To > maxSecond:
		return fmt.Errorf("%w: [%d, %d) is beyond any calendar", ErrBadQuery, q.From, q.To)
	case q.Step < 0 || q.Step > maxSecond:
		return fmt.Errorf("%w: a step of %d s: want 0 for the whole range, or seconds", ErrBadQuery, q.Step)
	}
	for i, d := range q.GroupBy {
		if err := d.stored(); err != nil {
			return err
		}
		if slices.Contains(q.GroupBy[:i], d) {
			return fmt.Errorf("%w: grouped by %q twice", ErrBadQuery, string(d))
		}
	}
	for _, f := range q.Filters {
		if err := f.Dimension.stored(); err != nil {
			return err
		}
		if len(f.Values) == 0 {
			return fmt.Errorf("%w: the filter on %q has no values", ErrBadQuery, string(f.Dimension))
		}
	}
	return nil
}

// Measured reports whether a measure is asked for.
func (q *Query) Measured(m attribution.Measure) bool {
	if len(q.Measures) == 0 {
		return true
	}
	return slices.ContainsFunc(q.Measures, func(x attribution.Measure) bool {
		return x == m || strings.HasSuffix(string(x), "/") && strings.HasPrefix(string(m), string(x))
	})
}

// Most is how many rows the answer may have.
func (q *Query) Most() int {
	if q.MaxRows > 0 {
		return q.MaxRows
	}
	return MaxRows
}

// Bucket is the time of the row that a second of the range is summed into:
// the whole multiple of the step at or before it on the UTC clock, but not
// before From.
func (q *Query) Bucket(s attribution.Second) attribution.Second {
	if q.Step == 0 {
		return q.From
	}
	m := int64(s) % q.Step
	if m < 0 {
		m += q.Step
	}
	return max(q.From, s-attribution.Second(m))
}

// Match reports whether the filter keeps a key.
func (f *Filter) Match(k Key) bool {
	for _, v := range f.Values {
		if (k.Missing && v == "") || (!k.Missing && Wildcard(v, k.Value)) {
			return !f.Negate
		}
	}
	return f.Negate
}

// Wildcard reports whether s matches a pattern in which * stands for any run
// of bytes, and everything else for itself.
func Wildcard(pattern, s string) bool {
	head, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == s
	}
	s, found := strings.CutPrefix(s, head)
	if !found {
		return false
	}
	parts := strings.Split(rest, "*")
	tail := parts[len(parts)-1]
	for _, p := range parts[:len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, tail)
}
