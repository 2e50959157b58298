package replay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// Writer writes a recording. It takes the events that a [sampler.Script]
// yields and declares owners by itself; equal events make equal bytes. It
// refuses what a [Reader] would, and after an error it refuses everything. One
// goroutine uses it at a time.
type Writer struct {
	out   *bufio.Writer
	rules *rules
	enc   encoder
	err   error

	// Owners by content, and the pointers they were last seen under: events
	// may carry equal owners under different pointers.
	declared map[attribution.Fingerprint]*declared
	seen     map[*attribution.Owner]*declared
	records  int
}

type declared struct {
	ref   string
	owner *attribution.Owner
}

// NewWriter writes a recording to w. Close it to complete the recording; w
// stays open.
func NewWriter(w io.Writer) *Writer {
	return &Writer{
		out:      bufio.NewWriterSize(w, 1<<16),
		declared: make(map[attribution.Fingerprint]*declared),
		seen:     make(map[*attribution.Owner]*declared),
	}
}

// Begin writes the header and the nodes. The nodes' boots are not recorded.
func (w *Writer) Begin(h Header, nodes []sampler.Node) error {
	switch {
	case w.err != nil:
		return w.err
	case w.rules != nil:
		panic("BUG: replay: a recording is begun twice")
	case len(nodes) == 0:
		return w.fail(faultf("name at least one", "a recording without nodes"))
	}
	if f := h.check(); f != nil {
		return w.fail(f)
	}
	w.rules = newRules(h)
	w.enc.header(&h)
	if err := w.flush(false); err != nil {
		return err
	}
	for _, n := range nodes {
		if f := w.rules.node(n); f != nil {
			return w.fail(f)
		}
		w.enc.node(n)
		if err := w.flush(true); err != nil {
			return err
		}
	}
	return nil
}

// Write writes an event. It keeps the pointers to the event's device and
// owners, which must not change afterwards, and nothing else of it.
func (w *Writer) Write(event *sampler.Event) error {
	if w.err != nil {
		return w.err
	}
	if w.rules == nil {
		panic("BUG: replay: an event before the recording was begun")
	}
	e := *event
	if err := w.declare(&e); err != nil {
		return err
	}
	var facts *attribution.Device // of a device that an event may remove
	if x := w.rules.devices[e.DeviceID]; x != nil {
		facts = x.facts
	}
	if f := w.rules.event(&e); f != nil {
		return w.fail(f)
	}
	switch e.Kind {
	case sampler.DeviceAdded:
		w.enc.device(e.Time, e.Device)
	case sampler.DeviceRemoved:
		w.enc.begin("device_end")
		w.enc.time("t", e.Time)
		w.enc.text("device", e.DeviceID)
		w.enc.end()
	case sampler.Held, sampler.Released:
		w.hold(&e)
	case sampler.Sampled:
		w.enc.sample(e.Time, facts, e.Sample, w.ref)
	case sampler.Tallied:
		w.enc.tally(e.Time, e.Tally, w.ref(e.Tally.Owner))
	}
	return w.flush(true)
}

func (w *Writer) hold(e *sampler.Event) {
	kind := "hold"
	if e.Kind == sampler.Released {
		kind = "release"
	}
	w.enc.begin(kind)
	w.enc.time("t", e.Time)
	w.enc.text("device", e.DeviceID)
	w.enc.text("owner", w.ref(e.Owner))
	if e.Kind == sampler.Held && e.Replicas != 1 {
		w.enc.integer("replicas", e.Replicas)
	}
	w.enc.end()
}

// declare declares the event's owners, and puts the one pointer that stands
// for them where rules compares pointers.
func (w *Writer) declare(e *sampler.Event) error {
	switch e.Kind {
	case sampler.Held, sampler.Released:
		d, err := w.declareOwner(e.Owner)
		if err != nil {
			return err
		}
		e.Owner = d.owner
	case sampler.Sampled:
		for i := range e.Sample.Processes {
			if _, err := w.declareOwner(e.Sample.Processes[i].Owner); err != nil {
				return err
			}
		}
	case sampler.Tallied:
		_, err := w.declareOwner(e.Tally.Owner)
		return err
	case sampler.DeviceAdded, sampler.DeviceRemoved:
	}
	return nil
}

func (w *Writer) declareOwner(o *attribution.Owner) (*declared, error) {
	if o == nil {
		return nil, w.fail(faultf("name who it is", "an event without an owner"))
	}
	if d := w.seen[o]; d != nil {
		return d, nil
	}
	id := o.Fingerprint()
	d := w.declared[id]
	if d == nil {
		if f := w.rules.owner(o); f != nil {
			return nil, w.fail(f)
		}
		d = &declared{strconv.FormatInt(int64(len(w.declared)+1), 36), o}
		w.declared[id] = d
		w.enc.owner(d.ref, o)
		if err := w.flush(true); err != nil {
			return nil, err
		}
	}
	if len(w.seen) > 2*maxOwners {
		clear(w.seen)
	}
	w.seen[o] = d
	return d, nil
}

func (w *Writer) ref(o *attribution.Owner) string {
	if d := w.seen[o]; d != nil {
		return d.ref
	}
	return w.declared[o.Fingerprint()].ref // seen was cleared meanwhile
}

// flush hands the encoded line on.
func (w *Writer) flush(record bool) error {
	switch {
	case w.err != nil:
	case w.enc.bad != nil:
		return w.fail(w.enc.bad)
	case len(w.enc.b) > maxLine:
		return w.fail(faultf("split it", "a line of %d bytes", len(w.enc.b)))
	default:
		if _, err := w.out.Write(w.enc.b); err != nil {
			w.err = fmt.Errorf("write recording: %w", err)
		}
		if record {
			w.records++
		}
	}
	return w.err
}

func (w *Writer) fail(f *fault) error {
	w.err = fmt.Errorf("recording: record %d: %w", w.records+1, f)
	return w.err
}

// Close completes the recording and flushes it. A recording that failed, or
// was never begun, is not completed: a reader will call it truncated.
func (w *Writer) Close() error {
	switch {
	case w.err != nil:
		return w.err
	case w.rules == nil:
		return errors.New("recording: nothing was recorded")
	}
	w.enc.begin("end")
	w.enc.integer("records", int64(w.records))
	w.enc.end()
	if err := w.flush(false); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		w.err = fmt.Errorf("write recording: %w", err)
		return w.err
	}
	w.err = errClosed
	return nil
}

var errClosed = errors.New("recording: it is complete")
