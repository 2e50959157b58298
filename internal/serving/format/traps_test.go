package format_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/format"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
)

// These are the traps that servers set for who reads their pages, by the
// numbers that docs/inference.md gives them; the last is one for who builds.

// readText reads a page of a format.
func readText(t *testing.T, name, text string, o format.Options) *serving.Reading {
	t.Helper()
	set := format.Builtin()
	r, err := set.Read(parse(t, set, text), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Format != name {
		t.Fatalf("read as %s, want %s", r.Format, name)
	}
	return r
}

func readFile(t *testing.T, name, file string, o format.Options) *serving.Reading {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file + ".prom")
	if err != nil {
		t.Fatal(err)
	}
	return readText(t, name, string(text), o)
}

// total is a measure's sum over all series and subjects; -1 where it is not
// measured.
func total(r *serving.Reading, m attribution.Measure) int64 {
	sum, there := int64(0), false
	for _, c := range r.Counts {
		if c.Measure == m {
			there = true
			if c.Minus {
				sum -= c.Value
			} else {
				sum += c.Value
			}
		}
	}
	if !there {
		return -1
	}
	return sum
}

func wantTotal(t *testing.T, r *serving.Reading, m attribution.Measure, want int64) {
	t.Helper()
	if got := total(r, m); got != want {
		t.Errorf("%s: %d, want %d", m, got, want)
	}
}

const one = int64(attribution.One)

// follower reads a fake's pages one after another.
type follower struct {
	*testing.T
	fake    *servingtest.Fake
	set     *format.Set
	tracker *serving.Tracker
	now     time.Time
	sums    map[attribution.Measure]int64
}

func follow(t *testing.T, kind string) *follower {
	now := time.Unix(1_800_000_000, 0)
	return &follower{
		T: t, fake: servingtest.Start(t, kind, now), set: format.Builtin(), now: now,
		tracker: serving.NewTracker(now.UnixNano()-1, serving.DefaultLimits()), sums: make(map[attribution.Measure]int64),
	}
}

func (f *follower) read() serving.Note {
	f.Helper()
	f.now = f.now.Add(5 * time.Second)
	r, err := f.set.Read(parse(f.T, f.set, f.fake.Page()), format.Options{})
	if err != nil {
		f.Fatal(err)
	}
	values, note := f.tracker.Observe(serving.Target{Name: "x", Started: 1_800_000_000e9}, f.now.UnixNano(), r)
	for _, v := range values {
		f.sums[v.Measure] += v.Value
	}
	return note
}

func (f *follower) want(m attribution.Measure, want int64) {
	f.Helper()
	if f.sums[m] != want {
		f.Errorf("%s: %d, want %d", m, f.sums[m], want)
	}
}

// Clients that leave are no failures of vLLM's, but their prompts were read:
// what prompt_tokens_total has and finished requests have not, less what may
// be in flight. It is never negative, and exact when nothing is in flight.
func TestTrap1ClientAbortsOfVLLM(t *testing.T) {
	f := follow(t, "vllm")
	request := servingtest.Request{Model: "llama", Input: 900, Output: 10, Latency: time.Second}
	f.fake.Serve(request, 4)
	f.fake.Begin(request)
	f.read() // 900 tokens in flight are not given up
	f.want(attribution.TokensAborted, 0)
	f.fake.Abort(request, 3)
	f.read() // one request may be the 2,700 tokens
	f.want(attribution.TokensAborted, 0)
	f.fake.End(request, "")
	f.read()
	f.want(attribution.TokensAborted, 2700)
	f.want(attribution.Aborted, 0)
	f.want(attribution.Success, 5*one)
	f.fake.Abort(request, 1)
	f.read()
	f.want(attribution.TokensAborted, 3600)
	f.want(attribution.TokensInput, 9*900)
}

// With n > 1 vLLM counts each of the n: they are inferences, and what
// request_params_n says is not added to them.
func TestTrap2SeveralAnswersToARequest(t *testing.T) {
	r := readFile(t, "vllm", "vllm", format.Options{})
	wantTotal(t, r, attribution.Success, 11*one)
}

// Gauges _created are when counting began, and never counts.
func TestTrap3CreatedIsATime(t *testing.T) {
	r := readFile(t, "vllm", "vllm-old", format.Options{})
	if r.Started != 1_730_000_005_500e6 {
		t.Errorf("started %d", r.Started)
	}
	wantTotal(t, r, attribution.TokensInput, 120)
	wantTotal(t, r, attribution.Success, 4*one)
}

// iteration_tokens_total is a histogram in spite of its name.
func TestTrap4IterationTokensAreNoCount(t *testing.T) {
	r := readFile(t, "vllm", "vllm", format.Options{})
	wantTotal(t, r, attribution.TokensInput, 61500)
	wantTotal(t, r, attribution.TokensOutput, 2190)
}

// Families have been renamed, and Ray renames them all.
func TestTrap5Renames(t *testing.T) {
	old := readFile(t, "vllm", "vllm-old", format.Options{})
	if i := len(old.Gauges); i == 0 || old.Gauges[0].Measure != attribution.KVCache || old.Gauges[0].Value != one/2 {
		t.Errorf("gauges %v", old.Gauges)
	}
	ray := readFile(t, "vllm", "vllm-ray", format.Options{})
	wantTotal(t, ray, attribution.TokensInput, 100)
	wantTotal(t, ray, attribution.Success, 3*one)
}

