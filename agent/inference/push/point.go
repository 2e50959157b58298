package push

import (
	"math"
	"slices"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
)

// point is a data point of any kind, as far as it matters.
type point struct {
	metric      string
	attributes  []*commonpb.KeyValue
	start, time uint64
	cumulative  bool
	unfit       bool
	count       uint64
	sum         float64
	ns          float64  // of one of the metric's unit
	bounds      []bucket // nil where there are none
}

// bucket is one of a histogram's: its upper bound in the metric's unit, +Inf
// for none.
type bucket struct {
	bound float64
	count uint64
}

// pointsOf are the points of a metric that is about what is served, nil of any
// other.
func pointsOf(m *metricspb.Metric) (ps []point) {
	switch m.GetName() {
	case metricDuration, metricFirstToken, metricTokens:
	default:
		return nil
	}
	ps = []point{}
	p := point{metric: m.GetName(), ns: unit(m.GetUnit())}
	switch d := m.GetData().(type) {
	case *metricspb.Metric_Sum:
		p.cumulative, p.unfit = temporality(d.Sum.GetAggregationTemporality())
		p.unfit = p.unfit || !d.Sum.GetIsMonotonic() || p.metric != metricTokens
		for _, x := range d.Sum.GetDataPoints() {
			ps = append(ps, p.number(x))
		}
	case *metricspb.Metric_Histogram:
		p.cumulative, p.unfit = temporality(d.Histogram.GetAggregationTemporality())
		for _, x := range d.Histogram.GetDataPoints() {
			ps = append(ps, p.histogram(x))
		}
	case *metricspb.Metric_ExponentialHistogram:
		p.cumulative, p.unfit = temporality(d.ExponentialHistogram.GetAggregationTemporality())
		for _, x := range d.ExponentialHistogram.GetDataPoints() {
			ps = append(ps, p.exponential(x))
		}
	default:
		p.unfit = true
		ps = append(ps, p)
	}
	return ps
}

func temporality(t metricspb.AggregationTemporality) (cumulative, unfit bool) {
	return t == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE,
		t == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_UNSPECIFIED
}

// unit is how many ns one of a unit of time has.
func unit(text string) float64 {
	switch text {
	case "ms":
		return 1e6
	case "us":
		return 1e3
	case "ns":
		return 1
	}
	return 1e9
}

func (p point) number(x *metricspb.NumberDataPoint) point {
	p.attributes, p.start, p.time = x.GetAttributes(), x.GetStartTimeUnixNano(), x.GetTimeUnixNano()
	switch v := x.GetValue().(type) {
	case *metricspb.NumberDataPoint_AsInt:
		p.sum = float64(v.AsInt)
	case *metricspb.NumberDataPoint_AsDouble:
		p.sum = v.AsDouble
	default:
		p.unfit = true
	}
	return p
}

func (p point) histogram(x *metricspb.HistogramDataPoint) point {
	p.attributes, p.start, p.time, p.count, p.sum = x.GetAttributes(), x.GetStartTimeUnixNano(), x.GetTimeUnixNano(), x.GetCount(), x.GetSum()
	bounds, ns := x.GetExplicitBounds(), x.GetBucketCounts()
	if len(ns) == 0 {
		return p
	}
	if len(ns) != len(bounds)+1 || len(ns) > maxBuckets || !slices.IsSorted(bounds) {
		p.unfit = true
		return p
	}
	for i, n := range ns {
		b := bucket{math.Inf(1), n}
		if i < len(bounds) {
			b.bound = bounds[i]
		}
		p.bounds = append(p.bounds, b)
	}
	return p
}

func (p point) exponential(x *metricspb.ExponentialHistogramDataPoint) point {
	p.attributes, p.start, p.time, p.count, p.sum = x.GetAttributes(), x.GetStartTimeUnixNano(), x.GetTimeUnixNano(), x.GetCount(), x.GetSum()
	ns := x.GetPositive().GetBucketCounts()
	if len(ns) > maxBuckets || len(x.GetNegative().GetBucketCounts()) > 0 || x.GetScale() < -10 || x.GetScale() > 20 {
		p.unfit = true
		return p
	}
	p.bounds = append(p.bounds, bucket{0, x.GetZeroCount()})
	for i, n := range ns {
		p.bounds = append(p.bounds, bucket{math.Exp2(math.Ldexp(float64(x.GetPositive().GetOffset())+float64(i)+1, -int(x.GetScale()))), n})
	}
	return p
}
