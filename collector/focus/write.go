package focus

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

// CSV writes RFC 4180 with a line of column names. Null is an empty field.
// Values keep their line breaks as they are, which encoding/csv would change
// under lines that end as the RFC wants.
type CSV struct {
	w       *bufio.Writer
	columns []Column
	begun   bool
}

// NewCSV writes to w.
func NewCSV(w io.Writer) *CSV { return &CSV{w: bufio.NewWriter(w), columns: Columns()} }

func (c *CSV) begin() {
	if c.begun {
		return
	}
	c.begun = true
	for i := range c.columns {
		c.field(i, c.columns[i].Name)
	}
}

// field writes a value and what comes after it. Errors stay in the buffer,
// until it is flushed.
func (c *CSV) field(i int, s string) {
	if strings.ContainsAny(s, "\",\r\n") || strings.HasPrefix(s, " ") {
		s = `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	_, _ = c.w.WriteString(s)
	if i == len(c.columns)-1 {
		_, _ = c.w.WriteString("\r\n")
		return
	}
	_ = c.w.WriteByte(',')
}

// Write writes rows.
func (c *CSV) Write(rows []Row) error {
	c.begin()
	for i := range rows {
		for j := range c.columns {
			cell := c.columns[j].value(&rows[i])
			c.field(j, cell.format(c.columns[j].Kind))
		}
	}
	return c.w.Flush()
}

// Close writes what is left; a file without rows has its columns.
func (c *CSV) Close() error {
	c.begin()
	return c.w.Flush()
}

// rowGroup bounds how many rows are held until they are written.
const rowGroup = 20_000

// Parquet writes decimals as DECIMAL(38, s), times as TIMESTAMP in UTC, and
// text and JSON as STRING. Every column may be null, as FOCUS's readers expect
// of files that are merged.
type Parquet struct {
	w       *parquet.GenericWriter[any]
	columns []Column
	row     parquet.Row
	held    int
}

// NewParquet writes to w.
func NewParquet(w io.Writer) *Parquet {
	p := &Parquet{columns: Columns()}
	group := parquet.Group{}
	for _, c := range p.columns {
		var n parquet.Node
		switch c.Kind {
		case Number:
			n = parquet.Decimal(c.Scale, decimalDigits, parquet.FixedLenByteArrayType(16))
		case Instant:
			n = parquet.Timestamp(parquet.Microsecond)
		default:
			n = parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
		}
		group[c.Name] = parquet.Optional(n)
	}
	if !slices.IsSortedFunc(p.columns, func(a, b Column) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}) {
		panic("BUG: focus: columns are not in the order of Parquet's schema")
	}
	p.w = parquet.NewGenericWriter[any](w, parquet.NewSchema("focus", group), parquet.Compression(&zstd.Codec{}),
		parquet.CreatedBy("gpuledger", "focus", "1.2"), parquet.KeyValueMetadata("focus.version", "1.2"))
	return p
}

// Write writes rows.
func (p *Parquet) Write(rows []Row) error {
	for i := range rows {
		p.row = p.row[:0]
		for j := range p.columns {
			v, err := p.columns[j].parquet(&rows[i])
			if err != nil {
				return err
			}
			definition := 1
			if v.IsNull() {
				definition = 0
			}
			p.row = append(p.row, v.Level(0, definition, j))
		}
		if _, err := p.w.WriteRows([]parquet.Row{p.row}); err != nil {
			return err
		}
		if p.held++; p.held == rowGroup {
			p.held = 0
			if err := p.w.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

var errTooWide = errors.New("a number has more than 38 digits")

func (c *Column) parquet(r *Row) (parquet.Value, error) {
	cell := c.value(r)
	switch {
	case cell.Null:
		return parquet.NullValue(), nil
	case c.Kind == Instant:
		return parquet.Int64Value(cell.time * 1e6), nil
	case c.Kind == Number:
		var b [16]byte
		if !cell.num.fixed(c.Scale, &b) {
			return parquet.Value{}, fmt.Errorf("%s %s: %w", c.Name, cell.num, errTooWide)
		}
		return parquet.FixedLenByteArrayValue(b[:]), nil
	}
	return parquet.ByteArrayValue([]byte(cell.text)), nil
}

// Close writes the rest and the footer.
func (p *Parquet) Close() error { return p.w.Close() }
