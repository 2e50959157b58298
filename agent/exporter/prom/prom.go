package prom

import (
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gpuledger/gpuledger/agent/exporter"
)

// New makes the Prometheus view of an exporter: register it and serve it with
// OpenMetrics enabled. It counts as in use from the first scrape on, and what
// was collected as exported. The protobuf format, which Prometheus asks for
// where it wants created timestamps, has them anyway; as text they are series
// of their own, so leave them off there.
func New(e *exporter.Exporter) prometheus.Collector {
	labels := e.Snapshot().Labels
	return &collector{view: e.NewView(false), descs: newDescs(labelNames(labels))}
}

type collector struct {
	view  *exporter.View
	descs *descs
}

// Describe sends nothing: the currency, and with it names, may change.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the latest snapshot.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.view.Snapshot()
	v := sender{out: out, d: c.descs, s: s, node: []string{s.Cluster, s.Node}}
	if s.Currency != "" {
		v.cost, v.price = c.descs.money(s.Currency)
	}
	for i := range s.Devices {
		v.device(&s.Devices[i])
	}
	for i := range s.Series {
		v.series(&s.Series[i])
	}
	for i := range s.Tallies {
		v.tally(&s.Tallies[i])
	}
	v.self(&s.Stats)
	c.view.Exported(s)
}

// sender sends one snapshot.
type sender struct {
	out         chan<- prometheus.Metric
	d           *descs
	s           *exporter.Snapshot
	node        []string // values of cluster and node
	cost, price *prometheus.Desc
	values      []string // scratch
}

func (v *sender) counter(d *prometheus.Desc, x float64, since *timestamppb.Timestamp, ls []*dto.LabelPair) {
	v.out <- &counter{desc: d, labels: ls, value: x, created: since}
}

func (v *sender) gauge(d *prometheus.Desc, x float64, values ...string) {
	v.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, x, values...)
}

func (v *sender) device(d *exporter.Device) {
	v.values = append(v.values[:0], v.node...)
	v.values = append(v.values, d.ID)
	f := &d.Facts
	v.gauge(v.d.info, 1, append(v.values, f.Model, f.Profile, f.Parent, f.CapacityType)...)
	if f.MemoryBytes > 0 {
		v.gauge(v.d.memoryBytes, float64(f.MemoryBytes), v.values...)
	}
	if d.Current(v.s) && d.Now.Priced {
		v.gauge(v.price, float64(d.Now.PerHour)/1e9, v.values...)
	}
}

func (v *sender) series(x *exporter.Series) {
	v.values = append(v.owner(x.Owner), x.Device, x.Basis.String())
	ls, since := v.d.series.of(v.values), created(x.Since)
	v.counter(v.d.time, float64(x.Time)/1e9, since, ls)
	if x.Unpriced > 0 {
		v.counter(v.d.unpriced, float64(x.Unpriced)/1e9, since, ls)
	}
	if x.Priced {
		v.counter(v.cost, float64(x.Cost)/1e9, created(x.CostSince), ls)
	}
	if x.HasSMActive {
		v.counter(v.d.active, float64(x.SMActive)/1e9, since, ls)
	}
	if x.HasMemory {
		v.counter(v.d.memory, float64(x.Memory), since, ls)
	}
	if x.HasEnergy {
		v.counter(v.d.energy, float64(x.Energy)/1e6, since, ls)
	}
}

func (v *sender) tally(x *exporter.Tally) {
	v.values = append(v.owner(x.Owner), x.Model, x.Tier)
	since := created(x.Since)
	switch x.Metric {
	case exporter.Inferences:
		v.values = append(v.values, x.Type, x.Reason)
		v.counter(v.d.inferences, float64(x.Value)/1e6, since, v.d.outcome.of(v.values))
	case exporter.Tokens:
		v.values = append(v.values, x.Type)
		v.counter(v.d.tokens, float64(x.Value), since, v.d.token.of(v.values))
	case exporter.QueueTime:
		v.counter(v.d.queue, float64(x.Value)/1e6, since, v.d.tally.of(v.values))
	}
}

// owner is the values of the node's and an owner's labels, in scratch space.
func (v *sender) owner(o *exporter.Owner) []string {
	values := v.values[:0]
	values = append(values, v.node...)
	values = append(values, o.Kind, o.Namespace, o.Pod, o.PodUID, o.Container, o.ControllerKind, o.Controller, o.Process)
	return append(values, o.Labels...)
}

func (v *sender) self(s *exporter.Stats) {
	for _, x := range []struct {
		n    int
		kind string
	}{{s.Series, "series"}, {s.Tallies, "tally"}, {s.Devices, "device"}, {s.Owners, "owner"}} {
		v.gauge(v.d.entries, float64(x.n), v.node[0], v.node[1], x.kind)
	}
	count := func(d *prometheus.Desc, n uint64, extra ...string) {
		v.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), slices.Concat(v.node, extra)...)
	}
	count(v.d.overflowed, s.OverflowedSlices, "slice")
	count(v.d.overflowed, s.OverflowedTallies, "tally")
	count(v.d.overflowed, s.OverflowedCommands, "command")
	count(v.d.left, s.Left-s.LeftUnexported, "true")
	count(v.d.left, s.LeftUnexported, "false")
	count(v.d.restarted, s.Restarted)
}

// labelNames makes the keys of pod labels names of Prometheus labels: what
// isn't a letter, a digit or _ becomes _, and where two are the same then, the
// later one gets a number.
func labelNames(keys []string) []string {
	names, taken := make([]string, len(keys)), map[string]bool{}
	for i, k := range keys {
		base := "label_" + strings.Map(func(r rune) rune {
			if r == '_' || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') {
				return r
			}
			return '_'
		}, k)
		names[i] = base
		for n := 2; taken[names[i]]; n++ {
			names[i] = base + "_" + strconv.Itoa(n)
		}
		taken[names[i]] = true
	}
	return names
}
