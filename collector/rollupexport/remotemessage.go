package rollupexport

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	write2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// remoteSample is one series with its value.
type remoteSample struct {
	labels  []string // name, value, name, value, …, by name; __name__ is among them
	value   float64
	kind    dto.MetricType
	help    string
	created int64 // ms; 0: not known
}

// staleNaN is the value that ends a series, by its bits.
var staleNaN = math.Float64frombits(0x7ff0000000000002)

const separator = "\xff" // is in no text in UTF-8

func (x *remoteSample) key() string { return strings.Join(x.labels, separator) }

func (x *remoteSample) name() string {
	return x.labels[slices.Index(x.labels, "__name__")+1]
}

func ended(key string) remoteSample {
	return remoteSample{labels: strings.Split(key, separator), value: staleNaN, kind: dto.MetricType_UNTYPED}
}

// samplesOf are what a scrape of the same snapshot would yield.
func samplesOf(r *Rollups, s *Snapshot, add map[string]string) ([]remoteSample, error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(collector{r, s}); err != nil {
		return nil, err
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	var out []remoteSample
	for _, f := range families {
		for _, m := range f.GetMetric() {
			x := remoteSample{labels: labelsOf(f.GetName(), m, add), kind: f.GetType(), help: f.GetHelp()}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				x.value = m.GetCounter().GetValue()
				if at := m.GetCounter().GetCreatedTimestamp(); at != nil {
					x.created = at.AsTime().UnixMilli()
				}
			case dto.MetricType_GAUGE:
				x.value = m.GetGauge().GetValue()
			default:
				panic("BUG: rollups are counters and gauges")
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// labelsOf are a series' labels, by name. Empty ones are none.
func labelsOf(name string, m *dto.Metric, add map[string]string) []string {
	type label struct{ name, value string }
	ls := []label{{"__name__", name}}
	has := make(map[string]bool)
	for _, l := range m.GetLabel() {
		has[l.GetName()] = true
		if l.GetValue() != "" {
			ls = append(ls, label{l.GetName(), l.GetValue()})
		}
	}
	for k, v := range add {
		if !has[k] && v != "" {
			ls = append(ls, label{k, v})
		}
	}
	slices.SortFunc(ls, func(a, b label) int { return cmp.Compare(a.name, b.name) })
	out := make([]string, 0, 2*len(ls))
	for _, l := range ls {
		out = append(out, l.name, l.value)
	}
	return out
}

// request is a message of samples at a time.
func request(protocol string, xs []remoteSample, at time.Time) (remote.WriteMessageType, any) {
	if protocol == RemoteWrite2 {
		return remote.WriteV2MessageType, request2(xs, at.UnixMilli())
	}
	m := &pb.RemoteWrite{}
	told := make(map[string]bool)
	for i := range xs {
		x := &xs[i]
		s := &pb.RemoteSeries{Samples: []*pb.RemoteSample{{Value: x.value, Timestamp: at.UnixMilli()}}}
		for j := 0; j < len(x.labels); j += 2 {
			s.Labels = append(s.Labels, &pb.RemoteLabel{Name: x.labels[j], Value: x.labels[j+1]})
		}
		m.Timeseries = append(m.Timeseries, s)
		if name := x.name(); x.help != "" && !told[name] {
			told[name] = true
			kind := int32(1)
			if x.kind == dto.MetricType_GAUGE {
				kind = 2
			}
			m.Metadata = append(m.Metadata, &pb.RemoteMetadata{Type: kind, MetricFamilyName: name, Help: x.help})
		}
	}
	return remote.WriteV1MessageType, sized{m}
}

func request2(xs []remoteSample, ms int64) *write2.Request {
	symbols := write2.NewSymbolTable()
	m := &write2.Request{}
	for i := range xs {
		x := &xs[i]
		s := &write2.TimeSeries{
			LabelsRefs: symbols.SymbolizeLabels(x.labels, nil),
			Samples:    []*write2.Sample{{Value: x.value, Timestamp: ms}},
			Metadata:   &write2.Metadata{HelpRef: symbols.Symbolize(x.help)},

			CreatedTimestamp: x.created,
		}
		switch x.kind {
		case dto.MetricType_COUNTER:
			s.Metadata.Type = write2.Metadata_METRIC_TYPE_COUNTER
		case dto.MetricType_GAUGE:
			s.Metadata.Type = write2.Metadata_METRIC_TYPE_GAUGE
		default:
		}
		m.Timeseries = append(m.Timeseries, s)
	}
	m.Symbols = symbols.Symbols()
	return m
}

// sized has a message encoded into the buffer that the client offers. Other
// messages it appends to a buffer that it does not empty first.
type sized struct{ m proto.Message }

// Size is that of the encoding.
func (s sized) Size() int { return proto.Size(s.m) }

// MarshalToSizedBuffer encodes into the end of b, as its callers expect.
func (s sized) MarshalToSizedBuffer(b []byte) (int, error) {
	n := proto.Size(s.m)
	_, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b[len(b)-n:len(b)-n], s.m)
	return n, err
}
