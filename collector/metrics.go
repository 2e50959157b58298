package collector

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics yields what the collector counts of itself, as it is when asked.
type metrics struct{ c *Collector }

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("gpuledger_collector_"+name, help, nil, nil)
}

// Describe describes nothing: the metrics are checked as they are collected.
func (*metrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counts.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	s := m.c.ingest.Stats()
	chunks, bytes := m.c.ingest.Pending()
	for _, v := range []struct {
		name, help string
		kind       prometheus.ValueType
		value      int64
	}{
		{"streams", "Agents connected now.", prometheus.GaugeValue, s.Streams},
		{"streams_held", "Of those, the ones that wait for their turn to bring what they kept.", prometheus.GaugeValue, s.Held},
		{"connections", "Connections over gRPC now.", prometheus.GaugeValue, m.c.open.Load()},
		{"connections_refused_total", "Connections closed at once because there were too many.", prometheus.CounterValue, m.c.refused.Load()},
		{"pending_chunks", "Chunks accepted and not stored yet.", prometheus.GaugeValue, chunks},
		{"pending_bytes", "Memory of the chunks accepted and not stored yet.", prometheus.GaugeValue, bytes},
		{"chunks_waiting", "Chunks that wait for memory to be taken in; their agents wait with them.", prometheus.GaugeValue, s.Waiting},
		{"chunks_accepted_total", "Chunks accepted.", prometheus.CounterValue, s.Accepted},
		{"chunks_duplicate_total", "Chunks that were there already.", prometheus.CounterValue, s.Duplicate},
		{"chunks_conflict_total", "Chunks rejected because other seconds are in their place.", prometheus.CounterValue, s.Conflict},
		{"chunks_rejected_total", "Chunks rejected because they break a law or limit.", prometheus.CounterValue, s.Rejected},
		{"chunks_resend_total", "Chunks asked for in full.", prometheus.CounterValue, s.Resend},
		{"slices_accepted_total", "Slices in accepted chunks.", prometheus.CounterValue, s.Slices},
		{"rows_committed_total", "Minute rows committed.", prometheus.CounterValue, s.Rows},
		{"live_windows_total", "Seconds taken live.", prometheus.CounterValue, s.Live},
		{"live_windows_dropped_total", "Live seconds not kept; their chunks bring them again.", prometheus.CounterValue, s.LiveDropped},
		{"live_windows_shed_total", "Of those, the ones that went because all nodes held too many.", prometheus.CounterValue, s.LiveShed},
		{"live_paused_total", "Times that an agent was told to send no live seconds for a while, because they came late.", prometheus.CounterValue, s.LivePaused},
		{"streams_unread_total", "Streams ended because their agent did not read its answers.", prometheus.CounterValue, s.Unread},
		{"streams_invalid_total", "Streams ended because of what they sent.", prometheus.CounterValue, s.Invalid},
		{"streams_superseded_total", "Streams ended by a newer one of their node.", prometheus.CounterValue, s.Superseded},
		{"unpriced_device_seconds_total", "Device seconds without a price.", prometheus.CounterValue, s.Unpriced},
		{"chunks_let_go_total", "Chunks accepted and let go of when their stream ended, for another collector may store them.", prometheus.CounterValue, s.LetGo},
		{"commits_total", "Commits of the store.", prometheus.CounterValue, s.Commits},
		{"commit_failures_total", "Commits that failed and were tried again.", prometheus.CounterValue, s.CommitFailures},
	} {
		out <- prometheus.MustNewConstMetric(desc(v.name, v.help), v.kind, float64(v.value))
	}
	if files, err := m.c.cfg.damagedLedgers(); err == nil {
		out <- prometheus.MustNewConstMetric(desc("ledgers_set_aside", "Damaged ledgers that were set aside and still lie there."),
			prometheus.GaugeValue, float64(len(files)))
	}
	m.others(out)
	m.gateways(out)
	m.certificates(out)
	m.identities(out)
}

// gateways yields what is counted of each gateway.
func (m *metrics) gateways(out chan<- prometheus.Metric) {
	for _, g := range m.c.gateways.Status() {
		up := uint64(0)
		if g.Addresses > 0 && g.Answering == g.Addresses {
			up = 1
		}
		for _, v := range []struct {
			name, help string
			kind       prometheus.ValueType
			value      uint64
		}{
			{"gateway_up", "Whether every address of the gateway answered when it was last asked.", prometheus.GaugeValue, up},
			{"gateway_last_scrape_timestamp_seconds", "When a page of the gateway was last read.", prometheus.GaugeValue, uint64(max(g.LastScrape, 0))},
			{"gateway_tenants", "Customers that are told apart.", prometheus.GaugeValue, uint64(g.Tenants)},
			{"gateway_unstored_chunks", "Chunks of the gateway that are not durable yet.", prometheus.GaugeValue, uint64(g.Unstored)},
			{"gateway_scrapes_total", "Pages asked for.", prometheus.CounterValue, g.Scrapes},
			{"gateway_scrape_failures_total", "Pages that could not be read.", prometheus.CounterValue, g.Failures},
			{"gateway_restarts_total", "Restarts that pages told of.", prometheus.CounterValue, g.Restarts},
			{"gateway_fallen_series_total", "Series that fell though no page told of a restart.", prometheus.CounterValue, g.Fallen},
			{"gateway_dropped_series_total", "Series that could not be counted, for what they hold or for a limit.", prometheus.CounterValue, g.Dropped},
			{"gateway_unsure_pages_total", "Pages passed over because any of several processes may have made them.", prometheus.CounterValue, g.Unsure},
			{"gateway_folded_names_total", "Names counted together as (other), for a limit.", prometheus.CounterValue, g.Folded},
			{"gateway_rejected_chunks_total", "Chunks that the ledger rejected; what they held came again.", prometheus.CounterValue, g.Rejected},
		} {
			d := prometheus.NewDesc("gpuledger_collector_"+v.name, v.help, []string{"cluster", "gateway"}, nil)
			out <- prometheus.MustNewConstMetric(d, v.kind, float64(v.value), g.Cluster, g.Name)
		}
	}
}
