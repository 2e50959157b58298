package opencost_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/opencost"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
)

const start = querytest.Start

// fleet is the small world with a second cluster: its nodes, devices, and pods
// have the same names, and it prices everything.
func fleet() []*attribution.Chunk {
	w := querytest.NewWorld()
	chunks := w.Chunks(0, 600)
	for _, c := range w.Chunks(60, 360) {
		k, r := c.Key, *c.Roster
		k.Cluster = "west"
		r.Devices, r.Owners = slices.Clone(r.Devices), slices.Clone(r.Owners)
		for i := range r.Devices {
			r.Devices[i].Cluster = "west"
		}
		for i := range r.Owners {
			if r.Owners[i].Kind != attribution.Nobody {
				r.Owners[i].Cluster = "west"
			}
		}
		ws := slices.Clone(c.Windows)
		for i := range ws {
			ws[i].Price = attribution.Price{PerHour: 1_234_567_891, Revision: 2}
			ws[i].Slices = slices.Clone(ws[i].Slices)
		}
		chunks = append(chunks, attribution.BuildChunk(k, c.Seconds, facts{&r}, ws, c.Tallies))
	}
	return chunks
}

// facts are a roster's.
type facts struct{ r *attribution.Roster }

func (f facts) Device(i uint32) *attribution.Device   { return &f.r.Devices[i] }
func (f facts) Owner(i uint32) *attribution.Owner     { return &f.r.Owners[i] }
func (f facts) Method(i uint16) string                { return f.r.Methods[i] }
func (f facts) Subject(i uint32) *attribution.Subject { return &f.r.Subjects[i] }
func (f facts) Measure(i uint16) attribution.Measure  { return f.r.Measures[i] }

type server struct {
	t      testing.TB
	engine *query.Engine
	store  *querytest.Store
	h      http.Handler
	now    time.Time
}

func newServer(t testing.TB) *server {
	s := &server{t: t, store: querytest.NewStore(fleet()...), now: time.Unix(int64(start)+601, 0)}
	s.store.Map = mapping.Default().Compile()
	s.engine = query.New(query.Config{Store: s.store, Mapping: func() store.Mapping { return s.store.Map }})
	s.h = opencost.New(opencost.Config{
		Query: s.engine, Currency: func() string { return "USD" }, Now: func() time.Time { return s.now }, Log: slog.New(slog.DiscardHandler),
	})
	return s
}

func (s *server) get(path, rawQuery string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.URL.RawQuery = rawQuery
	s.h.ServeHTTP(w, r)
	return w
}

// allocation is what clients of OpenCost declare of an allocation.
type allocation struct {
	Name       string `json:"name"`
	Properties *struct {
		Cluster        string            `json:"cluster,omitempty"`
		Node           string            `json:"node,omitempty"`
		Container      string            `json:"container,omitempty"`
		Controller     string            `json:"controller,omitempty"`
		ControllerKind string            `json:"controllerKind,omitempty"`
		Namespace      string            `json:"namespace,omitempty"`
		Pod            string            `json:"pod,omitempty"`
		Services       []string          `json:"services,omitempty"`
		ProviderID     string            `json:"providerID,omitempty"`
		Labels         map[string]string `json:"labels,omitempty"`
		Annotations    map[string]string `json:"annotations,omitempty"`
	} `json:"properties"`
	Window           timeWindow                    `json:"window"`
	Start            time.Time                     `json:"start"`
	End              time.Time                     `json:"end"`
	Minutes          float64                       `json:"minutes"`
	CPUCost          float64                       `json:"cpuCost"`
	RAMCost          float64                       `json:"ramCost"`
	PVCost           float64                       `json:"pvCost"`
	NetworkCost      float64                       `json:"networkCost"`
	LoadBalancerCost float64                       `json:"loadBalancerCost"`
	CPUEfficiency    float64                       `json:"cpuEfficiency"`
	GPUCount         float64                       `json:"gpuCount"`
	GPUHours         float64                       `json:"gpuHours"`
	GPUCost          float64                       `json:"gpuCost"`
	GPUCostIdle      float64                       `json:"gpuCostIdle"`
	GPUEfficiency    float64                       `json:"gpuEfficiency"`
	PVs              map[string]map[string]float64 `json:"pvs"`
	LBs              map[string]map[string]any     `json:"lbAllocations"`
	SharedCost       float64                       `json:"sharedCost"`
	ExternalCost     float64                       `json:"externalCost"`
	TotalCost        float64                       `json:"totalCost"`
	TotalEfficiency  float64                       `json:"totalEfficiency"`
	GPUAllocation    *struct {
		GPUDevice         string  `json:"gpuDevice"`
		GPUModel          string  `json:"gpuModel"`
		GPUUUID           string  `json:"gpuUUID"`
		IsGPUShared       bool    `json:"isGPUShared"`
		GPUUsageAverage   float64 `json:"gpuUsageAverage"`
		GPURequestAverage float64 `json:"gpuRequestAverage"`
	} `json:"gpuAllocation"`
}

