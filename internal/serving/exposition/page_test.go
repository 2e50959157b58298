package exposition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"
)

func all([]byte) bool { return true }

func only(names ...string) func([]byte) bool {
	return func(b []byte) bool {
		return slices.Contains(names, string(b))
	}
}

func read(t *testing.T, text string) *Page {
	t.Helper()
	p, err := Parse(strings.NewReader(text), all, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// show is a sample as a line.
func show(s Sample) string {
	var b strings.Builder
	b.WriteString(s.Name)
	for _, l := range s.Labels {
		fmt.Fprintf(&b, " %s=%q", l.Key, l.Value)
	}
	fmt.Fprintf(&b, " %g", s.Value)
	return b.String()
}

func TestLines(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"a 1", "a 1"},
		{"  a\t1", "a 1"},
		{"a 1\r", "a 1"},
		{"a{} 1", "a 1"},
		{"a {b=\"c\"} 1", `a b="c" 1`},
		{`a{z="1",b="2"} 1.5e3`, `a b="2" z="1" 1500`},
		{`a{b="c",} 1`, `a b="c" 1`},
		{`a{ b = "c" , d = "" } 1`, `a b="c" d="" 1`},
		{`:tf:count{status="OK"} 3`, `:tf:count status="OK" 3`},
		{`a{b="q\"s\\n\n"} 1`, `a b="q\"s\\n\n" 1`},
		{`a{b="}{,=#"} 1`, `a b="}{,=#" 1`},
		{`a{b="ü"} 1`, `a b="ü" 1`},
		{`a{"odd name"="c"} 1`, `a odd name="c" 1`},
		{"a 1 1700000000000", "a 1"},
		{"a 1 1700000000.123", "a 1"},
		{`a_bucket{le="1"} 7 # {trace_id="x"} 0.5 1700000000.1`, `a_bucket le="1" 7`},
		{`a 7 1700000000 # {trace_id="x"} 0.5`, "a 7"},
		{"a +1", "a 1"},
		{"a -1", "a -1"},
	} {
		p := read(t, c.line+"\n")
		if len(p.Samples) != 1 || show(p.Samples[0]) != c.want {
			t.Errorf("%q: %v, %+v; want %s", c.line, p.Samples, p.Drops, c.want)
		}
	}
}

func TestDropsAreCountedByReason(t *testing.T) {
	for _, c := range []struct {
		lines string
		want  Drops
	}{
		{"a", Drops{Malformed: 1}},
		{"a{", Drops{Malformed: 1}},
		{`a{b} 1`, Drops{Malformed: 1}},
		{`a{b="c} 1`, Drops{Malformed: 1}},
		{`a{b="c" d="e"} 1`, Drops{Malformed: 1}},
		{`a{b="c",b="d"} 1`, Drops{Malformed: 1}},
		{`a{__name__="x"} 1`, Drops{Malformed: 1}},
		{`a{b="\t"} 1`, Drops{Malformed: 1}},
		{`a{b="` + "\xff" + `"} 1`, Drops{Malformed: 1}},
		{"a one", Drops{Malformed: 1}},
		{"a 0x10", Drops{Malformed: 1}},
		{"a 1_0", Drops{Malformed: 1}},
		{"a 1 2 3", Drops{Malformed: 1}},
		{"a 1 x", Drops{Malformed: 1}},
		{"a NaN\nb +Inf\nc -Inf\nd 1e999", Drops{Value: 4}},
		{"a 1\na 2", Drops{Duplicate: 1}},
		{`a{b="1",c="2"} 1` + "\n" + `a{c="2",b="1"} 2`, Drops{Duplicate: 1}},
		{"a " + strings.Repeat("1", 1<<16), Drops{Long: 1}},
		{`a{b="` + strings.Repeat("x", 5000) + `"} 1`, Drops{Labels: 1}},
		{"a{" + strings.Repeat(`x="1",`, 3) + "} 1", Drops{Malformed: 1}},
	} {
		if p := read(t, c.lines+"\n"); p.Drops != c.want {
			t.Errorf("%.64q: %+v, want %+v", c.lines, p.Drops, c.want)
		}
	}
	var many strings.Builder
	many.WriteString("a{")
	for i := range 65 {
		fmt.Fprintf(&many, "l%d=\"\",", i)
	}
	if p := read(t, many.String()+"} 1\n"); p.Drops != (Drops{Labels: 1}) {
		t.Errorf("65 labels: %+v", p.Drops)
	}
}

func TestABrokenLineCostsNoOther(t *testing.T) {
	p := read(t, "a 1\nb{x=\"\nc "+strings.Repeat("9", 40000)+"\nd 2\n# EOF\n")
	if len(p.Samples) != 2 || p.Samples[1].Name != "d" {
		t.Errorf("%v", p.Samples)
	}
	if p.Drops != (Drops{Malformed: 1, Long: 1}) || p.Drops.Missing() != 2 {
		t.Errorf("%+v", p.Drops)
	}
}

