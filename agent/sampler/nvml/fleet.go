package nvml

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// fleet is the node's devices while a sampler runs. The goroutine of Run alone
// uses it. What takes time, or may hang, happens in other goroutines: looking
// for devices, reading one, listening. The fleet waits for none of them: each
// wakes it when it ends, and [fleet.step] does what can be done now.
type fleet struct {
	*Sampler
	producer func() sampler.Producer
	families map[string]*family // by the GPU's UUID
	added    uint64             // devices so far

	driver   driver // nil: closed, or not open yet
	stale    driver // to be shut down before it is opened again
	openedAt int64  // when driver was
	draining bool   // driver is to be shut down once nothing uses it
	drains   pace   // that were logged
	told     bool   // of the last one
	found    *listing
	said     string // the last error of opening or listing that was logged

	looks    chan look
	looking  bool
	lookedAt int64
	lookHung bool

	listening *listening
	boundary  *time.Timer // wakes at a full second
	wg        sync.WaitGroup
}

// look is what came of looking for devices.
type look struct {
	driver driver // nil: it could not be opened, for err
	err    error
	listing
}

func newFleet(s *Sampler, producer func() sampler.Producer) *fleet {
	f := &fleet{
		Sampler: s, producer: producer, families: make(map[string]*family), driver: s.driver,
		openedAt: s.now(), looks: make(chan look, 1), boundary: time.NewTimer(0),
	}
	f.publish()
	return f
}

// look begins to look for devices, opening the driver if it is closed. One
// look at a time.
func (f *fleet) look() {
	if f.looking || f.draining {
		return
	}
	f.looking, f.lookedAt = true, f.now()
	f.rescan.Store(false)
	d, stale := f.driver, f.stale
	f.stale = nil
	f.wg.Go(func() {
		if stale != nil {
			if err := stale.close(); err != nil && !errors.Is(err, errGone) {
				f.opts.Log.Warn("the driver's library can't be shut down", "error", err)
			}
		}
		l := look{driver: d}
		if d == nil {
			l.driver, l.err = f.open()
		}
		if l.driver != nil {
			l.listing = l.driver.list()
		}
		f.looks <- l
	})
}

// take takes what a look found. An error ends Run.
func (f *fleet) take(l look) error {
	f.looking, f.lookHung = false, false
	f.counts.rescans.Add(1)
	err := errors.Join(l.err, l.listing.err)
	if errors.Is(err, ErrDriverReplaced) {
		f.driver = l.driver
		return err
	}
	couldNot := f.said != ""
	f.say(l.driver != nil, err)
	if l.driver == nil {
		return nil
	}
	reopened := f.driver == nil
	if reopened {
		f.driver, f.openedAt = l.driver, f.now()
		f.counts.reloads.Add(1)
		if f.told || couldNot {
			f.opts.Log.Info("the driver was opened again")
		}
	}
	f.found = &l.listing
	if (errors.Is(err, errGone) || (!reopened && f.stuck())) && !f.hangs() {
		f.drain()
		return nil
	}
	f.stagger()
	return nil
}

// say logs an error of opening the driver or listing its devices when it
// appears.
func (f *fleet) say(open bool, err error) {
	switch {
	case err == nil:
		f.said = ""
	case err.Error() == f.said:
	case open:
		f.opts.Log.Error("not all GPUs can be listed: what is not listed is not billed", "error", err)
		f.said = err.Error()
	default:
		f.opts.Log.Error("the driver can't be opened: all devices are unobserved until it can", "error", err, "again_in", rescanEvery)
		f.said = err.Error()
	}
}

// staggerStep is the time between two groups of readings.
const staggerStep = int64(100 * time.Millisecond)

// stagger spreads the readings of what was found over the first part of a
// second. They come in groups: an agent that sleeps most of a second pays more
// for waking up than for a reading.
func (f *fleet) stagger() {
	n, i := 0, 0
	for _, g := range f.found.gpus {
		n += len(g.units)
	}
	for _, g := range f.found.gpus {
		for j := range g.units {
			at := maxStagger * int64(i) / int64(n)
			g.units[j].stagger = at - at%staggerStep
			i++
		}
	}
}

// stuck reports whether no device can be read for what the driver is to blame:
// then opening it again may help. A hung one alone does not say so.
func (f *fleet) stuck() bool {
	failing := 0
	for _, fam := range f.families {
		for _, m := range fam.members {
			switch {
			case m.running() && m.stuck.Load():
				failing++
			case m.running() && !m.stats.hung.Load():
				return false
			case !m.running():
				failing++ // the driver has no handle for it
			}
		}
	}
	return failing > 0
}

