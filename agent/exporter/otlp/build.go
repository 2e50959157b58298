package otlp

import (
	"iter"
	"slices"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/attribution"
)

// schema is the version of the semantic conventions that the names are from.
const schema = "https://opentelemetry.io/schemas/1.43.0"

// builder makes requests of snapshots.
type builder struct {
	o     *Options
	node  attributes
	limit int // bytes of a request
}

// requests are the requests of a snapshot and their sizes, each made when the
// one before it has been dealt with.
func (b *builder) requests(s *exporter.Snapshot) iter.Seq2[int, *colpb.ExportMetricsServiceRequest] {
	return func(yield func(int, *colpb.ExportMetricsServiceRequest) bool) {
		request, size := &colpb.ExportMetricsServiceRequest{}, 0
		for rm := range b.resources(s) {
			n := proto.Size(rm) + 8 // and its tag and length
			if size > 0 && size+n > b.limit {
				if !yield(size, request) {
					return
				}
				request, size = &colpb.ExportMetricsServiceRequest{}, 0
			}
			request.ResourceMetrics = append(request.ResourceMetrics, rm)
			size += n
		}
		if size > 0 {
			yield(size, request)
		}
	}
}

// parts are the entries of one owner.
type parts struct {
	owner   *exporter.Owner
	series  []*exporter.Series
	tallies []*exporter.Tally
}

func (b *builder) resources(s *exporter.Snapshot) iter.Seq[*metricspb.ResourceMetrics] {
	var owners []*parts
	at := map[*exporter.Owner]*parts{}
	of := func(o *exporter.Owner) *parts {
		p := at[o]
		if p == nil {
			p = &parts{owner: o}
			at[o] = p
			owners = append(owners, p)
		}
		return p
	}
	for i := range s.Series {
		p := of(s.Series[i].Owner)
		p.series = append(p.series, &s.Series[i])
	}
	for i := range s.Tallies {
		p := of(s.Tallies[i].Owner)
		p.tallies = append(p.tallies, &s.Tallies[i])
	}
	return func(yield func(*metricspb.ResourceMetrics) bool) {
		node := append(slices.Clone(b.node), attributes{}.text("service.instance.id", b.o.InstanceID)...)
		if ms := deviceMetrics(s); len(ms) > 0 && !yield(b.resource(node, ms)) {
			return
		}
		for _, p := range owners {
			m := metrics{end: nanos(s.Second + 1)}
			m.series(p.series, s.Currency)
			m.tallies(p.tallies)
			if !yield(b.resource(b.ownerResource(p.owner, s.Labels), m.all)) {
				return
			}
		}
	}
}

func (b *builder) resource(as attributes, ms []*metricspb.Metric) *metricspb.ResourceMetrics {
	return &metricspb.ResourceMetrics{
		Resource:  &resourcepb.Resource{Attributes: as},
		SchemaUrl: schema,
		ScopeMetrics: []*metricspb.ScopeMetrics{{
			Scope:     &commonpb.InstrumentationScope{Name: "github.com/gpuledger/gpuledger/agent/exporter/otlp", Version: b.o.Version},
			SchemaUrl: schema,
			Metrics:   ms,
		}},
	}
}

func nanos(s attribution.Second) uint64 { return uint64(max(0, s.Nanos())) }

// metrics collects the metrics of one resource.
type metrics struct {
	end uint64 // Unix ns of all points
	all []*metricspb.Metric
}

// counter, level and gauge find or add a metric. Few are in a resource.
func (m *metrics) counter(name, unit, help string) *[]*metricspb.NumberDataPoint {
	return m.sum(name, unit, help, true)
}

func (m *metrics) level(name, unit, help string) *[]*metricspb.NumberDataPoint {
	return m.sum(name, unit, help, false)
}

func (m *metrics) sum(name, unit, help string, monotonic bool) *[]*metricspb.NumberDataPoint {
	if x := m.find(name); x != nil {
		return &x.GetSum().DataPoints
	}
	sum := &metricspb.Sum{AggregationTemporality: metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE, IsMonotonic: monotonic}
	m.all = append(m.all, &metricspb.Metric{Name: name, Unit: unit, Description: help, Data: &metricspb.Metric_Sum{Sum: sum}})
	return &sum.DataPoints
}

func (m *metrics) gauge(name, unit, help string) *[]*metricspb.NumberDataPoint {
	if x := m.find(name); x != nil {
		return &x.GetGauge().DataPoints
	}
	gauge := &metricspb.Gauge{}
	m.all = append(m.all, &metricspb.Metric{Name: name, Unit: unit, Description: help, Data: &metricspb.Metric_Gauge{Gauge: gauge}})
	return &gauge.DataPoints
}

func (m *metrics) find(name string) *metricspb.Metric {
	for _, x := range m.all {
		if x.GetName() == name {
			return x
		}
	}
	return nil
}

func (m *metrics) double(to *[]*metricspb.NumberDataPoint, v float64, since attribution.Second, as attributes) {
	*to = append(*to, &metricspb.NumberDataPoint{
		StartTimeUnixNano: nanos(since), TimeUnixNano: m.end, Attributes: as, Value: &metricspb.NumberDataPoint_AsDouble{AsDouble: v},
	})
}

func (m *metrics) whole(to *[]*metricspb.NumberDataPoint, v int64, since attribution.Second, as attributes) {
	*to = append(*to, &metricspb.NumberDataPoint{
		StartTimeUnixNano: nanos(since), TimeUnixNano: m.end, Attributes: as, Value: &metricspb.NumberDataPoint_AsInt{AsInt: v},
	})
}
