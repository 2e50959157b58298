package nvml

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	period     = int64(time.Second)
	maxStagger = int64(400 * time.Millisecond)
	// gapAfter is the number of failed readings in a row that make a gap. One
	// or two are bridged by the counters.
	gapAfter = 3
	// retryAfter is the time until the first of them is tried again: soon, since
	// the second that the reading was to tell of is sealed before the next one.
	retryAfter = 200 * time.Millisecond
	// maxElapsed is the longest time that one reading is taken to stand for:
	// the driver keeps 12 seconds of samples at the least.
	maxElapsed = 10 * period
	// maxPower bounds what a GPU is believed to take, in W. The counter is
	// coarse, so that it may be a second late.
	maxPower = 10_000
)

// reader reads one device, in a goroutine of its own while it runs. Between
// two runs the fleet owns it: then it gets another handle or description, and
// its counters go on.
type reader struct {
	facts
	gpuInstance int
	opts        *Options
	device      *attribution.Device
	now         func() int64  // Unix ns, the agent's clock
	wall        func() uint64 // µs, the machine's wall clock
	producer    sampler.Producer
	log         *slog.Logger
	stagger     int64
	stats       *deviceStats
	rescan      func() // asks for a look at the devices, soon

	handle handle // nil: the driver is closed
	// fresh is a newer handle of the device, which the reader takes when the
	// one that it has fails: a GPU that was reset may want another.
	fresh atomic.Pointer[handle]
	// since is when the reading under way began (the agent's clock), 0 between
	// readings: the watchdog's way to see a hang.
	since atomic.Int64
	// stuck says that readings keep failing for what the driver, not the
	// device's kind, is to blame.
	stuck atomic.Bool

	sample       sampler.Sample
	procs        processes
	failures     int
	resumed      bool   // no reading was good since the reader runs
	wrong        string // the error of the last reading, if it had one
	told         bool   // something was logged of what is wrong
	faults       pace
	saidSource   source
	sources      pace
	saidNoShares bool
	yielded      int64  // time of the last event
	lastGood     int64  // time of the last reading without an error
	lastShare    int64  // of the last one of the device's activity
	lastProcs    int64  // and of the processes'
	lastEnergy   uint64 // mJ
	lastEnergyAt int64  // when; 0: there was none
	byGPM        bool
	gpmFailures  int // in a row
	byProcess    bool
	busyCursor   uint64

	list   []running // scratch
	shares []processShare
	busy   []busySample
}

// describe says what the device is, from a time on: for the first time, or
// anew. Then nothing is taken over to what it is now.
func (r *reader) describe(f facts, at int64) {
	r.facts = f
	d := &attribution.Device{
		ID: f.uuid, Cluster: r.opts.Cluster, Node: r.opts.Node, Model: f.model,
		CapacityType: r.opts.CapacityType, MemoryBytes: f.memoryBytes, Labels: r.opts.Labels,
		Parent: f.parent, Profile: f.profile, Share: f.share, Remainder: f.remainder,
	}
	if !r.procs.hidden {
		d.Sensors |= attribution.SensorMemory
	}
	if f.energy {
		d.Sensors |= attribution.SensorEnergy
	}
	r.device = d
	r.procs.clear()
	r.sample.Processes, r.sample.ProcessSM, r.sample.SharedServer = nil, false, false
	r.yield(&sampler.Event{Kind: sampler.DeviceAdded, Time: max(at, r.yielded), Device: d})
}

// begin makes the reader ready to run, with a handle that nothing else uses.
// What was before is known no more: the first good reading is a gap, unless it
// is the device's first of all.
func (r *reader) begin(h handle, gpm bool) {
	r.handle, r.byGPM, r.byProcess = h, gpm, true
	r.fresh.Store(nil)
	r.resumed = r.lastGood != 0
	r.lastShare, r.lastProcs = 0, 0
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	r.tick()
	timer := time.NewTimer(r.untilNext())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			r.tick()
			timer.Reset(r.untilNext())
		}
	}
}

