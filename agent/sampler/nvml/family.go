package nvml

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// family is a GPU and the instances cut from it. What changes of it, changes
// at one instant, so that their shares always sum to one GPU.
type family struct {
	members map[string]*member // by UUID
	missing int64              // since when (the agent's clock) the driver lists it no more; 0: it does
	changed attribution.Second // the last in which a member went or was described anew
}

// member is a device that was added and not removed.
type member struct {
	*reader
	place
	added uint64             // its number
	hangs pace               // that were logged
	stop  context.CancelFunc // of the reader's goroutine
	done  chan struct{}      // it has ended; nil: there was none
}

// running reports whether the reader's goroutine has not ended.
func (m *member) running() bool {
	if m.done == nil {
		return false
	}
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// halt ends the reader's goroutine, sooner or later.
func (m *member) halt() {
	if m.stop != nil {
		m.stop()
	}
}

// await waits until the reader's goroutine has ended.
func (m *member) await() {
	if m.done != nil {
		<-m.done
	}
}

// settle makes a family what the driver says that it is. It is called again
// until nothing is left to do: readers are halted first, and may take long.
//
// A GPU is described anew from the next second on (as the meter has it), while
// an instance that goes still has the second in which it does. Instances that
// come therefore wait for the next second.
func (f *fleet) settle(ctx context.Context, fam *family, g *gpu) {
	fam.missing = 0
	want := make(map[string]*unit, len(g.units))
	for i := range g.units {
		want[g.units[i].uuid] = &g.units[i]
	}
	var going, changing []*member
	ready, moved := true, false
	for id, m := range fam.members {
		u := want[id]
		switch {
		case u == nil && g.complete:
			going = append(going, m)
		case u == nil:
			continue // not read for an error
		case u.facts != m.facts && (g.complete || u.remainder != m.remainder):
			changing = append(changing, m)
		default:
			moved = moved || m.place != u.place
			m.place = u.place
			continue
		}
		m.halt()
		ready = ready && !m.running()
	}
	if !ready {
		return
	}
	at := f.now()
	if len(going)+len(changing) > 0 {
		fam.changed = attribution.SecondOf(at)
	}
	for _, m := range going {
		f.remove(fam, m, at)
	}
	for _, m := range changing {
		u := want[m.uuid]
		m.describe(u.facts, at)
		m.place, moved = u.place, true
	}
	for i := range g.units {
		u := &g.units[i]
		if fam.members[u.uuid] != nil {
			continue
		}
		if attribution.SecondOf(at) <= fam.changed {
			f.boundary.Reset(time.Duration((fam.changed + 1).Nanos() - at))
			continue
		}
		f.add(fam, u, at)
		moved = true
	}
	if moved {
		f.publish()
	}
	for id, m := range fam.members {
		f.resume(ctx, m, want[id])
	}
}

// add begins a device at a time.
func (f *fleet) add(fam *family, u *unit, at int64) {
	f.added++
	st := &deviceStats{id: u.uuid, failed: counter{sum: &f.counts.failed}}
	m := &member{added: f.added, place: u.place, reader: &reader{
		gpuInstance: u.gpuInstance, opts: &f.opts, now: f.now, wall: f.wall,
		producer: f.producer(), log: f.opts.Log, stagger: u.stagger, stats: st, rescan: f.rescanSoon,
		procs: processes{device: u.uuid, owners: f.opts.Owners, byPID: make(map[uint32]*process), dropped: &f.counts.dropped},
	}}
	m.describe(u.facts, at)
	fam.members[u.uuid] = m
	f.opts.Log.Info("device", "id", u.uuid, "model", u.model, "profile", u.profile, "gpm", u.gpm, "energy", u.energy)
}

// resume runs a device's reader, if it does not run, or offers it the newer
// handle.
func (f *fleet) resume(ctx context.Context, m *member, u *unit) {
	switch {
	case u == nil:
	case m.running():
		m.fresh.Store(&u.handle)
	default:
		if m.handle != u.handle {
			m.dropHandle()
		}
		m.begin(u.handle, u.gpm)
		ctx, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		m.stop, m.done = stop, done
		f.wg.Go(func() {
			defer f.nudge()
			defer close(done)
			m.run(ctx)
		})
	}
}

// remove ends a device whose reader does not run.
func (f *fleet) remove(fam *family, m *member, at int64) {
	delete(fam.members, m.uuid)
	f.publish()
	m.yield(&sampler.Event{Kind: sampler.DeviceRemoved, Time: max(at, m.yielded)})
	m.close()
	f.opts.Log.Info("the device is gone", "id", m.uuid, "profile", m.profile)
}

// missing ends the families that the driver has not listed for long. One that
// is not listed may be lost, and come back: its readers go on trying. A list
// with an error says nothing of what is gone.
func (f *fleet) missing() {
	now := f.now()
	for id, fam := range f.families {
		listed := slices.ContainsFunc(f.found.gpus, func(g gpu) bool { return g.units[0].uuid == id })
		switch {
		case listed || (f.found.err != nil && fam.missing == 0):
		case fam.missing == 0:
			fam.missing = now
			f.opts.Log.Error("the driver no longer lists a GPU: it is unobserved", "device", id, "removed_after", goneAfter)
		case f.found.err == nil && now-fam.missing >= int64(goneAfter):
			if f.disband(fam, now) {
				delete(f.families, id)
			}
		}
	}
}

// disband ends a whole family at once, the GPU last; false if a reader still
// runs.
func (f *fleet) disband(fam *family, at int64) bool {
	var going []*member
	running := false
	for _, m := range fam.members {
		m.halt()
		running = running || m.running()
		going = append(going, m)
	}
	if running {
		return false
	}
	slices.SortFunc(going, func(a, b *member) int { return -cmp.Compare(a.parent, b.parent) })
	for _, m := range going {
		f.remove(fam, m, at)
	}
	return true
}

// publish puts the devices as they are now where Units and Stats find them.
func (f *fleet) publish() {
	units := []sampler.Unit{}
	stats := []*deviceStats{}
	for _, fam := range f.families {
		for id, m := range fam.members {
			units = append(units, sampler.Unit{
				ID: id, Parent: m.parent, Index: m.index, Minor: m.minor,
				GPUInstance: m.place.gpuInstance, ComputeInstance: m.computeInstance, Placement: m.placement,
				Profile: m.profile, Remainder: m.remainder, Added: m.added,
			})
			stats = append(stats, m.stats)
		}
	}
	slices.SortFunc(units, func(a, b sampler.Unit) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.GPUInstance, b.GPUInstance),
			cmp.Compare(a.ComputeInstance, b.ComputeInstance), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(stats, func(a, b *deviceStats) int { return cmp.Compare(a.id, b.id) })
	f.units.Store(&units)
	select {
	case f.changed <- struct{}{}:
	default: // its reader is to look already
	}
	f.counts.devices.Store(&stats)
}
