package push

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// The metrics that are about what is served, by OpenTelemetry's conventions for
// generative AI. All others are passed over.
const (
	metricDuration   = "gen_ai.server.request.duration"
	metricFirstToken = "gen_ai.server.time_to_first_token"
	metricTokens     = "gen_ai.client.token.usage"
)

const (
	maxBuckets    = 512 // of a histogram
	maxAttributes = 64
	maxWhole      = 1 << 53 // of what doubles count exactly
)

// metricsService takes OpenTelemetry metrics.
type metricsService struct {
	collectorpb.UnimplementedMetricsServiceServer
	server *Server
}

// Export implements the service. What can't be counted is told in the answer.
func (m *metricsService) Export(ctx context.Context, q *collectorpb.ExportMetricsServiceRequest) (*collectorpb.ExportMetricsServiceResponse, error) {
	s := m.server
	container := ""
	if rs := q.GetResourceMetrics(); len(rs) > 0 {
		container = attribute(rs[0].GetResource().GetAttributes(), "k8s.container.name")
	}
	if container != "" && s.pusherOf(ctx, container).owner == nil {
		container = "" // some tell what they are called elsewhere
	}
	who, err := s.pusher(ctx, container)
	if err != nil {
		return nil, err
	}
	x := export{server: s, who: who, readings: map[string]*reading{}}
	for _, rm := range q.GetResourceMetrics() {
		x.resource(rm)
	}
	e := x.entry()
	answer := &collectorpb.ExportMetricsServiceResponse{}
	if x.rejected > 0 {
		s.counts.rejected.Add(uint64(x.rejected))
		answer.PartialSuccess = &collectorpb.ExportMetricsPartialSuccess{RejectedDataPoints: int64(x.rejected), ErrorMessage: x.why}
	}
	if len(e.deltas) == 0 && len(e.readings) == 0 {
		return answer, nil
	}
	if err := s.enter(ctx, e); err != nil {
		return nil, err
	}
	return answer, nil
}

// export is a request that is being read.
type export struct {
	server   *Server
	who      pusher
	deltas   []delta
	readings map[string]*reading
	values   int
	rejected int
	why      string
}

func (x *export) reject(format string, args ...any) {
	x.rejected++
	if x.why == "" {
		x.why = fmt.Sprintf(format, args...)
	}
}

// resource reads the metrics of one resource. One that says that it is another
// pod is not believed: whoever passes on what others serve is not who serves.
func (x *export) resource(rm *metricspb.ResourceMetrics) {
	as := rm.GetResource().GetAttributes()
	uid, pod := attribute(as, "k8s.pod.uid"), attribute(as, "k8s.pod.name")
	other := x.who.owner.Kind == attribution.Container && ((uid != "" && uid != x.who.owner.PodUID) || (pod != "" && pod != x.who.owner.Pod))
	for _, sm := range rm.GetScopeMetrics() {
		for _, m := range sm.GetMetrics() {
			points := pointsOf(m)
			switch {
			case points == nil:
				x.server.counts.ignored.Add(1)
			case other:
				x.reject("the resource is pod %s, and the peer is pod %s: each pod pushes for itself", cmp.Or(pod, uid), x.who.owner.Pod)
			case len(as) > maxAttributes:
				x.reject("more than %d attributes", maxAttributes)
			default:
				name := x.who.name + "#" + hash(encode(as), sm.GetScope().GetName(), m.GetName(), m.GetUnit())
				for i := range points {
					x.point(name, rm.GetResource(), &points[i])
				}
			}
		}
	}
}

// part is what a point says of one measure.
type part struct {
	measure attribution.Measure
	index   int // tells parts of one measure apart
	value   int64
}

// point counts a point.
func (x *export) point(name string, resource *resourcepb.Resource, p *point) {
	o := &x.server.o
	get := func(key string) string {
		if key == "" {
			return ""
		}
		return cmp.Or(attribute(p.attributes, key), attribute(resource.GetAttributes(), key))
	}
	subject := serving.Subject{Model: cmp.Or(get("gen_ai.response.model"), get("gen_ai.request.model")), Tenant: get(o.Tenant), Tier: get(o.Tier)}
	parts, err := x.server.parts(p, get)
	switch {
	case err != nil:
		x.reject("%s: %v", p.metric, err)
		return
	case !goodName(subject.Model) || !goodName(subject.Tenant) || !goodName(subject.Tier) || len(p.attributes) > maxAttributes:
		x.reject("%s: attributes beyond what is taken", p.metric)
		return
	case x.values+len(parts) > inference.MaxValues:
		x.reject("more than %d values in a request", inference.MaxValues)
		return
	case len(parts) == 0:
		return
	}
	x.values += len(parts)
	if !p.cumulative {
		d := delta{series: name + hash(encode(p.attributes)), at: p.time}
		for _, v := range parts {
			d.values = append(d.values, serving.Value{Subject: subject, Measure: v.measure, Value: v.value})
		}
		x.deltas = append(x.deltas, d)
		return
	}
	// What began at another time is counted apart, from 0.
	name += "@" + strconv.FormatUint(p.start, 10)
	r := x.readings[name]
	if r == nil {
		r = &reading{name: name, started: int64(min(p.start, math.MaxInt64)), reading: &serving.Reading{Format: "otlp"}}
		x.readings[name] = r
	}
	for _, v := range parts {
		id := sha256.Sum256([]byte(encode(p.attributes) + "/" + strconv.Itoa(v.index)))
		r.reading.Counts = append(r.reading.Counts, serving.Count{
			Subject: subject, Measure: v.measure, Series: binary.BigEndian.Uint64(id[:]), Value: v.value,
		})
	}
}

