package interop_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/agent/exporter/prom"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestPrometheusHasWhatTheLedgerHas(t *testing.T) {
	path := program(t, "prometheus", "apt-get install prometheus")
	e := node(t, exporter.Options{Linger: 10 * time.Minute}, 100)
	db := scraped(t, path, e)
	s := e.Snapshot()
	query := func(q string) map[series]float64 {
		got := map[series]float64{}
		for _, x := range db.query(t, q) {
			got[series{x.Metric["owner_kind"], x.Metric["pod"], x.Metric["process"], x.Metric["gpu"], x.Metric["basis"]}] = x.value(t)
		}
		return got
	}
	await(t, "a scrape", func() bool { return len(query("gpuledger_gpu_seconds_total")) > 0 })
	compare(t, "gpuledger_gpu_seconds_total", query("gpuledger_gpu_seconds_total"), s, 1e9,
		func(x *exporter.Series) (int64, bool) { return x.Time, true })
	compare(t, "gpuledger_cost_usd_total", query("gpuledger_cost_usd_total"), s, 1e9,
		func(x *exporter.Series) (int64, bool) { return int64(x.Cost), x.Priced })
	compare(t, "gpuledger_gpu_unpriced_seconds_total", query("gpuledger_gpu_unpriced_seconds_total"), s, 1e9,
		func(x *exporter.Series) (int64, bool) { return x.Unpriced, x.Unpriced > 0 })
	compare(t, "gpuledger_gpu_energy_joules_total", query("gpuledger_gpu_energy_joules_total"), s, 1e6,
		func(x *exporter.Series) (int64, bool) { return x.Energy, x.HasEnergy })
	compare(t, "gpuledger_gpu_memory_byte_seconds_total", query("gpuledger_gpu_memory_byte_seconds_total"), s, 1,
		func(x *exporter.Series) (int64, bool) { return x.Memory, x.HasMemory })
	for q, want := range map[string]float64{
		`sum(gpuledger_gpu_seconds_total)`:                                                             200,
		`sum(gpuledger_inferences_total{outcome="success",model="llama"})`:                             800,
		`gpuledger_tokens_total{type="output",namespace="shop",pod="chat-1",label_app="chat"}`:         20_000,
		`gpuledger_gpu_price_usd_per_hour * on(gpu) group_left(model) gpuledger_gpu_info{gpu="GPU-a"}`: 2.500000001,
	} {
		got := db.query(t, q)
		if len(got) != 1 || got[0].value(t)-want > 1e-9 || want-got[0].value(t) > 1e-9 {
			t.Errorf("%s: %v, want %v", q, got, want)
		}
	}

	// A pod that has ended stays for its time, and then its series end there
	// with the last value.
	last := query(`gpuledger_gpu_seconds_total{pod="chat-2"}`)
	for i := range 700 {
		e.Add(exportertest.Chunk(exportertest.Start+attribution.Second(100+i), []exportertest.Window{{
			Device: exportertest.GPU("GPU-a"), Cuts: []exportertest.Cut{{Basis: attribution.Unallocated, Time: 1e9}},
		}}, nil))
	}
	await(t, "the end of a series", func() bool { return len(query(`gpuledger_gpu_seconds_total{pod="chat-2"}`)) == 0 })
	for k, v := range query(`last_over_time(gpuledger_gpu_seconds_total{pod="chat-2"}[5m])`) {
		if last[k] != v || v != 34*0.2 {
			t.Errorf("%+v ended with %v, want %v", k, v, last[k])
		}
	}
}

// database is a running Prometheus.
type database struct{ base string }

// scraped starts a Prometheus that scrapes an exporter every second.
func scraped(t *testing.T, path string, e *exporter.Exporter) database {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(prom.New(e))
	target := httptest.NewServer(promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	t.Cleanup(target.Close)
	dir, listen := t.TempDir(), address(t)
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: gpuledger-agent
  honor_labels: true
  static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(target.URL, "http://"))
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, path, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+listen)
	db := database{"http://" + listen}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	await(t, "Prometheus", func() bool {
		response, err := http.Get(db.base + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return db
}

// sample is one of an instant vector.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

func (x *sample) value(t *testing.T) float64 {
	t.Helper()
	text, _ := x.Value[1].(string)
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (db database) query(t *testing.T, q string) []sample {
	t.Helper()
	response, err := http.Get(db.base + "/api/v1/query?query=" + url.QueryEscape(q))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []sample }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %s %v", q, answer.Error, err)
	}
	return answer.Data.Result
}
