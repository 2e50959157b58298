// Package prom is the Prometheus view of the node's totals: a collector of
// constant metrics over the latest snapshot of package exporter.
//
// # Metrics
//
// Of one owner on one device and basis; labels cluster, node, gpu, basis, and
// the owner's below:
//
//	gpuledger_gpu_seconds_total              device time
//	gpuledger_gpu_unpriced_seconds_total     its part without a price, where there is one
//	gpuledger_cost_usd_total                 cost; absent, never 0, where nothing was priced
//	gpuledger_gpu_sm_active_seconds_total    SM activity within it (basis used, unattributed)
//	gpuledger_gpu_memory_byte_seconds_total  memory of its processes: rate() is bytes
//	gpuledger_gpu_energy_joules_total        energy, where the device has the sensor
//
// Of what one owner served; labels cluster, node, model, tier, and the owner's:
//
//	gpuledger_inferences_total               by outcome (success, failure) and reason
//	gpuledger_tokens_total                   by type (input, cached, output)
//	gpuledger_queued_request_seconds_total   requests waiting times the time waited
//
// Of a device; labels cluster, node, gpu:
//
//	gpuledger_gpu_info                       1, with model, profile, parent, capacity_type
//	gpuledger_gpu_memory_bytes               size of its memory, where known
//	gpuledger_gpu_price_usd_per_hour         price now, where there is one
//
// and gpuledger_agent_exporter_*, what the exporter counts of itself.
//
// The owner's labels are owner_kind (container, host-process, unknown-process,
// nobody, overflow), namespace, pod, pod_uid, container, controller_kind,
// controller, process (the command of what runs outside pods) and a
// label_<key> for each pod label that is allowed. pod_uid keeps pods of one
// name apart, as those of a StatefulSet are; it adds no series, since each pod
// has its own anyway. Scrape with honor_labels, or namespace, pod and container
// come out as exported_… beside those of the agent.
//
// The usd in a name is the rate card's currency: with a card in euros they are
// gpuledger_cost_eur_total and gpuledger_gpu_price_eur_per_hour. So sums never
// mix currencies, and a query for dollars finds nothing rather than euros.
//
// # Values
//
// A value is the integer total divided once, so it is the nearest float64 of
// the exact one up to 2^53 ns (104 days of device time) or nano units (nine
// million), and within one unit in the last place beyond. Every counter has a
// created timestamp: the second when its series began at zero. A pod of a few
// seconds has one constant value for as long as it lingers; increase() sees
// that where Prometheus takes in created timestamps as zero samples.
package prom