type timeWindow struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

type answer struct {
	Code    int                     `json:"code"`
	Data    []map[string]allocation `json:"data"`
	Message string                  `json:"message"`
	Warning string                  `json:"warning"`
}

func (s *server) ask(path, rawQuery string) answer {
	s.t.Helper()
	w := s.get(path, rawQuery)
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		s.t.Fatalf("%s?%s: %v in %s", path, rawQuery, err, w.Body)
	}
	if a.Code != w.Code || w.Header().Get("Content-Type") != "application/json" {
		s.t.Fatalf("%s?%s: code %d in status %d, %s", path, rawQuery, a.Code, w.Code, w.Header().Get("Content-Type"))
	}
	return a
}

// TestKubectlCost sends what `kubectl cost` sends, and reads what it reads.
func TestKubectlCost(t *testing.T) {
	s := newServer(t)
	for _, aggregate := range []string{
		"cluster,namespace", "cluster,namespace,deployment", "cluster,namespace,controller", "cluster,namespace,pod",
		"cluster,namespace,label:app", "cluster,node",
	} {
		q := url.Values{"window": {"1h"}, "aggregate": {aggregate}, "accumulate": {"true"}, "includeIdle": {"true"}, "idle": {"true"}, "filterNamespaces": {""}}
		a := s.ask("/allocation/compute", q.Encode())
		if a.Code != 200 || len(a.Data) != 1 || len(a.Data[0]) < 3 {
			t.Fatalf("%s: code %d, %d sets: %s", aggregate, a.Code, len(a.Data), a.Message)
		}
		for key, x := range a.Data[0] {
			// It panics on names with other than a value per property.
			if n := strings.Count(x.Name, "/") + 1; x.Name != "__idle__" && n != strings.Count(aggregate, ",")+1 {
				t.Errorf("%s: name %q has %d parts", aggregate, x.Name, n)
			}
			if key != x.Name || x.Properties == nil || x.Properties.Cluster == "" && key != "__idle__" {
				t.Errorf("%s: key %q has %+v", aggregate, key, x)
			}
			// It projects to a month by what lies between start and end.
			if x.End.Sub(x.Start) != 10*time.Minute || x.Minutes != 10 || !x.Window.Start.Before(x.Start) || x.Window.End.Before(x.End) {
				t.Errorf("%s: %q from %v to %v of %v", aggregate, key, x.Start, x.End, x.Window)
			}
			if sum := x.CPUCost + x.RAMCost + x.GPUCost + x.PVCost + x.NetworkCost + x.LoadBalancerCost + x.SharedCost + x.ExternalCost; sum != x.TotalCost {
				t.Errorf("%s: %q: its costs sum to %v, not %v", aggregate, key, sum, x.TotalCost)
			}
		}
	}
	a := s.ask("//allocation/compute", "window=1h&aggregate=namespace&accumulate=true&includeIdle=true&filterNamespaces=ads")
	if len(a.Data) != 1 || len(a.Data[0]) != 1 || a.Data[0]["ads"].TotalCost <= 0 {
		t.Errorf("of one namespace: %+v", a.Data)
	}
}

