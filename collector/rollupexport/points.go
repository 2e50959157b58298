package rollupexport

import (
	"iter"
	"strings"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/gpuledger/gpuledger/collector/store"
)

// maxPoints is how many data points a request has: about 1 MiB, of the 4 MiB
// that gRPC servers take.
const maxPoints = 4000

// attributeNames are those of dimensions that the semantic conventions name;
// the rest is gpuledger.*.
var attributeNames = map[store.Dimension]string{
	store.Cluster: "k8s.cluster.name", store.Node: "k8s.node.name", store.Namespace: "k8s.namespace.name", store.Pod: "k8s.pod.name",
	store.Container: "k8s.container.name", store.Model: "gen_ai.request.model", store.DeviceID: "hw.id", store.DeviceModel: "hw.model",
}

func attributeName(d store.Dimension) string {
	if name := attributeNames[d]; name != "" {
		return name
	}
	if key, ok := d.Label(); ok {
		return "k8s.pod.label." + key
	}
	return "gpuledger." + strings.ReplaceAll(string(d), "-", "_")
}

func attribute(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

// family is a metric of OTLP.
type family struct{ name, unit, help string }

// point is a value of a metric.
type point struct {
	family
	value  float64
	values []string // of the dimensions
	last   *commonpb.KeyValue
}

// points are all values of a snapshot.
func (s *Snapshot) points() iter.Seq[point] {
	money := "{" + s.Currency + "}"
	return func(yield func(point) bool) {
		for _, x := range s.Series {
			basis := attribute("gpuledger.basis", x.Basis.String())
			ps := []point{{family{"gpuledger.rollup.gpu.time", "s", "Device time by basis."}, float(&x.Time, 1e9), x.Values, basis}}
			if x.Priced() && s.Currency != "" {
				ps = append(ps, point{family{"gpuledger.rollup.cost", money, "Cost of the device time, by basis."}, float(&x.Cost, 1e9), x.Values, basis})
			}
			if x.Unpriced.Sign() > 0 {
				ps = append(ps, point{family{"gpuledger.rollup.gpu.unpriced_time", "s", "Device time without a price: its cost is unknown."}, float(&x.Unpriced, 1e9), x.Values, basis})
			}
			for _, p := range ps {
				if !yield(p) {
					return
				}
			}
		}
		for _, x := range s.Counts {
			p := point{values: x.Values}
			switch x.Metric {
			case Inferences:
				p.family = family{"gpuledger.rollup.inferences", "{inference}", "Inferences served, by outcome."}
				p.value, p.last = float(&x.Value, 1e6), attribute("gpuledger.outcome", x.Type)
			case Tokens:
				p.family = family{"gpuledger.rollup.tokens", "{token}", "Tokens by type."}
				p.value, p.last = float(&x.Value, 1), attribute("gen_ai.token.type", x.Type)
			case Within:
				p.family = family{"gpuledger.rollup.inferences_within", "{inference}", "Inferences that succeeded within the target."}
				p.value, p.last = float(&x.Value, 1e6), attribute("gpuledger.target", x.Type)
			}
			if !yield(p) {
				return
			}
		}
	}
}

// requests are a snapshot's, of at most maxPoints each.
func (p *Pusher) requests(s *Snapshot) iter.Seq[*colpb.ExportMetricsServiceRequest] {
	return func(yield func(*colpb.ExportMetricsServiceRequest) bool) {
		var names []string
		for _, d := range p.r.dims {
			names = append(names, attributeName(d))
		}
		sums, n := map[string]*metricspb.Sum{}, 0
		var metrics []*metricspb.Metric
		for x := range s.points() {
			if n == maxPoints {
				if !yield(p.request(metrics)) {
					return
				}
				sums, metrics, n = map[string]*metricspb.Sum{}, nil, 0
			}
			sum := sums[x.name]
			if sum == nil {
				sum = &metricspb.Sum{AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE, IsMonotonic: true}
				sums[x.name] = sum
				metrics = append(metrics, &metricspb.Metric{Name: x.name, Unit: x.unit, Description: x.help, Data: &metricspb.Metric_Sum{Sum: sum}})
			}
			as := make([]*commonpb.KeyValue, 0, len(names)+1)
			for i, v := range x.values {
				if v != "" {
					as = append(as, attribute(names[i], v))
				}
			}
			sum.DataPoints = append(sum.DataPoints, &metricspb.NumberDataPoint{
				StartTimeUnixNano: uint64(max(0, s.Since.Nanos())), TimeUnixNano: uint64(max(0, s.At.UnixNano())),
				Attributes: append(as, x.last), Value: &metricspb.NumberDataPoint_AsDouble{AsDouble: x.value},
			})
			n++
		}
		if n > 0 {
			yield(p.request(metrics))
		}
	}
}

func (p *Pusher) request(metrics []*metricspb.Metric) *colpb.ExportMetricsServiceRequest {
	resource := []*commonpb.KeyValue{attribute("service.name", "gpuledger-collector")}
	for _, a := range [][2]string{{"service.version", p.o.Version}, {"service.instance.id", p.o.InstanceID}} {
		if a[1] != "" {
			resource = append(resource, attribute(a[0], a[1]))
		}
	}
	return &colpb.ExportMetricsServiceRequest{ResourceMetrics: []*metricspb.ResourceMetrics{{
		Resource: &resourcepb.Resource{Attributes: resource},
		ScopeMetrics: []*metricspb.ScopeMetrics{{
			Scope:   &commonpb.InstrumentationScope{Name: "github.com/gpuledger/gpuledger/collector/rollupexport", Version: p.o.Version},
			Metrics: metrics,
		}},
	}}}
}
