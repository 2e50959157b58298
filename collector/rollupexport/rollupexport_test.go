package rollupexport_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/internal/loopback"
	"github.com/gpuledger/gpuledger/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden file")

const start = querytest.Start // a Wednesday, 00:00

const monday = start - 2*86400

// fixture is Rollups over a store that a test may change.
type fixture struct {
	*rollupexport.Rollups
	store   *querytest.Store
	engine  *query.Engine
	now     time.Time
	changed time.Time
	failing error
	views   int
}

func newFixture(t testing.TB, o rollupexport.Options, chunks ...*attribution.Chunk) *fixture {
	t.Helper()
	f := &fixture{store: querytest.NewStore(chunks...), now: time.Unix(int64(start)+600, 0)}
	f.store.Map = mapping.Default().Compile()
	f.store.Before = func() { f.views++ }
	f.engine = query.New(query.Config{Store: f.store, Mapping: func() store.Mapping { return f.store.Map }})
	o.Query, o.Log = f.engine, slog.New(slog.DiscardHandler)
	o.Now = func() time.Time { return f.now }
	o.Currency = func() string { return "USD" }
	o.Changed = func(context.Context) (time.Time, error) { return f.changed, f.failing }
	var err error
	if f.Rollups, err = rollupexport.New(o); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) snapshot(t testing.TB) *rollupexport.Snapshot {
	t.Helper()
	s, err := f.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// later moves the clock past the time between questions.
func (f *fixture) later() { f.now = f.now.Add(16 * time.Second) }

func (f *fixture) page(t testing.TB) string {
	t.Helper()
	w := httptest.NewRecorder()
	rollupexport.Handler(f.Rollups, time.Second).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics/rollups", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func parse(t testing.TB, page string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// latencies is a chunk in which three requests took up to 1.024 s, the bucket
// that one second is in, one a bit more, and one an hour.
func latencies() *attribution.Chunk {
	w := querytest.NewWorld()
	w.Measures = []attribution.Measure{"latency/40", "latency/41", "latency/88"}
	key := attribution.ChunkKey{Cluster: "east", Node: "n1", Boot: attribution.Boot{1}, Sequence: start + 600}
	return attribution.BuildChunk(key, 1, w, []attribution.DeviceWindow{{
		Second: key.Sequence, Price: querytest.Price,
		Slices: []attribution.Slice{{Owner: querytest.Llama, Basis: attribution.Used, Time: attribution.WindowNanos}},
	}}, []attribution.Tally{
		{Second: key.Sequence, Measure: 0, Value: 3 * int64(attribution.One)},
		{Second: key.Sequence, Measure: 1, Value: int64(attribution.One)},
		{Second: key.Sequence, Measure: 2, Value: int64(attribution.One)},
	})
}

func TestThePageIsTheReport(t *testing.T) {
	f := newFixture(t, rollupexport.Options{Targets: []time.Duration{time.Second, time.Minute}}, querytest.NewWorld().Chunks(0, 600)...)
	f.store.Add(latencies())
	page := f.page(t)
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	if *update {
		if err := os.WriteFile("testdata/page.txt", []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile("testdata/page.txt"); err != nil || string(want) != page {
		t.Errorf("testdata/page.txt is not what is served (-update writes it): %v\n%s", err, page)
	}
	families := parse(t, page)
	report, err := f.engine.Report(t.Context(), &query.Request{From: monday, To: start + 86400, GroupBy: rollupexport.DefaultDimensions()})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{}
	units := func(n *big.Int) float64 {
		v, _ := new(big.Rat).SetFrac(n, big.NewInt(1e9)).Float64()
		return v
	}
	for _, r := range report.Rows {
		for _, b := range r.ByBasis {
			k := fmt.Sprintf("basis=%v class=%s cluster=%s model=%s team=%s ", b.Basis, r.Keys[3].Value, r.Keys[0].Value, r.Keys[2].Value, r.Keys[1].Value)
			want["gpuledger_rollup_gpu_seconds_total "+k] = units(&b.DeviceTime)
			if b.Priced() {
				want["gpuledger_rollup_cost_usd_total "+k] = units(&b.Cost)
			}
			if b.Unpriced.Sign() > 0 {
				want["gpuledger_rollup_gpu_unpriced_seconds_total "+k] = units(&b.Unpriced)
			}
		}
	}
	got := 0
	for _, name := range []string{"gpuledger_rollup_gpu_seconds_total", "gpuledger_rollup_cost_usd_total", "gpuledger_rollup_gpu_unpriced_seconds_total"} {
		for _, m := range families[name].GetMetric() {
			k := name + " "
			for _, l := range m.GetLabel() {
				k += l.GetName() + "=" + l.GetValue() + " "
			}
			if v, ok := want[k]; !ok || v != m.GetCounter().GetValue() {
				t.Errorf("%s is %v, want %v", k, m.GetCounter().GetValue(), v)
			}
			got++
		}
	}
	if got != len(want) || got < 10 {
		t.Errorf("%d series, want %d", got, len(want))
	}
	served := map[string]float64{}
	for _, name := range []string{"gpuledger_rollup_inferences_total", "gpuledger_rollup_tokens_total"} {
		for _, m := range families[name].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "outcome" || l.GetName() == "type" {
					served[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	// 120 times 1.333333 + 3, and 60 times 20; 120 times 790 and 0 + 5 + … + 595.
	if served["success"] != 120*4.333333+1200 || served["failure"] != 60 || served["input"] != 120*790+35700 || served["output"] != 120*110 {
		t.Errorf("served %v", served)
	}
	for target, want := range map[string]float64{"1s": 3, "1m": 4} {
		line := fmt.Sprintf(`gpuledger_rollup_inferences_within_total{class="",cluster="east",model="llama-70b",target=%q,team="search"} %v`, target, want)
		if !strings.Contains(page, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	if v := families["gpuledger_rollup_start_timestamp_seconds"].GetMetric()[0].GetGauge().GetValue(); v != float64(monday) {
		t.Errorf("since %v", v)
	}
}

func TestLaw9WhatIsNotMeasuredIsAbsent(t *testing.T) {
	f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunk("n2", start, 10))
	page := f.page(t)
	for _, absent := range []string{"gpuledger_rollup_cost_usd_total", "gpuledger_rollup_tokens_total"} {
		if strings.Contains(page, absent) {
			t.Errorf("%s of what is unpriced and counts no tokens", absent)
		}
	}
	if !strings.Contains(page, `gpuledger_rollup_inferences_total{class="",cluster="east",model="chat-1",outcome="success",team="search"} 0`) {
		t.Errorf("a server without requests has no 0:\n%s", page)
	}
}

func TestOneQuestionPerInterval(t *testing.T) {
	f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunks(0, 60)...)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { f.snapshot(t) })
	}
	wg.Wait()
	first := f.snapshot(t)
	if f.views != 1 {
		t.Errorf("%d questions", f.views)
	}
	f.later()
	if f.snapshot(t) == first || f.views != 2 {
		t.Errorf("%d questions after the interval", f.views)
	}
}

// TestLaw5LateTimeCounts: what comes late is in the counters; what is open is
// not yet.
func TestLaw5LateTimeCounts(t *testing.T) {
	w := querytest.NewWorld()
	f := newFixture(t, rollupexport.Options{}, w.Chunk("n1", start+300, 10))
	before := total(f.snapshot(t))
	f.store.Add(w.Chunk("n1", start+20, 10))
	f.later()
	if after := total(f.snapshot(t)); after.Int64() != 2*before.Int64() || before.Int64() != 20e9 {
		t.Errorf("%v, then %v", before, after)
	}
	f.store.Add(w.Chunk("n2", monday-10, 10))
	f.later()
	if again := total(f.snapshot(t)); again.Int64() != 40e9 {
		t.Errorf("time before the epoch is in the counters: %v", again)
	}
}

func total(s *rollupexport.Snapshot) *big.Int {
	sum := new(big.Int)
	for _, x := range s.Series {
		sum.Add(sum, &x.Time)
	}
	return sum
}

func TestEpochs(t *testing.T) {
	f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunks(0, 600)...)
	if s := f.snapshot(t); s.Since != monday {
		t.Errorf("since %d", s.Since)
	}
	f.changed = time.Unix(int64(start)+290, 5)
	f.later()
	if s := f.snapshot(t); s.Since != start+300 || total(s).Int64() != 900e9 {
		t.Errorf("after a change: since %d, %v", s.Since-start, total(s))
	}
	f.changed = f.now
	f.later()
	if s := f.snapshot(t); s.Since != start+660 || len(s.Series) != 0 {
		t.Errorf("just after a change: since %d, %d series", s.Since-start, len(s.Series))
	}
	f.now = time.Unix(int64(monday)+7*86400, 0)
	if s := f.snapshot(t); s.Since != monday+7*86400 {
		t.Errorf("next Monday: since %d", s.Since-monday)
	}
	f = newFixture(t, rollupexport.Options{Retention: func() store.Retention {
		return store.Retention{Minute: 24 * time.Hour, Hour: 9600 * time.Hour}
	}}, querytest.NewWorld().Chunks(0, 600)...)
	f.changed = time.Unix(int64(start)+290, 0)
	if s := f.snapshot(t); s.Since != start+3600 || len(s.Series) != 0 {
		t.Errorf("where minutes are not kept for a week: since %d", s.Since-start)
	}
}

// TestCountersNeverGoBack: an owner that serves a second model moves its
// inferences' cost, so all counters begin again.
func TestCountersNeverGoBack(t *testing.T) {
	f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunks(0, 60)...)
	f.snapshot(t)
	other := mapping.Rules{Rules: []mapping.Rule{{Target: mapping.Team, Value: "all"}}}
	f.store.Map = other.Compile() // and nobody says that it changed
	f.later()
	s := f.snapshot(t)
	if s.Since != start+660 || len(s.Series) != 0 || f.Stats().Restarts != 1 {
		t.Errorf("since %d, %d series, %+v", s.Since-start, len(s.Series), f.Stats())
	}
	f.store.Add(querytest.NewWorld().Chunk("n1", start+660, 10))
	f.now = time.Unix(int64(start)+680, 0)
	if s := f.snapshot(t); total(s).Int64() != 20e9 || f.Stats().Restarts != 1 {
		t.Errorf("after the restart: %v, %+v", total(s), f.Stats())
	}
}

func TestLaw8GroupsAreBounded(t *testing.T) {
	w := querytest.NewWorld()
	f := newFixture(t, rollupexport.Options{Dimensions: []string{"pod"}, MaxGroups: 2}, w.Chunk("n1", start, 10))
	own := map[string]bool{}
	whole := new(big.Int)
	for range 3 {
		s := f.snapshot(t)
		for _, x := range s.Series {
			own[x.Values[0]] = true
		}
		whole = total(s)
		f.store.Add(w.Chunk("n2", start+attribution.Second(10*len(own)), 10), w.Chunk("n1", start+300+attribution.Second(10*len(own)), 10))
		f.later()
	}
	if len(own) != 3 || !own[rollupexport.Other] || f.snapshot(t).Others == 0 || f.Stats().Restarts != 0 {
		t.Errorf("own series of %v, %+v", own, f.Stats())
	}
	report, err := f.engine.Report(t.Context(), &query.Request{From: monday, To: start + 86400})
	if err != nil {
		t.Fatal(err)
	}
	if whole.Cmp(&report.Total.Sum.DeviceTime) >= 0 || total(f.snapshot(t)).Cmp(&report.Total.Sum.DeviceTime) != 0 {
		t.Errorf("%v of %v", total(f.snapshot(t)), &report.Total.Sum.DeviceTime)
	}
}

// TestMonotonic: in whatever order chunks come, no counter ever falls.
func TestMonotonic(t *testing.T) {
	chunks := querytest.NewWorld().Chunks(0, 40)
	rapid.Check(t, func(rt *rapid.T) {
		order := rapid.Permutation(chunks).Draw(rt, "order")
		groups := rapid.IntRange(1, 6).Draw(rt, "groups")
		f := newFixture(t, rollupexport.Options{Dimensions: []string{"node", "namespace", "pod"}, MaxGroups: groups})
		for len(order) > 0 {
			n := rapid.IntRange(1, len(order)).Draw(rt, "n")
			f.store.Add(order[:n]...)
			order = order[n:]
			f.later()
			f.snapshot(t)
			if f.Stats().Restarts > 0 {
				rt.Fatal("a counter fell")
			}
		}
	})
}

func TestAFailureKeepsTheLastAnswer(t *testing.T) {
	f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunks(0, 60)...)
	f.failing = errors.New("the store is away")
	if s, err := f.Snapshot(t.Context()); s != nil || !errors.Is(err, f.failing) {
		t.Errorf("before any answer: %v, %v", s, err)
	}
	if page := f.page(t); !strings.Contains(page, `gpuledger_rollup_questions_total{outcome="failure"} 2`) || strings.Contains(page, "gpu_seconds") {
		t.Errorf("before any answer:\n%s", page)
	}
	f.failing = nil
	first := f.snapshot(t)
	f.failing = errors.New("the store is away")
	f.later()
	if s, err := f.Snapshot(t.Context()); s != first || err == nil {
		t.Errorf("want the last answer and the error, not %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.failing = nil
	if _, err := f.Snapshot(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]rollupexport.Options{
		"basis is a label anyway": {Dimensions: []string{"basis"}},
		"are not of both":         {Dimensions: []string{"tenant"}},
		"did you mean team":       {Dimensions: []string{"teem"}},
		"both be the label":       {Dimensions: []string{"label:a.b", "label:a-b"}},
		"latency target":          {Targets: []time.Duration{-1}},
		"up to 20000":             {MaxGroups: 1 << 30},
	} {
		if _, err := rollupexport.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, o := range map[string]rollupexport.OTLPOptions{
		"is a URL":      {Endpoint: "http://me:hush@x:4317"},
		"want host":     {Endpoint: "x"},
		"come together": {Endpoint: "x:1", CertFile: "c"},
		"without TLS":   {Endpoint: "x:1", Insecure: true, CAFile: "c"},
		"at least 1s":   {Endpoint: "x:1", Interval: time.Millisecond},
		"lower-case":    {Endpoint: "x:1", Headers: map[string]secret.Text{"A b": "c"}},
		"printable":     {Endpoint: "x:1", Headers: map[string]secret.Text{"a": "hush\n"}},
	} {
		err := o.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// receiver is an OTLP receiver that keeps what it gets.
type receiver struct {
	colpb.UnimplementedMetricsServiceServer
	requests chan *colpb.ExportMetricsServiceRequest
	refuse   error
}

func (r *receiver) Export(ctx context.Context, m *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("x-scope")) == 0 {
		return nil, errors.New("no header")
	}
	if r.refuse != nil {
		return nil, r.refuse
	}
	r.requests <- m
	return &colpb.ExportMetricsServiceResponse{}, nil
}

func receive(t *testing.T) (*receiver, string) {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{requests: make(chan *colpb.ExportMetricsServiceRequest, 16)}
	s := grpc.NewServer()
	colpb.RegisterMetricsServiceServer(s, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return r, l.Addr().String()
}

func TestOTLP(t *testing.T) {
	f := newFixture(t, rollupexport.Options{Dimensions: []string{"cluster", "budget-owner", "model", "label:app"}}, querytest.NewWorld().Chunks(0, 600)...)
	r, addr := receive(t)
	p, err := rollupexport.NewPusher(f.Rollups, rollupexport.OTLPOptions{
		Endpoint: addr, Insecure: true, Interval: time.Second, Headers: map[string]secret.Text{"x-scope": "tenant"}, Version: "v1", InstanceID: "me",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	m := <-r.requests
	<-r.requests // so that the first push has ended
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if p.Stats().Pushes == 0 {
		t.Errorf("%+v", p.Stats())
	}
	rm := m.GetResourceMetrics()[0]
	if a := rm.GetResource().GetAttributes(); len(a) != 3 || a[0].GetValue().GetStringValue() != "gpuledger-collector" {
		t.Errorf("resource %v", a)
	}
	sums, units := map[string]float64{}, map[string]string{}
	for _, x := range rm.GetScopeMetrics()[0].GetMetrics() {
		units[x.GetName()] = x.GetUnit()
		for _, pt := range x.GetSum().GetDataPoints() {
			sums[x.GetName()] += pt.GetAsDouble()
			if pt.GetStartTimeUnixNano() != uint64(monday.Nanos()) || pt.GetTimeUnixNano() != uint64(f.now.UnixNano()) || !x.GetSum().GetIsMonotonic() {
				t.Errorf("%s: %v", x.GetName(), pt)
			}
			keys := map[string]string{}
			for _, a := range pt.GetAttributes() {
				if a.GetValue().GetStringValue() == "" {
					t.Errorf("%s: %s is empty", x.GetName(), a.GetKey())
				}
				keys[a.GetKey()] = a.GetValue().GetStringValue()
			}
			if x.GetName() == "gpuledger.rollup.gpu.time" && keys["gpuledger.basis"] == "" || keys["k8s.cluster.name"] == "" {
				t.Errorf("%s: %v", x.GetName(), keys)
			}
		}
	}
	if sums["gpuledger.rollup.gpu.time"] != 1800 || units["gpuledger.rollup.cost"] != "{USD}" || units["gpuledger.rollup.tokens"] != "{token}" {
		t.Errorf("%v, %v", sums, units)
	}
}

func TestOTLPIsSplitAndSurvivesRefusals(t *testing.T) {
	f := newFixture(t, rollupexport.Options{Dimensions: []string{"pod"}, MaxGroups: 20_000})
	var cs []*attribution.Chunk
	for i := range 900 {
		w := querytest.NewWorld()
		w.Owners[querytest.Llama].Pod = fmt.Sprintf("llama-%d", i)
		cs = append(cs, w.Chunk("n1", start+attribution.Second(10*i), 10))
	}
	f.store.Add(cs...)
	f.now = time.Unix(int64(start)+9000, 0)
	r, addr := receive(t)
	r.refuse = errors.New("not now")
	p, err := rollupexport.NewPusher(f.Rollups, rollupexport.OTLPOptions{Endpoint: addr, Insecure: true, Headers: map[string]secret.Text{"x-scope": "tenant"}})
	if err != nil {
		t.Fatal(err)
	}
	p.Push(t.Context())
	r.refuse = nil
	p.Push(t.Context())
	if s := p.Stats(); s.Failures != 1 || s.Pushes != 1 || len(r.requests) != 2 {
		t.Errorf("%+v, %d requests", s, len(r.requests))
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