// close lets go of everything. The reader does not run, and will not.
func (r *reader) close() {
	r.dropHandle()
	r.producer.Close()
}

// dropHandle closes the handle before the driver is.
func (r *reader) dropHandle() {
	r.fresh.Store(nil)
	if r.handle != nil {
		r.handle.close()
		r.handle = nil
	}
}

// yield hands an event about the device on.
func (r *reader) yield(e *sampler.Event) {
	e.Node, e.DeviceID = r.opts.Node, r.uuid
	r.yielded = e.Time
	r.producer.Yield(e)
}

// untilNext is the time to this device's place in the next second, or until
// what has just failed is tried again.
func (r *reader) untilNext() time.Duration {
	if r.failures == 1 {
		return retryAfter
	}
	now := r.now()
	next := now - now%period + r.stagger
	if next <= now {
		next += period
	}
	return time.Duration(next - now)
}

// tick takes one reading and yields it.
func (r *reader) tick() {
	r.since.Store(r.now())
	now, err := r.read()
	r.since.Store(0)
	r.say(err)
	if err != nil {
		r.fail(err)
		if r.failures < gapAfter {
			return
		}
	}
	r.sample.Gap = r.failures >= gapAfter || r.resumed || (r.lastGood != 0 && now-r.lastGood > maxElapsed)
	r.yield(&sampler.Event{Kind: sampler.Sampled, Time: max(now, r.yielded), Sample: &r.sample})
	if err == nil {
		r.failures, r.resumed, r.lastGood = 0, false, now
		r.stuck.Store(false)
		r.stats.failing.Store(false)
	}
}

// fail counts a failed reading. One that is no longer bridged turns to a newer
// handle, if there is one; what that measures begins anew, as behind a halt.
func (r *reader) fail(err error) {
	r.failures++
	r.stats.failed.Add(1)
	if r.failures < gapAfter {
		return
	}
	r.stats.failing.Store(true)
	r.stuck.Store(!errors.Is(err, errNotSupported))
	if h := r.fresh.Swap(nil); h != nil && *h != r.handle {
		r.handle.close()
		r.begin(*h, r.byGPM)
	}
}

// say logs an error when it appears, and that it is gone. Of one that concerns
// more than the device's readings it tells the fleet.
func (r *reader) say(err error) {
	if err == nil {
		if r.told {
			r.log.Info("the device can be read again", "device", r.uuid, "failed_readings", r.failures)
		}
		r.wrong, r.told = "", false
		return
	}
	is := err.Error()
	fresh := is != r.wrong
	r.wrong = is
	if (fresh || !r.told) && r.faults.may(r.now()) {
		r.log.Warn("the device can't be read: its time is unobserved until it can", "device", r.uuid, "error", err)
		r.told = true
	}
	if fresh && (errors.Is(err, errGone) || errors.Is(err, errLost) || errors.Is(err, ErrDriverReplaced)) {
		r.rescan()
	}
}

// read brings the counters up to now, the time that it returns: when the
// driver had said everything. A driver under load takes long for that, and what
// it said is about the time until then. Were it about the time until the reading
// began, all that came after would be told a second later, when it is sealed.
// Activity is therefore asked for last, and nothing counts before all is there.
func (r *reader) read() (now int64, err error) {
	if r.remainder {
		err = r.readRest()
		return r.now(), err
	}
	wall := r.wall()
	if err := r.askProcesses(wall); err != nil {
		return r.now(), err
	}
	if r.energy {
		added, err := r.addedEnergy()
		if err != nil {
			return r.now(), err
		}
		r.sample.Energy += added
	}
	share, by, err := r.share()
	now = r.now()
	if err := r.activity(share, by, err, now); err != nil {
		return now, fmt.Errorf("read SM activity: %w", err)
	}
	r.procs.list(r.list)
	r.measuresMemory()
	r.attribute(now, wall)
	return now, nil
}

