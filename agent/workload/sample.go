package workload

import (
	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

func (f *Feed) sample(e *sampler.Event) error {
	d, err := f.device(e)
	if err != nil {
		return err
	}
	if err := d.check(e); err != nil {
		return err
	}
	s := e.Sample
	covers := d.sampled && !s.Gap
	d.samples++
	f.batch, f.uses = f.batch[:0], f.uses[:0]
	clear(f.byOwner)
	length := e.Time - d.at
	if covers {
		r := meter.Activity(d.handle, d.at, e.Time,
			increase(d.smActive, s.SMActive, length), increase(d.energy, s.Energy, s.Energy), s.ProcessSM)
		if s.SharedServer {
			r = meter.SharedServer(r)
		}
		f.batch = append(f.batch, r)
	}
	for i := range s.Processes {
		f.process(d, &s.Processes[i], covers, length, s.ProcessSM)
	}
	for id, p := range d.processes {
		if p.sample != d.samples {
			delete(d.processes, id)
		}
	}
	for _, u := range f.uses {
		if u.smActive > 0 || u.memory > 0 {
			f.batch = append(f.batch, meter.Use(d.handle, u.owner, d.at, e.Time, min(u.smActive, length), u.memory))
		}
	}
	f.lane.RecordAll(f.batch)
	d.sampled, d.at, d.last = true, e.Time, e.Time
	d.smActive, d.energy = s.SMActive, s.Energy
	return nil
}

// check finds what is wrong with a sample before anything of it counts.
func (d *device) check(e *sampler.Event) error {
	s := e.Sample
	switch {
	case s == nil:
		return bad(e, "a sample is missing")
	case d.sampled && !s.Gap && e.Time <= d.at:
		return bad(e, "two samples at %d: the second must be later, or say that there is a gap", e.Time)
	case s.SMActive < 0 || s.Energy < 0:
		return bad(e, "counters of %d ns SM-active, %d µJ: they count up from 0", s.SMActive, s.Energy)
	case len(s.Processes) > MaxProcesses:
		return bad(e, "%d processes: want at most %d", len(s.Processes), MaxProcesses)
	}
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.SMActive < 0 || p.MemoryBytes < 0 || p.MemoryBytes > MaxMemoryBytes {
			return bad(e, "process %d: %d ns SM-active, %d bytes: want a counter from 0, and at most 64 TiB", p.PID, p.SMActive, p.MemoryBytes)
		}
	}
	return d.checkTwice(e)
}

// checkTwice finds a process that a sample has twice.
func (d *device) checkTwice(e *sampler.Event) error {
	ps := e.Sample.Processes
	twice := func(p *sampler.Process) error { return bad(e, "process %d (start %d) is there twice", p.PID, p.Start) }
	if len(ps) <= 16 {
		for i := range ps {
			for j := range i {
				if ps[i].PID == ps[j].PID && ps[i].Start == ps[j].Start {
					return twice(&ps[i])
				}
			}
		}
		return nil
	}
	seen := make(map[processID]struct{}, len(ps))
	for i := range ps {
		id := processID{ps[i].PID, ps[i].Start}
		if _, ok := seen[id]; ok {
			return twice(&ps[i])
		}
		seen[id] = struct{}{}
	}
	return nil
}

// process takes over one process's reading, and adds what it did in the
// interval, if the sample covers one, to its owner's use.
func (f *Feed) process(d *device, p *sampler.Process, covers bool, length int64, processSM bool) {
	id := processID{p.PID, p.Start}
	x := d.processes[id]
	active := int64(0)
	if x == nil {
		x = &process{}
		d.processes[id] = x
		if p.SMActive <= length { // it started within the interval
			active = p.SMActive
		}
	} else {
		active = increase(x.smActive, p.SMActive, length)
	}
	if !x.owner.Is(p.Owner) {
		x.owner = f.meter.Owner(p.Owner)
	}
	x.smActive, x.sample = p.SMActive, d.samples
	if !covers {
		return
	}
	if !processSM {
		active = 0
	}
	i, ok := f.byOwner[x.owner]
	if !ok {
		i = len(f.uses)
		f.byOwner[x.owner] = i
		f.uses = append(f.uses, ownerUse{owner: x.owner})
	}
	u := &f.uses[i]
	u.smActive = apportion.SaturatingAdd(u.smActive, active)
	u.memory = apportion.SaturatingAdd(u.memory, apportion.MulDiv(p.MemoryBytes, length, attribution.WindowNanos))
}

// increase is what a counter counted between two readings. One that went back
// started anew, and counted its value then, or most if that is less.
func increase(before, after, most int64) int64 {
	if after < before {
		return min(after, most)
	}
	return after - before
}
