package agent

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
	"github.com/gpuledger/gpuledger/agent/meter"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// metrics collects what the pipelines count of themselves: every bound and
// every drop.
type metrics struct{ agent *Agent }

// Describe sends nothing: which metrics there are depends on the source.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads all counts.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.agent.mu.Lock()
	nodes, live := m.agent.nodes, m.agent.live
	m.agent.mu.Unlock()
	m.certificates(out)
	for _, n := range nodes {
		c := nodeCollector{out: out, labels: []string{n.Cluster, n.Name}}
		c.pipeline(n)
		c.spool(n)
		c.uplink(n)
		if mt := n.metered.Load(); mt != nil {
			c.meter(mt.Stats())
		}
		if live != nil && live.node == n {
			c.live(live)
			if live.seen != nil {
				live.seen.collect(&c)
			}
		}
		if n.export != nil {
			n.export.pages.Collect(out)
			c.push(n.export.push)
		}
	}
}

// nodeCollector sends the metrics of one node.
type nodeCollector struct {
	out    chan<- prometheus.Metric
	labels []string
}

func (c *nodeCollector) send(kind prometheus.ValueType, name, help string, v float64, extra ...string) {
	names, values := []string{"cluster", "node"}, c.labels
	for i := 0; i+1 < len(extra); i += 2 {
		names = append(names, extra[i])
		values = append(slices.Clip(values), extra[i+1])
	}
	c.out <- prometheus.MustNewConstMetric(prometheus.NewDesc("gpuledger_agent_"+name, help, names, nil), kind, v, values...)
}

func (c *nodeCollector) count(name, help string, v uint64, extra ...string) {
	c.send(prometheus.CounterValue, name, help, float64(v), extra...)
}

func (c *nodeCollector) gauge(name, help string, v float64, extra ...string) {
	c.send(prometheus.GaugeValue, name, help, v, extra...)
}

func (c *nodeCollector) pipeline(n *node) {
	s := n.counts.load()
	c.count("windows_total", "Device seconds sealed.", n.windows.Load())
	c.count("slices_total", "Slices sealed.", n.slices.Load())
	c.count("unpriced_windows_total", "Device seconds sealed without a price.", s.UnpricedWindows)
	c.count("chunks_total", "Chunks handed to the spool.", s.Chunks)
	c.count("seconds_recovered_total", "Sealed seconds taken back from the spool after a restart.", s.Recovered)
	c.count("seconds_not_journaled_total", "Sealed seconds that a crash before the end of their chunk would have lost.", s.NotJournaled)
	const oversize = "What did not fit into seconds that were too large to travel, by kind; but for lost windows, device time and cost stay."
	c.count("oversize_total", oversize, s.DroppedTallies, "kind", "tally")
	c.count("oversize_total", oversize, s.UnlabeledOwners, "kind", "label")
	c.count("oversize_total", oversize, s.UnownedWindows, "kind", "owner")
	c.count("oversize_total", oversize, s.LostWindows, "kind", "window")
	revision := uint32(0)
	if r := n.prices.rater.Load(); r != nil {
		revision = r.Card().Revision
	}
	c.gauge("rate_card_revision", "Revision of the rate card in use; 0 is none.", float64(revision))
}

func (c *nodeCollector) spool(n *node) {
	s := n.spool.Stats()
	c.gauge("spool_bytes", "Size of the spool's log.", float64(s.Bytes))
	c.gauge("spool_unacked_chunks", "Chunks that the collector has not acknowledged.", float64(s.UnackedChunks))
	c.gauge("spool_next_second", "First Unix second that is neither in a chunk nor sealed.", float64(s.Next))
	faulty := 0.0
	if s.Fault != "" {
		faulty = 1
	}
	c.gauge("spool_fault", "1 while the spool can't be written.", faulty)
	c.count("spool_syncs_total", "Fsyncs of the spool.", s.Syncs)
	c.count("spool_sync_failures_total", "Fsyncs of the spool that failed.", s.SyncFailures)
	c.count("spool_seconds_refused_total", "Seconds that were not journaled for want of space.", s.SecondsDropped)
	c.count("spool_chunks_refused_total", "Times that a chunk was refused for want of space.", s.ChunksRefused)
	c.count("spool_corrupt_records_total", "Records that were unreadable when they were to be sent.", s.CorruptRecords)
	c.count("spool_corrupt_files_total", "Damaged files set aside.", s.CorruptFiles)
	c.count("spool_aside_removed_total", "Set-aside files removed to keep within the limit.", s.AsideRemoved)
}

