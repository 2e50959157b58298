// Package otlp is the OpenTelemetry view of the node's totals: it pushes the
// latest snapshot of package exporter to an OTLP/gRPC endpoint, such as any
// OpenTelemetry Collector.
//
// # Resources
//
// What is said of a pod's container has that container's resource attributes,
// k8s.*, as the semantic conventions want it: one push has one ResourceMetrics
// per owner, and one for the node with its devices. An SDK MeterProvider has one
// resource, and the SDK's exporter sends one ResourceMetrics per call, so a push
// here is built as the protocol's own message: one request for all owners,
// split only where it would exceed MaxRequestBytes. Measured with 60 pods on 8
// GPUs (BenchmarkPush): one request of 139 kB, 4 kB gzipped, against 61 requests
// of 23 kB gzipped and three times the CPU through the SDK's exporter.
//
// Who translates to Prometheus makes job and instance of service.* alone. So
// that two pods on one GPU don't become one series there, each resource has a
// service.instance.id of its own: the agent's, and behind a slash a hash of the
// owner.
//
// # Metrics
//
// Of the node's resource, with hw.id, hw.type gpu, hw.name, hw.model, hw.vendor
// and, for MIG instances, hw.parent on every point:
//
//	hw.gpu.utilization    gauge 1           SM activity in the last second
//	hw.gpu.memory.usage   updowncounter By  memory of processes in the last second
//	hw.gpu.memory.limit   updowncounter By
//	hw.energy             counter J
//	hw.power              gauge W           power in the last second
//	gpuledger.gpu.price   gauge {USD}/h     with gpuledger.capacity_type
//
// Of an owner's resource, with hw.id and gpuledger.basis:
//
//	gpuledger.gpu.time            counter s
//	gpuledger.gpu.unpriced_time   counter s
//	gpuledger.cost                counter {USD}   the rate card's currency
//	gpuledger.gpu.sm_active_time  counter s
//	gpuledger.gpu.memory_time     counter By.s
//	gpuledger.gpu.energy          counter J
//
// and of what it served, with gen_ai.request.model and gpuledger.tier:
//
//	gpuledger.inferences          counter {inference}   gpuledger.outcome, error.type
//	gpuledger.tokens              counter {token}       gen_ai.token.type
//	gpuledger.queue.time          counter {request}.s
//
// All sums are cumulative and begin when their series did. What is absent in
// the snapshot (no sensor, no price) is absent here. A gauge is sent while its
// device has a window in the snapshot's second, and is the mean of what was
// observed of it; means over longer are rates of the counters.
//
// # Failure
//
// Every push has everything, so none is repeated: what one failed to bring, the
// next does. A series that ends waits for a push that succeeds (see package
// exporter). Failures are counted and logged when they begin and end. Nothing
// here is on the sealer's way. Where no second has been sealed since the last
// push there is none.
package otlp
