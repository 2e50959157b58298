package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// outputs that a command can print.
const (
	outTable = "table"
	outJSON  = "json"
	outCSV   = "csv"
)

func checkOutput(out string, allowed ...string) error {
	if slices.Contains(allowed, out) {
		return nil
	}
	return usagef("-o %s is unknown: want %s", out, strings.Join(allowed, ", "))
}

// printJSON prints a message as the HTTP API answers it, indented. protojson's
// own white space differs from build to build.
func printJSON(w io.Writer, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}

// table is text in columns; columns of figures are aligned to the right.
type table struct {
	head  []string
	right []bool
	rows  [][]string
}

func newTable(columns ...string) *table {
	t := &table{}
	for _, c := range columns {
		name, right := strings.CutPrefix(c, ">")
		t.head, t.right = append(t.head, name), append(t.right, right)
	}
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table; a row of nil is a rule.
func (t *table) write(w io.Writer) error {
	width := make([]int, len(t.head))
	for _, r := range append([][]string{t.head}, t.rows...) {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var text, b strings.Builder
	line := func(cells []string) {
		for i := range t.head {
			c := ""
			if cells == nil {
				c = strings.Repeat("─", width[i])
			} else if i < len(cells) {
				c = cells[i]
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			switch {
			case t.right[i]:
				b.WriteString(pad + c)
			case i == len(t.head)-1:
				b.WriteString(c)
			default:
				b.WriteString(c + pad)
			}
			if i < len(t.head)-1 {
				b.WriteString("  ")
			}
		}
		text.WriteString(strings.TrimRight(b.String(), " ") + "\n")
		b.Reset()
	}
	line(t.head)
	line(nil)
	for _, r := range t.rows {
		line(r)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// printCSV writes exact values, as a program wants them.
func printCSV(w io.Writer, head []string, rows [][]string) error {
	c := csv.NewWriter(w)
	if err := c.Write(head); err != nil {
		return err
	}
	if err := c.WriteAll(rows); err != nil {
		return err
	}
	return c.Error()
}

// csvKeys are a row's keys for a program: exact, an absent one empty and an
// empty one in quotes of its own (law 9).
func csvKeys(row keyed) []string {
	var cells []string
	missing := row.GetMissing()
	for i, k := range row.GetKeys() {
		if k == "" && (i >= len(missing) || !missing[i]) {
			k = `""`
		}
		cells = append(cells, k)
	}
	return cells
}

// moneyColumn names a column of money; where there is no rate card there is no
// currency either.
func moneyColumn(name, currency string) string {
	if currency == "" {
		return name
	}
	return name + "_" + strings.ToLower(currency)
}

// unknown is what a table shows for a figure that nobody knows (law 9).
const unknown = "–"

// figure reads an exact decimal of the API; ok is false for an unknown one.
func figure(dec string) (r *big.Rat, ok bool) {
	if dec == "" {
		return nil, false
	}
	return new(big.Rat).SetString(dec)
}

// moneyText shows money to as many digits as its size makes useful: cents
// above a hundred, four significant digits below one.
func moneyText(dec string) string {
	r, ok := figure(dec)
	if !ok {
		return unknown
	}
	abs := new(big.Rat).Abs(r)
	switch {
	case abs.Sign() == 0:
		return "0.00"
	case abs.Cmp(big.NewRat(100, 1)) >= 0:
		return thousands(r.FloatString(2))
	case abs.Cmp(big.NewRat(1, 1)) >= 0:
		return r.FloatString(4)
	}
	digits := 4
	for small := big.NewRat(1, 10); digits < 12 && abs.Cmp(small) < 0; digits++ {
		small.Mul(small, big.NewRat(1, 10))
	}
	return r.FloatString(digits)
}

// hoursText shows nanoseconds as hours.
func hoursText(ns string) string {
	r, ok := figure(ns)
	if !ok {
		return unknown
	}
	h := r.Quo(r, big.NewRat(3600e9, 1))
	if h.Sign() > 0 && h.Cmp(big.NewRat(5, 10_000)) < 0 {
		return "<0.001" // a little is not nothing (law 9)
	}
	if h.Cmp(big.NewRat(100, 1)) >= 0 {
		return thousands(h.FloatString(1))
	}
	return h.FloatString(3)
}

// secondsText is nanoseconds as exact decimal seconds.
func secondsText(ns string) string {
	r, ok := figure(ns)
	if !ok {
		return ""
	}
	s := r.Quo(r, big.NewRat(1e9, 1)).FloatString(9)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// percentText is part of whole in percent. A little is not nothing (law 9).
func percentText(part, whole string) string {
	p, ok1 := figure(part)
	w, ok2 := figure(whole)
	if !ok1 || !ok2 || w.Sign() == 0 {
		return unknown
	}
	percent := p.Quo(p.Mul(p, big.NewRat(100, 1)), w)
	if percent.Sign() > 0 && percent.Cmp(big.NewRat(5, 100)) < 0 {
		return "<0.1%"
	}
	return percent.FloatString(1) + "%"
}

// countText shows a count of events or tokens, whole, in groups of three.
// Scaled traces count in fractions: less than one is not none (law 9).
func countText(dec string) string {
	r, ok := figure(dec)
	if !ok {
		return unknown
	}
	if r.Sign() > 0 && r.Cmp(big.NewRat(1, 1)) < 0 {
		return "<1"
	}
	whole, _, _ := strings.Cut(dec, ".")
	return thousands(whole)
}

// thousands groups the digits before the point.
func thousands(s string) string {
	sign, body := "", s
	if rest, neg := strings.CutPrefix(s, "-"); neg {
		sign, body = "-", rest
	}
	whole, frac, point := strings.Cut(body, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + frac
	}
	return sign + whole
}

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// keyText shows a group's key; what is not there is said, not left blank.
func keyText(key string, missing bool) string {
	switch {
	case missing:
		return "(none)"
	case key == "":
		return `""`
	}
	return strings.Map(printable, key)
}

// printable keeps what other people's labels could do to a terminal off it:
// control characters, and those that turn the direction of writing.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// addDecimals adds exact decimals; unknown parts count as nothing, and a sum of
// nothing else is unknown.
func addDecimals(decs ...string) string {
	sum, known := new(big.Rat), false
	for _, d := range decs {
		if r, ok := figure(d); ok {
			sum.Add(sum, r)
			known = true
		}
	}
	if !known {
		return ""
	}
	return sum.FloatString(9)
}

// perSecond is a sum over some seconds as a mean, in units of scale.
func perSecond(sum string, seconds, scale int64, digits int) string {
	r, ok := figure(sum)
	if !ok || seconds <= 0 {
		return unknown
	}
	return thousands(r.Quo(r, new(big.Rat).SetInt64(seconds*scale)).FloatString(digits))
}

// pace is money over some seconds as money per hour.
func pace(cost string, seconds int64) string {
	r, ok := figure(cost)
	if !ok || seconds <= 0 {
		return unknown
	}
	return moneyText(r.Mul(r, big.NewRat(3600, seconds)).FloatString(12))
}
