package prom_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/agent/exporter/prom"
	"github.com/gpuledger/gpuledger/attribution"
)

var update = flag.Bool("update", false, "write the golden files")

func newExporter(t testing.TB, o exporter.Options, currency string) *exporter.Exporter {
	t.Helper()
	o.Cluster, o.Node = exportertest.Cluster, exportertest.Node
	e, err := exporter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetRateCard(1, currency); err != nil {
		t.Fatal(err)
	}
	return e
}

// scrape is what /metrics says, in the format that accept asks for.
func scrape(t testing.TB, c prometheus.Collector, accept string) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	w := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", accept)
	promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true, EnableOpenMetricsTextCreatedSamples: true}).ServeHTTP(w, request)
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

const (
	plain       = "text/plain; version=0.0.4"
	openMetrics = "application/openmetrics-text; version=1.0.0"
)

func TestGolden(t *testing.T) {
	for _, tc := range []struct{ file, accept, currency string }{
		{"testdata/usd.txt", plain, "USD"},
		{"testdata/eur.openmetrics.txt", openMetrics, "EUR"},
	} {
		e := newExporter(t, exporter.Options{Labels: []string{"app", "team", "pod-template-hash"}}, tc.currency)
		c := prom.New(e)
		for i := range 5 {
			e.Add(exportertest.Episode(i))
		}
		got := scrape(t, c, tc.accept)
		if *update {
			if err := os.WriteFile(tc.file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(tc.file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is not what is served (-update writes it):\n%s", tc.file, got)
		}
		problems, err := promlint.New(strings.NewReader(scrape(t, c, plain))).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestBeforeTheFirstSecondThereIsNothingButItself(t *testing.T) {
	for line := range strings.Lines(scrape(t, prom.New(newExporter(t, exporter.Options{}, "USD")), plain)) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "gpuledger_agent_exporter_") {
			t.Error(line)
		}
	}
}

func TestLaw9WhatIsUnknownIsAbsent(t *testing.T) {
	e := newExporter(t, exporter.Options{}, "USD")
	e.Add(exportertest.Episode(4))
	for line := range strings.Lines(scrape(t, prom.New(e), plain)) {
		if !strings.Contains(line, "MIG-b1") {
			continue
		}
		name, _, _ := strings.Cut(line, "{")
		switch name {
		case "gpuledger_gpu_seconds_total", "gpuledger_gpu_unpriced_seconds_total", "gpuledger_gpu_info", "gpuledger_gpu_memory_bytes":
		default:
			t.Errorf("an unpriced device without sensors that nobody looked at: %s", line)
		}
	}
}

func TestADeviceThatIsGoneHasNoPrice(t *testing.T) {
	e := newExporter(t, exporter.Options{}, "USD")
	e.Add(exportertest.Episode(0))
	e.Add(exportertest.Chunk(exportertest.Start+1, nil, nil))
	text := scrape(t, prom.New(e), plain)
	if strings.Contains(text, "gpuledger_gpu_price_usd_per_hour{") || !strings.Contains(text, "gpuledger_gpu_info{") ||
		!strings.Contains(text, "gpuledger_cost_usd_total{") {
		t.Errorf("want its totals and no price:\n%s", text)
	}
}

func TestLabelsNeverCollide(t *testing.T) {
	e := newExporter(t, exporter.Options{Labels: []string{"a.b", "a_b", "a/b", "a_b_2", "é"}}, "USD")
	o := exportertest.Pod("x")
	o.Labels = attribution.MakeLabels(map[string]string{"a.b": "dot", "a_b": "line", "a/b": "slash\n\"\\", "a_b_2": "two", "é": ""})
	e.Add(exportertest.Chunk(exportertest.Start, []exportertest.Window{{
		Device: exportertest.GPU("GPU-a"), Cuts: []exportertest.Cut{{Owner: o, Basis: attribution.Reserved, Time: 1e9}},
	}}, nil))
	text := scrape(t, prom.New(e), plain)
	for _, want := range []string{`label_a_b="dot"`, `label_a_b_2="line"`, `label_a_b_3="slash\n\"\\"`, `label_a_b_2_2="two"`, `label__=""`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// A pod that loses a label whose value was empty stays one owner: Prometheus
// can't tell the two apart, and a registry refuses what is there twice.
func TestAnEmptyLabelIsNone(t *testing.T) {
	e := newExporter(t, exporter.Options{Labels: []string{"app"}}, "USD")
	for i, labels := range []map[string]string{{"app": ""}, {}} {
		o := exportertest.Pod("x")
		o.Labels = attribution.MakeLabels(labels)
		e.Add(exportertest.Chunk(exportertest.Start+attribution.Second(i), []exportertest.Window{{
			Device: exportertest.GPU("GPU-a"), Cuts: []exportertest.Cut{{Owner: o, Basis: attribution.Reserved, Time: 1e9}},
		}}, nil))
	}
	text := scrape(t, prom.New(e), plain)
	if n := strings.Count(text, "gpuledger_gpu_seconds_total{"); n != 1 {
		t.Errorf("%d series, want one:\n%s", n, text)
	}
}

// Any texts whatever give a page that a registry accepts.
func FuzzOwners(f *testing.F) {
	f.Add("ns", "pod", "c", "cmd", "label")
	f.Add("ns", "pod", "c", "cmd", "")
	f.Add("\xff\x00", strings.Repeat("é", 200), "\"\n\\", "", "a\x00b")
	f.Fuzz(func(t *testing.T, namespace, pod, container, command, label string) {
		e := newExporter(t, exporter.Options{Labels: []string{"app"}}, "USD")
		o := attribution.Owner{
			Kind: attribution.Container, Cluster: exportertest.Cluster, Node: exportertest.Node, Namespace: namespace, Pod: pod,
			Container: container, Labels: attribution.Labels{{Key: "app", Value: label}},
		}
		twin, bare := o, o
		twin.Pod += "\xff"
		bare.Labels = nil
		e.Add(exportertest.Chunk(exportertest.Start, []exportertest.Window{{
			Device: exportertest.GPU("GPU-" + pod), Price: exportertest.Price(1), Cuts: []exportertest.Cut{
				{Owner: o, Basis: attribution.Used, Time: 4e8},
				{Owner: bare, Basis: attribution.Used, Time: 1e8},
				{Owner: twin, Basis: attribution.Used, Time: 1e8},
				{Owner: exportertest.Process(attribution.HostProcess, 1, command), Basis: attribution.Used, Time: 4e8},
			},
		}}, []exportertest.Served{{Owner: o, Model: label, Tier: command, Measure: attribution.FailurePrefix + attribution.Measure(pod), Value: 1}}))
		scrape(t, prom.New(e), openMetrics)
	})
}

// A scrape of a node as it is, and of one at the limit.
func BenchmarkScrape(b *testing.B) {
	for _, owners := range []int{100, 4900} {
		b.Run(fmt.Sprint(owners), func(b *testing.B) {
			e := newExporter(b, exporter.Options{}, "USD")
			for at := range owners / 100 {
				var cuts []exportertest.Cut
				for i := range 100 {
					cuts = append(cuts, exportertest.Cut{Owner: exportertest.Pod(fmt.Sprintf("chat-7d9c5b8f6d-%06d", 100*at+i)), Basis: attribution.Used, Time: 1e7})
				}
				e.Add(exportertest.Chunk(exportertest.Start+attribution.Second(at), []exportertest.Window{{
					Device: exportertest.GPU("GPU-8f9d5a52-91b0-4b5c-9c3e-0123456789ab"), Price: exportertest.Price(1), Cuts: cuts,
				}}, nil))
			}
			r := prometheus.NewRegistry()
			r.MustRegister(prom.New(e))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Gather(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
