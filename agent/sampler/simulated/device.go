package simulated

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// device is a GPU or a part of one.
type device struct {
	facts     *attribution.Device
	seed      uint64
	number    int // on its node
	seats     []*seat
	processes []*process // of all seats, by pid and start
	idle, top int64      // watts

	at         int64 // of the last sample
	sm, energy int64
	blind      int64 // ticks until it is seen again
}

// seat is a place on a device that one app's pods take in turn.
type seat struct {
	app      *app
	seed     uint64
	number   int
	replicas int64 // held; 0: a process without a holding

	pod   *pod  // nil: between two pods
	until int64 // tick at which that changes
	count int   // pods so far

	demand int64 // thousandths asked for in this tick
	active int64 // ns got
	spare  int64 // ns that did not yet make a whole request
}

// pod is one life of an app in a seat.
type pod struct {
	owner     *attribution.Owner
	born      int64 // tick
	processes int
}

type process struct {
	pid    uint32
	start  uint64
	seat   *seat
	owner  *attribution.Owner
	index  int // within its pod
	sm     int64
	memory int64
}

// begin is a device's first instant: it is there, pods sit on it, and it is
// sampled once. Pods are at different ages of their lives.
func (s *Script) begin(d *device) {
	d.at = s.now()
	added := s.event(d, sampler.DeviceAdded, d.at)
	added.Device = d.facts
	s.events = append(s.events, added)
	for _, x := range d.seats {
		s.enter(d, x, d.at)
		if x.app.life > 0 {
			x.until = 1 + below(x.app.life, x.seed, 99)
		}
	}
	s.sample(d, d.at, false)
}

func (s *Script) event(d *device, k sampler.Kind, at int64) sampler.Event {
	return sampler.Event{Kind: k, Time: at, Node: d.facts.Node, DeviceID: d.facts.ID}
}

// step is a device's next tick: what was done since the last, the sample that
// says so, and then who leaves and who enters.
func (s *Script) step(d *device) {
	at := s.now() + below(2*jitter, d.seed, uint64(s.tick)) - jitter
	if s.last() {
		at = s.End()
	}
	past := at - d.at
	gap := d.blind > 0
	if !gap {
		d.blind = s.blindness(d)
	}
	if d.blind > 0 {
		if d.blind--; (d.blind > 0 || !gap) && !s.last() {
			return // the device is not seen, and nobody comes or goes
		}
	}
	s.truth.deviceTime += past
	if gap {
		s.truth.unobserved += past
	} else {
		s.work(d, past)
	}
	s.sample(d, at, gap)
	if !s.last() {
		s.turnover(d, at)
	}
}

// blindness is for how many ticks the device is not seen from this one on: in
// every fourth hour it happens once, for 10 to 59 s. 0 is none.
func (s *Script) blindness(d *device) int64 {
	if s.opt.Profile == Busy {
		return 0
	}
	hour := uint64(s.tick / 3600)
	if below(4, d.seed^0xb11d, hour) != 0 || s.tick%3600 != 60+below(3500, d.seed^0x1d, hour) {
		return 0
	}
	return 10 + below(50, d.seed^0xd1, hour)
}

// work lets the seats do what they ask for in past ns, as far as the device
// goes, and counts it.
func (s *Script) work(d *device, past int64) {
	asked := int64(0)
	for _, x := range d.seats {
		x.demand, x.active = 0, 0
		if x.pod != nil {
			x.demand = min(x.app.demand(x, s.tick, s.opt.Start+s.tick), whole)
		}
		asked += x.demand
	}
	got := int64(0)
	for _, x := range d.seats {
		x.active = past / max(whole, asked) * x.demand
		got += x.active
		if x.active > 0 {
			s.truth.used[x.app] += x.active
		}
		if x.pod != nil && x.app.kind == server {
			s.serve(d, x)
		}
	}
	for _, p := range d.processes {
		n, i := int64(p.seat.pod.processes), int64(p.index)
		p.sm += p.seat.active*(i+1)/n - p.seat.active*i/n
	}
	d.sm += got
	if d.facts.Sensors&attribution.SensorEnergy != 0 {
		// Watts are microjoules a microsecond.
		d.energy += d.idle*(past/1000) + (d.top-d.idle)*(got/1000)
	}
}

