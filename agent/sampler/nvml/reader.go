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
	// maxElapsed is the longest time that one reading is taken to stand for:
	// the driver keeps 12 seconds of samples at the least.
	maxElapsed = 10 * period
)

// reader reads one device, in a goroutine of its own.
type reader struct {
	facts
	handle   handle
	device   *attribution.Device
	now      func() int64  // Unix ns, the agent's clock
	wall     func() uint64 // µs, the machine's wall clock
	producer sampler.Producer
	log      *slog.Logger
	stagger  int64

	// since is when the reading under way began (the agent's clock), 0 between
	// readings: the watchdog's way to see a hang.
	since   atomic.Int64
	removed atomic.Bool // the device is gone, rather than the agent

	sample     sampler.Sample
	procs      processes
	failures   int
	said       string // the last error that was logged
	yielded    int64  // time of the last event
	lastGood   int64  // time of the last reading without an error
	lastShare  int64  // of the last one of the device's activity
	lastProcs  int64  // and of the processes'
	lastEnergy uint64 // mJ
	hasEnergy  bool   // there is a last one
	byGPM      bool
	byProcess  bool
	busyCursor uint64
	list       []running
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	defer r.producer.Close()
	defer r.handle.close()
	r.yield(&sampler.Event{Kind: sampler.DeviceAdded, Time: r.now(), Device: r.device})
	r.tick()
	timer := time.NewTimer(r.untilNext())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if r.removed.Load() {
				r.yield(&sampler.Event{Kind: sampler.DeviceRemoved, Time: r.now()})
			}
			return
		case <-timer.C:
			r.tick()
			timer.Reset(r.untilNext())
		}
	}
}

// yield hands an event about the device on.
func (r *reader) yield(e *sampler.Event) {
	e.Node, e.DeviceID = r.device.Node, r.uuid
	r.yielded = e.Time
	r.producer.Yield(e)
}

// untilNext is the time to this device's place in the next second.
func (r *reader) untilNext() time.Duration {
	now := r.now()
	next := now - now%period + r.stagger
	if next <= now {
		next += period
	}
	return time.Duration(next - now)
}

// tick takes one reading and yields it.
func (r *reader) tick() {
	now := r.now()
	r.since.Store(now)
	err := r.read(now)
	r.since.Store(0)
	r.say(err)
	if err != nil {
		r.failures++
		if r.failures < gapAfter {
			return
		}
	}
	r.sample.Gap = r.failures >= gapAfter || (r.lastGood != 0 && now-r.lastGood > maxElapsed)
	r.yield(&sampler.Event{Kind: sampler.Sampled, Time: now, Sample: &r.sample})
	if err == nil {
		r.failures, r.lastGood = 0, now
	}
}

// say logs an error when it appears, and that it is gone.
func (r *reader) say(err error) {
	switch {
	case err == nil && r.said != "":
		r.log.Info("the device can be read again", "device", r.uuid, "failed_readings", r.failures)
		r.said = ""
	case err != nil && err.Error() != r.said:
		r.log.Warn("the device can't be read: its time is unobserved until it can", "device", r.uuid, "error", err)
		r.said = err.Error()
	}
}

// read brings the counters up to now, the time that the reading began.
func (r *reader) read(now int64) error {
	if r.remainder {
		return r.readEnergy() // nothing runs on the uncut rest of a GPU
	}
	if err := r.activity(now); err != nil {
		return fmt.Errorf("read SM activity: %w", err)
	}
	err := r.readEnergy()
	if err != nil {
		return err
	}
	if r.list, err = r.handle.processes(r.list[:0]); err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	r.procs.list(r.list)
	r.measuresMemory()
	if err := r.processActivity(now); err != nil {
		return fmt.Errorf("read process utilization: %w", err)
	}
	r.sample.ProcessSM = r.byProcess
	r.sample.Processes = r.procs.appendTo(r.sample.Processes[:0])
	return nil
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

func (r *reader) readEnergy() error {
	if !r.energy {
		return nil
	}
	mJ, err := r.handle.energy()
	if err != nil {
		return fmt.Errorf("read the energy counter: %w", err)
	}
	// A smaller value is a reloaded driver's. A difference beyond 1 GJ in what
	// is seconds, or hours at most, is nonsense.
	if d := mJ - r.lastEnergy; r.hasEnergy && mJ > r.lastEnergy && d < 1e12 {
		r.sample.Energy += int64(d) * 1000
	}
	r.lastEnergy, r.hasEnergy = mJ, true
	return nil
}

// activity adds the device's SM activity since the last reading that had any.
// The first only starts the count.
func (r *reader) activity(now int64) error {
	elapsed := min(now-r.lastShare, maxElapsed)
	first := r.lastShare == 0
	var active int64
	var err error
	if r.byGPM {
		var share int64
		share, err = r.handle.smShare()
		active = elapsed / 1e6 * min(max(share, 0), 1e6)
	} else {
		active, err = r.busy(elapsed)
	}
	if err != nil && (!first || !errors.Is(err, errNoData)) {
		return err
	}
	if !first {
		r.sample.SMActive += active
	}
	r.lastShare = now
	return nil
}

// busy is the activity where GPM is not to be had: the mean of the driver's
// samples since the last reading, else its last rate.
func (r *reader) busy(elapsed int64) (int64, error) {
	if now := r.wall(); r.busyCursor > now+farFuture {
		r.busyCursor = now // the wall clock was set back
	}
	samples, err := r.handle.busySamples(r.busyCursor)
	var sum, n int64
	for _, s := range samples {
		if s.percent > 100 || s.time <= r.busyCursor || s.time > r.wall()+farFuture {
			continue
		}
		sum += int64(s.percent)
		n++
	}
	for _, s := range samples {
		if s.time <= r.wall()+farFuture {
			r.busyCursor = max(r.busyCursor, s.time)
		}
	}
	if err == nil && n > 0 {
		return elapsed / 100 * sum / n, nil
	}
	percent, err := r.handle.busyShare()
	if err != nil {
		return 0, err
	}
	return elapsed / 100 * int64(min(percent, 100)), nil
}

func (r *reader) processActivity(now int64) error {
	if !r.byProcess {
		return nil
	}
	wall := r.wall()
	shares, err := r.handle.processShares(r.procs.after(wall))
	switch {
	case errors.Is(err, errNotSupported):
		r.log.Info("no SM activity per process on this device: it is split by memory", "device", r.uuid)
		r.byProcess, r.sample.SharedServer = false, false
		return nil
	case err != nil:
		return err
	}
	elapsed := min(now-r.lastProcs, maxElapsed)
	if r.lastProcs == 0 {
		elapsed = 0
	}
	r.procs.share(shares, elapsed, wall)
	r.sample.SharedServer = r.procs.shareServers()
	r.lastProcs = now
	return nil
}
