package replay

import (
	"cmp"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// rules holds a recording's declarations and the state of its devices, and
// finds fault with events that don't fit them. Reader and Writer share it, so
// what one writes the other reads.
type rules struct {
	header  Header
	nodes   map[string]*node
	devices map[string]*device
	owners  map[attribution.Fingerprint]struct{}
	reasons map[attribution.Measure]struct{}
	now     int64
	summary Summary
}

type node struct {
	cluster string
	devices int // that exist now
}

// device is what is known of a device after the events so far.
type device struct {
	facts   *attribution.Device // nil: it existed and was removed
	node    string
	holders []*attribution.Owner

	sampled    bool
	at         int64
	sm, energy int64
	processes  []sampler.Process // own copy
}

func newRules(h Header) *rules {
	return &rules{
		header:  h,
		nodes:   make(map[string]*node),
		devices: make(map[string]*device),
		owners:  make(map[attribution.Fingerprint]struct{}),
		reasons: make(map[attribution.Measure]struct{}),
		now:     h.Start,
		summary: Summary{Header: h},
	}
}

func (r *rules) node(n sampler.Node) *fault {
	switch {
	case n.Name == "":
		return faultf(`name it: {"kind":"node","node":"…"}`, "a node without a name")
	case r.nodes[n.Name] != nil:
		return faultf("declare each node once; names are unique in a recording", "node %q is declared twice", n.Name)
	case len(r.nodes) == maxNodes:
		return faultf("split the recording by nodes", "more than %d nodes", maxNodes)
	}
	r.nodes[n.Name] = &node{cluster: n.Cluster}
	r.summary.Nodes++
	return nil
}

// owner admits an owner's declaration.
func (r *rules) owner(o *attribution.Owner) *fault {
	n := r.nodes[o.Node]
	switch {
	case n == nil:
		return faultf("declare the node behind the header", "owner on unknown node %q", o.Node)
	case n.cluster != o.Cluster:
		return faultf("an owner is in its node's cluster", "owner in cluster %q on node %q of cluster %q", o.Cluster, o.Node, n.cluster)
	case len(r.owners) == maxOwners:
		return faultf("split the recording by time", "more than %d owners", maxOwners)
	}
	switch o.Kind {
	case attribution.Container:
		if o.Pod == "" || o.Container == "" || o.PID != 0 || o.Command != "" {
			return faultf("a container has a pod and a container name, and no pid or command", "malformed container owner")
		}
	case attribution.HostProcess, attribution.UnknownProcess:
		if o.PID == 0 || o.Namespace+o.Pod+o.PodUID+o.Container+o.ControllerKind+o.Controller != "" {
			return faultf("a process owner has a pid and a command, and no pod", "malformed process owner")
		}
	case attribution.Gateway:
		if o.PID != 0 || o.Command+o.Namespace+o.Pod+o.PodUID+o.Container != "" {
			return faultf("a gateway has a controller, its backend's address, and no pod or process", "malformed gateway owner")
		}
	default:
		return faultf("it is one of container, host-process, unknown-process, gateway", "owner of type %q", o.Kind)
	}
	if f := checkLabels(o.Labels); f != nil {
		return f
	}
	id := o.Fingerprint()
	if _, there := r.owners[id]; there {
		return faultf("declare an owner once and refer to it", "the same owner is declared twice")
	}
	r.owners[id] = struct{}{}
	r.summary.Owners++
	return nil
}

func checkLabels(ls attribution.Labels) *fault {
	if len(ls) > maxLabels {
		return faultf("keep the labels that rules may ask for", "more than %d labels", maxLabels)
	}
	for i, l := range ls {
		if l.Key == "" || (i > 0 && ls[i-1].Key >= l.Key) {
			return faultf("give each label once", "label key %q is empty, repeated or out of order", l.Key)
		}
	}
	return nil
}

// event admits the next event. Its owners have been declared, and equal owners
// are the same pointer.
func (r *rules) event(e *sampler.Event) *fault {
	switch {
	case e.Time < r.header.Start || e.Time > r.header.End:
		return faultf("correct the header's start and end", "time %s is outside the recording's %s to %s", clock(e.Time), clock(r.header.Start), clock(r.header.End))
	case e.Time < r.now:
		return faultf("sort the lines by t", "time goes back from %s to %s", clock(r.now), clock(e.Time))
	}
	var f *fault
	switch e.Kind {
	case sampler.DeviceAdded:
		f = r.added(e)
	case sampler.DeviceRemoved:
		f = r.removed(e)
	case sampler.Held:
		f = r.held(e)
	case sampler.Released:
		f = r.released(e)
	case sampler.Sampled:
		f = r.sampled(e)
	case sampler.Tallied:
		f = r.tallied(e)
	default:
		f = faultf("use the kinds that package sampler names", "event of kind %d", e.Kind)
	}
	r.now = e.Time
	return f
}

func (r *rules) added(e *sampler.Event) *fault {
	x := e.Device
	n := r.nodes[x.Node]
	was := r.devices[x.ID]
	switch {
	case x.ID == "" || x.ID != e.DeviceID || x.Node != e.Node:
		return faultf("a device has an id, and its event names the same device and node", "malformed device %q", x.ID)
	case n == nil:
		return faultf("declare the node behind the header", "device %s on unknown node %q", x.ID, x.Node)
	case n.cluster != x.Cluster:
		return faultf("a device is in its node's cluster", "device %s in cluster %q on node %q of cluster %q", x.ID, x.Cluster, x.Node, n.cluster)
	case was != nil && was.facts != nil:
		return faultf("end it with device_end first", "device %s is there already", x.ID)
	case n.devices == maxDevices:
		return faultf("no machine has so many", "more than %d devices on node %q", maxDevices, x.Node)
	case x.MemoryBytes < 0 || x.MemoryBytes > maxMemory:
		return faultf("memory_bytes is the device's memory, 0 where unknown", "device %s with %d bytes of memory", x.ID, x.MemoryBytes)
	case x.Sensors&^(attribution.SensorEnergy|attribution.SensorMemory) != 0:
		return faultf("the sensors are energy and memory", "device %s with unknown sensors", x.ID)
	}
	if f := checkLabels(x.Labels); f != nil {
		return f
	}
	if f := checkShare(x); f != nil {
		return f
	}
	n.devices++
	r.summary.Devices++
	r.devices[x.ID] = &device{facts: x, node: x.Node}
	return nil
}

// checkShare finds fault with a part of a GPU that does not say which part.
func checkShare(x *attribution.Device) *fault {
	s := x.Share
	part := x.Parent != "" || x.Remainder
	switch {
	case !part && (s != attribution.MIGShare{} || x.Profile != ""):
		return faultf("a MIG instance names its parent, and the rest of a GPU is its remainder", "device %s is a part of nothing", x.ID)
	case x.Parent != "" && x.Remainder:
		return faultf("a remainder is the GPU itself and has no parent", "device %s is both an instance and a remainder", x.ID)
	case part && (s.ComputeOf < 1 || s.MemoryOf < 1 || s.Compute < 0 || s.Memory < 0 ||
		s.Compute > s.ComputeOf || s.Memory > s.MemoryOf || s.Compute+s.Memory == 0):
		return faultf("share is [compute slices, of, memory slices, of]", "device %s with a share of %d/%d compute and %d/%d memory", x.ID, s.Compute, s.ComputeOf, s.Memory, s.MemoryOf)
	}
	return nil
}

// device finds the device that an event is about, and fills in its node.
func (r *rules) device(e *sampler.Event) (*device, *fault) {
	x := r.devices[e.DeviceID]
	switch {
	case x == nil:
		return nil, faultf("declare it with a device line first", "device %q is not declared", e.DeviceID)
	case x.facts == nil:
		return nil, faultf("declare it again with a device line if it came back", "device %q has been removed", e.DeviceID)
	case e.Node != x.node:
		return nil, faultf("an event names its device's node", "device %q is not on node %q", e.DeviceID, e.Node)
	}
	return x, nil
}

func (r *rules) removed(e *sampler.Event) *fault {
	x, f := r.device(e)
	if f != nil {
		return f
	}
	if len(x.holders) > 0 {
		return faultf("release it first", "device %s is removed while %s holds it", e.DeviceID, name(x.holders[0]))
	}
	r.nodes[x.node].devices--
	*x = device{}
	return nil
}

func (r *rules) held(e *sampler.Event) *fault {
	x, f := r.device(e)
	switch {
	case f != nil:
		return f
	case e.Owner.Kind != attribution.Container || e.Owner.Node != x.node:
		return faultf("containers hold devices of their node", "%s cannot hold device %s of node %q", name(e.Owner), e.DeviceID, x.node)
	case e.Replicas < 1 || e.Replicas > maxReplicas:
		return faultf("at least one replica is held", "%d replicas", e.Replicas)
	case slices.Contains(x.holders, e.Owner):
		return faultf("release it first, or hold more replicas at once", "%s holds device %s already", name(e.Owner), e.DeviceID)
	}
	x.holders = append(x.holders, e.Owner)
	r.summary.Holdings++
	return nil
}

func (r *rules) released(e *sampler.Event) *fault {
	x, f := r.device(e)
	if f != nil {
		return f
	}
	i := slices.Index(x.holders, e.Owner)
	if i < 0 {
		return faultf("release what a hold line gave", "%s does not hold device %s", name(e.Owner), e.DeviceID)
	}
	x.holders = slices.Delete(x.holders, i, i+1)
	return nil
}

func (r *rules) sampled(e *sampler.Event) *fault {
	x, f := r.device(e)
	if f != nil {
		return f
	}
	if f := r.follows(x, e); f != nil {
		return f
	}
	if f := checkProcesses(x, e.Sample); f != nil {
		return f
	}
	x.sampled, x.at, x.sm, x.energy = true, e.Time, e.Sample.SMActive, e.Sample.Energy
	x.processes = append(x.processes[:0], e.Sample.Processes...)
	r.summary.Samples++
	if e.Sample.Gap {
		r.summary.Gaps++
	}
	return nil
}

// follows finds fault with a sample as the successor of the one before.
func (r *rules) follows(x *device, e *sampler.Event) *fault {
	s := e.Sample
	if s.Energy != 0 && x.facts.Sensors&attribution.SensorEnergy == 0 {
		return faultf(`declare it: "sensors":["energy"]`, "energy of device %s, which has no such sensor", e.DeviceID)
	}
	if s.SMActive < 0 || s.Energy < 0 {
		return faultf("counters start at 0", "negative counter of device %s", e.DeviceID)
	}
	if !x.sampled {
		return nil
	}
	past := e.Time - x.at
	if past <= 0 {
		return faultf("keep one of them", "second sample of device %s at %s", e.DeviceID, clock(e.Time))
	}
	if s.Gap {
		return nil
	}
	grown, energy := s.SMActive-x.sm, s.Energy-x.energy
	switch {
	case past > r.header.MaxInterval:
		return faultf(`mark it "gap":true, or raise max_interval_s`, "%s s since the last sample of device %s, more than max_interval_s", clock(past), e.DeviceID)
	case grown < 0 || energy < 0:
		return faultf(`mark the sample "gap":true if counters started anew`, "a counter of device %s falls", e.DeviceID)
	case grown > past:
		return faultf("sm_active_ns counts ns, at most the time that passed", "device %s was active %d ns in %d ns", e.DeviceID, grown, past)
	case energy/(past/attribution.WindowNanos+1) > maxPower:
		return faultf("energy_uj counts microjoules", "device %s took %d µJ in %s s", e.DeviceID, energy, clock(past))
	}
	return nil
}

func checkProcesses(x *device, s *sampler.Sample) *fault {
	if len(s.Processes) > maxProcesses {
		return faultf("no device has so many", "more than %d processes", maxProcesses)
	}
	before := x.processes
	var memory int64
	for i := range s.Processes {
		p := &s.Processes[i]
		for len(before) > 0 && compareProcesses(&before[0], p) < 0 {
			before = before[1:]
		}
		switch {
		case p.PID == 0:
			return faultf("give its pid", "process without a pid")
		case i > 0 && compareProcesses(&s.Processes[i-1], p) >= 0:
			return faultf("order processes by pid and start, each once", "process %d is there twice or out of order", p.PID)
		case p.Owner.Kind == attribution.Gateway:
			return faultf("a gateway tallies, and uses no device", "process %d belongs to %s", p.PID, name(p.Owner))
		case p.Owner.Node != x.node:
			return faultf("a process runs on its device's node", "process %d belongs to %s of node %q", p.PID, name(p.Owner), p.Owner.Node)
		case p.SMActive < 0 || (p.SMActive != 0 && !s.ProcessSM):
			return faultf(`say "process_sm":true if it was measured`, "process %d with SM activity", p.PID)
		case p.MemoryBytes < 0 || p.MemoryBytes > maxMemory:
			return faultf("memory_bytes counts bytes", "process %d with %d bytes", p.PID, p.MemoryBytes)
		case p.MemoryBytes != 0 && x.facts.Sensors&attribution.SensorMemory == 0:
			return faultf(`declare it: "sensors":["memory"]`, "memory of process %d on a device without that sensor", p.PID)
		case !s.Gap && s.ProcessSM && len(before) > 0 && compareProcesses(&before[0], p) == 0 && p.SMActive < before[0].SMActive:
			return faultf("a new process has another start", "SM activity of process %d falls", p.PID)
		}
		memory += p.MemoryBytes
	}
	if memory > 4*maxMemory {
		return faultf("memory_bytes counts bytes", "processes with %d bytes on one device", memory)
	}
	return nil
}

func compareProcesses(a, b *sampler.Process) int {
	return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.Start, b.Start))
}

