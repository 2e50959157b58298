package rollupexport

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves the counters to Prometheus. A scrape asks the ledger, as long
// as its patience lasts but no longer than the timeout; where that fails it
// gets the last answer, and what the exporter counts of itself tells.
func Handler(r *Rollups, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), timeout)
		defer cancel()
		s, err := r.Snapshot(ctx)
		if err != nil {
			r.o.Log.Warn("the exported counters are not the newest", "error", err)
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(collector{r, s})
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(w, req)
	})
}

// collector sends one snapshot, which may be nil.
type collector struct {
	r *Rollups
	s *Snapshot
}

// Describe sends nothing: the currency, and with it names, may change.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the snapshot.
func (c collector) Collect(out chan<- prometheus.Metric) {
	stats := c.r.Stats()
	self := func(name, help string, kind prometheus.ValueType, v float64, labels ...string) {
		names := []string{"outcome"}[:len(labels)]
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("gpuledger_rollup_"+name, help, names, nil), kind, v, labels...)
	}
	self("questions_total", "Questions to the ledger for these counters, by outcome.", prometheus.CounterValue, float64(stats.Questions), "success")
	self("questions_total", "Questions to the ledger for these counters, by outcome.", prometheus.CounterValue, float64(stats.Failures), "failure")
	self("restarts_total", "Times that the counters began again because one would have gone back.", prometheus.CounterValue, float64(stats.Restarts))
	if c.s == nil {
		return
	}
	self("start_timestamp_seconds", "Unix time from which on the counters count.", prometheus.GaugeValue, float64(c.s.Since))
	self("last_success_timestamp_seconds", "Unix time of what the counters tell.", prometheus.GaugeValue, float64(c.s.At.Unix()))
	self("groups", "Groups with series of their own.", prometheus.GaugeValue, float64(c.s.Groups))
	self("other_groups", "Groups that are summed under __other__ for want of space.", prometheus.GaugeValue, float64(c.s.Others))
	c.ledger(out)
}

func (c collector) ledger(out chan<- prometheus.Metric) {
	since := time.Unix(int64(c.s.Since), 0)
	family := func(name, help, label string) func(float64, []string, string) {
		desc := prometheus.NewDesc("gpuledger_rollup_"+name, help, append(append([]string{}, c.s.Labels...), label), nil)
		return func(v float64, values []string, last string) {
			out <- prometheus.MustNewConstMetricWithCreatedTimestamp(desc, prometheus.CounterValue, v, since, append(append([]string{}, values...), last)...)
		}
	}
	unit := strings.ToLower(c.s.Currency)
	cost := family("cost_"+unit+"_total", "Cost of the device time, in "+c.s.Currency+", by basis.", "basis")
	seconds := family("gpu_seconds_total", "Device time by basis; it sums to one second per device and second.", "basis")
	unpriced := family("gpu_unpriced_seconds_total", "Device time without a price: its cost is unknown.", "basis")
	for _, x := range c.s.Series {
		basis := x.Basis.String()
		seconds(float(&x.Time, 1e9), x.Values, basis)
		if x.Priced() && c.s.Currency != "" {
			cost(float(&x.Cost, 1e9), x.Values, basis)
		}
		if x.Unpriced.Sign() > 0 {
			unpriced(float(&x.Unpriced, 1e9), x.Values, basis)
		}
	}
	inferences := family("inferences_total", "Inferences served, by outcome.", "outcome")
	tokens := family("tokens_total", "Tokens by type: input that was processed, of it from a cache, and for what did not succeed; output.", "type")
	within := family("inferences_within_total", "Inferences that succeeded within the target.", "target")
	for _, x := range c.s.Counts {
		switch x.Metric {
		case Inferences:
			inferences(float(&x.Value, 1e6), x.Values, x.Type)
		case Tokens:
			tokens(float(&x.Value, 1), x.Values, x.Type)
		case Within:
			within(float(&x.Value, 1e6), x.Values, x.Type)
		}
	}
}
