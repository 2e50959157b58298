package nvml

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	// rescanEvery is how often devices are looked for: MIG instances come and
	// go while the agent runs.
	rescanEvery = 30 * time.Second
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
	Owners        Owners
	Log           *slog.Logger
	// LibraryPath is the driver's library; "" is libnvidia-ml.so.1.
	LibraryPath string
}

// Sampler is a sampler.Live over the node's GPUs.
type Sampler struct {
	opts    Options
	driver  driver
	now     func() int64  // Unix ns, the timeline that events are on
	wall    func() uint64 // µs, the machine's wall clock
	dropped Dropped

	readers map[string]*readerRun // by UUID
	said    string                // the last error of listing that was logged
	wg      sync.WaitGroup
}

var _ sampler.Live = (*Sampler)(nil)

// readerRun is a reader that runs.
type readerRun struct {
	*reader
	stop   context.CancelFunc
	done   chan struct{}
	ending bool // it was told to
	hung   bool // and that has been said
}

// Open loads the driver's library. It returns an error wrapping ErrNoDriver
// where there is no driver.
func Open(opts Options) (*Sampler, error) {
	d, err := openLibrary(opts.LibraryPath)
	if err != nil {
		return nil, err
	}
	return newSampler(opts, d), nil
}

func newSampler(opts Options, d driver) *Sampler {
	return &Sampler{
		opts: opts, driver: d, readers: make(map[string]*readerRun),
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

// Dropped counts what was thrown away; it may be read at any time.
func (s *Sampler) Dropped() *Dropped { return &s.dropped }

// scan is the result of looking for devices.
type scan struct {
	units []unit
	err   error
}

// Run reads all devices until ctx ends, and then closes the driver. It returns
// an error wrapping ErrHung if calls into the driver keep it from ending; what
// they keep is lost until the process ends.
func (s *Sampler) Run(ctx context.Context, producer func() sampler.Producer) error {
	scans := make(chan scan, 1)
	look := func() { // one at a time; its end is awaited through scans
		units, err := s.driver.units()
		scans <- scan{units, err}
	}
	go look()
	looking := true
	rescan, watch := time.NewTicker(rescanEvery), time.NewTicker(time.Second)
	defer rescan.Stop()
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.leave(looking, scans)
		case found := <-scans:
			looking = false
			s.sayListed(found.err)
			s.apply(ctx, found, producer)
		case <-rescan.C:
			if !looking {
				looking = true
				go look()
			}
		case <-watch.C:
			s.watch()
		}
	}
}

// sayListed logs an error when it appears.
func (s *Sampler) sayListed(err error) {
	switch {
	case err == nil:
		s.said = ""
	case err.Error() != s.said:
		s.opts.Log.Error("not all GPUs can be listed: what is not listed is not billed", "error", err)
		s.said = err.Error()
	}
}

// apply starts readers for new devices, and ends those of instances that are
// gone and of devices that have become others (a GPU whose MIG mode changed).
// A whole GPU that is missing is lost, not gone: its reader keeps trying, and
// its time is unobserved. A list with an error says nothing of what is gone.
func (s *Sampler) apply(ctx context.Context, found scan, producer func() sampler.Producer) {
	there := make(map[string]bool, len(found.units))
	for i, u := range found.units {
		there[u.uuid] = true
		if old := s.readers[u.uuid]; old != nil {
			if (old.facts == u.facts && !old.ending) || !s.end(old, false) {
				u.handle.close()
				continue
			}
		}
		s.start(ctx, u, maxStagger*int64(i)/int64(len(found.units)), producer())
	}
	for id, old := range s.readers {
		if !there[id] && found.err == nil && old.parent != "" && s.end(old, true) {
			delete(s.readers, id)
		}
	}
}

// end ends a reader; false if it hangs and can't be ended yet.
func (s *Sampler) end(r *readerRun, removed bool) bool {
	r.ending = true
	r.removed.Store(removed)
	r.stop()
	select {
	case <-r.done:
		return true
	case <-time.After(leaveAfter):
		return false
	}
}

func (s *Sampler) start(ctx context.Context, u unit, stagger int64, producer sampler.Producer) {
	d := &attribution.Device{
		ID: u.uuid, Cluster: s.opts.Cluster, Node: s.opts.Node, Model: u.model,
		CapacityType: s.opts.CapacityType, MemoryBytes: u.memoryBytes, Labels: s.opts.Labels,
		Parent: u.parent, Profile: u.profile, Share: u.share, Remainder: u.remainder,
		Sensors: attribution.SensorMemory,
	}
	if u.energy {
		d.Sensors |= attribution.SensorEnergy
	}
	ctx, stop := context.WithCancel(ctx)
	r := &readerRun{stop: stop, done: make(chan struct{}), reader: &reader{
		facts: u.facts, handle: u.handle, device: d, now: s.now, wall: s.wall,
		producer: producer, log: s.opts.Log, stagger: stagger,
		byGPM: u.gpm, byProcess: true,
		procs: processes{owners: s.opts.Owners, byPID: make(map[uint32]*process), dropped: &s.dropped},
	}}
	s.readers[u.uuid] = r
	s.opts.Log.Info("device", "id", u.uuid, "model", u.model, "profile", u.profile, "gpm", u.gpm, "energy", u.energy)
	s.wg.Go(func() {
		defer close(r.done)
		r.run(ctx)
	})
}

// watch says which devices hang.
func (s *Sampler) watch() {
	now := s.now()
	for _, r := range s.readers {
		since := r.since.Load()
		hung := since != 0 && now-since > int64(hungAfter)
		if hung && !r.hung {
			s.opts.Log.Error("a call into the driver hangs: the device's time is unobserved until it returns", "device", r.uuid)
		}
		r.hung = hung
	}
}

// leave waits for everything that Run started.
func (s *Sampler) leave(looking bool, scans <-chan scan) error {
	ended := make(chan struct{})
	go func() {
		if looking {
			for _, u := range (<-scans).units {
				u.handle.close()
			}
		}
		s.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return s.driver.close()
	case <-time.After(leaveAfter):
	}
	var hung []string
	for id, r := range s.readers {
		select {
		case <-r.done:
		default:
			hung = append(hung, id)
		}
	}
	return fmt.Errorf("%w: calls for %s have not returned", ErrHung, strings.Join(hung, ", "))
}
