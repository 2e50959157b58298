// Package format recognises the program behind a metrics page and reads its
// counts in the ledger's own measures.
//
// # What a format is
//
// A [Rule]: data, not code. It says by which families a program is told, which
// labels name the model, the customer, the tier and the backend, and which
// series make which measure. Those that come with the program are in
// builtin.yaml; a user's rule file has the same form, for any other server.
//
// # How a measure is read
//
// Series are selected as in PromQL: a family's name and conditions on labels,
// of which one that is not there is "". A measure has alternatives, for
// programs that rename their families; the first that is on the page counts.
// All series of an alternative add up, those of several engines, GPUs or
// workers too, but each stays a count of its own: see [serving.Count].
package format

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"

	_ "embed" // the built-in rules
)

//go:embed builtin.yaml
var builtin []byte

// Set is the formats that are known. It never changes; any number of
// goroutines may use it.
type Set struct {
	formats []*compiled
	wanted  map[string]struct{}
	layout  *layout
}

// layout is the ledger's own buckets, and their measures' names.
type layout struct {
	*attribution.Histogram
	measures map[attribution.Measure][]attribution.Measure
}

func newLayout() *layout {
	l := &layout{attribution.NewHistogram(), make(map[attribution.Measure][]attribution.Measure)}
	for _, prefix := range []attribution.Measure{attribution.LatencyPrefix, attribution.FirstTokenPrefix} {
		for i := range attribution.Buckets {
			l.measures[prefix] = append(l.measures[prefix], attribution.BucketMeasure(prefix, i))
		}
	}
	return l
}

// Builtin is the formats that come with the program.
func Builtin() *Set {
	rules, err := ParseRules(builtin)
	if err != nil {
		panic(fmt.Sprintf("BUG: builtin.yaml: %v", err))
	}
	s, err := (&Set{layout: newLayout()}).With(rules)
	if err != nil {
		panic(fmt.Sprintf("BUG: builtin.yaml: %v", err))
	}
	return s
}

// With is the set with more formats, those of rule files, which come first and
// replace those of the same name.
func (s *Set) With(rules []Rule) (*Set, error) {
	out := &Set{layout: s.layout, wanted: make(map[string]struct{})}
	for i := range rules {
		c, err := compile(&rules[i])
		if err != nil {
			return nil, err
		}
		if out.format(c.rule.Name) != nil {
			return nil, fmt.Errorf("format %s: is there twice", c.rule.Name)
		}
		out.formats = append(out.formats, c)
	}
	for _, c := range s.formats {
		if out.format(c.rule.Name) == nil {
			out.formats = append(out.formats, c)
		}
	}
	if len(out.formats) > maxFormats {
		return nil, fmt.Errorf("there are more than %d formats", maxFormats)
	}
	for _, c := range out.formats {
		for name := range c.families {
			out.wanted[name] = struct{}{}
		}
	}
	return out, nil
}

func (s *Set) format(name string) *compiled {
	i := slices.IndexFunc(s.formats, func(c *compiled) bool { return c.rule.Name == name })
	if i < 0 {
		return nil
	}
	return s.formats[i]
}

// Endpoint is where a format's page is by default.
type Endpoint struct {
	Format  string
	Port    int // 0 where there is no customary one
	Path    string
	Gateway bool // it knows customers and backends, and has no devices
}

// Endpoints are where pages are by default, in the set's order.
func (s *Set) Endpoints() []Endpoint {
	out := make([]Endpoint, 0, len(s.formats))
	for _, c := range s.formats {
		out = append(out, Endpoint{Format: c.rule.Name, Port: c.rule.Port, Path: c.rule.Path, Gateway: c.rule.Gateway})
	}
	return out
}

// Wanted says whether a family is of interest to any format. It is what
// [exposition.Fetch] is to be called with, and safe for concurrent use.
func (s *Set) Wanted(name []byte) bool {
	_, ok := s.wanted[string(name)]
	return ok
}

// Recognise names the format of a page, "" where none fits.
func (s *Set) Recognise(p *exposition.Page) string {
	there := familiesOf(p)
	for _, c := range s.formats {
		if c.detects(there) {
			return c.rule.Name
		}
	}
	return ""
}

// Options is what the caller knows of a server.
type Options struct {
	// Format is the format's name; "" to recognise it.
	Format string
	// Labels replaces the format's, those that are not empty.
	Labels Labels
	// LeaveOut names models that are not counted, such as ensembles, which
	// count what their members count too.
	LeaveOut []string
}

// Read reads a page. The error is an [*UnknownError] where no format fits, or
// the one that the options name does not.
func (s *Set) Read(p *exposition.Page, o Options) (*serving.Reading, error) {
	name := o.Format
	if name == "" {
		name = s.Recognise(p)
	}
	c := s.format(name)
	if c == nil || !c.detects(familiesOf(p)) {
		return nil, &UnknownError{Format: o.Format, Seen: seen(p)}
	}
	return newReader(c, p, o, s.layout).read(), nil
}

// UnknownError says that no format fits a page, and what was seen on it.
type UnknownError struct {
	Format string   // that was asked for
	Seen   []string // the first few names of families
}

// Error says what to do about it.
func (e *UnknownError) Error() string {
	what := "no format fits the page"
	if e.Format != "" {
		what = fmt.Sprintf("the page is not one of format %s", e.Format)
	}
	if len(e.Seen) == 0 {
		return what + ": nothing is on it (are metrics switched on?)"
	}
	return fmt.Sprintf("%s: it has %s (a rule file can tell how to read it)", what, strings.Join(e.Seen, ", "))
}

// seen is the first few families of a page, those first that some format has.
func seen(p *exposition.Page) []string {
	const most = 8
	var names []string
	for i := range p.Samples {
		if name := p.Samples[i].Name; len(names) < most && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return append(names, p.Others[:min(len(p.Others), most-len(names))]...)
}

// familiesOf is which families a page has, those without a series too.
func familiesOf(p *exposition.Page) map[string]bool {
	there := make(map[string]bool, len(p.Types))
	for name := range p.Types {
		there[name] = true
	}
	for i := range p.Samples {
		there[p.Samples[i].Name] = true
	}
	return there
}
