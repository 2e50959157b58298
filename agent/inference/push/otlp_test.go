package push

import (
	"math"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

const (
	cumulative = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	deltas     = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
)

func attributes(pairs ...string) (as []*commonpb.KeyValue) {
	for i := 0; i < len(pairs); i += 2 {
		as = append(as, &commonpb.KeyValue{Key: pairs[i], Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: pairs[i+1]}}})
	}
	return as
}

func histogram(name string, t metricspb.AggregationTemporality, ps ...*metricspb.HistogramDataPoint) *metricspb.Metric {
	return &metricspb.Metric{Name: name, Unit: "s", Data: &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{AggregationTemporality: t, DataPoints: ps}}}
}

func ns(second int64) uint64 { return uint64(second * int64(time.Second)) }

// Cumulative and delta points of generative AI's metrics are counted, once, and
// nothing else is.
func TestExport(t *testing.T) {
	for name, temporality := range map[string]metricspb.AggregationTemporality{"cumulative": cumulative, "delta": deltas} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, tcp(t))
			a.kill()
			a.options.Tenant, a.options.Tier = "customer", "plan"
			a.start()
			a.ticking()
			start := a.clock.Load() + 5
			send := func(at, times int64) {
				n := uint64(1)
				if temporality == cumulative {
					n = uint64(times)
				}
				answer, err := a.exportOf(attributes("plan", "gold", "k8s.pod.uid", "u-1"),
					histogram(metricDuration, temporality, &metricspb.HistogramDataPoint{
						StartTimeUnixNano: ns(start), TimeUnixNano: ns(at), Count: 3 * n, BucketCounts: []uint64{n, 2 * n}, ExplicitBounds: []float64{1},
						Attributes: attributes("gen_ai.request.model", "asked", "gen_ai.response.model", "m", "customer", "acme"),
					}, &metricspb.HistogramDataPoint{
						StartTimeUnixNano: ns(start), TimeUnixNano: ns(at), Count: n,
						Attributes: attributes("gen_ai.request.model", "m", "customer", "acme", "error.type", "Timeout"),
					}),
					histogram(metricTokens, temporality, &metricspb.HistogramDataPoint{
						StartTimeUnixNano: ns(start), TimeUnixNano: ns(at), Count: n, Sum: new(70 * float64(n)),
						Attributes: attributes("gen_ai.request.model", "m", "gen_ai.token.type", "output"),
					}),
					&metricspb.Metric{Name: "http.server.request.duration", Data: &metricspb.Metric_Gauge{}})
				if err != nil || answer.GetPartialSuccess().GetRejectedDataPoints() != 0 {
					t.Fatal(answer, err)
				}
			}
			for i := range int64(3) {
				send(start+10*(i+1), i+1)
				send(start+10*(i+1), i+1) // once more: the answer was lost
				if i == 1 {
					a.kill()
					a.start()
				}
			}
			for m, want := range map[attribution.Measure]int64{
				attribution.Success: 9 * one, "failure/timeout": 3 * one, attribution.TokensOutput: 210,
				"latency/40": 3 * one, "latency/127": 6 * one,
			} {
				if got := a.total(m); got != want {
					t.Errorf("%s: %d, want %d", m, got, want)
				}
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, e := range a.events {
				if x := e.Tally; x.Model != "m" || x.Tier != "gold" || (x.Tenant != "acme" && x.Values[0].Measure != attribution.TokensOutput) {
					t.Errorf("%+v", x)
				}
			}
			if got := a.server.Stats(); got.Ignored == 0 || got.Strangers > 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A series whose start is another one began anew; the others go on.
func TestCumulativeResets(t *testing.T) {
	a := newAgent(t, tcp(t))
	a.ticking()
	start := a.clock.Load() + 5
	send := func(start, at int64, n uint64) {
		t.Helper()
		if _, err := a.export(histogram(metricDuration, cumulative,
			&metricspb.HistogramDataPoint{StartTimeUnixNano: ns(start), TimeUnixNano: ns(at), Count: n, Attributes: attributes("gen_ai.request.model", "m")},
			&metricspb.HistogramDataPoint{StartTimeUnixNano: ns(a.clock.Load()), TimeUnixNano: ns(at), Count: 0, Attributes: attributes("gen_ai.request.model", "other")},
		)); err != nil {
			t.Fatal(err)
		}
	}
	send(start, start+1, 10)
	send(start, start+2, 15)
	send(start+3, start+4, 20) // more than before, and yet a new count
	send(start+3, start+5, 21)
	if got := a.total(attribution.Success); got != 36*one {
		t.Errorf("%d are counted, 36 were served", got/one)
	}
}

// What says that it is another pod, and what can't be, is refused and told.
func TestRejectedPoints(t *testing.T) {
	a := newAgent(t, tcp(t))
	a.ticking()
	p := func() *metricspb.HistogramDataPoint {
		return &metricspb.HistogramDataPoint{TimeUnixNano: 1, Count: 1, Sum: new(1.0), Attributes: attributes("gen_ai.token.type", "input")}
	}
	bad := p()
	bad.BucketCounts, bad.ExplicitBounds = []uint64{1, 2, 3}, []float64{1}
	negative := p()
	negative.Sum = new(-1.0)
	nan := p()
	nan.Sum = new(math.NaN())
	for name, x := range map[string]struct {
		resource []*commonpb.KeyValue
		metric   *metricspb.Metric
	}{
		"another pod":    {attributes("k8s.pod.uid", "u-2"), histogram(metricDuration, deltas, p())},
		"buckets":        {nil, histogram(metricDuration, deltas, bad)},
		"negative":       {nil, histogram(metricTokens, deltas, negative)},
		"not a number":   {nil, histogram(metricTokens, deltas, nan)},
		"no temporality": {nil, histogram(metricDuration, 0, p())},
		"a gauge":        {nil, &metricspb.Metric{Name: metricDuration, Data: &metricspb.Metric_Gauge{}}},
	} {
		answer, err := a.exportOf(x.resource, x.metric)
		if err != nil || answer.GetPartialSuccess().GetRejectedDataPoints() != 1 {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	if got := a.total(attribution.Success) + a.total(attribution.TokensInput); got != 0 {
		t.Errorf("%d are counted", got)
	}
}

// The same attributes are the same series in any order, and others are not.
func TestEncodingOfAttributes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"", "a", "b", `"`, "=", "a b"})
		pairs := rapid.SliceOfN(word, 4, 4).Draw(t, "pairs")
		as := attributes(pairs...)
		if encode(as) != encode([]*commonpb.KeyValue{as[1], as[0]}) {
			t.Fatal("the order matters")
		}
		other := rapid.SliceOfN(word, 4, 4).Draw(t, "other")
		same := (pairs[0] == other[0] && pairs[1] == other[1] && pairs[2] == other[2] && pairs[3] == other[3]) ||
			(pairs[0] == other[2] && pairs[1] == other[3] && pairs[2] == other[0] && pairs[3] == other[1])
		if (encode(as) == encode(attributes(other...))) != same {
			t.Fatalf("%q and %q", pairs, other)
		}
	})
}

// Exponential histograms have the buckets that their scale says.
func TestExponentialHistogram(t *testing.T) {
	a := newAgent(t, tcp(t))
	a.ticking()
	if _, err := a.export(&metricspb.Metric{Name: metricDuration, Unit: "ms", Data: &metricspb.Metric_ExponentialHistogram{
		ExponentialHistogram: &metricspb.ExponentialHistogram{AggregationTemporality: deltas, DataPoints: []*metricspb.ExponentialHistogramDataPoint{{
			TimeUnixNano: 1, Count: 4, ZeroCount: 1, Scale: 0, Positive: &metricspb.ExponentialHistogramDataPoint_Buckets{Offset: 1, BucketCounts: []uint64{1, 2}},
		}}},
	}}); err != nil {
		t.Fatal(err)
	}
	for m, want := range map[attribution.Measure]int64{attribution.Success: 4, "latency/0": 1, "latency/8": 1, "latency/12": 2} {
		if got := a.total(m); got != want*one {
			t.Errorf("%s: %d, want %d", m, got/one, want)
		}
	}
}
