package format_test

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// rules wraps measures in a format.
func rules(rest string) string {
	return "formats:\n  - name: x\n    detect: [x_requests]\n" + rest
}

const minimal = "    counts:\n      - {measure: success, of: [{series: x_requests}]}\n"

func TestRulesThatAreRefused(t *testing.T) {
	for rest, want := range map[string]string{
		"": "at least one measure is wanted",
		"    counts:\n      - {measure: successes, of: [{series: x}]}\n":                          "no such count: want success",
		"    counts:\n      - {measure: failure, of: [{series: x}]}\n":                            "reason: the label that tells it is wanted",
		"    counts:\n      - {measure: success, reason: r, of: [{series: x}]}\n":                 "only the measure failure has one",
		"    counts:\n      - {measure: failure/Bad One, of: [{series: x}]}\n":                    "small letters",
		"    counts:\n      - {measure: failure, reason: r, rename: {a: B}, of: [{series: x}]}\n": "rename a",
		"    counts:\n      - {measure: success, of: []}\n":                                       "1 to 16 are wanted",
		"    counts:\n      - {measure: success, of: [{series: '{a=\"b\"}'}]}\n":                  "a family's name is wanted",
		"    counts:\n      - {measure: success, of: [{series: 'x{a~\"b\"}'}]}\n":                 "a family's name is wanted",
		"    counts:\n      - {measure: success, of: [{series: 'x{a=\"b'}]}\n":                    "a family's name is wanted",
		"    counts:\n      - {measure: success, of: [{series: 'x{a=~\"(\"}'}]}\n":                "label a: error parsing regexp",
		"    counts:\n      - {measure: success, of: [{series: x, unsettled: {each: y}}]}\n":      "unsettled: requests are wanted",
		"    histograms:\n      - {measure: duration, unit: s, of: [x]}\n":                        "want latency or first-token",
		"    histograms:\n      - {measure: latency, unit: h, of: [x]}\n":                         "want s, ms or us",
		"    gauges:\n      - {measure: load, of: [x]}\n":                                         "want queue, running or kv-cache",
		"    port: 70000\n" + minimal:                                                             "port: 0 to 65535",
		"    path: metrics\n" + minimal:                                                           "begins with /",
		"    join: {label: a}\n" + minimal:                                                        "label and by are both wanted",
		"    unknown: 1\n" + minimal:                                                              "unknown",
	} {
		if _, err := format.ParseRules([]byte(rules(rest))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", rest, err, want)
		}
	}
	for source, want := range map[string]string{
		"formats:\n  - name: Big\n    detect: [a]\n" + minimal:           "small letters, digits and dashes",
		"formats:\n  - name: x\n" + minimal:                              "detect: at least one",
		"formats:\n  - name: x\n    detect: ['a b!']\n" + minimal:        "detect",
		"formats: [" + strings.Repeat("{name: x},", 40000) + "]":         "more than 262144 bytes",
		rules(minimal) + "  - name: x\n    detect: [x]\n" + minimal + "": "",
	} {
		parsed, err := format.ParseRules([]byte(source))
		if want == "" {
			_, err = format.Builtin().With(parsed)
			want = "is there twice"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", source, err, want)
		}
	}
}

// A user's format comes first, and replaces one of its name.
func TestRulesOfAUser(t *testing.T) {
	parsed, err := format.ParseRules([]byte(strings.Replace(rules(minimal), "name: x", "name: vllm", 1)))
	if err != nil {
		t.Fatal(err)
	}
	builtin := format.Builtin()
	set, err := builtin.With(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Endpoints()) != len(builtin.Endpoints()) || set.Endpoints()[0].Format != "vllm" {
		t.Errorf("%v", set.Endpoints())
	}
	if !set.Wanted([]byte("x_requests")) || builtin.Wanted([]byte("x_requests")) || set.Wanted([]byte("vllm:num_requests_swapped")) {
		t.Error("wanted families")
	}
	if name := set.Recognise(parse(t, set, "x_requests 1\n")); name != "vllm" {
		t.Errorf("recognised as %q", name)
	}
}

