package validate

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxRecord bounds one line of a file, in bytes: a quote that is never closed
// would read on to its end.
const maxRecord = 4 << 20

// maxColumns bounds a file's columns.
const maxColumns = 2000

// budget reads no more than is left of a record's bytes.
type budget struct {
	r    io.Reader
	left int64
}

var errLongRecord = errors.New("a record is longer than 4 MiB: is a quote not closed?")

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errLongRecord
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (c *checker) csv(r io.Reader) error {
	in := bufio.NewReader(r)
	if mark, _ := in.Peek(3); string(mark) == "\uFEFF" {
		_, _ = in.Discard(3) // what Excel writes
	}
	limit := &budget{r: in, left: maxRecord}
	lines := csv.NewReader(limit)
	lines.ReuseRecord = true
	lines.FieldsPerRecord = -1
	head, err := lines.Read()
	if err != nil {
		return fmt.Errorf("%w: no line of column names: %w", ErrUnreadable, err)
	}
	if err := c.header(head); err != nil {
		return err
	}
	row := make([]value, len(head))
	for {
		limit.left = maxRecord
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		c.row++
		if err != nil {
			return fmt.Errorf("%w: row %d: %w", ErrUnreadable, c.row, err)
		}
		if len(fields) != len(row) {
			c.find("row-length", "", "%d fields under %d columns", len(fields), len(row))
			continue
		}
		for i, f := range fields {
			row[i] = value{text: f, null: f == ""}
		}
		c.check(row)
	}
}

// header checks the columns themselves.
func (c *checker) header(names []string) error {
	if len(names) > maxColumns {
		return fmt.Errorf("%w: %d columns, at most %d are read", ErrUnreadable, len(names), maxColumns)
	}
	c.names, c.good = make([]string, len(names)), make([]string, len(names))
	custom := ""
	for i, n := range names {
		n = strings.Clone(n)
		c.names[i] = n
		if _, twice := c.at[n]; twice {
			c.find("column-twice", n, "is there twice")
			continue
		}
		c.at[n] = i
		rule, known := c.rules[n]
		switch {
		case strings.HasPrefix(n, "x_"):
			custom = n
		case !known:
			c.find("column-unknown", n, "is none of FOCUS's")
		case custom != "":
			c.find("column-order", n, "comes after %s", clip(custom))
		}
		switch {
		case rule.summable:
			c.summed = append(c.summed, i)
		case known && !rule.split:
			c.fixed = append(c.fixed, i)
		}
	}
	for n, rule := range c.rules {
		if rule.must && !c.has(n) {
			c.find("column-missing", n, "is not in the file")
		}
	}
	for _, x := range [][2]string{
		{"ServiceProviderName", "HostProviderName"},
		{"ConsumedQuantity", "ConsumedUnit"},
		{"RegionId", "RegionName"},
		{"CommitmentDiscountQuantity", "CommitmentDiscountUnit"},
		{"AllocatedMethodId", "AllocatedResourceId"},
	} {
		if c.has(x[0]) != c.has(x[1]) {
			c.find("column-missing", "", "only one of %s and %s is in the file", x[0], x[1])
		}
	}
	c.split.begin(c)
	return nil
}

// badText finds text that stands for nothing. NULL is what databases write; a
// team may well be called so, and columns of one's own may hold any word.
func badText(name, s string) string {
	switch {
	case !utf8.ValidString(s):
		return "is not UTF-8"
	case strings.TrimSpace(s) == "":
		return "is blank"
	case name == "AllocatedResourceName" || strings.HasPrefix(name, "x_"):
	case s == "NULL" || strings.EqualFold(s, "n/a") || strings.EqualFold(s, "not applicable"):
		return "holds the word " + s
	}
	return ""
}
