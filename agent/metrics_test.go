package agent

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler/dcgm"
	"github.com/gpuledger/gpuledger/agent/sampler/nvml"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet"
	"github.com/gpuledger/gpuledger/agent/workload/podwatch"
	"github.com/gpuledger/gpuledger/agent/workload/process"
	"github.com/gpuledger/gpuledger/agent/workload/slurm"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// The page of a live node is what Prometheus' linter and its own parser want,
// and shows the ledger's totals beside the agent's own.
func TestMetricsOfALiveNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.during = func(a *Agent) {
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(&metrics{agent: a})
			problems, err := testutil.GatherAndLint(registry)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range problems {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
			for _, name := range []string{"gpuledger_gpu_seconds_total", "gpuledger_cost_usd_total", "gpuledger_agent_windows_total", "gpuledger_agent_nvml_rescans_total", "gpuledger_agent_held"} {
				if n, err := testutil.GatherAndCount(registry, name); err != nil || n == 0 {
					t.Errorf("%s is there %d times: %v", name, n, err)
				}
			}
		}
		b.run(20*time.Second, false)
	})
}

// everything is a node that tells all that a node may tell.
type everything struct{ *gpus }

func (everything) ready() error { return nil }

func (everything) collect(c *nodeCollector) {
	c.driver(nvml.Stats{Devices: []nvml.DeviceStats{{ID: "GPU-A", Activity: "gpm"}}, Errors: []nvml.ErrorCount{{Device: "GPU-A", XID: 79, Count: 1}}})
	c.processes(process.Stats{})
	c.kubelet(kubelet.Stats{Errors: map[string]uint64{"timeout": 1}})
	c.pods(podwatch.Stats{Source: "apiserver"}, podwatch.SlicesStats{})
	c.slurm(slurm.Stats{})
	c.dcgm(dcgm.Stats{Mode: dcgm.Exporter}, []dcgm.Reading{{GPU: "GPU-A", GPUInstance: -1, ComputeInstance: -1, Field: dcgm.DRAMActive, Share: 1}})
}

// paced is the page of a node at a pace.
type paced pb.Pace

func (paced) Describe(chan<- *prometheus.Desc) {}

func (p paced) Collect(out chan<- prometheus.Metric) {
	(&nodeCollector{out: out, labels: []string{"c", "n"}}).held(pb.Pace(p))
}

func TestThePageSaysWhatIsHeld(t *testing.T) {
	for pace, want := range map[pb.Pace][2]int{pb.Pace_PACE_EVERYTHING: {0, 0}, pb.Pace_PACE_CHUNKS: {0, 1}, pb.Pace_PACE_NOTHING: {1, 1}} {
		page := fmt.Sprintf(`# HELP gpuledger_agent_held 1 while the collector has the node wait with what it has of the kind.
# TYPE gpuledger_agent_held gauge
gpuledger_agent_held{cluster="c",kind="chunk",node="n"} %d
gpuledger_agent_held{cluster="c",kind="live_second",node="n"} %d
`, want[0], want[1])
		if err := testutil.CollectAndCompare(paced(pace), strings.NewReader(page)); err != nil {
			t.Errorf("%v: %v", pace, err)
		}
	}
}

func TestProfilesAreServedWhereAskedFor(t *testing.T) {
	for asked, want := range map[bool]int{true: http.StatusOK, false: http.StatusNotFound} {
		cfg := DefaultConfig()
		cfg.PProf = asked
		w := httptest.NewRecorder()
		(&Agent{cfg: cfg, deps: Deps{Log: slog.New(slog.DiscardHandler)}}).server().Handler.
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", http.NoBody))
		if w.Code != want {
			t.Errorf("asked %v: %d %q", asked, w.Code, w.Body)
		}
	}
}

// twice collects a metric twice, beside a good one.
type twice struct{}

func (twice) Describe(chan<- *prometheus.Desc) {}

func (twice) Collect(out chan<- prometheus.Metric) {
	for _, name := range []string{"bad", "bad", "good"} {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, "help", nil, nil), prometheus.GaugeValue, 1)
	}
}

func TestABadMetricCostsNoOther(t *testing.T) {
	var log bytes.Buffer
	h := page(slog.New(slog.NewTextHandler(&log, nil)), twice{})
	body := ""
	for range 2 { // the error is counted on the next page
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		if body = w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, "\ngood 1\n") {
			t.Fatalf("%d %q", w.Code, body)
		}
	}
	if !strings.Contains(body, `promhttp_metric_handler_errors_total{cause="gathering"} 1`) || !strings.Contains(log.String(), "bad") {
		t.Errorf("%s\n%s", body, &log)
	}
}

// A node that seals what it missed is late, and healthy for as long as it gets
// on.
func TestHealthyIsWhoGetsOn(t *testing.T) {
	const now = 1_700_000_000
	wall := func() int64 { return now * attribution.WindowNanos }
	l := &liveNode{node: &node{}, clock: NewClock(wall, wall, 0)}
	a := &Agent{live: l}
	check := func(what string, healthy bool) {
		t.Helper()
		if err := a.Healthy(); (err == nil) != healthy {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("waiting for its first rate card", true)
	m := meter.New(meter.Options{From: now - 10_000})
	l.metered.Store(m)
	check("late, asked for the first time", true)
	check("late, and no further", false)
	for range 3 {
		if err := m.Seal(m.Next()+599, func(*meter.Sealed) error { return nil }); err != nil {
			t.Fatal(err)
		}
		check("late, and further", true)
	}
	check("late, and no further again", false)
	if err := m.Seal(now-2, func(*meter.Sealed) error { return nil }); err != nil {
		t.Fatal(err)
	}
	check("on time", true)
	check("on time, and the second is not over", true)
}