func TestWhatIsNotWanted(t *testing.T) {
	text := "# HELP w what\n# TYPE w counter\nw 1\n# TYPE go_info gauge\ngo_info 1\ngo_info 2\npython_info 1\nw{\n" +
		"# TYPE empty counter\n"
	p, err := Parse(strings.NewReader(text), only("w", "empty"), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Samples) != 1 || p.Types["w"] != "counter" || p.Types["empty"] != "counter" || len(p.Types) != 2 {
		t.Errorf("%v %v", p.Samples, p.Types)
	}
	if strings.Join(p.Others, " ") != "go_info python_info" || p.Drops.Malformed != 1 {
		t.Errorf("%v %+v", p.Others, p.Drops)
	}
}

// A page without a frame may end anywhere, in the middle of a number too.
func TestTheLastLineOfACutPage(t *testing.T) {
	p, err := parse(strings.NewReader("a 1\nb 123"), false, all, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Samples) != 1 || p.Drops.Malformed != 1 {
		t.Errorf("%v %+v", p.Samples, p.Drops)
	}
	if p := read(t, "a 1\nb 123"); len(p.Samples) != 2 {
		t.Errorf("whole: %v", p.Samples)
	}
}

func TestTooLong(t *testing.T) {
	l := DefaultLimits()
	l.Bytes = 1000
	page := strings.Repeat("a 1\n", 250)
	if _, err := Parse(strings.NewReader(page), all, l); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := Parse(strings.NewReader(page+"\n"), all, l); !errors.Is(err, ErrTooLong) {
		t.Errorf("beyond it: %v", err)
	}
	if _, err := Parse(io.MultiReader(strings.NewReader("a 1\n"), failing{}), all, l); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("broken off: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// hostile is a page of so many bytes that is generated while it is read.
type hostile struct {
	line func(i int) string
	i    int
	rest string
	left int
}

func (h *hostile) Read(b []byte) (int, error) {
	if h.left <= 0 {
		return 0, io.EOF
	}
	if h.rest == "" {
		h.rest = h.line(h.i)
		h.i++
	}
	n := copy(b[:min(len(b), h.left)], h.rest)
	h.rest = h.rest[n:]
	h.left -= n
	return n, nil
}

// What is kept of a page stays small, whatever it has.
func TestHostilePagesKeepLittle(t *testing.T) {
	labels := func(n int, value func(j int) string) string {
		var b strings.Builder
		for j := range n {
			b.WriteString("l" + strconv.Itoa(j) + "=\"" + value(j) + "\",")
		}
		return b.String()
	}
	for name, line := range map[string]func(i int) string{
		"a million series": func(i int) string { return fmt.Sprintf("a{i=\"%d\"} 1\n", i) },
		"many labels": func(i int) string {
			return fmt.Sprintf("a{i=\"%d\",%s} 1\n", i, labels(60, func(int) string { return "" }))
		},
		"new texts": func(i int) string {
			return "a{" + labels(60, func(j int) string { return strconv.Itoa(i*100 + j) }) + "} 1\n"
		},
		"long texts":           func(i int) string { return fmt.Sprintf("a{i=\"%d%s\"} 1\n", i, strings.Repeat("x", 4000)) },
		"new families":         func(i int) string { return "a" + strconv.Itoa(i) + " 1\n" },
		"types":                func(i int) string { return fmt.Sprintf("# TYPE a%d counter\n", i) },
		"one line":             func(int) string { return "aaaaaaaa" },
		"names nobody printed": func(i int) string { return fmt.Sprintf("%s\x00%d 1\n", strings.Repeat("n", 100), i) },
	} {
		t.Run(name, func(t *testing.T) {
			l := DefaultLimits()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			p, err := Parse(&hostile{line: line, left: 10 << 20}, all, l)
			runtime.GC()
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 6<<20 {
				t.Errorf("keeps %d bytes of %d series", kept, len(p.Samples))
			}
			if len(p.Samples) > l.Series {
				t.Errorf("%d series", len(p.Samples))
			}
			runtime.KeepAlive(p)
		})
	}
}

// Lines that nobody wants cost no memory at all.
func TestUnwantedLinesAllocateNothing(t *testing.T) {
	small := strings.Repeat("unwanted{a=\"b\",c=\"d\"} 12\n", 10)
	large := strings.Repeat(small, 1000)
	allocs := func(text string) float64 {
		return testing.AllocsPerRun(5, func() {
			if _, err := Parse(strings.NewReader(text), only("w"), DefaultLimits()); err != nil {
				t.Fatal(err)
			}
		})
	}
	if a, b := allocs(small), allocs(large); b > a+2 {
		t.Errorf("%v allocations for 10 lines, %v for 10,000", a, b)
	}
}

// dumb is Prometheus' own parser on a single line.
func dumb(line []byte) (string, bool) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(append(bytes.Clone(line), '\n')))
	if err != nil || len(families) != 1 {
		return "", false
	}
	for name, f := range families {
		if len(f.Metric) != 1 || f.Metric[0].Untyped == nil {
			return "", false
		}
		m := f.Metric[0]
		labels := make(map[string]string)
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		s := Sample{Name: name, Value: m.Untyped.GetValue()}
		text := s.Name
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			text += fmt.Sprintf(" %s=%q", k, labels[k])
		}
		return text + fmt.Sprintf(" %g", s.Value), true
	}
	return "", false
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:"

