package format_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

var update = flag.Bool("update", false, "write the golden files")

func parse(t *testing.T, set *format.Set, text string) *exposition.Page {
	t.Helper()
	p, err := exposition.Parse(strings.NewReader(text), set.Wanted, exposition.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// describe is a reading for people.
func describe(r *serving.Reading) string {
	var b strings.Builder
	fmt.Fprintf(&b, "format %s\n", r.Format)
	if r.Started != 0 {
		fmt.Fprintf(&b, "started %d.%03d\n", r.Started/1e9, r.Started/1e6%1e3)
	}
	if r.Partial || r.Dropped > 0 {
		fmt.Fprintf(&b, "partial %v, dropped %d\n", r.Partial, r.Dropped)
	}
	var last serving.Subject
	begin := true
	of := func(v serving.Subject) {
		if begin || v != last {
			fmt.Fprintf(&b, "\nmodel=%q tenant=%q tier=%q backend=%q\n", v.Model, v.Tenant, v.Tier, v.Backend)
		}
		last, begin = v, false
	}
	for _, c := range r.Counts {
		of(c.Subject)
		sign := "+"
		if c.Minus {
			sign = "-"
		}
		fmt.Fprintf(&b, "  %-24s %s %s\n", c.Measure, sign, amount(c.Measure, c.Value))
	}
	for _, part := range []struct {
		name   string
		values []serving.Value
	}{{"unsettled", r.Unsettled}, {"gauges", r.Gauges}} {
		if len(part.values) > 0 {
			fmt.Fprintf(&b, "\n%s:", part.name)
			begin = true
		}
		for _, v := range part.values {
			of(v.Subject)
			fmt.Fprintf(&b, "  %-24s   %s\n", v.Measure, amount(v.Measure, v.Value))
		}
	}
	return b.String()
}

func amount(m attribution.Measure, v int64) string {
	if strings.HasPrefix(string(m), "tokens/") {
		return fmt.Sprintf("%d tokens", v)
	}
	return fmt.Sprintf("%d.%06d", v/1e6, v%1e6)
}

// Every server's page is read as its golden file says.
func TestPages(t *testing.T) {
	set := format.Builtin()
	pages, err := filepath.Glob("testdata/*.prom")
	if err != nil || len(pages) < 17 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, name := range pages {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		page := parse(t, set, string(text))
		if page.Drops != (exposition.Drops{}) {
			t.Errorf("%s: dropped %+v", name, page.Drops)
		}
		base := strings.TrimSuffix(filepath.Base(name), ".prom")
		r, err := set.Read(page, options(base))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden := strings.TrimSuffix(name, ".prom") + ".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(describe(r)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(r); got != string(want) {
			t.Errorf("%s: read as\n%s\nwant\n%s", name, got, want)
		}
	}
}
