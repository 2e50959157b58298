// Package validate holds a FOCUS file, CSV or Parquet, against the published
// rules of FOCUS 1.2 and, where a file has them, the split cost columns of 1.3.
// It knows nothing of the package that writes such files: what is checked is
// what the specification says, by whoever wrote the file.
//
// What needs facts outside the file (an invoice's total, a price list) is not
// checked. Decimals are compared exactly. Memory grows with the number of
// split charges in the file, not with its rows.
package validate

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Finding is one place where a file breaks a rule.
type Finding struct {
	Row     int64  // of data, from 1; 0: the file as a whole
	Column  string // "" where it is about the row
	Rule    string // its short name, of Rules
	Problem string
	Hint    string // what the rule wants
}

// String is the finding in one line.
func (f Finding) String() string {
	where := "file"
	if f.Row > 0 {
		where = fmt.Sprintf("row %d", f.Row)
	}
	if f.Column != "" {
		where += ", " + f.Column
	}
	return fmt.Sprintf("%s: %s: %s (%s)", where, f.Rule, f.Problem, f.Hint)
}

// MaxFindings is how many findings of one rule are kept; the rest is counted.
const MaxFindings = 20

// Report is what a check found.
type Report struct {
	Rows     int64
	Splits   int64  // charges that were split
	Cost     string // sum of EffectiveCost, "" where there is none
	Currency string // of the first row
	Findings []Finding
	Count    map[string]int64 // findings by rule, those not kept too
	// Unchecked says which rules could not be checked to the end, and why.
	Unchecked []string
}

// Valid reports whether nothing was found.
func (r *Report) Valid() bool { return len(r.Findings) == 0 }

// ErrUnreadable is wrapped where a file is neither CSV nor Parquet, or breaks
// off: what was found until then says little.
var ErrUnreadable = errors.New("the file can't be read")

// File checks a file by its name; what it is shows in its first bytes.
func File(name string) (*Report, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var magic [4]byte
	if n, _ := f.ReadAt(magic[:], 0); n == 4 && string(magic[:]) == "PAR1" {
		return Parquet(f, st.Size())
	}
	return CSV(f)
}

// CSV checks a file in CSV.
func CSV(r io.Reader) (*Report, error) {
	c := newChecker()
	err := c.finish(c.csv(r))
	return c.report, err
}

// Parquet checks a file in Parquet.
func Parquet(r io.ReaderAt, size int64) (*Report, error) {
	c := newChecker()
	err := c.finish(c.parquet(r, size))
	return c.report, err
}

// checker checks rows one by one. Its source gives the columns first.
type checker struct {
	report  *Report
	rules   map[string]column
	sub     map[string][]string
	hints   map[string]string
	names   []string
	at      map[string]int
	summed  []int // columns of a charge's split
	fixed   []int
	cost    decimal
	row     int64
	numbers map[string]*decimal // of the row, parsed
	good    []string            // per column, the last value without a finding
	found   int64               // findings so far
	split   *splits
	parents parents
}

// value is a cell.
type value struct {
	text string
	null bool
}

func newChecker() *checker {
	return &checker{
		report: &Report{Count: map[string]int64{}}, rules: columns(), sub: subcategories(), hints: Rules(),
		at: map[string]int{}, numbers: map[string]*decimal{}, split: newSplits(),
	}
}

// find notes a finding.
func (c *checker) find(rule, column, format string, args ...any) {
	c.findAt(c.row, rule, column, format, args...)
}

func (c *checker) findAt(row int64, rule, column, format string, args ...any) {
	hint, ok := c.hints[rule]
	if !ok {
		panic("BUG: validate: no rule is called " + rule)
	}
	c.found++
	if c.report.Count[rule]++; c.report.Count[rule] <= MaxFindings {
		c.report.Findings = append(c.report.Findings, Finding{row, clip(column), rule, fmt.Sprintf(format, args...), hint})
	}
}

// clip bounds text of the file that is shown.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// finish checks what shows at the end, unless reading failed before it.
func (c *checker) finish(err error) error {
	if err == nil {
		c.split.finish(c)
		c.parents.finish(c)
	}
	if c.has("EffectiveCost") {
		c.report.Cost = c.cost.String()
	}
	c.report.Rows = c.row
	c.report.Splits = int64(len(c.split.charges))
	slices.SortStableFunc(c.report.Findings, func(a, b Finding) int { return cmp.Compare(a.Row, b.Row) })
	return err
}

func (c *checker) has(name string) bool {
	_, ok := c.at[name]
	return ok
}

// get is a cell of the row; a column that is not there is null.
func (c *checker) get(row []value, name string) value {
	if i, ok := c.at[name]; ok {
		return row[i]
	}
	return value{null: true}
}