// readRest reads the uncut rest of a GPU. Nothing runs on it, and the GPU's
// energy is not its own; but a GPU that can't be reached is not idle.
func (r *reader) readRest() error {
	_, err := r.addedEnergy()
	if errors.Is(err, errNotSupported) {
		return r.handle.present()
	}
	return err
}

// addedEnergy is the energy since the last reading of it, in µJ.
func (r *reader) addedEnergy() (int64, error) {
	mJ, err := r.handle.energy()
	if err != nil {
		return 0, fmt.Errorf("read the energy counter: %w", err)
	}
	// A smaller value is a reloaded driver's, or a glitch, after which the whole
	// count would seem to have been added: hence the bound.
	now := r.now()
	most := uint64(now-r.lastEnergyAt+period) / 1000 * maxPower / 1000
	var added int64
	if d := mJ - r.lastEnergy; r.lastEnergyAt != 0 && mJ > r.lastEnergy && d <= most {
		added = int64(d) * 1000
	}
	r.lastEnergy, r.lastEnergyAt = mJ, now
	r.stats.energy.Add(added)
	return added, nil
}

// askProcesses asks for the processes' shares first and for their lists after,
// so that the shares tell which lists are needed.
func (r *reader) askProcesses(wall uint64) error {
	if err := r.readShares(wall); err != nil {
		return fmt.Errorf("read process utilization: %w", err)
	}
	var err error
	if r.list, err = r.handle.computing(r.list[:0]); err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	if !r.byProcess || r.procs.wantsOthers(r.list, r.shares, wall) {
		n := len(r.list)
		if r.list, err = r.handle.others(r.list); err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
		r.procs.others = len(r.list) > n
	}
	return nil
}

func (r *reader) readShares(wall uint64) (err error) {
	r.shares = r.shares[:0]
	if !r.byProcess {
		return nil
	}
	r.shares, err = r.handle.processShares(r.shares, r.procs.after(wall))
	if errors.Is(err, errNotSupported) {
		if !r.saidNoShares {
			r.log.Info("no SM activity per process on this device: it is split by memory", "device", r.uuid, "error", err)
		}
		r.byProcess, r.saidNoShares = false, true
		return nil
	}
	return err
}

// attribute adds the shares to the processes' counters, and puts them into the
// sample. What an MPS server was credited with is its clients' work, never its
// own pod's: where no client is visible and nobody else was active, the sample
// says nothing of processes' SM activity, and the split goes by memory or
// holdings, without the server's. Without counters of processes that holds for
// every reading.
func (r *reader) attribute(now int64, wall uint64) {
	s := &r.sample
	s.ProcessSM, s.SharedServer = r.byProcess, false
	servers := r.byProcess
	if r.byProcess {
		elapsed := int64(0)
		if r.lastProcs != 0 {
			elapsed = min(now-r.lastProcs, maxElapsed)
		}
		r.procs.share(r.shares, elapsed, wall)
		credited, alone := r.procs.shareServers()
		s.SharedServer = credited == creditClients
		if credited == creditNobody {
			s.ProcessSM, servers = !alone, false
		}
		r.lastProcs = now
	}
	s.Processes = r.procs.appendTo(s.Processes[:0], servers)
}

// measuresMemory takes back that the memory of processes is measured, once the
// driver has not said it of one: a sum without that one is no measurement. The
// device is described anew as of the last event, when the time began that this
// reading is about.
func (r *reader) measuresMemory() {
	if !r.procs.hidden || r.device.Sensors&attribution.SensorMemory == 0 {
		return
	}
	r.log.Warn("the driver does not tell how much memory processes hold: it is recorded as not measured", "device", r.uuid)
	d := *r.device
	d.Sensors &^= attribution.SensorMemory
	r.device = &d
	r.yield(&sampler.Event{Kind: sampler.DeviceAdded, Time: r.yielded, Device: r.device})
}
