package format

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
)

// count reads a measure by the first alternative that is on the page.
func (r *reader) count(c *compiledCount) {
	i := slices.IndexFunc(c.of, func(a compiledAlternative) bool { return r.there(a.series.family) })
	if i < 0 {
		return
	}
	a := &c.of[i]
	if len(a.requests) > 0 {
		if a.each == nil || !r.out.Partial { // what is missing would seem to be given up
			r.unsettled(c, a)
		}
		return
	}
	add := func(minus bool) func(*exposition.Sample, serving.Subject) {
		return func(s *exposition.Sample, of serving.Subject) { r.add(c, s, of, minus) }
	}
	r.selected(&a.series, add(false))
	for j := range a.minus {
		r.selected(&a.minus[j], add(true))
	}
}

// add takes one series.
func (r *reader) add(c *compiledCount, s *exposition.Sample, of serving.Subject, minus bool) {
	m := r.measure(c, s)
	if v, ok := r.inUnit(m, s.Value); ok {
		r.out.Counts = append(r.out.Counts, serving.Count{
			Subject: of, Measure: m, Value: v, Minus: minus,
			// Not by the reason: which reasons are "other" may change from page to page.
			Series: seriesID(s, attribution.Measure(c.Measure)),
		})
	}
}

// measure is a count's measure, of a failure with its reason.
func (r *reader) measure(c *compiledCount, s *exposition.Sample) attribution.Measure {
	if c.Reason == "" {
		return attribution.Measure(c.Measure)
	}
	raw := label(s.Labels, c.Reason)
	reason, ok := c.Rename[raw]
	if !ok {
		reason = cleanReason(raw)
	}
	if reason == "" {
		reason = "unknown"
	}
	if _, known := r.reasons[reason]; !known {
		if len(r.reasons) == maxReasons {
			reason = "other"
		} else {
			r.reasons[reason] = struct{}{}
		}
	}
	return attribution.FailurePrefix + attribution.Measure(reason)
}

// flight is what is known of the requests in flight of a subject.
type flight struct {
	series, minus, requests bool // what is on the page
	number                  int64
	each                    float64 // at most, for each of them
}

// unsettled reads a difference of which requests in flight may have a part.
// A subject that lacks one side of it is left alone.
func (r *reader) unsettled(c *compiledCount, a *compiledAlternative) {
	flights := make(map[serving.Subject]*flight)
	at := func(of serving.Subject) *flight {
		if flights[of] == nil {
			flights[of] = &flight{}
		}
		return flights[of]
	}
	r.selected(&a.series, func(_ *exposition.Sample, of serving.Subject) { at(of).series = true })
	for i := range a.minus {
		r.selected(&a.minus[i], func(_ *exposition.Sample, of serving.Subject) { at(of).minus = true })
	}
	for i := range a.requests {
		r.selected(&a.requests[i], func(s *exposition.Sample, of serving.Subject) {
			f := at(of)
			f.requests = true
			f.number += int64(math.Ceil(max(0, min(s.Value, maxCount))))
		})
	}
	if a.each != nil {
		r.highest(a.each, func(of serving.Subject, bound float64) { at(of).each = max(at(of).each, bound*a.times) })
	}
	m := attribution.Measure(c.Measure)
	whole := func(of serving.Subject) bool {
		f := at(of)
		return f.series && (a.each == nil || f.minus && f.requests)
	}
	add := func(minus bool) func(*exposition.Sample, serving.Subject) {
		return func(s *exposition.Sample, of serving.Subject) {
			if whole(of) {
				r.add(c, s, of, minus)
			}
		}
	}
	r.selected(&a.series, add(false))
	for i := range a.minus {
		r.selected(&a.minus[i], add(true))
	}
	for of, f := range flights {
		if a.each == nil {
			f.each = 1
		}
		if whole(of) { // with 0, too: that it is a difference must be known
			r.out.Unsettled = append(r.out.Unsettled, serving.Value{Subject: of, Measure: m, Value: f.hold(m)})
		}
	}
}

