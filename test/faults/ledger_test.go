package faults

import (
	"encoding/csv"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// contents is a ledger by minute, or by second: what every row holds, in
// billionths of its column's unit, and the device time of each device.
type contents struct {
	rows    map[string][]*big.Int
	devices map[string]*big.Int // ns
	tallies string
}

// grouped is by all that a ledger tells apart.
var grouped = []string{"node", "device", "namespace", "pod", "container", "basis", "method"}

// parse reads a report as CSV, by grouped, in buckets of a step.
func parse(t *testing.T, report, tallies string, step time.Duration) *contents {
	t.Helper()
	lines, err := csv.NewReader(strings.NewReader(report)).ReadAll()
	if err != nil || len(lines) < 2 || lines[0][len(grouped)+1] != "device_seconds" {
		t.Fatalf("a report is not as it was expected: %v\n%.500s", err, report)
	}
	c := &contents{rows: make(map[string][]*big.Int), devices: make(map[string]*big.Int), tallies: tallies}
	for _, line := range lines[1:] {
		keys, values := line[:len(grouped)+1], line[len(grouped)+1:]
		// The first bucket begins with the ledger, wherever in a minute that is.
		bucket, err := time.Parse(time.RFC3339, keys[0])
		if err != nil {
			t.Fatal(err)
		}
		keys[0] = bucket.Truncate(step).Format(time.RFC3339)
		key := strings.Join(keys, ",")
		if c.rows[key] != nil {
			t.Fatalf("a row is there twice: %s", key)
		}
		for _, v := range values {
			c.rows[key] = append(c.rows[key], billionths(t, v))
		}
		device := deviceOf(key)
		if c.devices[device] == nil {
			c.devices[device] = new(big.Int)
		}
		c.devices[device].Add(c.devices[device], c.rows[key][0])
	}
	return c
}

// billionths is a decimal of at most nine places; what is not known is none.
func billionths(t *testing.T, text string) *big.Int {
	t.Helper()
	whole, part, _ := strings.Cut(text, ".")
	n, ok := new(big.Int).SetString(whole+part+strings.Repeat("0", max(9-len(part), 0)), 10)
	if text == "" {
		return new(big.Int)
	}
	if !ok || len(part) > 9 {
		t.Fatalf("%q is no exact decimal", text)
	}
	return n
}

// deviceOf is the bucket and the device of a row.
func deviceOf(key string) string { return strings.Join(strings.SplitN(key, ",", 4)[:3], ",") }

// with is what either of two ledgers by second has; a second of a device that
// both have must be the same in both, and counts once.
func (c *contents) with(t *testing.T, o *contents) (whole *contents, both int) {
	t.Helper()
	whole = &contents{rows: maps.Clone(c.rows), devices: maps.Clone(c.devices)}
	for k, values := range o.rows {
		if c.devices[deviceOf(k)] == nil {
			whole.rows[k] = values
			continue
		}
		if !same(c.rows[k], values) {
			t.Errorf("law 4: a second is in both ledgers, and not the same: %s: %v and %v", k, c.rows[k], values)
		}
	}
	for k, v := range o.devices {
		if whole.devices[k] != nil {
			both++
		}
		whole.devices[k] = v
	}
	return whole, both
}

func same(a, b []*big.Int) bool {
	return slices.EqualFunc(a, b, func(a, b *big.Int) bool { return a.Cmp(b) == 0 })
}

// difference is what a ledger lacks and has too much of.
type difference struct {
	compared, lost, doubled int64    // ns of device time, by bucket and device
	rows                    int      // that differ in anything
	minutes                 []string // of devices that differ in time
	first                   string
	tallies                 bool // differ
}

func (d *difference) broken() bool {
	return d.lost != 0 || d.doubled != 0 || d.rows != 0 || d.tallies || d.compared == 0
}

func (d difference) String() string {
	s := fmt.Sprintf("lost %d ns, doubled %d ns of %d ns; %d rows differ", d.lost, d.doubled, d.compared, d.rows)
	if d.first != "" {
		s += ", the first: " + d.first
	}
	if d.tallies {
		s += "; what was served differs"
	}
	return s
}

// against compares a ledger with what it should be; tallies only where both are
// whole.
func (c *contents) against(want *contents) (d difference) {
	for _, k := range union(want.devices, c.devices) {
		w, g := orZero(want.devices[k]), orZero(c.devices[k])
		d.compared += w.Int64()
		switch more := new(big.Int).Sub(g, w).Int64(); {
		case more > 0:
			d.doubled += more
			d.minutes = append(d.minutes, fmt.Sprintf("%s has %d ns too much", k, more))
		case more < 0:
			d.lost -= more
			d.minutes = append(d.minutes, fmt.Sprintf("%s lacks %d ns", k, -more))
		}
	}
	for _, k := range union(want.rows, c.rows) {
		if !same(want.rows[k], c.rows[k]) {
			if d.rows++; d.first == "" {
				d.first = fmt.Sprintf("%s: %v, want %v", k, c.rows[k], want.rows[k])
			}
		}
	}
	d.tallies = c.tallies != "" && want.tallies != c.tallies
	return d
}

func orZero(n *big.Int) *big.Int {
	if n == nil {
		return new(big.Int)
	}
	return n
}

func union[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// The comparison itself is held against ledgers that are wrong in one thing.
func TestADifferenceIsFound(t *testing.T) {
	head := "time," + strings.Join(grouped, ",") + ",device_seconds,cost_usd\n"
	line := func(minute int, basis, seconds, cost string) string {
		return fmt.Sprintf("2026-01-01T00:%02d:00Z,n,g,a,p,c,%s,sm,%s,%s\n", minute, basis, seconds, cost)
	}
	want := parse(t, head+line(0, "used", "20.000000001", "1")+line(0, "reserved", "39.999999999", "2")+line(1, "used", "60", "3"), "served", time.Minute)
	for name, c := range map[string]struct {
		report, tallies string
		lost, doubled   int64
		rows            int
	}{
		"the same":      {line(1, "used", "60.000", "3") + line(0, "used", "20.000000001", "1.0") + line(0, "reserved", "39.999999999", "2"), "served", 0, 0, 0},
		"a nanosecond":  {line(0, "used", "20", "1") + line(0, "reserved", "39.999999999", "2") + line(1, "used", "60", "3"), "served", 1, 0, 1},
		"a minute gone": {line(0, "used", "20.000000001", "1") + line(0, "reserved", "39.999999999", "2"), "served", 60e9, 0, 1},
		"another basis": {line(0, "used", "60", "3") + line(1, "used", "60", "3"), "served", 0, 0, 2},
		"twice, moved":  {line(0, "used", "20.000000001", "1") + line(0, "reserved", "39.999999999", "2") + line(2, "used", "120", "6"), "served", 60e9, 120e9, 2},
		"money":         {line(0, "used", "20.000000001", "1.000000001") + line(0, "reserved", "39.999999999", "2") + line(1, "used", "60", "3"), "served", 0, 0, 1},
		"tallies":       {line(0, "used", "20.000000001", "1") + line(0, "reserved", "39.999999999", "2") + line(1, "used", "60", "3"), "other", 0, 0, 0},
	} {
		d := parse(t, head+c.report, c.tallies, time.Minute).against(want)
		if d.lost != c.lost || d.doubled != c.doubled || d.rows != c.rows || d.compared != 120e9 || d.tallies != (c.tallies != "served") ||
			d.broken() != (name != "the same") {
			t.Errorf("%s: %s", name, d)
		}
	}
	first := parse(t, head+line(0, "used", "20.000000001", "1")+line(0, "reserved", "39.999999999", "2"), "", time.Minute)
	second := parse(t, head+line(1, "used", "60", "3"), "", time.Minute)
	if whole, both := first.with(t, second); both != 0 || whole.against(want).lost != 0 {
		t.Errorf("two parts: %d in both, %s", both, whole.against(want))
	}
	if whole, both := second.with(t, want); both != 1 || whole.against(want).doubled != 0 {
		t.Errorf("a part and the whole: %d in both, %s", both, whole.against(want))
	}
}