func TestAPageThatNobodyKnows(t *testing.T) {
	set := format.Builtin()
	_, err := set.Read(parse(t, set, "go_goroutines 1\nmy_requests_total{a=\"b\"} 2\nprocess_start_time_seconds 1\n"), format.Options{})
	unknown, ok := errors.AsType[*format.UnknownError](err)
	if !ok || strings.Join(unknown.Seen, " ") != "process_start_time_seconds go_goroutines my_requests_total" {
		t.Errorf("%v", err)
	}
	if _, err := set.Read(&exposition.Page{}, format.Options{}); err == nil || !strings.Contains(err.Error(), "metrics switched on") {
		t.Errorf("empty: %v", err)
	}
	if _, err := set.Read(parse(t, set, "tgi_queue_size 1\n"), format.Options{Format: "vllm"}); err == nil ||
		!strings.Contains(err.Error(), "not one of format vllm: it has tgi_queue_size") {
		t.Errorf("another: %v", err)
	}
}

// Selectors read labels as PromQL does: what is not there is "".
func TestSelectors(t *testing.T) {
	for selector, want := range map[string]int64{
		`x_requests`:                      15,
		`x_requests{}`:                    15,
		`x_requests{a="1"}`:               1,
		`x_requests{a!="1"}`:              14,
		`x_requests{a=""}`:                8,
		`x_requests{a!=""}`:               7,
		`x_requests{a=~"1|2"}`:            3,
		`x_requests{a=~"1"}`:              1, // the whole of it
		`x_requests{a!~"1.*"}`:            10,
		`x_requests{ a =~ "1.*" , b="" }`: 5,
		`x_requests{a="11",}`:             4,
	} {
		set, err := format.Builtin().With(mustParse(t, rules("    counts:\n      - {measure: success, of: [{series: '"+selector+"'}]}\n")))
		if err != nil {
			t.Fatal(selector, err)
		}
		page := "x_requests{a=\"1\"} 1\nx_requests{a=\"2\"} 2\nx_requests{a=\"11\"} 4\nx_requests{b=\"1\"} 8\n"
		r, err := set.Read(parse(t, set, page), format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := total(r, attribution.Success); got != want*one {
			t.Errorf("%s: %d, want %d", selector, got/one, want)
		}
	}
}

func mustParse(t *testing.T, source string) []format.Rule {
	t.Helper()
	parsed, err := format.ParseRules([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// The worked example of the docs is a rule file, and reads the page beside it.
func TestTheDocsExample(t *testing.T) {
	text, err := os.ReadFile("../../../docs/inference.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("no block of %s", language)
		}
		return m[1]
	}
	set, err := format.Builtin().With(mustParse(t, block("yaml")))
	if err != nil {
		t.Fatal(err)
	}
	r, err := set.Read(parse(t, set, block("prometheus")), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(r), block("reading"); got != want {
		t.Errorf("read as\n%s\nthe page says\n%s", got, want)
	}
	// Every format of the program is in the table.
	for _, e := range format.Builtin().Endpoints() {
		if !strings.Contains(string(text), "| `"+e.Format+"` |") {
			t.Errorf("%s is not in the table", e.Format)
		}
	}
}

// Values that cannot be counted are dropped, and a page that is not whole says
// so.
func TestHostileValues(t *testing.T) {
	r := readText(t, "tgi", "tgi_request_success -1\ntgi_request_failure{err=\"a\"} 1e300\ntgi_request_input_length_sum 1e19\n"+
		"tgi_queue_size -5\ntgi_batch_current_size NaN\n", format.Options{})
	if len(r.Counts) != 0 || len(r.Gauges) != 0 || r.Dropped != 4 || !r.Partial {
		t.Errorf("%+v", r)
	}
	// Reasons are bounded, and made harmless.
	var page strings.Builder
	page.WriteString("tgi_request_failure{err=\"<script>alert(1)</script> and a very long rest of it\"} 1\ntgi_request_failure{err=\"\"} 1\ntgi_queue_size 1\n")
	for i := range 100 {
		page.WriteString("tgi_request_failure{err=\"e" + strings.Repeat("x", i%20) + string(rune('a'+i%26)) + "\"} 1\n")
	}
	r = readText(t, "tgi", page.String(), format.Options{})
	seen := map[attribution.Measure]bool{}
	for _, c := range r.Counts {
		seen[c.Measure] = true
	}
	if len(seen) != 17 || !seen["failure/other"] || !seen["failure/unknown"] || !seen["failure/script-alert-1---script--and-a"] {
		t.Errorf("%d reasons: %v", len(seen), seen)
	}
}

// A histogram that lacks a bucket's neighbour is no histogram.
func TestHistogramsThatAreNotWhole(t *testing.T) {
	const bucket = "tgi_queue_size 0\ntgi_request_duration_bucket{le=\"1\"} 4\n"
	for rest, partial := range map[string]bool{
		"": true, // cut off
		"tgi_request_duration_bucket{le=\"+Inf\"} 3\n":                                            false, // falls
		"tgi_request_duration_bucket{le=\"1.0\"} 4\ntgi_request_duration_bucket{le=\"+Inf\"} 4\n": false, // twice
	} {
		r := readText(t, "tgi", bucket+rest, format.Options{})
		if len(r.Counts) != 0 || r.Dropped != 1 || r.Partial != partial {
			t.Errorf("%q: %+v", rest, r)
		}
	}
	r := readText(t, "tgi", bucket+"tgi_request_duration_bucket{le=\"+Inf\"} 9\n", format.Options{})
	wantTotal(t, r, "latency/40", 4*one)
	wantTotal(t, r, "latency/127", 5*one)
}

// What a page does not name is of its only model; of two models it is neither's.
func TestTheOnlyModel(t *testing.T) {
	const page = "ts_inference_requests_total{model_name=\"a\"} 1\nRequests5XX{Level=\"Host\"} 2\n"
	r := readText(t, "torchserve", page, format.Options{})
	for _, c := range r.Counts {
		if c.Subject.Model != "a" {
			t.Errorf("%+v", c)
		}
	}
	r = readText(t, "torchserve", page+"ts_inference_requests_total{model_name=\"b\"} 1\n", format.Options{})
	if r.Counts[0].Subject.Model != "" || r.Counts[0].Measure != "failure/5xx" {
		t.Errorf("%+v", r.Counts[0])
	}
}

func FuzzParseRules(f *testing.F) {
	builtin, err := os.ReadFile("builtin.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(builtin)
	f.Add([]byte(rules(minimal)))
	f.Add([]byte(rules("    counts:\n      - {measure: failure, reason: r, of: [{series: 'x{a=~\"b|c\",d!=\"\"}', minus: [y]}]}\n")))
	set := format.Builtin()
	f.Fuzz(func(t *testing.T, source []byte) {
		parsed, err := format.ParseRules(source)
		if err != nil {
			return
		}
		with, err := set.With(parsed)
		if err != nil {
			return
		}
		for _, page := range []string{"x 1\nx_bucket{le=\"1\"} 2\nx_bucket{le=\"+Inf\"} 3\n", "tgi_queue_size 1\n"} {
			p, err := exposition.Parse(strings.NewReader(page), with.Wanted, exposition.DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = with.Read(p, format.Options{})
		}
	})
}

// FuzzRead reads any page by every format.
func FuzzRead(f *testing.F) {
	for _, text := range []string{
		"vllm:prompt_tokens_total{model_name=\"m\"} 9\nvllm:request_prompt_tokens_sum{model_name=\"m\"} 1\nvllm:num_requests_running{model_name=\"m\"} 1\n",
		"tgi_request_duration_bucket{le=\"1\"} 1\ntgi_request_duration_bucket{le=\"+Inf\"} 2\ntgi_queue_size 1\n",
		"litellm_input_tokens_metric_total{model_id=\"a\"} 1\nlitellm_deployment_success_responses_total{model_id=\"a\",api_base=\"b\"} 1\n",
		":tensorflow:serving:request_count{status=\"X\"} 1\n",
	} {
		f.Add([]byte(text))
	}
	set := format.Builtin()
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := exposition.Parse(strings.NewReader(string(text)), set.Wanted, exposition.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range set.Endpoints() {
			r, err := set.Read(p, format.Options{Format: e.Format, LeaveOut: []string{"m"}})
			if err != nil {
				continue
			}
			for i, c := range r.Counts {
				if c.Value < 0 {
					t.Fatalf("%+v", c)
				}
				if i > 0 && c == r.Counts[i-1] {
					t.Fatalf("twice: %+v", c)
				}
			}
		}
	})
}