// hold is what the requests in flight may have added, at most.
func (f *flight) hold(m attribution.Measure) int64 {
	if f.number == 0 {
		return 0
	}
	hold := float64(f.number) * f.each
	if !slices.Contains(countMeasures[1:], m) {
		hold *= float64(attribution.One)
	}
	if f.each <= 0 || hold >= math.MaxInt64 {
		return math.MaxInt64 // nobody knows
	}
	return int64(math.Ceil(hold))
}

// highest finds each histogram's highest finite bound.
func (r *reader) highest(sel *selector, each func(of serving.Subject, bound float64)) {
	for _, h := range r.histogramsOf(sel) {
		if n := len(h.buckets); n > 1 {
			each(h.subject, h.buckets[n-2].bound)
		}
	}
}

// bucket is one of a histogram: how many were at most its bound.
type bucket struct {
	sample *exposition.Sample
	bound  float64
}

// histogram is the buckets of one series, by their bounds.
type histogram struct {
	subject serving.Subject
	buckets []bucket
}

// count is how many fell into a bucket and into no lower one.
func (h *histogram) count(i int) float64 {
	if i == 0 {
		return h.buckets[0].sample.Value
	}
	return h.buckets[i].sample.Value - h.buckets[i-1].sample.Value
}

// ends says whether the last bucket is there: a page that was cut lacks it.
func (h *histogram) ends() bool {
	return math.IsInf(h.buckets[len(h.buckets)-1].bound, 1)
}

// rises says whether no bucket holds less than the one below it.
func (h *histogram) rises() bool {
	for i := range h.buckets {
		if h.count(i) < 0 || i > 0 && h.buckets[i].bound == h.buckets[i-1].bound {
			return false
		}
	}
	return true
}

// histogramsOf gathers buckets that differ in nothing but their bound. Those
// that are not whole are dropped: without one bucket, its neighbour would take
// what is its.
func (r *reader) histogramsOf(sel *selector) []*histogram {
	groups := make(map[string]*histogram)
	var order []*histogram
	var key []byte
	r.selected(sel, func(s *exposition.Sample, of serving.Subject) {
		le, _ := s.Labels.Get("le")
		bound, err := strconv.ParseFloat(le, 64)
		if err != nil || math.IsNaN(bound) {
			r.out.Dropped++
			return
		}
		key = appendGroupKey(key[:0], s)
		h := groups[string(key)]
		if h == nil {
			h = &histogram{subject: of}
			groups[string(key)] = h
			order = append(order, h)
		}
		h.buckets = append(h.buckets, bucket{s, bound})
	})
	return slices.DeleteFunc(order, func(h *histogram) bool {
		slices.SortFunc(h.buckets, func(a, b bucket) int {
			switch {
			case a.bound < b.bound:
				return -1
			case a.bound > b.bound:
				return 1
			}
			return 0
		})
		if h.ends() && h.rises() {
			return false
		}
		r.out.Dropped++
		r.out.Partial = r.out.Partial || !h.ends()
		return true
	})
}

// appendGroupKey appends a series' name and labels but le.
func appendGroupKey(key []byte, s *exposition.Sample) []byte {
	key = appendPart(key, s.Name)
	for _, l := range s.Labels {
		if l.Key != "le" {
			key = appendPart(appendPart(key, l.Key), l.Value)
		}
	}
	return key
}

func appendPart(key []byte, part string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(part))), part...)
}

// durations reads a histogram into the ledger's own buckets: each of its own
// goes wholly into the one that its upper bound lies in.
func (r *reader) durations(c *compiledHistogram) {
	i := slices.IndexFunc(c.of, func(s selector) bool { return r.there(s.family) })
	if i < 0 {
		return
	}
	for _, h := range r.histogramsOf(&c.of[i]) {
		for j, b := range h.buckets {
			v, ok := r.inMillionths(h.count(j))
			if !ok {
				continue
			}
			own := attribution.Buckets - 1
			if ns := b.bound * c.unit; ns < math.MaxInt64 {
				own = r.layout.Bucket(int64(math.Ceil(ns)))
			}
			r.out.Counts = append(r.out.Counts, serving.Count{
				Subject: h.subject, Measure: r.layout.measures[c.prefix][own], Series: seriesID(b.sample, c.prefix), Value: v,
			})
		}
	}
}
