package serving

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// Target names a server to a [Tracker].
type Target struct {
	// Name is the same as long as it is the same server: a container's id and
	// port, or a gateway's name and replica. At most 512 bytes of it count.
	Name string
	// Started is when, by other sources than its page, the server began: the
	// container's start, Unix ns; 0 where that is not known. It serves at the
	// first sight of a server, and another one is a restart.
	Started int64
}

// Limits bounds what a [Tracker] remembers.
type Limits struct {
	Targets int   // servers
	Series  int   // of a server
	History int64 // ns that readings can be undone, by [RestoreTracker]
	Undo    int   // changes of series that are kept for that, of a server
}

// DefaultLimits are enough for the servers on a node.
func DefaultLimits() Limits {
	return Limits{Targets: 256, Series: 8192, History: 120e9, Undo: 65536}
}

// Note says how a difference came about.
type Note struct {
	// First is the first reading of a server that had been counting before
	// anybody looked: it is the baseline, and nothing is counted.
	First bool
	// Restarted says that the server began anew, by its start: all that it
	// counted since is new.
	Restarted bool
	// Fallen is how many series fell although nothing told of a restart. Each
	// of them began anew for itself: its value is what is new.
	Fallen int
	// Still is how many readings in a row requests ran or waited, and no count
	// moved: long requests at first; after many, counters that are switched off.
	Still int
	// Refused is how many series were passed over because a limit was reached,
	// all of them where it is the limit of servers.
	Refused int
}

// Stats counts what a [Tracker] has seen.
type Stats struct {
	Targets  int    // now
	Series   int    // now
	Restarts uint64 // of servers
	Fallen   uint64 // series that fell without a restart
	Refused  uint64 // series passed over for a limit
}

const (
	maxName = 512
	// Two sources may give the same start with other digits; two starts of one
	// server are further apart than that, or its counts fall.
	startSlack = 2e9
)

// Tracker turns readings into what was served since the last one. It belongs
// to one goroutine.
//
// It differences each series for itself. Sums would hide that one of several
// engines began anew; and a page that ends early would look like a fall.
//
//   - A server that began after the tracker looks is counted from its start;
//     of an older one the first reading is the baseline.
//   - A series that appears later at a known server counts from 0. One that
//     goes missing is remembered, so that it costs nothing when it returns.
//   - Another start is a restart: everything counts from 0. A series that
//     falls without it has begun anew for itself.
//   - Where a pair has series to take away, or some that is unsettled, its sum
//     may fall for a while: only what exceeds the highest it has been is new.
type Tracker struct {
	since   int64
	limits  Limits
	targets map[string]*target
	stats   Stats
}

// target is what is remembered of a server.
type target struct {
	facts
	still  int
	series map[uint64]int64 // the last value of each; sums and marks of pairs
	steps  []step           // the newest last
	undo   int              // changes in steps
}

// facts is what a reading tells of a server as a whole.
type facts struct {
	at      int64  // of the last reading
	page    int64  // when it started, as its page says
	outside int64  // the same, by other sources
	rules   uint64 // by which it was read
	open    bool   // no whole page yet: series may be missing from the baseline
}

// step is how a reading is undone.
type step struct {
	before  facts
	at      int64
	first   bool // there was no target before
	changes []change
}

// change is what a series was before.
type change struct {
	series uint64
	known  bool
	value  int64
}

// NewTracker makes a tracker that has been looking since a Unix time, ns:
// a server that began after it is counted from its start, of an older one the
// first reading is the baseline.
func NewTracker(since int64, l Limits) *Tracker {
	return &Tracker{since: since, limits: l, targets: make(map[string]*target)}
}

// Observe takes a reading of a server at a Unix time, ns, and returns what was
// served since the last one, ordered by subject and measure. A pair that was
// read and has not moved is there with 0 (law 9), but for the buckets of
// histograms. The reading stays the caller's.
func (t *Tracker) Observe(to Target, at int64, r *Reading) ([]Value, Note) {
	name := clip(to.Name)
	tg, known := t.targets[name]
	if !known {
		if len(t.targets) >= t.limits.Targets {
			t.stats.Refused += uint64(len(r.Counts))
			return nil, Note{Refused: len(r.Counts)}
		}
		tg = &target{series: make(map[uint64]int64, len(r.Counts))}
		t.targets[strings.Clone(name)] = tg
	}
	o := observation{target: tg, reading: r, limit: t.limits.Series, step: step{before: tg.facts, at: at, first: !known}}
	o.begin(to, t.since)
	values := o.values()
	o.end(to, at, t.limits)

	t.stats.Fallen += uint64(o.note.Fallen)
	t.stats.Refused += uint64(o.note.Refused)
	if o.note.Restarted {
		t.stats.Restarts++
	}
	if o.note.First {
		values = nil
	}
	return values, o.note
}

// Forget drops a server that is gone for good.
func (t *Tracker) Forget(name string) { delete(t.targets, clip(name)) }

// Targets are the names of the servers that are remembered, sorted, so that
// after a restart those that are gone can be forgotten.
func (t *Tracker) Targets() []string { return slices.Sorted(maps.Keys(t.targets)) }

// Since is the time that the tracker has been looking since, Unix ns.
func (t *Tracker) Since() int64 { return t.since }

// Stats counts what the tracker has seen.
func (t *Tracker) Stats() Stats {
	s := t.stats
	s.Targets = len(t.targets)
	for _, tg := range t.targets {
		s.Series += len(tg.series)
	}
	return s
}

func clip(name string) string { return name[:min(len(name), maxName)] }

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
	case another(o.page, o.reading.Started) || another(o.outside, to.Started):
		o.note.Restarted = true
		o.open = false
		for k, v := range o.series {
			o.step.changes = append(o.step.changes, change{k, true, v})
		}
		clear(o.series)
	default:
		o.baseline = o.open || o.rules != o.reading.Rules
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
		if o.undo <= l.Undo && o.steps[i].at >= at-l.History {
			break
		}
		o.undo -= len(o.steps[i].changes)
		forget = i + 1
	}
	o.steps = slices.Delete(o.steps, 0, forget)
}

// rewind undoes what was read after through. It reports whether the server was
// known then. A baseline stays: nothing was counted with it.
func (tg *target) rewind(through int64) bool {
	for n := len(tg.steps); n > 0 && tg.steps[n-1].at > through; n-- {
		s := tg.steps[n-1]
		for _, c := range slices.Backward(s.changes) {
			if c.known {
				tg.series[c.series] = c.value
			} else {
				delete(tg.series, c.series)
			}
		}
		tg.undo -= len(s.changes)
		tg.steps = tg.steps[:n-1]
		if s.first {
			return len(tg.series) > 0
		}
		open := tg.open
		tg.facts = s.before
		tg.open = open // the baseline has what was on the page that was whole
	}
	return true
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
