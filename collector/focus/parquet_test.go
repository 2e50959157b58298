package focus_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/collector/focus"
)

// sameRows holds a Parquet file against the rows of its CSV twin.
func sameRows(t rapid.TB, want []map[string]string, file []byte) {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	columns, n := focus.Columns(), 0
	for i, field := range f.Schema().Fields() {
		if field.Name() != columns[i].Name {
			t.Fatalf("column %d is %s, not %s", i, field.Name(), columns[i].Name)
		}
	}
	for _, g := range f.RowGroups() {
		rows, buf := g.Rows(), make([]parquet.Row, 7)
		for {
			read, err := rows.ReadRows(buf)
			for _, row := range buf[:read] {
				for i, v := range row {
					got := cell(&columns[i], v)
					if w := want[n][columns[i].Name]; strings.ReplaceAll(got, "\r\n", "\n") != w { // csv.Reader's way
						t.Fatalf("row %d, %s: Parquet has %q, CSV %q", n, columns[i].Name, got, w)
					}
				}
				n++
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n != len(want) {
		t.Fatalf("Parquet has %d rows, CSV %d", n, len(want))
	}
}

// cell is a value as text, worked out on its own.
func cell(c *focus.Column, v parquet.Value) string {
	switch {
	case v.IsNull():
		return ""
	case c.Kind == focus.Instant:
		return time.UnixMicro(v.Int64()).UTC().Format(time.RFC3339)
	case c.Kind == focus.Number:
		x := new(big.Int).SetBytes(v.ByteArray())
		if x.Bit(127) == 1 {
			x.Sub(x, new(big.Int).Lsh(big.NewInt(1), 128))
		}
		r := new(big.Rat).SetFrac(x, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(c.Scale)), nil))
		if r.IsInt() {
			return r.RatString()
		}
		return strings.TrimRight(r.FloatString(c.Scale), "0")
	}
	return string(v.ByteArray())
}

func TestColumnsAreInOrder(t *testing.T) {
	last := ""
	for _, c := range focus.Columns() {
		if c.Name <= last {
			t.Errorf("%s comes after %s", c.Name, last)
		}
		last = c.Name
	}
}

// A decimal's text is the number, in FOCUS's format.
func TestDecimalText(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, scale := rapid.Int64().Draw(rt, "unscaled"), rapid.IntRange(0, 24).Draw(rt, "scale")
		got := focus.NewDecimal(big.NewInt(n), scale).String()
		want := new(big.Rat).SetFrac(big.NewInt(n), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
		if r := decimal(rt, got); r.Cmp(want) != 0 {
			rt.Fatalf("%d e-%d is written %s", n, scale, got)
		}
		if strings.ContainsAny(got, "eE+") || strings.Contains(got, ".") && strings.HasSuffix(got, "0") {
			rt.Fatalf("%s", got)
		}
	})
	if got := fmt.Sprint(focus.Decimal{}); got != "0" {
		t.Errorf("the zero decimal is %s", got)
	}
}