// sample adds a reading. MIG instances tell nothing about their processes'
// activity, as on real GPUs.
func (s *Script) sample(d *device, at int64, gap bool) {
	first := len(s.processes)
	processSM := d.facts.Parent == ""
	for _, p := range d.processes {
		x := sampler.Process{PID: p.pid, Start: p.start, Owner: p.owner, MemoryBytes: p.memory}
		if processSM {
			x.SMActive = p.sm
		}
		s.processes = append(s.processes, x)
	}
	s.samples = append(s.samples, sampler.Sample{
		Gap: gap, SMActive: d.sm, Energy: d.energy, ProcessSM: processSM,
		Processes: s.processes[first:len(s.processes):len(s.processes)],
	})
	e := s.event(d, sampler.Sampled, at)
	e.Sample = &s.samples[len(s.samples)-1]
	s.events = append(s.events, e)
	d.at = at
}

// turnover lets pods whose time has come leave, and others enter.
func (s *Script) turnover(d *device, at int64) {
	for _, x := range d.seats {
		if x.app.life == 0 || s.tick < x.until {
			continue
		}
		if x.pod == nil {
			s.enter(d, x, at)
			x.until = s.tick + 1 + below(x.app.life, x.seed, uint64(2*x.count))
			continue
		}
		if x.replicas > 0 {
			e := s.event(d, sampler.Released, at)
			e.Owner = x.pod.owner
			s.events = append(s.events, e)
		}
		x.pod = nil
		x.until = s.tick + 1 + below(x.app.pause, x.seed, uint64(2*x.count+1))
		d.processes = slices.DeleteFunc(d.processes, func(p *process) bool { return p.seat == x })
	}
}

// enter starts an app's next pod in a seat.
func (s *Script) enter(d *device, x *seat, at int64) {
	x.count++
	a := x.app
	// Pids are few and used again, as on a node with much coming and going: the
	// start time tells their processes apart.
	pid := uint32(10_000*(d.number+1) + 1000*x.number + 10*(x.count%3))
	x.pod = &pod{owner: a.owner(d, x, pid), born: s.tick, processes: a.processes}
	x.spare = 0
	for i := range a.processes {
		d.processes = append(d.processes, &process{
			pid: pid + uint32(i), start: uint64(at), seat: x, owner: x.pod.owner, index: i, memory: a.memory / int64(a.processes),
		})
	}
	slices.SortFunc(d.processes, func(p, q *process) int { return cmp.Compare(p.pid, q.pid) })
	if x.replicas > 0 {
		e := s.event(d, sampler.Held, at)
		e.Owner, e.Replicas = x.pod.owner, x.replicas
		s.events = append(s.events, e)
	}
}

// owner is who answers for a new pod or process.
func (a *app) owner(d *device, x *seat, pid uint32) *attribution.Owner {
	o := &attribution.Owner{Cluster: d.facts.Cluster, Node: d.facts.Node}
	switch a.kind {
	case hostProcess:
		o.Kind, o.PID, o.Command = attribution.HostProcess, pid, a.name
		return o
	case unknownProcess:
		o.Kind, o.PID, o.Command = attribution.UnknownProcess, pid, a.name
		return o
	case server, trainer, notebook, shortJobs:
	}
	id := draw(x.seed, uint64(x.count)<<8)
	o.Kind = attribution.Container
	o.Namespace, o.Container = a.namespace, "main"
	o.ControllerKind, o.Controller = a.controllerKind, a.name
	o.Pod = fmt.Sprintf("%s-%08x", a.name, uint32(id))
	o.PodUID = uuid(id, draw(id, 1))
	o.Labels = a.labels
	return o
}

func uuid(a, b uint64) string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", uint32(a>>32), uint16(a>>16), uint16(a), uint16(b>>48), b&(1<<48-1))
}
