package query

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Limits of a question and its answer.
const (
	MaxRows    = 100_000 // rows of an answer
	MaxBuckets = 10_000  // steps in the range
	MaxGroupBy = 8
	MaxFilters = 256
	maxText    = 1024 // bytes of one filter or dimension
)

var (
	// ErrInvalid is wrapped by errors that the asker can cure by asking
	// differently. The message says how.
	ErrInvalid = errors.New("invalid request")
	// ErrTooMany is wrapped where an answer would exceed MaxRows.
	ErrTooMany = errors.New("too many rows")
	// ErrBusy is wrapped where too many questions are being answered and the
	// asker's patience ended first.
	ErrBusy = errors.New("too many queries at once")
)

// Invalid makes an error that wraps ErrInvalid and reads as formatted alone.
func Invalid(format string, args ...any) error {
	return &invalid{fmt.Sprintf(format, args...)}
}

type invalid struct{ msg string }

func (e *invalid) Error() string { return e.msg }
func (e *invalid) Unwrap() error { return ErrInvalid }

// Request is a showback question as people write it.
type Request struct {
	From, To attribution.Second // [From, To); 0 and 0: everything
	Step     int64              // seconds; 0: one row for the whole range
	GroupBy  []string           // dimensions, or label:KEY
	Filters  []string           // KEY=VALUE or KEY!=VALUE
	Limit    int                // groups at most, the rest in "other"; 0: no limit
	Lines    bool               // tell what costs are made of
}

// dimensions are those with a fixed name, in the order in which they are
// listed to people.
var dimensions = [...]store.Dimension{
	store.Cluster, store.Node, store.DeviceID, store.DeviceModel, store.Namespace, store.Controller,
	store.Pod, store.Container, store.Team, store.BudgetOwner, store.Environment, store.Model, store.Family, store.Class, store.Tier,
	store.Run, store.Tenant, store.Kind, store.Basis, store.Method, store.Revision, store.Counted,
}

// Dimensions lists the dimensions that have a fixed name.
func Dimensions() []store.Dimension { return slices.Clone(dimensions[:]) }

// ParseDimension reads the name of a dimension.
func ParseDimension(s string) (store.Dimension, error) {
	d := store.Dimension(s)
	switch {
	case len(s) > maxText:
		return "", Invalid("a dimension's name has %d bytes: at most %d are allowed", len(s), maxText)
	case strings.HasPrefix(s, store.LabelPrefix):
		if s == store.LabelPrefix {
			return "", Invalid("%q names no label: write label:KEY, for instance label:app", s)
		}
		return d, nil
	case slices.Contains(dimensions[:], d):
		return d, nil
	}
	var names []string
	for _, d := range dimensions {
		names = append(names, string(d))
	}
	hint := ""
	if n := nearest(s, names); n != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", n)
	}
	return "", Invalid("unknown dimension %q%s: want one of %s, label:KEY", s, hint, strings.Join(names, ", "))
}

// ParseDimensions reads the names of dimensions to group by, each at most once.
func ParseDimensions(names []string) ([]store.Dimension, error) {
	if len(names) > MaxGroupBy {
		return nil, Invalid("grouping by %d dimensions: at most %d are allowed", len(names), MaxGroupBy)
	}
	var ds []store.Dimension
	for _, n := range names {
		d, err := ParseDimension(n)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ds, d) {
			return nil, Invalid("grouping by %s twice: name it once", d)
		}
		ds = append(ds, d)
	}
	return ds, nil
}

// ParseFilters reads filters. Those of one key and one sign are alternatives
// (for != all of them are excluded); keys must all match.
func ParseFilters(texts []string) ([]store.Filter, error) {
	if len(texts) > MaxFilters {
		return nil, Invalid("%d filters: at most %d are allowed", len(texts), MaxFilters)
	}
	var fs []store.Filter
	for _, t := range texts {
		f, err := parseFilter(t)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(fs, func(g store.Filter) bool { return g.Dimension == f.Dimension && g.Negate == f.Negate })
		if i < 0 {
			fs = append(fs, f)
			continue
		}
		if !slices.Contains(fs[i].Values, f.Values[0]) {
			fs[i].Values = append(fs[i].Values, f.Values[0])
		}
	}
	return fs, nil
}

func parseFilter(t string) (f store.Filter, err error) {
	if len(t) > maxText {
		return f, Invalid("a filter has %d bytes: at most %d are allowed", len(t), maxText)
	}
	key, value, ok := strings.Cut(t, "=")
	if !ok {
		return f, Invalid("filter %q has no =: write KEY=VALUE or KEY!=VALUE, for instance team=search", t)
	}
	key, f.Negate = strings.CutSuffix(key, "!")
	if f.Dimension, err = ParseDimension(key); err != nil {
		return f, fmt.Errorf("filter %q: %w", t, err)
	}
	if f.Dimension == store.Basis && !strings.Contains(value, "*") {
		if _, err := attribution.ParseBasis(value); err != nil {
			return f, Invalid("filter %q: %v", t, err)
		}
	}
	f.Values = []string{value}
	return f, nil
}

// maxSecond is far beyond any clock, and small enough to count with.
const maxSecond = attribution.Second(math.MaxInt64 / 1_000_000_000)

// CheckRange refuses ranges that hold nothing by their own numbers. 0 and 0 is
// everything.
func CheckRange(from, to attribution.Second) error {
	switch {
	case from == 0 && to == 0:
		return nil
	case from < 0 || to < 0 || from > maxSecond || to > maxSecond:
		return Invalid("range %d to %d: want Unix seconds from 0 to %d", from, to, maxSecond)
	case to == 0:
		return Invalid("range from %d has no end: give to as well, or neither", from)
	case from >= to:
		return Invalid("range %d to %d is empty: from must be before to", from, to)
	}
	return nil
}

func checkStep(from, to attribution.Second, step int64) error {
	if step < 0 {
		return Invalid("step %d: want 1 second or more, or 0 for one row over the whole range", step)
	}
	if step == 0 {
		return nil
	}
	if n := (int64(to-from) + step - 1) / step; n > MaxBuckets {
		least := (int64(to-from) + MaxBuckets - 1) / MaxBuckets
		return Invalid("a step of %d s cuts the range into %d rows of time: at most %d are allowed, so take a step of %d s or more",
			step, n, MaxBuckets, least)
	}
	return nil
}

// nearest is the name with the smallest edit distance from s, "" where none is
// near.
func nearest(s string, names []string) string {
	best, at := "", 3
	for _, n := range names {
		if len(s) > 64 {
			return ""
		}
		if d := editDistance(strings.ToLower(s), n); d < at {
			best, at = n, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// CompareKeys orders keys; a missing fact comes last.
func CompareKeys(a, b []store.Key) int {
	return slices.CompareFunc(a, b, func(x, y store.Key) int {
		if x.Missing != y.Missing {
			if x.Missing {
				return 1
			}
			return -1
		}
		return cmp.Compare(x.Value, y.Value)
	})
}

// TooMany is the error for an answer of n rows. It wraps ErrTooMany.
func TooMany(n int) error { return tooMany(n) }

type tooMany int

func (n tooMany) Error() string {
	return fmt.Sprintf("the answer has %d rows, at most %d are given: set a limit (the rest is summed), group by fewer dimensions, take a longer step, or filter",
		int(n), MaxRows)
}
func (tooMany) Unwrap() error { return ErrTooMany }
