package format

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
)

const (
	maxReasons = 16
	maxCount   = 1e12 // events or gauges, of which millionths are taken
	maxTokens  = 1e18
	maxSum     = 8e18 // of gauges
	maxText    = 512  // bytes of a subject's parts
)

// reader reads one page by one format.
type reader struct {
	*compiled
	page     *exposition.Page
	labels   Labels
	leaveOut []string
	layout   *layout
	families map[string][]*exposition.Sample // by their own names
	joined   map[string]string
	model    string // the page's only one
	reasons  map[string]struct{}
	out      *serving.Reading
}

func newReader(c *compiled, p *exposition.Page, o Options, h *layout) *reader {
	r := &reader{
		compiled: c, page: p, leaveOut: o.LeaveOut, layout: h,
		labels: Labels{
			Model:   orElse(o.Labels.Model, c.rule.Labels.Model),
			Tenant:  orElse(o.Labels.Tenant, c.rule.Labels.Tenant),
			Tier:    orElse(o.Labels.Tier, c.rule.Labels.Tier),
			Backend: orElse(o.Labels.Backend, c.rule.Labels.Backend),
		},
		families: make(map[string][]*exposition.Sample),
		reasons:  make(map[string]struct{}),
		out:      &serving.Reading{Format: c.rule.Name, Rules: c.print, Partial: p.Drops.Missing() > 0},
	}
	for i := range p.Samples {
		s := &p.Samples[i]
		if _, ok := c.families[s.Name]; ok {
			own := c.own(s.Name)
			r.families[own] = append(r.families[own], s)
		}
	}
	for name := range p.Types { // there, and without a series
		if own := c.own(name); r.families[own] == nil {
			r.families[own] = []*exposition.Sample{}
		}
	}
	r.join()
	r.findModel()
	return r
}

func orElse(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}

// join finds out which value of the joined label belongs to which of the other.
func (r *reader) join() {
	j := r.rule.Join
	if j == nil {
		return
	}
	r.joined = make(map[string]string)
	for i := range r.page.Samples {
		ls := r.page.Samples[i].Labels
		by, value := label(ls, j.By), label(ls, j.Label)
		if by == "" || value == "" {
			continue
		}
		if known, ok := r.joined[by]; ok && known != value {
			value = "" // they do not agree, so none is told
		}
		r.joined[by] = value
	}
}

// findModel finds the model of series that name none.
func (r *reader) findModel() {
	if r.rule.Gateway {
		return // a request that names no model is of none
	}
	for _, samples := range r.families {
		for _, s := range samples {
			switch m := first(s.Labels, r.labels.Model); {
			case m == "" || m == r.model || slices.Contains(r.leaveOut, m):
			case r.model == "":
				r.model = m
			default:
				r.model = ""
				return
			}
		}
	}
}

// label is a label's value, "" for what programs write where there is none.
func label(ls attribution.Labels, name string) string {
	v, _ := ls.Get(name)
	if v == "None" {
		return ""
	}
	return v[:min(len(v), maxText)]
}

func first(ls attribution.Labels, names []string) string {
	for _, name := range names {
		if v := label(ls, name); v != "" {
			return v
		}
	}
	return ""
}

// subject is whose a series is; false where its model is left out.
func (r *reader) subject(s *exposition.Sample) (serving.Subject, bool) {
	out := serving.Subject{
		Model:   cmp.Or(first(s.Labels, r.labels.Model), r.model),
		Tenant:  first(s.Labels, r.labels.Tenant),
		Tier:    first(s.Labels, r.labels.Tier),
		Backend: first(s.Labels, r.labels.Backend),
	}
	if j := r.rule.Join; j != nil && out.Backend == "" && slices.Contains(r.labels.Backend, j.Label) {
		out.Backend = r.joined[label(s.Labels, j.By)]
	}
	return out, !slices.Contains(r.leaveOut, out.Model)
}

func (r *reader) read() *serving.Reading {
	r.out.Started = r.started()
	for i := range r.counts {
		r.count(&r.counts[i])
	}
	for i := range r.histograms {
		r.durations(&r.histograms[i])
	}
	for i := range r.gauges {
		r.gauge(&r.gauges[i])
	}
	slices.SortFunc(r.out.Counts, func(a, b serving.Count) int {
		return cmp.Or(a.Subject.Compare(b.Subject), cmp.Compare(a.Measure, b.Measure), cmp.Compare(a.Series, b.Series))
	})
	r.out.Counts = slices.CompactFunc(r.out.Counts, func(a, b serving.Count) bool {
		return a.Subject == b.Subject && a.Measure == b.Measure && a.Series == b.Series
	})
	slices.SortFunc(r.out.Unsettled, serving.Value.ComparePair)
	slices.SortFunc(r.out.Gauges, serving.Value.ComparePair)
	return r.out
}

// started is the least value of the first family that is there. On a page that
// is not whole the least one may be missing, and then it says nothing, unless
// the series has no labels, and so no others beside it.
func (r *reader) started() int64 {
	for _, family := range r.rule.Started {
		least, samples := math.Inf(1), r.families[family]
		alone := len(samples) == 1 && len(samples[0].Labels) == 0
		for _, s := range samples {
			if s.Value > 0 {
				least = min(least, s.Value)
			}
		}
		if least < 1e10 && (alone || !r.out.Partial) {
			return int64(least*1e3) * 1e6 // to the millisecond: floats hold no more
		}
	}
	return 0
}

// there says whether a family is on the page.
func (r *reader) there(family string) bool {
	_, ok := r.families[family]
	return ok
}

// selected are the series that a selector means, with their subjects.
func (r *reader) selected(sel *selector, each func(s *exposition.Sample, of serving.Subject)) {
	for _, s := range r.families[sel.family] {
		if !sel.selects(s.Labels) {
			continue
		}
		if of, ok := r.subject(s); ok {
			each(s, of)
		}
	}
}

// inMillionths is a count of events, or a gauge.
func (r *reader) inMillionths(v float64) (int64, bool) {
	if v < 0 || v > maxCount {
		r.out.Dropped++
		return 0, false
	}
	return int64(math.Round(v * float64(attribution.One))), true
}

// inUnit is a cumulative value in the unit of its measure.
func (r *reader) inUnit(m attribution.Measure, v float64) (int64, bool) {
	if !slices.Contains(countMeasures[1:], m) {
		return r.inMillionths(v)
	}
	if v < 0 || v > maxTokens {
		r.out.Dropped++
		return 0, false
	}
	return int64(math.Round(v)), true
}

// gauge reads a measure of now.
func (r *reader) gauge(g *compiledGauge) {
	i := slices.IndexFunc(g.of, func(s selector) bool { return r.there(s.family) })
	if i < 0 {
		return
	}
	sums := make(map[serving.Subject]serving.Value)
	numbers := make(map[serving.Subject]int64)
	r.selected(&g.of[i], func(s *exposition.Sample, of serving.Subject) {
		if v, ok := r.inMillionths(s.Value); ok {
			sum := sums[of]
			sums[of] = serving.Value{Subject: of, Measure: g.measure, Value: min(sum.Value+v, maxSum)}
			numbers[of]++
		}
	})
	for of, v := range sums {
		if g.measure == attribution.KVCache {
			v.Value /= numbers[of]
		}
		r.out.Gauges = append(r.out.Gauges, v)
	}
}

// seriesID tells a series that counts towards several measures apart. It must
// never change: the trackers' states have it.
func seriesID(s *exposition.Sample, m attribution.Measure) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(m)) // never fails
	return s.ID ^ h.Sum64()
}
