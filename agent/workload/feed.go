// Package workload says whose work a device does. A [Feed] takes the events of
// one producer, a sampler's counters above all, and records in the meter what
// happened between them:
//
//   - The first sample of a device starts observation and covers nothing. Each
//     later one covers the time since the one before, unless it says that there
//     is a gap: then that time stays unobserved.
//   - A counter's increase is what happened in between. A counter that went
//     back was reset: its new value is the increase, held to the length of the
//     interval where it counts time.
//   - A process is told by its pid and start. One that the sample before did
//     not have started in between if its counter fits the interval: then the
//     counter is its increase. A counter that is larger began before anybody
//     looked, and nothing is known of the interval: its increase is 0.
//   - Memory counts as held since the sample before. Processes of one owner add
//     up; one without owner is nobody's, and its use unattributed.
package workload

import (
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// Bounds of one event.
const (
	MaxProcesses    = 4096    // of a sample
	MaxMemoryBytes  = 1 << 46 // of a process
	MaxTallySeconds = 7 * 86_400
	MaxTallyValues  = 1024
	MaxTallyValue   = attribution.MaxPerSecond
	MaxReplicas     = 1 << 20
)

// ErrEvent is wrapped by errors about an event that makes no sense. Nothing of
// it was recorded, and the feed can go on with the next.
var ErrEvent = errors.New("bad event")

// Feed turns one producer's events into records. All samples of a device go
// through one feed, after the device was added there; holdings and tallies may
// come through any. One goroutine uses it at a time.
type Feed struct {
	meter   *meter.Meter
	lane    *meter.Lane
	devices map[string]*device
	batch   []meter.Record
	uses    []ownerUse
	byOwner map[meter.OwnerHandle]int // index in uses
}

// device is what a feed remembers of one device.
type device struct {
	handle    meter.DeviceHandle
	last      int64 // time of its last event
	sampled   bool
	at        int64 // time of its last sample
	smActive  int64
	energy    int64
	processes map[processID]*process
	samples   uint64
}

type processID struct {
	pid   uint32
	start uint64
}

type process struct {
	owner    meter.OwnerHandle
	smActive int64
	sample   uint64 // the last that had it
}

type ownerUse struct {
	owner            meter.OwnerHandle
	smActive, memory int64
}

// NewFeed opens a lane of m for one producer.
func NewFeed(m *meter.Meter) (*Feed, error) {
	l, err := m.Lane()
	if err != nil {
		return nil, err
	}
	return &Feed{meter: m, lane: l, devices: map[string]*device{}, byOwner: map[meter.OwnerHandle]int{}}, nil
}

// Close gives the lane back. Nothing may be applied afterwards.
func (f *Feed) Close() { f.lane.Close() }

// Apply records one event. It neither blocks nor keeps the event. An error
// that wraps ErrEvent or meter.ErrFull means that nothing of it was recorded.
// Readings that a full lane has no room for are not an error: they are counted
// by the meter, and their time is unobserved.
func (f *Feed) Apply(e *sampler.Event) error {
	if e.Time < 0 || attribution.SecondOf(e.Time) >= attribution.MaxSecond {
		return bad(e, "time %d is not between 1970 and 2255: want Unix nanoseconds", e.Time)
	}
	switch e.Kind {
	case sampler.DeviceAdded:
		return f.add(e)
	case sampler.DeviceRemoved:
		return f.remove(e)
	case sampler.Held, sampler.Released:
		return f.hold(e)
	case sampler.Sampled:
		return f.sample(e)
	case sampler.Tallied:
		return f.tally(e)
	default:
		return bad(e, "kind %d is unknown", e.Kind)
	}
}

func bad(e *sampler.Event, format string, args ...any) error {
	where := ""
	if e.DeviceID != "" {
		where = " of device " + e.DeviceID
	}
	return fmt.Errorf("%w%s: %s", ErrEvent, where, fmt.Sprintf(format, args...))
}

func (f *Feed) add(e *sampler.Event) error {
	if e.Device == nil || e.Device.ID == "" {
		return bad(e, "it adds a device without an id: want its NVML UUID")
	}
	d := f.devices[e.Device.ID]
	if d != nil && e.Time < d.last {
		return outOfOrder(e, d)
	}
	h, err := f.meter.Device(e.Device)
	if err != nil {
		return err
	}
	if !f.lane.Record(meter.Added(h, e.Time)) {
		return full(e)
	}
	if d == nil {
		d = &device{processes: map[processID]*process{}}
		f.devices[e.Device.ID] = d
	}
	d.handle, d.last = h, e.Time
	return nil
}

func (f *Feed) remove(e *sampler.Event) error {
	d, err := f.device(e)
	if err != nil {
		return err
	}
	if !f.lane.Record(meter.Removed(d.handle, e.Time)) {
		return full(e)
	}
	delete(f.devices, e.DeviceID)
	return nil
}

// device finds the device that an event is about, and checks that the event
// does not lie before the last one.
func (f *Feed) device(e *sampler.Event) (*device, error) {
	d := f.devices[e.DeviceID]
	switch {
	case d == nil:
		return nil, bad(e, "no such device: it has to be added first")
	case e.Time < d.last:
		return nil, outOfOrder(e, d)
	}
	return d, nil
}

func outOfOrder(e *sampler.Event, d *device) error {
	return bad(e, "time %d lies before its last event, %d: events of a device come in order of time", e.Time, d.last)
}

func full(e *sampler.Event) error {
	return fmt.Errorf("device %s: a change at %d: %w: the lane has no room; try again after the next second is sealed", e.DeviceID, e.Time, meter.ErrFull)
}

func (f *Feed) hold(e *sampler.Event) error {
	if e.Owner == nil || e.Owner.Kind == attribution.Nobody {
		return bad(e, "a holding needs an owner")
	}
	if e.Kind == sampler.Held && (e.Replicas < 1 || e.Replicas > MaxReplicas) {
		return bad(e, "%s holds %d replicas: want 1 to %d", e.Owner.Pod, e.Replicas, MaxReplicas)
	}
	var h meter.DeviceHandle
	d, err := f.device(e)
	if err == nil {
		h = d.handle
	} else if known, ok := f.meter.Lookup(e.DeviceID); ok && f.devices[e.DeviceID] == nil {
		h = known // another feed samples it
	} else {
		return err
	}
	r := meter.Release(h, f.meter.Owner(e.Owner), e.Time)
	if e.Kind == sampler.Held {
		r = meter.Hold(h, f.meter.Owner(e.Owner), e.Replicas, e.Time)
	}
	if !f.lane.Record(r) {
		return full(e)
	}
	if d != nil {
		d.last = e.Time
	}
	return nil
}

func (f *Feed) tally(e *sampler.Event) error {
	t := e.Tally
	switch {
	case t == nil:
		return bad(e, "a tally is missing")
	case t.Seconds < 1 || t.Seconds > MaxTallySeconds:
		return bad(e, "a tally covers %d seconds: want 1 to %d", t.Seconds, MaxTallySeconds)
	case t.Seconds*attribution.WindowNanos > e.Time:
		return bad(e, "a tally of %d seconds begins before 1970", t.Seconds)
	case len(t.Values) > MaxTallyValues:
		return bad(e, "a tally has %d values: want at most %d", len(t.Values), MaxTallyValues)
	}
	for _, v := range t.Values {
		if v.Measure == "" || v.Value < 0 || v.Value > MaxTallyValue {
			return bad(e, "a tally counts %d of measure %q: want 0 to %d of a named one", v.Value, v.Measure, MaxTallyValue)
		}
	}
	s, err := f.meter.Subject(f.meter.Owner(t.Owner), t.Model, t.Tenant, t.Tier)
	if err != nil {
		return err
	}
	f.batch = f.batch[:0]
	for _, v := range t.Values {
		m, err := f.meter.Measure(v.Measure)
		if err != nil {
			return err
		}
		f.batch = append(f.batch, meter.Tallied(s, m, e.Time-t.Seconds*attribution.WindowNanos, e.Time, v.Value))
	}
	f.lane.RecordAll(f.batch)
	return nil
}
