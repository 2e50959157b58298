package serving

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// observation is one reading on its way through a target.
type observation struct {
	*target
	reading  *Reading
	limit    int
	step     step
	baseline bool // series that are not known were there before, uncounted
	moved    bool
	note     Note
}

// begin finds out what unknown series mean, and whether the server began anew.
func (o *observation) begin(to Target, since int64) {
	switch {
	case o.step.first:
		if max(to.Started, o.reading.Started) <= since {
			o.note.First, o.baseline, o.open = true, true, true
		}
	default:
		o.compareStarts(to)
		if o.baseline = o.open || o.rules != o.reading.Rules; o.note.Restarted {
			o.baseline, o.open = false, false
		}
	}
	if o.note.Restarted || o.note.Mixed {
		for k, v := range o.series {
			o.step.changes = append(o.step.changes, change{k, true, v})
		}
		clear(o.series)
	}
	if o.note.Mixed {
		o.note.First, o.baseline, o.open = true, true, true
	}
}

// compareStarts finds out whether it is still the process of the last reading.
// A start that is news, but was before that reading, is no restart since: what
// has been counted of it must not be counted again.
func (o *observation) compareStarts(to Target) {
	if page := o.reading.Started; o.page != 0 && page != 0 {
		switch {
		case !another(o.page, page):
		case !o.told && page <= o.at: // the last reading was of it already, and did not say so
		case page > o.at-clockSlack:
			o.note.Restarted = true
		default:
			o.note.Mixed = true
		}
		return // the page is the nearer witness
	}
	switch {
	case !another(o.outside, to.Started):
	case o.page != 0 && to.Started <= o.page+startSlack: // the process that is known began in it
	case to.Started > o.at-startSlack:
		o.note.Restarted = true
	default:
		o.note.Mixed = true
	}
}

func another(a, b int64) bool {
	return a != 0 && b != 0 && (b-a > startSlack || a-b > startSlack)
}

// values goes through the pairs.
func (o *observation) values() []Value {
	var out []Value
	counts, unsettled := o.reading.Counts, o.reading.Unsettled
	for len(counts) > 0 {
		v := Value{Subject: counts[0].Subject, Measure: counts[0].Measure}
		var plus, minus int64
		signed, read := false, false
		for len(counts) > 0 && counts[0].Subject == v.Subject && counts[0].Measure == v.Measure {
			c := counts[0]
			counts = counts[1:]
			d, ok := o.rise(c.Series, c.Value)
			read = read || ok
			if c.Minus {
				signed, minus = true, addSat(minus, d)
			} else {
				plus = addSat(plus, d)
			}
		}
		for len(unsettled) > 0 && unsettled[0].ComparePair(v) < 0 {
			unsettled = unsettled[1:]
		}
		v.Value = plus
		if held := len(unsettled) > 0 && unsettled[0].ComparePair(v) == 0; held || signed {
			hold := int64(0)
			if held {
				hold = unsettled[0].Value
			}
			v.Value = o.settle(v, plus-minus, hold)
		}
		o.moved = o.moved || v.Value > 0
		if read && (v.Value > 0 || !isBucket(v.Measure)) {
			out = append(out, v)
		}
	}
	return out
}

// rise is by how much a series has risen; false where it is not remembered.
func (o *observation) rise(series uint64, value int64) (int64, bool) {
	last, known := o.series[series]
	switch {
	case !known && len(o.series) >= o.limit:
		o.note.Refused++
		return 0, false
	case !known && o.baseline:
		o.series[series] = value // nothing is counted, so there is nothing to undo
		return 0, true
	case known && value == last:
		return 0, true
	}
	o.set(series, value)
	if value < last {
		o.note.Fallen++
		return value, true
	}
	return value - last, true // last is 0 where it is not known
}

// set remembers a value, and what was before it.
func (o *observation) set(series uint64, value int64) {
	last, known := o.series[series]
	o.step.changes = append(o.step.changes, change{series, known, last})
	o.series[series] = value
}

// settle adds to a pair's sum what has been found, and returns by how much all
// but what is on hold exceeds the highest it has been.
func (o *observation) settle(v Value, found, hold int64) int64 {
	sumKey, markKey := pairKeys(v)
	sum, mark := o.series[sumKey], o.series[markKey]
	sum = addSat(sum, found)
	if found != 0 {
		o.set(sumKey, sum)
	}
	level := addSat(sum, -hold)
	if level <= mark {
		return 0
	}
	o.set(markKey, level)
	return level - mark
}

// end remembers the reading's facts, and how to undo it.
func (o *observation) end(to Target, at int64, l Limits) {
	o.at = at
	o.page = cmp.Or(o.reading.Started, o.page)
	o.outside = cmp.Or(to.Started, o.outside)
	o.rules = o.reading.Rules
	o.open = o.open && o.reading.Partial
	o.told = o.reading.Started != 0
	busy := slices.ContainsFunc(o.reading.Gauges, func(g Value) bool {
		return g.Value > 0 && (g.Measure == attribution.Queue || g.Measure == attribution.Running)
	})
	if o.still++; o.moved || !busy {
		o.still = 0
	}
	o.note.Still = o.still

	o.steps = append(o.steps, o.step)
	o.undo += len(o.step.changes)
	forget := 0
	for i := range o.steps[:len(o.steps)-1] {
		if o.undo <= l.Undo && o.steps[i].at >= at-l.History && len(o.steps)-i <= mostSteps {
			break
		}
		o.undo -= len(o.steps[i].changes)
		forget = i + 1
	}
	o.steps = slices.Delete(o.steps, 0, forget)
}

// pairKeys are where a pair's sum and mark are remembered, among the series.
func pairKeys(v Value) (sum, mark uint64) {
	var h []byte
	for _, part := range []string{v.Subject.Model, v.Subject.Tenant, v.Subject.Tier, v.Subject.Backend, string(v.Measure)} {
		h = append(binary.AppendUvarint(h, uint64(len(part))), part...)
	}
	digest := sha256.Sum256(h)
	return binary.BigEndian.Uint64(digest[:]), binary.BigEndian.Uint64(digest[8:])
}

func isBucket(m attribution.Measure) bool {
	return strings.HasPrefix(string(m), string(attribution.LatencyPrefix)) ||
		strings.HasPrefix(string(m), string(attribution.FirstTokenPrefix))
}

// addSat adds, and stays at the ends of what 64 bits hold: pages may say
// anything.
func addSat(a, b int64) int64 {
	s := a + b
	switch {
	case a > 0 && b > 0 && s < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && s >= 0:
		return -math.MaxInt64
	}
	return s
}