func TestAnAllocation(t *testing.T) {
	s := newServer(t)
	a := s.ask("/allocation", fmt.Sprintf("window=%d,%d&aggregate=cluster,pod&includeIdle=true&filter=%s", start, start+600, url.QueryEscape(`cluster:"east"`)))
	x := a.Data[0]["east/llama-0"]
	if x.Properties == nil || x.GPUAllocation == nil {
		t.Fatalf("%+v", a.Data)
	}
	p, g := x.Properties, x.GPUAllocation
	if p.Node != "n1" || p.Namespace != "search" || p.Controller != "llama" || p.ControllerKind != "deployment" || p.Pod != "llama-0" {
		t.Errorf("properties %+v", p)
	}
	if g.GPUModel != "NVIDIA H100" || g.GPUUUID != "GPU-a" || g.IsGPUShared || g.GPURequestAverage != 1 || g.GPUUsageAverage != x.GPUEfficiency {
		t.Errorf("gpuAllocation %+v", g)
	}
	// A quarter of the device and a wobble of 3.000009 ms on average, of 10 minutes at 2.50.
	if x.GPUCount != 1 || x.GPUHours != 0.166666666667 || x.GPUEfficiency < 0.2529 || x.GPUEfficiency > 0.2531 {
		t.Errorf("%+v", x)
	}
	if b := s.ask("/allocation", fmt.Sprintf("window=%d,%d&aggregate=cluster,pod&includeIdle=true", start, start+600)).Data[0]["east/ranker-0"]; !b.GPUAllocation.IsGPUShared {
		t.Errorf("a device that two pods had: %+v", b.GPUAllocation)
	}
}

// TestPodsOfOneName: OpenCost merges them.
func TestPodsOfOneName(t *testing.T) {
	s := newServer(t)
	a := s.ask("/allocation", "window=1h&aggregate=pod")
	for _, want := range []string{"east:search:llama-0", "west:search:llama-0"} {
		if _, ok := a.Data[0][want]; !ok {
			t.Errorf("no %s", want)
		}
	}
	if _, ok := s.ask("/allocation", "window=1h&aggregate=pod&filterClusters=east").Data[0]["llama-0"]; !ok {
		t.Error("a pod of its own name alone has another")
	}
}

func TestSummary(t *testing.T) {
	s := newServer(t)
	var a struct {
		Code int `json:"code"`
		Data struct {
			Step int `json:"step"`
			Sets []struct {
				Allocations map[string]allocation `json:"allocations"`
				Window      timeWindow            `json:"window"`
			} `json:"sets"`
		} `json:"data"`
	}
	w := s.get("/model/allocation/summary", "window=today&aggregate=cluster&step=12h")
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a.Data.Step != int(12*time.Hour) || len(a.Data.Sets) != 2 || len(a.Data.Sets[0].Allocations) != 2 || len(a.Data.Sets[1].Allocations) != 0 ||
		!a.Data.Sets[1].Window.Start.Equal(a.Data.Sets[0].Window.End) {
		t.Errorf("%s", w.Body)
	}
}

func TestAnEmptyWindowIsOneEmptyObject(t *testing.T) {
	s := newServer(t)
	for _, window := range []string{"1970-01-01T00:00:00Z,1970-01-02T00:00:00Z", "2099-01-01T00:00:00Z,2099-01-02T00:00:00Z", "lastmonth"} {
		if a := s.ask("/allocation", "window="+window+"&aggregate=pod"); a.Code != 200 || len(a.Data) != 1 || a.Data[0] == nil || len(a.Data[0]) != 0 {
			t.Errorf("%s: %+v", window, a)
		}
	}
	s.store = querytest.NewStore()
	s.h = opencost.New(opencost.Config{Query: query.New(query.Config{Store: s.store}), Now: func() time.Time { return s.now }})
	if w := s.get("/allocation", "window=1d"); w.Body.String() != `{"code":200,"status":"success","data":[{}]}`+"\n" {
		t.Errorf("an empty ledger: %s", w.Body)
	}
}

