package exporter

import (
	"math"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

type seriesKey struct {
	device *device
	owner  *owner
	basis  attribution.Basis
}

type tallyKey struct {
	owner       *owner
	model, tier string
	metric      Metric
	typ, reason string
}

// window adds one second of one device.
func (e *Exporter) window(w *attribution.DeviceWindow) {
	d := e.roster.devices[w.Device]
	currency := e.currencyOf(w.Price)
	if currency != "" && currency != e.currency {
		e.changeCurrency(currency)
	}
	now := Window{Priced: currency != "", Energy: w.Energy}
	if now.Priced {
		now.PerHour = w.Price.PerHour
	}
	for i := range w.Slices {
		s := &w.Slices[i]
		e.slice(d, e.roster.owners[s.Owner], s, w.Second, now.Priced)
		if s.Basis != attribution.Unobserved {
			now.Observed += s.Time
		}
		now.SMActive += s.SMActive
		now.Memory += s.Memory
	}
	if d.Time == 0 || w.Second < d.Since {
		d.Since = w.Second
	}
	if d.ID == Overflow {
		now = Window{} // of many devices
	}
	d.Time += attribution.WindowNanos
	if math.MaxInt64-d.Energy < w.Energy {
		d.Energy, d.Since = 0, w.Second // a counter reset
		e.stats.Restarted++
	}
	d.Energy += w.Energy
	if w.Second >= d.Last {
		d.Last, d.Now = w.Second, now
	}
}

// changeCurrency begins all costs again.
func (e *Exporter) changeCurrency(to string) {
	e.currency = to
	for i := range e.series {
		s := &e.series[i]
		s.Cost, s.CostSince, s.Priced = 0, 0, false
	}
	for _, d := range e.devices {
		d.Now.Priced = false
	}
}

// slice adds one owner's part of a window.
func (e *Exporter) slice(d *device, o *owner, s *attribution.Slice, second attribution.Second, priced bool) {
	x := e.find(seriesKey{d, o, s.Basis}, second)
	if !x.fits(s) {
		*x = Series{Owner: x.Owner, Device: x.Device, Basis: x.Basis, Since: second}
		e.stats.Restarted++
	}
	x.Since, x.Last = min(x.Since, second), max(x.Last, second)
	x.Time += s.Time
	if priced {
		if !x.Priced {
			x.Priced, x.CostSince = true, second
		}
		x.CostSince = min(x.CostSince, second)
		x.Cost += s.Cost
	} else {
		x.Unpriced += s.Time
	}
	x.SMActive += s.SMActive
	x.Memory += s.Memory
	x.Energy += s.Energy
	active := s.Basis == attribution.Used || s.Basis == attribution.Unattributed
	x.HasSMActive = x.HasSMActive || active || s.SMActive > 0
	x.HasMemory = x.HasMemory || s.Memory > 0 || (d.Facts.Memory && (active || s.Basis == attribution.Reserved))
	x.HasEnergy = x.HasEnergy || s.Energy > 0 || (d.Facts.Energy && s.Basis != attribution.Unobserved)
}

// fits reports whether a slice can be added without leaving the range: true for
// 292 years of device time, and 1.5 of 180 GiB of memory.
func (x *Series) fits(s *attribution.Slice) bool {
	return math.MaxInt64-x.Time >= s.Time && money.Amount(math.MaxInt64)-x.Cost >= s.Cost && math.MaxInt64-x.SMActive >= s.SMActive &&
		math.MaxInt64-x.Memory >= s.Memory && math.MaxInt64-x.Energy >= s.Energy
}

// find is the series of a key, which begins with a second if it is new. It
// stays valid until the next call.
func (e *Exporter) find(k seriesKey, second attribution.Second) *Series {
	i, ok := e.seriesAt[k]
	if !ok && k.device.ID != Overflow && k.owner.Kind != OverflowKind && !e.full() {
		ok, i = true, e.begin(k, second)
	}
	if ok {
		return &e.series[i]
	}
	e.stats.OverflowedSlices++
	k.owner = e.overflow()
	if i, ok = e.seriesAt[k]; !ok {
		i = e.begin(k, second)
	}
	return &e.series[i]
}

func (e *Exporter) begin(k seriesKey, second attribution.Second) int {
	k.device.refs++
	k.owner.refs++
	i := len(e.series)
	e.series = append(e.series, Series{Owner: &k.owner.Owner, Device: k.device.ID, Basis: k.basis, Since: second})
	e.seriesOf = append(e.seriesOf, k)
	e.seriesAt[k] = i
	return i
}

// tally adds what was served in one window. Latencies are left to the ledger:
// their sum, which a histogram needs, is not known.
func (e *Exporter) tally(t *attribution.Tally, r *attribution.Roster) {
	subject := &r.Subjects[t.Subject]
	k := tallyKey{owner: e.roster.owners[subject.Owner], model: text(subject.Model), tier: text(subject.Tier)}
	if !k.measure(r.Measures[t.Measure]) {
		return
	}
	i, ok := e.tallyAt[k]
	if !ok && e.full() {
		e.stats.OverflowedTallies++
		k.owner, k.model, k.tier = e.overflow(), "", ""
		if k.reason != "" {
			k.reason = Overflow
		}
		i, ok = e.tallyAt[k]
	}
	if !ok {
		k.owner.refs++
		i = len(e.tallies)
		e.tallies = append(e.tallies, Tally{
			Owner: &k.owner.Owner, Model: k.model, Tier: k.tier, Metric: k.metric, Type: k.typ, Reason: k.reason, Since: t.Second,
		})
		e.tallyOf = append(e.tallyOf, k)
		e.tallyAt[k] = i
	}
	x := &e.tallies[i]
	if math.MaxInt64-x.Value < t.Value {
		x.Value, x.Since = 0, t.Second
		e.stats.Restarted++
	}
	x.Value += t.Value
	x.Since, x.Last = min(x.Since, t.Second), max(x.Last, t.Second)
}

// measure says which metric a measure is, and whether it is exported.
func (k *tallyKey) measure(m attribution.Measure) bool {
	if reason, ok := strings.CutPrefix(string(m), string(attribution.FailurePrefix)); ok {
		k.metric, k.typ, k.reason = Inferences, "failure", text(reason)
		return true
	}
	switch m {
	case attribution.Success:
		k.metric, k.typ = Inferences, "success"
	case attribution.TokensInput:
		k.metric, k.typ = Tokens, "input"
	case attribution.TokensCached:
		k.metric, k.typ = Tokens, "cached"
	case attribution.TokensOutput:
		k.metric, k.typ = Tokens, "output"
	case attribution.Queue:
		k.metric = QueueTime
	default:
		return false
	}
	return true
}
