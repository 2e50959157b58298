package otlp

import (
	"math"
	"slices"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/gpuledger/gpuledger/agent/exporter"
)

// deviceMetrics are the metrics of the node's resource.
func deviceMetrics(s *exporter.Snapshot) []*metricspb.Metric {
	m := metrics{end: nanos(s.Second + 1)}
	for i := range s.Devices {
		d := &s.Devices[i]
		f, now := &d.Facts, &d.Now
		as := attributes{}.text("hw.id", d.ID).text("hw.type", "gpu").text("hw.name", d.ID).text("hw.model", f.Model).
			text("hw.vendor", "NVIDIA").text("hw.parent", f.Parent)
		if f.MemoryBytes > 0 {
			m.whole(m.level("hw.gpu.memory.limit", "By", "Size of the GPU memory."), f.MemoryBytes, d.Since, as)
		}
		if f.Energy {
			m.double(m.counter("hw.energy", "J", "Energy consumed by the component."), float64(d.Energy)/1e6, d.Since, as)
		}
		if !d.Current(s) {
			continue
		}
		// What the agent did not look at is unknown, not idle: these are means of
		// what it saw.
		seen := float64(now.Observed) / 1e9
		if seen > 0 {
			m.double(m.gauge("hw.gpu.utilization", "1", "Fraction of time spent in a specific task."),
				float64(now.SMActive)/1e9/seen, 0, append(slices.Clip(as), attributes{}.text("hw.gpu.task", "general")...))
		}
		if seen > 0 && f.Memory {
			m.whole(m.level("hw.gpu.memory.usage", "By", "GPU memory used."), int64(math.Round(float64(now.Memory)/seen)), d.Since, as)
		}
		if seen > 0 && f.Energy {
			m.double(m.gauge("hw.power", "W", "Instantaneous power consumed by the component."), float64(now.Energy)/1e6/seen, 0, as)
		}
		if now.Priced {
			m.double(m.gauge("gpuledger.gpu.price", "{"+s.Currency+"}/h", "Price of the device at present."), float64(now.PerHour)/1e9, 0,
				append(slices.Clip(as), attributes{}.text("gpuledger.capacity_type", f.CapacityType)...))
		}
	}
	return m.all
}

// series adds an owner's device time and what belongs to it.
func (m *metrics) series(all []*exporter.Series, currency string) {
	for _, x := range all {
		as := attributes{}.text("hw.id", x.Device).text("gpuledger.basis", x.Basis.String())
		m.double(m.counter("gpuledger.gpu.time", "s", "Device time by owner and basis; it sums to one second per device and second."),
			float64(x.Time)/1e9, x.Since, as)
		if x.Unpriced > 0 {
			m.double(m.counter("gpuledger.gpu.unpriced_time", "s", "Device time without a price: its cost is unknown."),
				float64(x.Unpriced)/1e9, x.Since, as)
		}
		if x.Priced {
			m.double(m.counter("gpuledger.cost", "{"+currency+"}", "Cost of the device time; it sums to the devices' price."),
				float64(x.Cost)/1e9, x.CostSince, as)
		}
		if x.HasSMActive {
			m.double(m.counter("gpuledger.gpu.sm_active_time", "s", "SM activity within the device time."), float64(x.SMActive)/1e9, x.Since, as)
		}
		if x.HasMemory {
			m.whole(m.counter("gpuledger.gpu.memory_time", "By.s", "Device memory of the owner's processes, times the time it was held."),
				x.Memory, x.Since, as)
		}
		if x.HasEnergy {
			m.double(m.counter("gpuledger.gpu.energy", "J", "Energy of the device, split by device time."), float64(x.Energy)/1e6, x.Since, as)
		}
	}
}

// tallies adds what an owner served.
func (m *metrics) tallies(all []*exporter.Tally) {
	for _, x := range all {
		as := attributes{}.text("gen_ai.request.model", x.Model).text("gpuledger.tier", x.Tier)
		switch x.Metric {
		case exporter.Inferences:
			m.double(m.counter("gpuledger.inferences", "{inference}", "Inferences served."), float64(x.Value)/1e6, x.Since,
				as.text("gpuledger.outcome", x.Type).text("error.type", x.Reason))
		case exporter.Tokens:
			m.whole(m.counter("gpuledger.tokens", "{token}", "Tokens by type."), x.Value, x.Since, as.text("gen_ai.token.type", x.Type))
		case exporter.QueueTime:
			m.double(m.counter("gpuledger.queue.time", "{request}.s", "Requests waiting, times the time they waited."),
				float64(x.Value)/1e6, x.Since, as)
		}
	}
}