func TestRefused(t *testing.T) {
	s := newServer(t)
	for rawQuery, want := range map[string]string{
		"":                           "window is missing",
		"window=invalid":             "write today",
		"window=7x":                  "write today",
		"window=1d&window=2d":        "2 times",
		"window=2026-01-02,2026-1-3": "no time",
		"window=2026-06-16T00:00:00Z,2026-06-15T00:00:00Z":               "is empty",
		"window=1d&aggregate=annotation:x":                               "annotations are not recorded",
		"window=1d&aggregate=pods":                                       "unknown property",
		"window=1d&aggregate=label:":                                     "names no label",
		"window=1d&aggregate=pod,pod":                                    "twice",
		"window=1d&filter=invalid-filter":                                "unknown property",
		"window=1d&filter=" + url.QueryEscape(`pod:"a`):                  "no closing quote",
		"window=1d&filter=" + url.QueryEscape(`pod:"a"|`):                "ends too early",
		"window=1d&filter=" + url.QueryEscape(`(pod:"a"`):                "want )",
		"window=1d&filter=" + url.QueryEscape(`pod="a"`):                 "want an operator",
		"window=1d&filter=" + url.QueryEscape(`label:"a"`):               "label's key",
		"window=1d&filter=" + strings.Repeat("(", 100):                   "parentheses",
		"window=1d&filter=" + strings.Repeat("x", 9000):                  "at most 8192",
		"window=1d&accumulate=maybe":                                     "want true, false, hour",
		"window=1d&includeIdle=maybe":                                    "want true or false",
		"window=1d&step=1s":                                              "a minute or more",
		"window=lastmonth&step=1m":                                       "more than 1000 sets",
		"window=1d&shareCost=5":                                          "overhead of the rate card",
		"window=1d&filterAnnotations=a":                                  "annotations are not recorded",
		"window=1d&aggregat=pod":                                         "unknown parameter",
		"window=1d&limit=-1":                                             "whole number",
		"window=1d&" + strings.Repeat("x", 40_000):                       "at most 32768",
		"window=1d&filter=" + url.QueryEscape(`pod:"a"+pod:"b"|pod:"c"`): "don't mix",
	} {
		if a := s.ask("/allocation", rawQuery); a.Code != 400 || !strings.Contains(a.Message, want) {
			t.Errorf("%.80s: %d %s", rawQuery, a.Code, a.Message)
		}
	}
	if w := s.get("/assets", ""); w.Code != 404 || !strings.Contains(w.Body.String(), `"code":404`) {
		t.Errorf("another path: %d %s", w.Code, w.Body)
	}
	s.store.KeptFrom = start + 700
	if a := s.ask("/allocation", fmt.Sprintf("window=%d,%d", start+7, start+100)); a.Code != 400 || !strings.Contains(a.Message, "still kept") {
		t.Errorf("seconds that are gone: %d %s", a.Code, a.Message)
	}
}

// exact are the numbers of an allocation as they were printed.
type exact struct {
	Name        string      `json:"name"`
	TotalCost   json.Number `json:"totalCost"`
	GPUCost     json.Number `json:"gpuCost"`
	GPUCostIdle json.Number `json:"gpuCostIdle"`
	SharedCost  json.Number `json:"sharedCost"`
}

func decimal(t interface{ Fatalf(string, ...any) }, n json.Number) *big.Rat {
	x, ok := new(big.Rat).SetString(n.String())
	if !ok {
		t.Fatalf("%q is no number", n)
	}
	return x
}

// TestLaw1TotalsAreTheLedgers: whatever is aggregated, cut, shared and
// filtered, the printed decimals sum to the report's cost to the nano unit.
func TestLaw1TotalsAreTheLedgers(t *testing.T) {
	s := newServer(t)
	aggregates := []string{
		"cluster", "node", "namespace", "controllerKind", "controller", "deployment", "pod", "container", "label:team", "label:app",
		"team", "model", "family", "class",
	}
	filters := []struct{ opencost, report string }{
		{"", ""},
		{`cluster:"west"`, "cluster=west"},
		{`namespace:"search"`, "namespace=search"},
		{`namespace!:"search","ads"`, "namespace!=search"},
		{`label[team]:""`, "label:team="},
		{`pod<~:"ra"`, "pod=ra*"},
	}
	rapid.Check(t, func(t *rapid.T) {
		from := start + attribution.Second(rapid.IntRange(-50, 590).Draw(t, "from"))
		to := from + attribution.Second(rapid.IntRange(1, 700).Draw(t, "length"))
		q := url.Values{"window": {fmt.Sprintf("%d,%d", from, to)}, "includeIdle": {"true"}}
		if names := rapid.SliceOfNDistinct(rapid.SampledFrom(aggregates), 0, 4, rapid.ID).Draw(t, "aggregate"); len(names) > 0 {
			q.Set("aggregate", strings.Join(names, ","))
		}
		for name, values := range map[string][]string{
			"step": {"", "1m", "3m", "1h"}, "accumulate": {"", "true", "false", "hour"}, "idleByNode": {"", "true"},
			"shareIdle": {"", "true", "even", "weighted"}, "shareNamespaces": {"", "ads", "nobody", "search,ads,research"},
			"shareSplit": {"", "even", "weighted"},
		} {
			if v := rapid.SampledFrom(values).Draw(t, name); v != "" {
				q.Set(name, v)
			}
		}
		f := filters[rapid.IntRange(0, len(filters)-1).Draw(t, "filter")]
		var reportFilters []string
		if f.opencost != "" {
			// What is filtered out takes its share along: only without sharing
			// is a part of the answer a part of the ledger.
			q.Del("shareIdle")
			q.Del("shareNamespaces")
			q.Set("filter", f.opencost)
			reportFilters = append(reportFilters, f.report)
			if strings.Contains(f.opencost, ",") {
				reportFilters = append(reportFilters, "namespace!=ads")
			}
		}
		w := s.get("/allocation", q.Encode())
		var a struct{ Data []map[string]exact }
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
		sum := new(big.Rat)
		for _, set := range a.Data {
			for name, x := range set {
				total := decimal(t, x.TotalCost)
				if parts := new(big.Rat).Add(decimal(t, x.GPUCost), decimal(t, x.SharedCost)); parts.Cmp(total) != 0 || total.Sign() < 0 || x.Name != name {
					t.Fatalf("%s: %+v", name, x)
				}
				sum.Add(sum, total)
			}
		}
		report, err := s.engine.Report(t.Context(), &query.Request{From: from, To: to, Filters: reportFilters})
		if err != nil {
			t.Fatal(err)
		}
		if want := new(big.Rat).SetFrac(&report.Total.Sum.Cost, big.NewInt(1e9)); sum.Cmp(want) != 0 {
			t.Fatalf("%s: the total costs sum to %s, and the ledger says %s", q.Encode(), sum.FloatString(9), want.FloatString(9))
		}
	})
}

