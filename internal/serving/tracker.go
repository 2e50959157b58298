package serving

import (
	"maps"
	"slices"
	"strings"
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
	// Mixed says that another process answered under the same name than the
	// last time, of which the two lived at once: several behind one address, or
	// a clock that was put back. Their counts can't be compared, so the reading
	// is a baseline, too: First.
	Mixed bool
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
	Mixed    uint64 // readings of one process after another's that lived at the same time
	Fallen   uint64 // series that fell without a restart
	Refused  uint64 // series passed over for a limit
}

const (
	maxName = 512
	// Two sources may give the same start with other digits; two starts of one
	// server are further apart than that, or its counts fall.
	startSlack = 2e9
	// A page's clock and the reader's are no further apart than that.
	clockSlack = 60e9
	// mostSteps bounds a history that time does not: a clock that was put back
	// makes none of it old.
	mostSteps = 512
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
//   - A start after the last reading is a restart: everything counts from 0.
//     A series that falls without it has begun anew for itself. Another start
//     before the last reading is another process: a baseline.
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
	told    bool   // the last page said when it started
}

// step is how a reading is undone.
type step struct {
	before  facts
	at      int64
	first   bool // there was no target before
	past    bool // it is the baseline of a server from before the tracker
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
	o.step.past = o.note.First
	values := o.values()
	o.end(to, at, t.limits)

	t.stats.Fallen += uint64(o.note.Fallen)
	t.stats.Refused += uint64(o.note.Refused)
	if o.note.Restarted {
		t.stats.Restarts++
	}
	if o.note.Mixed {
		t.stats.Mixed++
	}
	if o.note.First {
		values = nil
	}
	return values, o.note
}

// Forget drops a server that is gone for good.
func (t *Tracker) Forget(name string) { delete(t.targets, clip(name)) }

// Settle says that what was observed until a time, Unix ns, lasts: it need not
// be undone any more, and the state is smaller without.
func (t *Tracker) Settle(through int64) {
	for _, tg := range t.targets {
		n := 0
		for ; n < len(tg.steps) && tg.steps[n].at <= through; n++ {
			tg.undo -= len(tg.steps[n].changes)
		}
		tg.steps = slices.Delete(tg.steps, 0, n)
	}
}

// Rename says that what has been observed under one name, lately at least, was
// another server, which began at a time (Unix ns) and takes its place. Where
// the other one has been observed itself, nothing happens.
func (t *Tracker) Rename(from, to string, started int64) {
	from, to = clip(from), clip(to)
	tg := t.targets[from]
	if tg == nil || t.targets[to] != nil {
		return
	}
	delete(t.targets, from)
	t.targets[strings.Clone(to)] = tg
	tg.outside = started
	for i := range tg.steps { // undone, it is still the other's from its start on
		if b := &tg.steps[i].before; b.at >= started {
			b.outside = started
		}
	}
}

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
			return s.past
		}
		open := tg.open
		tg.facts = s.before
		tg.open = open // the baseline has what was on the page that was whole
	}
	return true
}