func (r *rules) tallied(e *sampler.Event) *fault {
	t := e.Tally
	switch {
	case t.Owner.Node != e.Node:
		return faultf("a tally names its owner's node", "tally of %s on node %q", name(t.Owner), e.Node)
	case t.Seconds < 1 || t.Seconds > r.header.MaxInterval/attribution.WindowNanos:
		return faultf("it is at least 1 and at most max_interval_s, so that what it spreads over is still open", "tally over %d s", t.Seconds)
	case e.Time-t.Seconds*attribution.WindowNanos < r.header.Start:
		return faultf("correct the header's start", "tally begins before the recording")
	case len(t.Values) == 0:
		return faultf(`write a 0 for "measured: none"`, "tally that counts nothing")
	}
	for i := range t.Values {
		v := &t.Values[i]
		where, limit := measureOf(v.Measure)
		switch {
		case where == nowhere:
			return faultf("the measures are those of package attribution", "unknown measure %q", v.Measure)
		case v.Value < 0 || v.Value > limit:
			return faultf("correct the count", "%d of measure %q", v.Value, v.Measure)
		case i > 0 && compareMeasures(t.Values[i-1].Measure, v.Measure) >= 0:
			return faultf("give each measure once", "measure %q is there twice or out of order", v.Measure)
		}
		if _, known := r.reasons[v.Measure]; where == failures && !known {
			if len(r.reasons) == maxReasons {
				return faultf("a reason is a class such as timeout, not a message", "more than %d reasons for failure", maxReasons)
			}
			r.reasons[v.Measure] = struct{}{}
		}
	}
	r.summary.Tallies++
	return nil
}

// name is an owner as an error shows it.
func name(o *attribution.Owner) string {
	switch o.Kind {
	case attribution.Container:
		return o.Namespace + "/" + o.Pod + "/" + o.Container
	case attribution.Gateway:
		return "gateway " + o.Node + " " + o.Controller
	case attribution.Nobody, attribution.HostProcess, attribution.UnknownProcess:
	}
	return o.Kind.String() + " " + decimal(uint64(o.PID), 0) + " " + o.Command
}

// clock is a time or duration as recordings write it.
func clock(ns int64) string { return decimal(uint64(ns), 9) }
