// Package format recognises the program behind a metrics page and reads its
// counts in the ledger's own measures.
package format

import (
	"fmt"
	"strings"

	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
)

// Set is the formats that are known. It never changes; any number of
// goroutines may use it.
type Set struct{}

// Builtin is the formats that come with the program.
func Builtin() *Set { return &Set{} }

// With is the set with more formats, those of rule files, which come first and
// replace those of the same name.
func (s *Set) With(rules []Rule) (*Set, error) { return s, nil }

// Endpoint is where a format's page is by default.
type Endpoint struct {
	Format  string
	Port    int
	Path    string
	Gateway bool // it knows customers and backends, and has no devices
}

// Endpoints are where pages are by default, in the set's order.
func (s *Set) Endpoints() []Endpoint { return nil }

// Wanted says whether a family is of interest to any format. It is what
// [exposition.Fetch] is to be called with, and safe for concurrent use.
func (s *Set) Wanted(name []byte) bool { return false }

// Recognise names the format of a page, "" where none fits.
func (s *Set) Recognise(p *exposition.Page) string { return "" }

// Labels names the labels that tell a series' subject; of several the first
// that a series has counts.
type Labels struct {
	Model   []string `yaml:"model"`
	Tenant  []string `yaml:"tenant"`
	Tier    []string `yaml:"tier"`
	Backend []string `yaml:"backend"`
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
func (s *Set) Read(p *exposition.Page, o Options) (*serving.Reading, error) { return nil, nil }

// UnknownError says that no format fits a page, and what was seen on it.
type UnknownError struct {
	Format string   // that was asked for
	Seen   []string // the first few names of families
}

// Error says what to do about it.
func (e *UnknownError) Error() string {
	what := "no format fits the page"
	if e.Format != "" {
		what = fmt.Sprintf("the page is none of %s", e.Format)
	}
	if len(e.Seen) == 0 {
		return what + ": it is empty (are metrics switched on?)"
	}
	return fmt.Sprintf("%s: it has %s (a rule file can tell how to read it)", what, strings.Join(e.Seen, ", "))
}

// Rule is how the pages of one program are read.
type Rule struct {
	Name string `yaml:"name"`
}

// ParseRules reads a rule file.
func ParseRules(source []byte) ([]Rule, error) { return nil, nil }
