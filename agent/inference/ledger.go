package inference

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// commitEvery is how often what was read is counted, at most: each time all that
// is remembered is written, for however many servers.
const commitEvery = time.Second

// observation is a reading that is to be counted.
type observation struct {
	site    *site
	at      int64 // on the timeline
	began   time.Time
	reading *serving.Reading
}

// ledger turns readings into tallies, and remembers what it has turned. It
// belongs to the sampler's goroutine.
//
// What is read is counted in the second in which it is committed: the tracker
// observes it at that time, its state is written, and only then are the tallies
// yielded, for that very second. Should the agent die, either the second is in
// the spool, and with it all that the state has of it, or it is not: then the
// next agent restores the state as it was before. A second is sealed a second
// after its end, which is how long writing may take.
type ledger struct {
	o       *Options
	log     *slog.Logger
	file    string
	counts  *counts
	tracker *serving.Tracker
	pending []observation
	tidied  time.Time

	last    time.Time // when it committed last
	second  attribution.Second
	spent   int // values yielded in it
	failing bool
}

// openLedger restores what the last run has left.
func openLedger(o *Options, file string, limits serving.Limits, c *counts) (*ledger, error) {
	l := &ledger{o: o, log: o.Log, file: file, counts: c}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return nil, fmt.Errorf("inference: %w", err)
	}
	state, err := ReadState(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil:
		// Where no second has lasted at all, Durable is 0: everything is taken back.
		if l.tracker, err = serving.RestoreTracker(state, o.Durable.Nanos()-1, limits); err == nil {
			l.keep() // before the seconds that are taken back are sealed without it
			return l, nil
		}
		fallthrough
	default:
		c.damaged.Add(1)
		l.log.Warn("what servers had served at the end of the last run can't be read: what they have served since is not counted", "file", file, "error", err)
	}
	l.tracker = serving.NewTracker(o.Now(), limits)
	l.keep() // since when it looks
	return l, nil
}

// commit counts what is pending.
func (l *ledger) commit(now time.Time, to *Lanes) {
	if len(l.pending) == 0 || now.Sub(l.last) < commitEvery {
		return
	}
	l.last = now
	at, second := l.at()
	if second != l.second {
		l.second, l.spent = second, 0
	}
	var events []sampler.Event
	n := 0
	for ; n < len(l.pending); n++ {
		x := &l.pending[n]
		if l.spent > 0 && l.spent+len(x.reading.Counts)+len(x.reading.Gauges) > MaxValues {
			break // in the next second
		}
		events = append(events, l.observe(x, at, second)...)
		x.site.busy = false
	}
	clear(l.pending[:n])
	l.pending = append(l.pending[:0], l.pending[n:]...)
	l.keep()
	if l.o.Unsealed() > second {
		l.counts.late.Add(1)
	}
	to.Yield(second, events)
}

// at is now, but not before the first second that is not sealed.
func (l *ledger) at() (int64, attribution.Second) {
	at := max(l.o.Now(), l.o.Unsealed().Nanos())
	return at, attribution.SecondOf(at)
}

// observe is what a reading counts, as events of a second.
func (l *ledger) observe(x *observation, at int64, second attribution.Second) []sampler.Event {
	t := x.site
	target := serving.Target{Name: t.name()}
	if t.started > 0 {
		target.Started = startOf(t.started)
	}
	values, note := l.tracker.Observe(target, at, x.reading)
	l.counts.note(&note, x.reading)
	t.read = x.began
	if note.Restarted || note.Fallen > 0 {
		t.anew = x.began
	}
	if held := x.at - t.gaugesAt; len(t.gauges) > 0 && held > 0 {
		values = append(values, serving.Integrate(t.gauges, min(held, 3*int64(l.o.Interval)))...)
	}
	t.gauges, t.gaugesAt = x.reading.Gauges, x.at
	if over := len(values) + l.spent - MaxValues; over > 0 {
		l.counts.excess.Add(uint64(over))
		values = values[:len(values)-over]
	}
	l.spent += len(values)
	events, over := Tallies(l.o.Node, t.owner, values, second)
	l.counts.excess.Add(uint64(over))
	return events
}

// follow is told that the container of a site is another one. Its server may
// have been read before anybody knew: then what was read under the old name is
// the new one's.
func (l *ledger) follow(t *site, w *wish) {
	if w.started == 0 || t.id == w.id {
		return
	}
	l.pending = slices.DeleteFunc(l.pending, func(x observation) bool { return x.site == t && x.began.Unix() >= w.started })
	if t.read.Unix() > w.started || (!t.anew.IsZero() && t.anew.Unix() >= w.started) {
		l.tracker.Rename(t.name(), w.id+":"+portText(t.places[t.next].port), startOf(w.started))
	}
}

// startOf is when a container began of which it is told in whole seconds.
func startOf(started int64) int64 { return (started+1)*int64(time.Second) - 1 }

// settled is how many seconds before the first that does not last a reading
// need not be undone: a spool on a full disk may let go of up to a chunk that
// has lasted.
const settled = 2 * attribution.ChunkSeconds

// keep writes what the tracker remembers.
func (l *ledger) keep() {
	if l.o.Lasting != nil {
		l.tracker.Settle((l.o.Lasting() - settled).Nanos())
	}
	err := ReplaceState(l.file, l.tracker.State())
	if err != nil {
		l.counts.unkept.Add(1)
		if !l.failing {
			l.log.Error("what servers have served can't be kept: a crash now would count some of it twice", "error", err)
		}
	}
	l.failing = err != nil
}

func cutLast(s string) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
