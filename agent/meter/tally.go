package meter

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// cutTallies hands out the part of every tally that lies in the second.
func (m *Meter) cutTallies(second attribution.Second) {
	to := (second + 1).Nanos()
	n := m.tallies.started(to)
	total := int64(0)
	for i := range m.tallies.all()[:n] {
		x := &m.tallies.all()[i]
		value, _ := x.take(to)
		total = apportion.SaturatingAdd(total, value)
		x.subject.seen = second
		m.owners.numbers[x.subject.value.facts.Owner].seen = second
		m.sealed.Tallies = append(m.sealed.Tallies, attribution.Tally{
			Second: second, Subject: x.subject.number, Measure: uint16(x.measure), Value: value,
		})
	}
	m.tallies.retire(n, to)
	if total > attribution.MaxPerSecond {
		m.limitTallies()
	}
}

// limitTallies adds up the parts of each tally and holds the sums to what a
// second can hold.
func (m *Meter) limitTallies() {
	ts := m.sealed.Tallies
	slices.SortFunc(ts, attribution.CompareTallies)
	out := ts[:0]
	for _, t := range ts {
		if n := len(out); n > 0 && attribution.CompareTallies(out[n-1], t) == 0 {
			t.Value = apportion.SaturatingAdd(t.Value, out[n-1].Value)
			out = out[:n-1]
		}
		if over := t.Value - attribution.MaxPerSecond; over > 0 {
			m.stats.clamped.add(tallied, over, 0)
			t.Value -= over
		}
		out = append(out, t)
	}
	m.sealed.Tallies = out
}