// checkAgainstDumb: what Prometheus' own parser takes, ours takes alike.
func checkAgainstDumb(t interface{ Errorf(string, ...any) }, line []byte) {
	begin := strings.TrimLeft(string(line), " \t")
	if bytes.ContainsAny(line, "\r\n") || len(line) > 4000 || begin == "" || strings.Contains("#{\"", begin[:1]) {
		return // several lines, a comment, or a name in quotes, which no server of ours writes
	}
	if name := begin[:len(begin)-len(strings.TrimLeft(begin, nameChars))]; !strings.ContainsAny(begin[len(name):min(len(begin), len(name)+1)], " \t{") {
		return // "a+1" is a name and a number to it, and no line of the format
	}
	want, ok := dumb(line)
	if !ok {
		return
	}
	p, err := Parse(bytes.NewReader(append(bytes.Clone(line), '\n')), all, DefaultLimits())
	if err != nil {
		t.Errorf("%q: %v", line, err)
		return
	}
	if len(p.Samples) == 0 && p.Drops.Value == 1 || p.Drops.Labels == 1 {
		return // NaN and infinities are dropped on purpose
	}
	if len(p.Samples) != 1 || show(p.Samples[0]) != want {
		t.Errorf("%q: %v %+v, want %s", line, p.Samples, p.Drops, want)
	}
}

func TestLinesAsPrometheusReadsThem(t *testing.T) {
	blank := rapid.StringOf(rapid.SampledFrom([]rune(" \t")))
	name := rapid.StringMatching(`[a-z_:]{1,3}`)
	label := rapid.StringMatching(`[a-z_]{1,2}`)
	value := rapid.StringOf(rapid.SampledFrom([]rune("ab\\\"n\n{},= #ü")))
	number := rapid.OneOf(
		rapid.Map(rapid.Float64(), func(f float64) string { return fmt.Sprint(f) }),
		rapid.StringOf(rapid.SampledFrom([]rune("0123456789.e+-NaInf"))),
	)
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		b.WriteString(name.Draw(t, "name") + blank.Draw(t, "blank"))
		if n := rapid.IntRange(0, 3).Draw(t, "labels"); n > 0 {
			b.WriteString("{")
			for i := range n {
				if i > 0 || rapid.Bool().Draw(t, "comma") {
					b.WriteString(",")
				}
				v := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value.Draw(t, "value"))
				fmt.Fprintf(&b, "%s%s=%s\"%s\"%s", blank.Draw(t, "b1"), label.Draw(t, "label"), blank.Draw(t, "b2"), v, blank.Draw(t, "b3"))
			}
			b.WriteString(rapid.SampledFrom([]string{"}", ",}", ", }", ""}).Draw(t, "end"))
		}
		b.WriteString(" " + number.Draw(t, "number") + blank.Draw(t, "b4"))
		if rapid.Bool().Draw(t, "time") {
			b.WriteString(" 1700000000000")
		}
		checkAgainstDumb(t, []byte(b.String()))
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"a 1\n", `a{b="c",} 1 17`, "# TYPE a counter\na_total 1 # {x=\"y\"} 1 1.5\n# EOF\n", "a{\"b\"=\"\\\\\"} NaN\r\n", ":a{} -1\n\n\x00", "A+0",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		l := Limits{Bytes: 1 << 16, Line: 256, Series: 16, Labels: 4, LabelBytes: 64, Retained: 4 << 10}
		p, err := parse(bytes.NewReader(page), len(page)%2 == 0, all, l)
		if err != nil && !errors.Is(err, ErrTooLong) {
			t.Fatal(err)
		}
		if err == nil {
			ids := make(map[uint64]bool)
			for _, s := range p.Samples {
				if ids[s.ID] || math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || len(s.Labels) > 4 {
					t.Fatalf("%+v", s)
				}
				ids[s.ID] = true
			}
			if len(p.Samples) > 16 || len(p.Types) > 16 || len(p.Others) > maxOthers {
				t.Fatalf("%d samples, %d types, %d others", len(p.Samples), len(p.Types), len(p.Others))
			}
		}
		line, _, _ := bytes.Cut(page, []byte("\n"))
		checkAgainstDumb(t, line)
	})
}

func BenchmarkParse(b *testing.B) {
	var page strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&page, "vllm:x_bucket{engine=\"0\",le=\"%d\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} %d.0\n", i, i)
	}
	for _, c := range []struct {
		name   string
		wanted func([]byte) bool
	}{{"wanted", all}, {"unwanted", only()}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(page.Len()))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(strings.NewReader(page.String()), c.wanted, DefaultLimits()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