// hangs reports whether a reader hangs in a call: then the driver can't be shut
// down, and letting go of it would keep the others waiting.
func (f *fleet) hangs() bool {
	for _, fam := range f.families {
		for _, m := range fam.members {
			if m.running() && m.stats.hung.Load() {
				return true
			}
		}
	}
	return false
}

// drain has everything let go of the driver, so that it can be shut down.
func (f *fleet) drain() {
	f.draining, f.found = true, nil
	if f.told = f.drains.may(f.now()); f.told {
		f.opts.Log.Warn("the driver is shut down and opened again: all devices are unobserved until it works")
	}
	for _, fam := range f.families {
		for _, m := range fam.members {
			m.halt()
		}
	}
	f.listening.halt()
}

// drained reports whether nothing uses the driver any more. A reader that hangs
// in a call still does: shutting down under it would take the process along.
func (f *fleet) drained() bool {
	if f.looking || !f.listening.halted() {
		return false
	}
	for _, fam := range f.families {
		for _, m := range fam.members {
			if m.running() {
				return false
			}
		}
	}
	return true
}

// step does what can be done now.
func (f *fleet) step(ctx context.Context) {
	if f.draining {
		if !f.drained() {
			if f.hangs() { // now that it is to be shut down
				f.draining = false
				f.look()
			}
			return
		}
		for _, fam := range f.families {
			for _, m := range fam.members {
				m.dropHandle()
				m.stats.failing.Store(true)
			}
		}
		f.listening = nil
		f.draining, f.stale, f.driver = false, f.driver, nil
		if f.now()-f.openedAt >= int64(rescanEvery) {
			f.look() // it worked for a while; else the next rescan does
		}
		return
	}
	if f.rescan.Load() && f.driver != nil && f.now()-f.lookedAt >= int64(rescanAgain) {
		f.look()
	}
	if f.driver == nil || f.found == nil {
		return
	}
	for i := range f.found.gpus {
		g := &f.found.gpus[i]
		id := g.units[0].uuid
		if f.families[id] == nil {
			f.families[id] = &family{members: make(map[string]*member), changed: -1}
		}
		f.settle(ctx, f.families[id], g)
	}
	f.missing()
	f.listen(ctx)
}

// watch says who hangs, once a second.
func (f *fleet) watch() {
	now := f.now()
	for _, fam := range f.families {
		for id, m := range fam.members {
			since := m.since.Load()
			hung := since != 0 && now-since > int64(hungAfter)
			if m.stats.hung.Swap(hung) != hung && hung && m.hangs.may(now) {
				f.opts.Log.Error("a call into the driver hangs: the device's time is unobserved until it returns", "device", id)
			}
		}
	}
	if hung := f.looking && now-f.lookedAt > int64(hungAfter); hung && !f.lookHung {
		f.lookHung = true
		f.opts.Log.Error("listing the GPUs hangs: new devices are not seen until it returns")
	}
}

// leave waits for everything that Run started, whose context has ended, and
// closes the driver.
func (f *fleet) leave() error {
	waiting := make(map[string]chan struct{})
	var closers sync.WaitGroup
	for _, fam := range f.families {
		for id, m := range fam.members {
			closed := make(chan struct{})
			waiting[id] = closed
			closers.Go(func() {
				m.await()
				m.close()
				close(closed)
			})
		}
	}
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		closers.Wait()
		f.wg.Wait()
		err = f.closeDriver()
	}()
	select {
	case <-ended:
		return err
	case <-time.After(leaveAfter):
	}
	var hung []string
	for id, closed := range waiting {
		select {
		case <-closed:
		default:
			hung = append(hung, id)
		}
	}
	if len(hung) == 0 {
		return fmt.Errorf("%w: looking for GPUs, or listening to them, has not returned", ErrHung)
	}
	slices.Sort(hung)
	return fmt.Errorf("%w: calls for %s have not returned", ErrHung, strings.Join(hung, ", "))
}

// closeDriver closes what is open when nothing runs any more.
func (f *fleet) closeDriver() error {
	d := f.driver
	select {
	case l := <-f.looks:
		d = l.driver
	default:
	}
	var err error
	for _, d := range []driver{d, f.stale} {
		if d != nil {
			if closing := d.close(); !errors.Is(closing, errGone) {
				err = errors.Join(err, closing)
			}
		}
	}
	return err
}
