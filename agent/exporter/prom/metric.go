package prom

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gpuledger/gpuledger/attribution"
)

// labels are the names of a family's labels, and how its values are brought
// into the order of names that a metric's labels must have.
type labels struct {
	names []string // as described
	order []int
}

func newLabels(names []string) labels {
	l := labels{names, make([]int, len(names))}
	for i := range l.order {
		l.order[i] = i
	}
	slices.SortFunc(l.order, func(a, b int) int { return cmp.Compare(names[a], names[b]) })
	return l
}

// of pairs the names with values. The half dozen metrics of a series share what
// it returns: the library's own constant metrics make fourteen labels for each.
func (l *labels) of(values []string) []*dto.LabelPair {
	values = slices.Clone(values) // the pairs point into it
	pairs := make([]dto.LabelPair, len(l.names))
	out := make([]*dto.LabelPair, len(l.names))
	for i, j := range l.order {
		pairs[i].Name, pairs[i].Value = &l.names[j], &values[j]
		out[i] = &pairs[i]
	}
	return out
}

// counter is a constant counter.
type counter struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair
	value   float64
	created *timestamppb.Timestamp
}

func created(s attribution.Second) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: int64(s)}
}

// Desc is the description.
func (c *counter) Desc() *prometheus.Desc { return c.desc }

// Write fills in the metric.
func (c *counter) Write(m *dto.Metric) error {
	m.Label = c.labels
	m.Counter = &dto.Counter{Value: new(c.value), CreatedTimestamp: c.created}
	return nil
}
