package bench

import (
	"fmt"
	"math"
	"strconv"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
)

// The same facts as others carry them: per slice the four running totals that a
// slice makes (device time, memory, energy, cost), under the labels that say
// whose they are.

// sliceMetrics are the names of the totals.
var sliceMetrics = []string{"gpuledger_gpu_seconds_total", "gpuledger_gpu_memory_byte_seconds_total", "gpuledger_gpu_energy_joules_total", "gpuledger_cost_usd_total"}

func sliceValues(s *attribution.Slice) [4]float64 {
	return [4]float64{float64(s.Time) / 1e9, float64(s.Memory), float64(s.Energy) / 1e6, float64(s.Cost) / 1e9}
}

// totals keeps each series' running value, as an exporter does.
type totals map[[2]uint32]*[5][4]float64

func (t totals) add(device uint32, s *attribution.Slice) [4]float64 {
	k := [2]uint32{device, s.Owner}
	if t[k] == nil {
		t[k] = &[5][4]float64{}
	}
	v := &t[k][s.Basis-1]
	for i, x := range sliceValues(s) {
		v[i] += x
	}
	return *v
}

// remoteWrite encodes one second of a chunk as a Prometheus remote write 1.0
// request, snappy-compressed: what a Prometheus agent sends for it.
func remoteWrite(c *attribution.Chunk, second attribution.Second, t totals) []byte {
	return snappy.Encode(nil, appendSeries(nil, c, second, t))
}

// appendSeries adds one second of a chunk to a remote write request.
func appendSeries(req []byte, c *attribution.Chunk, second attribution.Second, t totals) []byte {
	for i := range c.Windows {
		w := &c.Windows[i]
		if w.Second != second {
			continue
		}
		for j := range w.Slices {
			s := &w.Slices[j]
			labels := promLabels(&c.Roster.Devices[w.Device], &c.Roster.Owners[s.Owner], s.Basis)
			for m, v := range t.add(w.Device, s) {
				series := promLabel(nil, "__name__", sliceMetrics[m])
				series = append(series, labels...)
				var sample []byte
				sample = protowire.AppendTag(sample, 1, protowire.Fixed64Type)
				sample = protowire.AppendFixed64(sample, math.Float64bits(v))
				sample = protowire.AppendTag(sample, 2, protowire.VarintType)
				sample = protowire.AppendVarint(sample, uint64(int64(second)*1000))
				series = protowire.AppendTag(series, 2, protowire.BytesType)
				series = protowire.AppendBytes(series, sample)
				req = protowire.AppendTag(req, 1, protowire.BytesType)
				req = protowire.AppendBytes(req, series)
			}
		}
	}
	return req
}

func promLabels(d *attribution.Device, o *attribution.Owner, b attribution.Basis) []byte {
	var l []byte
	for _, kv := range [][2]string{
		{"basis", b.String()},
		{"cluster", d.Cluster},
		{"container", o.Container},
		{"gpu_model", d.Model},
		{"gpu_uuid", d.ID},
		{"namespace", o.Namespace},
		{"node", d.Node},
		{"pod", o.Pod},
		{"pod_uid", o.PodUID},
	} {
		l = promLabel(l, kv[0], kv[1])
	}
	return l
}

func promLabel(b []byte, name, value string) []byte {
	var l []byte
	l = protowire.AppendTag(l, 1, protowire.BytesType)
	l = protowire.AppendString(l, name)
	l = protowire.AppendTag(l, 2, protowire.BytesType)
	l = protowire.AppendString(l, value)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	return protowire.AppendBytes(b, l)
}

// otlp encodes one second of a chunk as an OTLP metrics request: a resource per
// pod, cumulative sums, zstd as the collector's exporters offer it.
func otlp(c *attribution.Chunk, second attribution.Second, t totals, enc *zstd.Encoder) (plain, compressed []byte) {
	plain = otlpPlain(c, second, t)
	return plain, enc.EncodeAll(plain, nil)
}

// otlpPlain is the same before it is compressed.
func otlpPlain(c *attribution.Chunk, second attribution.Second, t totals) []byte {
	byOwner := map[uint32]*metricspb.ScopeMetrics{}
	req := &metricspb.MetricsData{}
	for i := range c.Windows {
		w := &c.Windows[i]
		if w.Second != second {
			continue
		}
		for j := range w.Slices {
			s := &w.Slices[j]
			scope := byOwner[s.Owner]
			if scope == nil {
				scope = otlpResource(req, &c.Roster.Owners[s.Owner], &c.Roster.Devices[w.Device])
				byOwner[s.Owner] = scope
			}
			attrs := []*commonpb.KeyValue{attr("hw.id", c.Roster.Devices[w.Device].ID), attr("gpuledger.basis", s.Basis.String())}
			for m, v := range t.add(w.Device, s) {
				sum := scope.Metrics[m].GetSum()
				sum.DataPoints = append(sum.DataPoints, &metricspb.NumberDataPoint{
					Attributes: attrs, StartTimeUnixNano: 1_767_225_600_000_000_000, TimeUnixNano: uint64(second.Nanos()),
					Value: &metricspb.NumberDataPoint_AsDouble{AsDouble: v},
				})
			}
		}
	}
	plain, err := proto.Marshal(req)
	if err != nil {
		panic(err)
	}
	return plain
}

func otlpResource(req *metricspb.MetricsData, o *attribution.Owner, d *attribution.Device) *metricspb.ScopeMetrics {
	scope := &metricspb.ScopeMetrics{Scope: &commonpb.InstrumentationScope{Name: "gpuledger"}}
	for i, name := range []string{"gpuledger.gpu.time", "gpuledger.gpu.memory", "hw.energy", "gpuledger.cost"} {
		scope.Metrics = append(scope.Metrics, &metricspb.Metric{
			Name: name, Unit: []string{"s", "By.s", "J", "{USD}"}[i],
			Data: &metricspb.Metric_Sum{Sum: &metricspb.Sum{AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE, IsMonotonic: true}},
		})
	}
	req.ResourceMetrics = append(req.ResourceMetrics, &metricspb.ResourceMetrics{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
			attr("k8s.cluster.name", o.Cluster), attr("k8s.node.name", o.Node), attr("k8s.namespace.name", o.Namespace), attr("k8s.pod.name", o.Pod),
			attr("k8s.pod.uid", o.PodUID), attr("k8s.container.name", o.Container), attr("k8s.deployment.name", o.Controller), attr("hw.model", d.Model),
		}},
		ScopeMetrics: []*metricspb.ScopeMetrics{scope},
	})
	return scope
}

func attr(k, v string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}}
}

// procCPU is the user and system time that a process has taken, in clock ticks
// of 10 ms.
func procCPU(stat string) (ticks int64, err error) {
	// The command may hold spaces and parentheses: count from the last ')'.
	for i := len(stat) - 1; i >= 0; i-- {
		if stat[i] == ')' {
			stat = stat[i+1:]
			break
		}
	}
	var f [13]string
	n, _ := fmt.Sscan(stat, &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7], &f[8], &f[9], &f[10], &f[11], &f[12])
	if n < 13 {
		return 0, fmt.Errorf("stat has %d fields after the command", n)
	}
	u, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseInt(f[12], 10, 64)
	return u + s, err
}
