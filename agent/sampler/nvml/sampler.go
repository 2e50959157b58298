package nvml

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	// rescanEvery is how often devices are looked for, and how often a driver
	// that is gone is.
	rescanEvery = 30 * time.Second
	// rescanAgain is the least time between two looks that something asks for.
	rescanAgain = time.Second
	// goneAfter is how long a GPU that the driver no longer lists is waited
	// for, unobserved and billed to its holders, before it is removed. It is as
	// long as a restarted agent waits for the devices that it knew.
	goneAfter = 10 * time.Minute
	// hungAfter is how long a call may take before it is called hung.
	hungAfter = 5 * time.Second
	// leaveAfter is how long Run waits for hung calls when it is to end.
	leaveAfter = 2 * time.Second
)

// Options is what a Sampler needs.
type Options struct {
	Cluster, Node string
	Labels        attribution.Labels // of the node
	CapacityType  string
	Owners        sampler.Owners
	// Activity measures SM activity where the driver has no GPM; nil: nothing
	// does.
	Activity sampler.Activity
	Log      *slog.Logger
	// LibraryPath is the driver's library; "" is libnvidia-ml.so.1.
	LibraryPath string
}

// Sampler is a sampler.Live over the node's GPUs.
type Sampler struct {
	opts    Options
	open    func() (driver, error)
	driver  driver        // as opened before Run
	now     func() int64  // Unix ns, the timeline that events are on
	wall    func() uint64 // µs, the machine's wall clock
	counts  counts
	units   atomic.Pointer[[]sampler.Unit] // never changed once stored
	changed chan struct{}                  // units were stored

	wake   chan struct{} // something is to be done before the next second
	rescan atomic.Bool   // devices are to be looked for, soon
}

var _ sampler.Live = (*Sampler)(nil)

// Open loads the driver's library. It returns an error wrapping ErrNoDriver
// where there is no driver, and one wrapping ErrDriverReplaced where library
// and kernel module don't belong together. It may hang with the driver.
func Open(opts Options) (*Sampler, error) { return openWith(opts, opener(opts.LibraryPath)) }

func openWith(opts Options, open func() (driver, error)) (*Sampler, error) {
	late := time.AfterFunc(hungAfter, func() {
		opts.Log.Error("opening the driver hangs, as nvidia-smi would: nothing is seen until it returns")
	})
	defer late.Stop()
	d, err := open()
	if err != nil {
		return nil, err
	}
	return newSampler(opts, d, open), nil
}

func newSampler(opts Options, d driver, open func() (driver, error)) *Sampler {
	return &Sampler{
		opts: opts, open: open, driver: d, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		now:  func() int64 { return time.Now().UnixNano() },
		wall: func() uint64 { return uint64(time.Now().UnixMicro()) },
	}
}

// Close closes the driver of a sampler that has not run and will not. Run does
// so itself.
func (s *Sampler) Close() error { return s.driver.close() }

// SetClock puts events on a timeline (Unix ns) other than the wall clock. It is
// called before Run.
func (s *Sampler) SetClock(now func() int64) { s.now = now }

// Units is the devices that have been added and not removed, by GPU and
// instance; none before Run has found any. The result is never changed. A
// device is in it once its DeviceAdded was yielded, and until its DeviceRemoved
// is. Any goroutine may call it at any time.
func (s *Sampler) Units() []sampler.Unit {
	if us := s.units.Load(); us != nil {
		return *us
	}
	return nil
}

// UnitsChanged receives a value after what Units says has changed; changes that
// come before it is received are one. It has one reader.
func (s *Sampler) UnitsChanged() <-chan struct{} { return s.changed }

// rescanSoon asks for a look at the devices.
func (s *Sampler) rescanSoon() {
	s.rescan.Store(true)
	s.nudge()
}

// nudge makes Run see what is to be done.
func (s *Sampler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // it will anyway
	}
}

// Run reads all devices until ctx ends, and then closes the driver. It returns
// an error wrapping ErrDriverReplaced when this process can't read the driver
// any more, and one wrapping ErrHung if calls into the driver keep it from
// ending; what they keep is lost until the process ends.
func (s *Sampler) Run(ctx context.Context, producer func() sampler.Producer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f := newFleet(s, producer)
	rescan, watch := time.NewTicker(rescanEvery), time.NewTicker(time.Second)
	defer rescan.Stop()
	defer watch.Stop()
	defer f.boundary.Stop()
	f.look()
	for {
		var err error
		select {
		case <-ctx.Done():
			return f.leave()
		case l := <-f.looks:
			err = f.take(l)
		case <-rescan.C:
			f.look()
		case <-watch.C:
			f.watch()
		case <-s.wake:
		case <-f.boundary.C:
		}
		if err != nil {
			stop()
			return errors.Join(err, f.leave())
		}
		f.step(ctx)
	}
}
