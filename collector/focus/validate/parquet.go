package validate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

const instantLayout = "2006-01-02T15:04:05Z"

// maxGroup bounds what a row group says that it unpacks to.
const maxGroup = 4 << 30

// parquet reads a file in Parquet. The library panics on some files that are
// not what they say; to us they can't be read.
func (c *checker) parquet(r io.ReaderAt, size int64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if s, ok := p.(string); ok && len(s) > 4 && s[:4] == "BUG:" {
				panic(p)
			}
			err = fmt.Errorf("%w: row %d: %v", ErrUnreadable, c.row+1, p)
		}
	}()
	if err := checkFooter(r, size); err != nil {
		return err
	}
	f, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	var names []string
	var reads []func(parquet.Value) value
	for _, field := range f.Schema().Fields() {
		if !field.Leaf() || field.Repeated() {
			return fmt.Errorf("%w: column %s is nested", ErrUnreadable, clip(field.Name()))
		}
		names = append(names, field.Name())
	}
	if err := c.header(names); err != nil {
		return err
	}
	for _, field := range f.Schema().Fields() {
		reads = append(reads, c.reader(field))
	}
	for i, g := range f.RowGroups() {
		if m := f.Metadata().RowGroups[i]; m.TotalByteSize < 0 || m.TotalByteSize > maxGroup {
			return fmt.Errorf("%w: row group %d unpacks to %d bytes, at most %d are read", ErrUnreadable, i, m.TotalByteSize, int64(maxGroup))
		}
		if err := c.group(g, reads); err != nil {
			return err
		}
	}
	return nil
}

// checkFooter refuses a footer that is longer than its file, before anything
// is allocated for it.
func checkFooter(r io.ReaderAt, size int64) error {
	var tail [8]byte
	if size < 12 {
		return fmt.Errorf("%w: %d bytes are no Parquet file", ErrUnreadable, size)
	}
	if _, err := r.ReadAt(tail[:], size-8); err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if n := int64(binary.LittleEndian.Uint32(tail[:4])); string(tail[4:]) != "PAR1" || n > size-12 {
		return fmt.Errorf("%w: it does not end as a Parquet file does: was it written to the end?", ErrUnreadable)
	}
	return nil
}

func (c *checker) group(g parquet.RowGroup, reads []func(parquet.Value) value) (err error) {
	rows := g.Rows()
	defer func() { err = errors.Join(err, rows.Close()) }()
	buf := make([]parquet.Row, 64)
	out := make([]value, len(reads))
	for {
		n, err := rows.ReadRows(buf)
		for _, row := range buf[:n] {
			c.row++
			if len(row) != len(reads) {
				return fmt.Errorf("%w: row %d has %d of %d columns", ErrUnreadable, c.row, len(row), len(reads))
			}
			for i, v := range row {
				out[i] = value{null: true}
				if !v.IsNull() {
					out[i] = reads[i](v)
				}
			}
			c.check(out)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: row %d: %w", ErrUnreadable, c.row+1, err)
		}
	}
}

// reader makes text of a column's values, in the formats of FOCUS, and finds
// columns whose type can't hold what they should.
func (c *checker) reader(f parquet.Field) func(parquet.Value) value {
	t := f.Type()
	rule, known := c.rules[f.Name()]
	var logical format.LogicalTypeValue
	if l := t.LogicalType(); l != nil {
		logical = l.Value
	}
	is := text
	var read func(parquet.Value) value
	switch l := logical.(type) {
	case *format.DecimalType:
		is = number
		scale := int(l.Scale)
		if scale < 0 || scale > maxDigits {
			scale = 0
			c.find("column-type", f.Name(), "is a DECIMAL with a scale of %d", l.Scale)
		}
		read = func(v parquet.Value) value { return value{text: decimalText(v, scale)} }
	case *format.TimestampType:
		is = instant
		if !l.IsAdjustedToUTC {
			c.find("column-type", f.Name(), "is a TIMESTAMP without UTC")
		}
		var unit time.Duration
		switch l.Unit.Value.(type) {
		case *format.MilliSeconds:
			unit = time.Millisecond
		case *format.MicroSeconds:
			unit = time.Microsecond
		default:
			unit = time.Nanosecond
		}
		read = func(v parquet.Value) value { return value{text: instantText(v.Int64(), unit)} }
	default:
		switch t.Kind() {
		case parquet.Int32, parquet.Int64:
			is = number
			read = func(v parquet.Value) value { return value{text: decimalText(v, 0)} }
		case parquet.Float, parquet.Double:
			is = number
			c.find("column-type", f.Name(), "is a binary float: it can't hold a decimal exactly")
			read = func(v parquet.Value) value { return value{text: v.String()} }
		case parquet.ByteArray, parquet.FixedLenByteArray:
			read = func(v parquet.Value) value { return value{text: string(v.ByteArray())} }
		default:
			read = func(v parquet.Value) value { return value{text: v.String()} }
		}
	}
	want := text
	if rule.kind == number || rule.kind == instant {
		want = rule.kind
	}
	if known && is != want && is != text {
		c.find("column-type", f.Name(), "is of type %s", t)
	}
	if known && is == text && want == number {
		c.find("column-type", f.Name(), "is of type %s", t)
	}
	return read
}

func decimalText(v parquet.Value, scale int) string {
	d := decimal{scale: scale}
	switch v.Kind() {
	case parquet.Int32:
		d.unscaled.SetInt64(int64(v.Int32()))
	case parquet.Int64:
		d.unscaled.SetInt64(v.Int64())
	default:
		b := v.ByteArray()
		if d.unscaled.SetBytes(b); len(b) > 0 && b[0]&0x80 != 0 {
			d.unscaled.Sub(&d.unscaled, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
	}
	return d.String()
}

func instantText(n int64, unit time.Duration) string {
	per := int64(time.Second / unit)
	t := time.Unix(n/per, n%per*int64(unit)).UTC()
	if t.Nanosecond() != 0 {
		return t.Format(time.RFC3339Nano)
	}
	return t.Format(instantLayout)
}
