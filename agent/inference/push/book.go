package push

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// entry is a request on its way through the book. The book's goroutine has it
// until done is sent to.
type entry struct {
	owner     *attribution.Owner
	group     string // that shares what is bounded
	client    string // "" for OpenTelemetry
	sequence  uint64
	values    []serving.Value
	deltas    []delta
	readings  []reading
	done      chan error
	duplicate bool
	second    attribution.Second // that it is counted in
}

// delta is a data point that says what was served since the one before it.
type delta struct {
	series string
	at     uint64 // its end, Unix ns
	values []serving.Value
}

// reading is what cumulative points of one metric of one resource say, those
// that have counted since the same time.
type reading struct {
	name    string
	started int64 // Unix ns, 0 where they don't say
	reading *serving.Reading
}

// room is how many values an entry may have.
func (e *entry) room() int {
	n := len(e.values)
	for i := range e.deltas {
		n += len(e.deltas[i].values)
	}
	for i := range e.readings {
		n += len(e.readings[i].reading.Counts)
	}
	return n
}

// mark is what is remembered of a client, or of a series of deltas: the last
// that was counted, and in which second.
type mark struct {
	Last   uint64             `json:"last"`
	Second attribution.Second `json:"second"`
}

// kept is the book's file.
type kept struct {
	Marks   map[string][]mark `json:"marks"` // the newest last
	Tracker []byte            `json:"tracker"`
}

const (
	bookBeat    = 100 * time.Millisecond
	commitEvery = 250 * time.Millisecond
	// forgetClients is after how many seconds of silence a client may be
	// forgotten where there are too many. What it sends again then counts again.
	forgetClients = 600
	// settled is how many seconds before the first that does not last nothing
	// need be undone: a spool on a full disk may let go of a chunk's.
	settled = 2 * attribution.ChunkSeconds
	undoFor = 2 * time.Minute
)

// book counts what is pushed. It belongs to the goroutine that runs it.
type book struct {
	o       *Options
	counts  *counts
	marks   map[string][]mark
	tracker *serving.Tracker
	known   map[string]attribution.Second // names at the tracker, and when they were heard of last

	subjects subjects

	pending []*entry
	waiting []*entry // counted, and not durable yet
	last    time.Time
	second  attribution.Second
	spent   int
	failing bool
}

// openBook restores what the last run has left. Seconds that did not outlast it
// are taken back.
func openBook(o *Options, c *counts) *book {
	limits := serving.Limits{Targets: maxReadings, Series: 1024, History: int64(undoFor), Undo: 4096}
	b := &book{o: o, counts: c, marks: map[string][]mark{}, known: map[string]attribution.Second{}, subjects: newSubjects()}
	text, err := inference.ReadState(o.File)
	if err == nil {
		err = b.restore(text, limits)
	}
	if b.tracker == nil {
		b.tracker = serving.NewTracker(o.Now(), limits)
	}
	b.keep() // before the seconds that are taken back are sealed without them
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.damaged.Add(1)
		o.Log.Warn("what was pushed at the end of the last run can't be read: what is sent again may count twice", "file", o.File, "error", err)
	}
	for _, name := range b.tracker.Targets() {
		b.known[name] = attribution.SecondOf(o.Now())
	}
	return b
}

func (b *book) restore(text []byte, limits serving.Limits) error {
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	through := b.o.From.Nanos() - 1 // 0: no second has lasted at all
	t, err := serving.RestoreTracker(k.Tracker, through, limits)
	if err != nil {
		return err
	}
	b.tracker = t
	for key, ms := range k.Marks {
		ms = slices.DeleteFunc(ms, func(m mark) bool { return m.Second.Nanos() > through })
		if len(ms) > 0 && len(b.marks) < maxClients {
			b.marks[key] = ms
		}
	}
	return nil
}

// run counts until ctx ends; what is not durable then is not answered.
func (b *book) run(ctx context.Context, producer func() sampler.Producer, entries <-chan *entry) {
	lanes := inference.OpenLanes(producer)
	defer lanes.Close()
	tick := time.NewTicker(bookBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, e := range slices.Concat(b.pending, b.waiting) {
				e.done <- status.Error(codes.Unavailable, "the agent is stopping: send it again")
			}
			return
		case e := <-entries:
			// Clients may have left whose requests wait yet.
			if len(b.pending)+len(b.waiting) >= maxWaiting {
				b.counts.tooMany.Add(1)
				e.done <- status.Error(codes.ResourceExhausted, "too many requests wait to be durable: try again")
				continue
			}
			b.pending = append(b.pending, e)
		case now := <-tick.C:
			b.commit(now, lanes)
			b.settle()
		}
	}
}

// settle answers those whose second is durable.
func (b *book) settle() {
	if len(b.waiting) == 0 {
		return
	}
	durable := b.o.Durable()
	b.waiting = slices.DeleteFunc(b.waiting, func(e *entry) bool {
		if e.second >= durable {
			return false
		}
		e.done <- nil
		return true
	})
}

// commit counts what is pending: it is written down before it is yielded.
func (b *book) commit(now time.Time, lanes *inference.Lanes) {
	if len(b.pending) == 0 || now.Sub(b.last) < commitEvery {
		return
	}
	b.last = now
	at := max(b.o.Now(), b.o.Unsealed().Nanos())
	second := attribution.SecondOf(at)
	if second != b.second {
		b.second, b.spent = second, 0
	}
	var events []sampler.Event
	n := 0
	for ; n < len(b.pending); n++ {
		e := b.pending[n]
		if b.spent > 0 && b.spent+e.room() > inference.MaxValues {
			break // in the next second
		}
		values, err := b.take(e, at, second)
		e.values, e.deltas, e.readings = nil, nil, nil // it may wait for long
		if err != nil {
			e.done <- err
			continue
		}
		b.waiting = append(b.waiting, e)
		b.spent += len(values)
		es, over := inference.Tallies(b.o.Node, e.owner, values, second)
		b.counts.excess.Add(uint64(over))
		events = append(events, es...)
	}
	b.pending = slices.Delete(b.pending, 0, n)
	b.keep()
	lanes.Yield(second, events)
}

