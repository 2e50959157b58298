package prom

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// descs are the descriptions of all metrics.
type descs struct {
	time, unpriced, active, memory, energy *prometheus.Desc // of a series
	inferences, tokens, queue              *prometheus.Desc // of a tally
	info, memoryBytes                      *prometheus.Desc // of a device
	entries, overflowed, left, restarted   *prometheus.Desc // of the exporter

	series, tally, outcome, token labels   // of the counters
	device                        []string // names of labels
	current                       atomic.Pointer[moneyDescs]
}

// moneyDescs are those whose names have the currency.
type moneyDescs struct {
	currency    string
	cost, price *prometheus.Desc
}

func newDescs(podLabels []string) *descs {
	node := []string{"cluster", "node"}
	owner := slices.Concat(node, []string{
		"owner_kind", "namespace", "pod", "pod_uid", "container", "controller_kind", "controller", "process",
	}, podLabels)
	with := func(names []string, more ...string) []string { return slices.Concat(names, more) }
	series, tally, device := with(owner, "gpu", "basis"), with(owner, "model", "tier"), with(node, "gpu")
	outcome, token := with(tally, "outcome", "reason"), with(tally, "type")
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc("gpuledger_"+name, help, labels, nil)
	}
	return &descs{
		series: newLabels(series), tally: newLabels(tally), outcome: newLabels(outcome), token: newLabels(token), device: device,
		time:     desc("gpu_seconds_total", "Device time by owner and basis; it sums to one second per device and second.", series),
		unpriced: desc("gpu_unpriced_seconds_total", "Device time without a price: its cost is unknown.", series),
		active:   desc("gpu_sm_active_seconds_total", "SM activity within the device time.", series),
		memory:   desc("gpu_memory_byte_seconds_total", "Device memory of the owner's processes, times the time it was held.", series),
		energy:   desc("gpu_energy_joules_total", "Energy of the device, split by device time.", series),

		inferences: desc("inferences_total", "Inferences served, by outcome, and failed ones by reason.", outcome),
		tokens:     desc("tokens_total", "Tokens by type: input that was processed, input from a cache, output.", token),
		queue:      desc("queued_request_seconds_total", "Requests waiting, times the time they waited.", tally),

		info:        desc("gpu_info", "What the device is; always 1.", with(device, "model", "profile", "parent", "capacity_type")),
		memoryBytes: desc("gpu_memory_bytes", "Size of the device's memory.", device),

		entries:    desc("agent_exporter_entries", "What the exporter has at present, by kind.", with(node, "kind")),
		overflowed: desc("agent_exporter_overflowed_total", "What was added to the overflow owner for want of space, by kind.", with(node, "kind")),
		left: desc("agent_exporter_left_total", "Series that left after no time for long, by whether every view had exported the last value.",
			with(node, "exported")),
		restarted: desc("agent_exporter_restarted_total", "Series that began again at zero for want of range.", node),
	}
}

// money describes the metrics of a currency. Any goroutine may call it.
func (d *descs) money(currency string) (cost, price *prometheus.Desc) {
	m := d.current.Load()
	if m == nil || m.currency != currency {
		unit := strings.ToLower(currency)
		m = &moneyDescs{
			currency: currency,
			cost: prometheus.NewDesc("gpuledger_cost_"+unit+"_total",
				"Cost of the device time, in "+currency+"; it sums to the devices' price.", d.series.names, nil),
			price: prometheus.NewDesc("gpuledger_gpu_price_"+unit+"_per_hour",
				"Price of the device at present, in "+currency+" per hour.", d.device, nil),
		}
		d.current.Store(m)
	}
	return m.cost, m.price
}