// parts are what a point says.
func (s *Server) parts(p *point, get func(string) string) (ps []part, err error) {
	events := func(m attribution.Measure, index int, n uint64) {
		if n > maxCount {
			err = fmt.Errorf("%d is more than is believed", n)
		}
		ps = append(ps, part{m, index, int64(min(n, maxCount)) * int64(attribution.One)})
	}
	switch {
	case p.unfit:
		return nil, fmt.Errorf("a point of a kind, temporality or shape that is not taken")
	case p.metric == metricTokens:
		m, ok := tokenMeasure(get("gen_ai.token.type"))
		switch {
		case !ok:
			return nil, nil
		case !(p.sum >= 0 && p.sum <= maxWhole):
			return nil, fmt.Errorf("%v tokens", p.sum)
		}
		return []part{{m, 0, int64(math.Round(p.sum))}}, nil
	case p.metric == metricDuration && get("error.type") != "":
		events(failure(get("error.type")), 0, p.count)
		return ps, err
	case p.metric == metricDuration:
		events(attribution.Success, 0, p.count)
	}
	prefix := attribution.LatencyPrefix
	if p.metric == metricFirstToken {
		prefix = attribution.FirstTokenPrefix
	}
	for i, b := range p.bounds {
		if b.count > 0 {
			events(attribution.BucketMeasure(prefix, s.hist.Bucket(nanos(b.bound*p.ns))), i+1, b.count)
		}
	}
	return ps, err
}

// nanos is a duration that may be anything.
func nanos(ns float64) int64 {
	switch {
	case ns >= math.MaxInt64:
		return math.MaxInt64
	case ns > 0:
		return int64(ns)
	}
	return 0
}

func tokenMeasure(kind string) (attribution.Measure, bool) {
	switch kind {
	case "input":
		return attribution.TokensInput, true
	case "output", "completion":
		return attribution.TokensOutput, true
	case "cached", "input_cached":
		return attribution.TokensCached, true
	}
	return "", false
}

// failure is the measure of an error.type.
func failure(kind string) attribution.Measure {
	switch kind {
	case "499", "cancelled", "canceled", "client_closed_request", "abort", "aborted":
		return attribution.Aborted
	}
	return attribution.FailurePrefix + attribution.Measure(goodReason(kind))
}

// entry is what the request comes to.
func (x *export) entry() *entry {
	e := &entry{owner: x.who.owner, group: groupOf(x.who.name), deltas: x.deltas}
	for _, r := range x.readings {
		slices.SortFunc(r.reading.Counts, func(a, b serving.Count) int {
			return cmp.Or(a.Subject.Compare(b.Subject), cmp.Compare(a.Measure, b.Measure), cmp.Compare(a.Series, b.Series))
		})
		r.reading.Counts = slices.CompactFunc(r.reading.Counts, func(a, b serving.Count) bool {
			return a.Subject == b.Subject && a.Measure == b.Measure && a.Series == b.Series
		})
		e.readings = append(e.readings, *r)
	}
	slices.SortFunc(e.readings, func(a, b reading) int { return cmp.Compare(a.name, b.name) })
	return e
}

// attribute is the text of an attribute, "" where there is none.
func attribute(as []*commonpb.KeyValue, key string) string {
	for _, a := range as {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// encode is the same for attributes that are the same, in any order.
func encode(as []*commonpb.KeyValue) string {
	texts := make([]string, 0, len(as))
	for _, a := range as {
		text := strconv.Quote(a.GetValue().GetStringValue())
		if _, ok := a.GetValue().GetValue().(*commonpb.AnyValue_StringValue); !ok {
			b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(a.GetValue()) // what was decoded can be encoded
			text = strconv.Quote(string(b)) + "?"
		}
		texts = append(texts, strconv.Quote(a.GetKey())+"="+text)
	}
	slices.Sort(texts)
	return fmt.Sprint(texts)
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", parts)))
	return fmt.Sprintf("%x", sum[:12])
}