func (c *nodeCollector) uplink(n *node) {
	s := n.uplink.Status()
	connected := 0.0
	if s.Connected {
		connected = 1
	}
	c.gauge("connected", "1 while the collector is connected.", connected)
	c.held(s.Pace)
	c.gauge("in_flight_chunks", "Chunks sent and not yet acknowledged.", float64(s.InFlight))
	c.count("streams_total", "Streams begun.", s.Streams)
	c.count("moves_total", "Streams begun with another collector than the one before.", s.Moves)
	if s.Connected && s.Collector != "" {
		c.gauge("collector", "1 for the collector that the node streams to.", 1, "collector", s.Collector)
	}
	c.count("sent_chunks_total", "Chunks sent, by form.", s.ChunksSent, "form", "full")
	c.count("sent_chunks_total", "Chunks sent, by form.", s.ChunksClosed, "form", "announced")
	c.count("sent_chunk_bytes_total", "Bytes of chunks sent.", s.BytesSent)
	c.count("sent_live_seconds_total", "Live seconds sent.", s.LiveSent)
	c.count("dropped_live_seconds_total", "Live seconds dropped; their chunks travel in full.", s.LiveDropped)
	c.count("resends_total", "Chunks that the collector asked for again.", s.Resends)
	c.count("rejected_chunks_total", "Chunks that the collector refused for good.", s.Rejected)
	c.count("ignored_messages_total", "Messages of the collector that made no sense.", s.Ignored)
}

func (c *nodeCollector) held(pace pb.Pace) {
	for kind, from := range map[string]pb.Pace{"live_second": pb.Pace_PACE_CHUNKS, "chunk": pb.Pace_PACE_NOTHING} {
		held := 0.0
		if pace >= from {
			held = 1
		}
		c.gauge("held", "1 while the collector has the node wait with what it has of the kind.", held, "kind", kind)
	}
}

func (c *nodeCollector) meter(s meter.Stats) {
	c.gauge("meter_entries", "What the meter knows, by kind.", float64(s.Devices), "kind", "device")
	c.gauge("meter_entries", "What the meter knows, by kind.", float64(s.Owners), "kind", "owner")
	c.gauge("meter_entries", "What the meter knows, by kind.", float64(s.Subjects), "kind", "subject")
	c.gauge("meter_entries", "What the meter knows, by kind.", float64(s.Lanes), "kind", "lane")
	const refused = "Registrations that a limit refused, by kind."
	c.count("meter_refused_total", refused, s.RefusedDevices, "kind", "device")
	c.count("meter_refused_total", refused, s.RefusedOwners, "kind", "owner")
	c.count("meter_refused_total", refused, s.RefusedSubjects, "kind", "subject")
	c.count("meter_refused_total", refused, s.RefusedMeasures, "kind", "measure")
	c.count("meter_refused_total", refused, s.RefusedLanes, "kind", "lane")
	c.count("meter_merged_total", "Records and intervals joined at a limit: nothing lost but when.", s.MergedRecords, "kind", "record")
	c.count("meter_merged_total", "Records and intervals joined at a limit: nothing lost but when.", s.MergedIntervals, "kind", "interval")
	c.count("meter_malformed_total", "Records that could not be.", s.Malformed)
	c.count("meter_shifted_tallies_total", "Tallies that came late and were moved to unsealed windows.", s.ShiftedTallies)
	for reason, a := range map[string]meter.Amounts{"lost": s.Lost, "late": s.Late, "stray": s.Stray, "clamped": s.Clamped} {
		c.count("meter_discarded_records_total", "Records that did not count, by reason.", a.Records, "reason", reason)
		c.send(prometheus.CounterValue, "meter_discarded_sm_seconds_total", "SM activity that did not count, by reason.",
			float64(a.SMActive)/1e9, "reason", reason)
	}
}

func (c *nodeCollector) push(p *otlp.Pusher) {
	if p == nil {
		return
	}
	s := p.Stats()
	c.count("otlp_pushes_total", "Pushes of metrics by OTLP, by outcome.", s.Pushes, "outcome", "success")
	c.count("otlp_pushes_total", "Pushes of metrics by OTLP, by outcome.", s.Failures, "outcome", "failure")
	c.count("otlp_requests_total", "Requests of pushes that succeeded.", s.Requests)
	c.count("otlp_request_bytes_total", "Bytes of them, before compression.", s.Bytes)
	c.count("otlp_rejected_points_total", "Data points that the receiver refused.", s.RejectedPoints)
	c.gauge("otlp_last_success_timestamp_seconds", "Unix time of the seconds pushed last; 0 for none.", float64(s.LastSuccess))
}

func (c *nodeCollector) live(l *liveNode) {
	c.count("let_go_seconds_total", "Seconds let go while the spool was full: they become unobserved.", l.dropped.Load())
	c.count("refused_events_total", "Events that made no sense or met a limit.", l.refused.Load())
	c.gauge("seal_lag_seconds", "How late windows are sealed.", l.lag().Seconds())
	c.gauge("clock_offset_seconds", "How far the wall clock is ahead of the timeline.", float64(l.clock.Offset())/1e9)
}