// take is what an entry adds; nothing if it has been counted before.
func (b *book) take(e *entry, at int64, second attribution.Second) ([]serving.Value, error) {
	e.second = second
	if e.client != "" {
		if !b.admit(e, e.values, second) {
			b.counts.clients.Add(1)
			return nil, status.Errorf(codes.ResourceExhausted, "more than %d models, tenants and tiers within an hour", maxSubjects)
		}
		before, err := b.mark(e.client, e.sequence, second)
		if err != nil {
			return nil, err
		}
		if before != nil {
			b.counts.duplicates.Add(1)
			e.duplicate, e.second = true, before.Second
			return nil, nil
		}
		b.counts.records.Add(1)
		return e.values, nil
	}
	b.counts.exports.Add(1)
	var values []serving.Value
	for i := range e.deltas {
		d := &e.deltas[i]
		switch before, err := b.mark(d.series, d.at, second); {
		case err != nil: // counted; the other series are not worse for it
		case before != nil:
			b.counts.duplicates.Add(1)
		default:
			values = append(values, d.values...)
		}
	}
	for i := range e.readings {
		values = append(values, b.read(&e.readings[i], at, second)...)
	}
	admitted := values[:0]
	for i := range values {
		if b.admit(e, values[i:i+1], second) {
			admitted = append(admitted, values[i])
		}
	}
	b.counts.series.Add(uint64(len(values) - len(admitted)))
	return admitted, nil
}

// admit reports whether who sent an entry may name all that these values name.
func (b *book) admit(e *entry, values []serving.Value, second attribution.Second) bool {
	for i := range values {
		if !b.subjects.admit(e.group, values[i].Subject, second) {
			return false
		}
	}
	return true
}

// read is what a reading adds.
func (b *book) read(r *reading, at int64, second attribution.Second) []serving.Value {
	if _, ok := b.known[r.name]; !ok {
		name, room := room(b.known, r.name, second, maxReadings, perReader, func(s attribution.Second) attribution.Second { return s })
		if !room {
			b.counts.series.Add(uint64(len(r.reading.Counts)))
			return nil
		}
		if name != "" {
			delete(b.known, name)
			b.tracker.Forget(name)
		}
	}
	b.known[r.name] = second
	values, note := b.tracker.Observe(serving.Target{Name: r.name, Started: r.started}, at, r.reading)
	b.counts.series.Add(uint64(max(note.Refused, 0)))
	return values
}

// mark remembers that this was counted. It returns the mark of what was counted
// before where this is no newer.
func (b *book) mark(key string, last uint64, second attribution.Second) (*mark, error) {
	ms := b.marks[key]
	if n := len(ms); n > 0 && ms[n-1].Last >= last {
		return &ms[n-1], nil
	}
	if len(ms) == 0 {
		name, room := room(b.marks, key, second, maxClients, perPusher, func(ms []mark) attribution.Second { return ms[len(ms)-1].Second })
		if !room {
			b.counts.clients.Add(1)
			return nil, status.Errorf(codes.ResourceExhausted, "more than %d clients and series of one pusher, or %d of all, are remembered", perPusher, maxClients)
		}
		delete(b.marks, name)
	}
	// Of what is durable, the newest is enough.
	durable := b.o.Durable()
	for len(ms) > 1 && ms[1].Second < durable {
		ms = ms[1:]
	}
	if n := len(ms); n > 0 && ms[n-1].Second == second {
		ms[n-1].Last = last
	} else {
		ms = append(slices.Clip(ms), mark{last, second})
	}
	b.marks[key] = ms
	return nil, nil
}

// room looks for a place for one more name among those that are remembered. Of
// its pusher, or of all, there may be too many: then the one that has been
// silent for longest makes place, if it has been for long enough.
func room[T any](of map[string]T, name string, now attribution.Second, most, each int, heard func(T) attribution.Second) (instead string, ok bool) {
	pusher := groupOf(name)
	mine, own, all := 0, "", ""
	ownAt, allAt := now-forgetClients, now-forgetClients
	for other, x := range of {
		at := heard(x)
		if at < allAt || (at == allAt && other < all) {
			all, allAt = other, at
		}
		if groupOf(other) != pusher {
			continue
		}
		mine++
		if at < ownAt || (at == ownAt && other < own) {
			own, ownAt = other, at
		}
	}
	switch {
	case mine >= each:
		return own, own != ""
	case len(of) >= most:
		return all, all != ""
	}
	return "", true
}

// groupOf is the beginning of a name that says whose it is.
func groupOf(name string) string {
	i := strings.IndexByte(name, '/')
	if i < 0 {
		return name
	}
	if j := strings.IndexAny(name[i+1:], "/#"); j >= 0 {
		return name[:i+1+j]
	}
	return name
}

// keep writes down what is remembered.
func (b *book) keep() {
	b.tracker.Settle((b.o.Durable() - settled).Nanos())
	text, err := json.Marshal(kept{Marks: b.marks, Tracker: b.tracker.State()})
	if err != nil {
		panic("BUG: a book is not JSON: " + err.Error())
	}
	if err = inference.ReplaceState(b.o.File, text); err != nil {
		b.counts.unkept.Add(1)
		if !b.failing {
			b.o.Log.Error("what was pushed can't be kept: a crash now would count some of it twice", "error", err)
		}
	}
	b.failing = err != nil
}