// Engines add up, each for itself: one that begins anew is not hidden.
func TestTrap6SeveralEngines(t *testing.T) {
	r := readFile(t, "vllm", "vllm", format.Options{})
	wantTotal(t, r, attribution.TokensInput, 61000+500)
	series := 0
	for _, c := range r.Counts {
		if c.Measure == attribution.TokensInput {
			series++
		}
	}
	if series != 2 {
		t.Errorf("%d series, want one for each engine", series)
	}
	for _, g := range r.Gauges {
		if g.Measure == attribution.KVCache && g.Value != 187_500 {
			t.Errorf("the engines' caches are %d full, want their mean", g.Value)
		}
		if g.Measure == attribution.Running && g.Value != 4*one {
			t.Errorf("running %d", g.Value)
		}
	}
}

// SGLang's num_requests_total has those that were aborted, and priority="" is
// the total of all priorities.
func TestTrap7RequestsOfSGLang(t *testing.T) {
	r := readFile(t, "sglang", "sglang", format.Options{})
	wantTotal(t, r, attribution.Success, (110-7)*one)
	wantTotal(t, r, attribution.Aborted, 7*one)
	for _, g := range r.Gauges {
		if g.Measure == attribution.Running && g.Value != 4*one {
			t.Errorf("running %d: priorities were added to their total", g.Value)
		}
	}
	// HTTP responses are surer, but for those to scrapes and probes.
	wantTotal(t, readFile(t, "sglang", "sglang-http", format.Options{}), attribution.Success, 103*one)
}

// Triton's counters may be switched off, are split by GPU, and count an
// ensemble and its members.
func TestTrap8Triton(t *testing.T) {
	r := readFile(t, "triton", "triton", format.Options{})
	wantTotal(t, r, attribution.Success, (5+100+50+155)*one)
	r = readFile(t, "triton", "triton", format.Options{LeaveOut: []string{"pipeline"}})
	wantTotal(t, r, attribution.Success, 155*one)

	// With counter_latencies=false nothing moves while requests wait.
	f := follow(t, "triton")
	f.fake.Serve(servingtest.Request{Model: "m"}, 1)
	f.fake.Wait(servingtest.Request{Model: "m"}, 5)
	f.read()
	for range 9 {
		f.read()
	}
	if n := f.read(); n.Still != 10 {
		t.Errorf("%+v", n)
	}
}

// TGI's prompts have those of requests that failed later; the page is that of
// the API's own port.
func TestTrap9LengthOfPromptsOfTGI(t *testing.T) {
	r := readFile(t, "tgi", "tgi", format.Options{})
	wantTotal(t, r, attribution.TokensInput, 2400)
	wantTotal(t, r, attribution.Success, 40*one)
	wantTotal(t, r, "failure/validation", 6*one)
	wantTotal(t, r, attribution.TokensAborted, -1)
	for _, e := range format.Builtin().Endpoints() {
		if e.Format == "tgi" && (e.Port != 80 || e.Path != "/metrics") {
			t.Errorf("%+v", e)
		}
	}
}

// TorchServe writes a comma after the last label, and families without series.
func TestTrap10CommasOfTorchServe(t *testing.T) {
	r := readFile(t, "torchserve", "torchserve", format.Options{})
	wantTotal(t, r, attribution.Success, 15*one)
	wantTotal(t, r, "failure/4xx", 2*one)
	wantTotal(t, r, "failure/5xx", -1) // there is a type, and no count: not measured
}

// TensorFlow Serving's names begin with a colon.
func TestTrap11ColonsOfTensorFlow(t *testing.T) {
	r := readFile(t, "tensorflow-serving", "tensorflow-serving", format.Options{})
	wantTotal(t, r, attribution.Success, 21*one)
	wantTotal(t, r, attribution.Aborted, one)
	wantTotal(t, r, "latency/4", 20*one) // 1,983.6 µs
}

// A restart resets counters; what has been counted since is new.
func TestTrap12Restart(t *testing.T) {
	for _, kind := range []string{"vllm", "tgi"} {
		f := follow(t, kind)
		r := servingtest.Request{Model: "llama", Input: 10, Latency: time.Second}
		f.fake.Serve(r, 100)
		f.read()
		f.fake.Restart(f.now)
		f.fake.Serve(r, 3)
		n := f.read()
		f.want(attribution.Success, 103*one)
		f.want(attribution.TokensInput, 1030)
		if told := kind == "vllm"; n.Restarted != told || (n.Fallen > 0) == told {
			t.Errorf("%s: %+v", kind, n)
		}
	}
}

// A later version of prometheus/common wants a module that is not to be had
// everywhere, so it stays where it is until that is settled.
func TestTrap13PrometheusCommon(t *testing.T) {
	text, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "github.com/prometheus/common v0.72.0\n") {
		t.Error("prometheus/common is not v0.72.0")
	}
}