func TestIdleAndSharing(t *testing.T) {
	s := newServer(t)
	base := fmt.Sprintf("window=%d,%d&aggregate=namespace&", start, start+600)
	plain := s.ask("/allocation", base).Data[0]
	shown := s.ask("/allocation", base+"includeIdle=true").Data[0]
	idle := shown["__idle__"]
	if _, ok := plain["__idle__"]; ok || idle.TotalCost <= 0 || len(shown) != len(plain)+1 || idle.GPUEfficiency != 0 {
		t.Fatalf("idle is %+v; without: %v", idle, plain)
	}
	if x := shown["__unallocated__"]; x.GPUHours <= 0 || x.GPUEfficiency != 1 {
		t.Errorf("what a stranger used: %+v", x)
	}
	byNode := s.ask("/allocation", base+"includeIdle=true&idleByNode=true").Data[0]
	if byNode["n1/__idle__"].TotalCost != idle.TotalCost {
		t.Errorf("idle by node: %+v", byNode["n1/__idle__"])
	}
	shared := s.ask("/allocation", base+"shareIdle=true").Data[0]
	if _, ok := shared["__idle__"]; ok || shared["research"].GPUCostIdle <= 0 || shared["research"].GPUCost <= plain["research"].GPUCost {
		t.Errorf("shared idle: %+v", shared["research"])
	}
	even := s.ask("/allocation", base+"shareNamespaces=ads&shareSplit=even").Data[0]
	if _, ok := even["ads"]; ok || even["search"].SharedCost-even["research"].SharedCost > 2e-9 || even["search"].SharedCost <= 0 {
		t.Errorf("evenly shared: %+v", even)
	}
	half := s.ask("/allocation", base+"shareNamespaces=ads&shareSplit=even&filterNamespaces=search").Data[0]
	if len(half) != 1 || half["search"].SharedCost != even["search"].SharedCost {
		t.Errorf("a filter changes what is shared: %+v", half)
	}
	paged := s.ask("/allocation", base+"limit=1&offset=1").Data[0]
	if len(paged) != 1 {
		t.Errorf("a page: %+v", paged)
	}
}

// TestLaw9UnpricedIsTold: its cost is in no total, and the answer says so.
func TestLaw9UnpricedIsTold(t *testing.T) {
	s := newServer(t)
	a := s.ask("/allocation", fmt.Sprintf("window=%d,%d&aggregate=node&filterClusters=east", start, start+600))
	if !strings.Contains(a.Warning, "0.166666666667 GPU-hours have no price") {
		t.Errorf("warning %q", a.Warning)
	}
	if a := s.ask("/allocation", "window=1h&aggregate=node&filterClusters=west"); a.Warning != "" {
		t.Errorf("warning %q", a.Warning)
	}
}
