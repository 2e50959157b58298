package replay

import (
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// The keys of the lines, the needed ones first; the number is how many.
var (
	nodeKeys    = keys{"node", "cluster"}                                                                                                                                                       // 1
	ownerKeys   = keys{"ref", "node", "type", "namespace", "pod", "uid", "container", "controller_kind", "controller", "pid", "command", "labels"}                                              // 2
	deviceKeys  = keys{"t", "device", "node", "model", "capacity_type", "memory_bytes", "labels", "parent", "profile", "share", "remainder", "sensors"}                                         // 4
	endedKeys   = keys{"t", "device"}                                                                                                                                                           // 2
	holdKeys    = keys{"t", "device", "owner", "replicas"}                                                                                                                                      // 3
	sampleKeys  = keys{"t", "device", "sm_active_ns", "energy_uj", "gap", "process_sm", "processes"}                                                                                            // 3
	processKeys = keys{"pid", "start", "owner", "sm_active_ns", "memory_bytes"}                                                                                                                 // 3
	tallyKeys   = keys{"t", "owner", "seconds", "model", "tenant", "tier", "success", "failures", "tokens", "latency", "queue", "first_token", "running", "kv_cache", "observed", "checkpoint"} // 3
	endKeys     = keys{"records"}                                                                                                                                                               // 1
)

var (
	sensorNames = keys{"energy", "memory"} // bit i is sensor i
	ownerTypes  = keys{"", "container", "host-process", "unknown-process", "gateway"}
)

const maxInterned = 1 << 16

// decoder turns lines into events. What events point to is allocated in slabs
// and never reused: players keep it.
type decoder struct {
	scanner
	rules   *rules
	owners  map[string]*attribution.Owner
	strings map[string]string // short texts that recur

	samples   []sampler.Sample
	tallies   []sampler.Tally
	processes []sampler.Process
	values    []sampler.Value
	scratch   struct {
		processes []sampler.Process
		values    []sampler.Value
	}
}

// lineKind is what a line turned out to be.
type lineKind uint8

const (
	lineBad lineKind = iota
	lineDeclares
	lineEvent
	lineEnd
)

// decode reads a line behind the header and the nodes. For an event it fills
// e; for the end it fills records.
func (d *decoder) decode(line []byte, e *sampler.Event, records *int64) lineKind {
	d.reset(line)
	kind := lineEvent
	*e = sampler.Event{}
	switch k := d.kind(); k {
	case "sample":
		d.sample(e)
	case "tally":
		d.tally(e)
	case "hold":
		d.hold(e, sampler.Held)
	case "release":
		d.hold(e, sampler.Released)
	case "owner":
		d.owner()
		kind = lineDeclares
	case "device":
		d.device(e)
	case "device_end":
		d.deviceEnd(e)
	case "end":
		*records = d.endLine()
		kind = lineEnd
	case "node", "recording":
		d.fail("the header comes first, then the nodes, then everything else", "a %s line in the middle", k)
	default:
		d.fail("the kinds are node, owner, device, device_end, hold, release, sample, tally, end", "unknown kind %q", k)
	}
	if d.bad != nil {
		return lineBad
	}
	return kind
}

// kind opens the line's object and reads its first entry.
func (s *scanner) kind() string {
	s.open('{')
	if !s.more('}') {
		s.malformed(`"kind"`)
		return ""
	}
	if k := s.bytes(); s.bad == nil && string(k) != "kind" {
		s.fail(`each line begins {"kind":…`, "the first key is %q", k)
	}
	if s.bad == nil {
		s.take(':')
	}
	if s.bad != nil {
		return ""
	}
	k := s.bytes()
	for _, known := range [...]string{"sample", "tally", "owner", "hold", "release", "device", "device_end", "node", "recording", "end"} {
		if string(k) == known {
			return known // without a copy
		}
	}
	return string(k)
}

// intern is a text without a copy if it occurred before.
func (d *decoder) intern() string { return d.known(d.bytes()) }

func (d *decoder) known(b []byte) string {
	if s, ok := d.strings[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(d.strings) < maxInterned && len(s) <= 64 {
		d.strings[s] = s
	}
	return s
}

// deviceID reads a device's id and fills in its node where it is declared;
// rules finds fault where it is not.
func (d *decoder) deviceID(e *sampler.Event) {
	id := d.bytes()
	if x := d.rules.devices[string(id)]; x != nil && x.facts != nil {
		e.DeviceID, e.Node = x.facts.ID, x.node
		return
	}
	e.DeviceID = string(id)
}

func (d *decoder) ownerRef() *attribution.Owner {
	ref := d.bytes()
	o := d.owners[string(ref)]
	if o == nil {
		d.fail("declare it with an owner line first", "owner %q is not declared", ref)
	}
	return o
}

func (d *decoder) nodeLine() (n sampler.Node) {
	var seen uint32
	for d.more('}') {
		switch d.key(nodeKeys, &seen) {
		case 0:
			n.Name = d.text()
		case 1:
			n.Cluster = d.text()
		}
	}
	d.end()
	d.need(nodeKeys, seen, 1)
	return n
}

func (d *decoder) owner() {
	o := &attribution.Owner{Kind: attribution.Container}
	var ref string
	var seen uint32
	for d.more('}') {
		switch d.key(ownerKeys, &seen) {
		case 0:
			ref = d.text()
		case 1:
			o.Node = d.intern()
		case 2:
			o.Kind = attribution.OwnerKind(d.oneOf(ownerTypes))
		case 3:
			o.Namespace = d.intern()
		case 4:
			o.Pod = d.text()
		case 5:
			o.PodUID = d.text()
		case 6:
			o.Container = d.intern()
		case 7:
			o.ControllerKind = d.intern()
		case 8:
			o.Controller = d.intern()
		case 9:
			o.PID = uint32(d.int(1<<32 - 1))
		case 10:
			o.Command = d.intern()
		case 11:
			o.Labels = d.labels()
		}
	}
	d.end()
	d.need(ownerKeys, seen, 2)
	if d.bad != nil {
		return
	}
	if n := d.rules.nodes[o.Node]; n != nil {
		o.Cluster = n.cluster
	}
	if ref == "" || d.owners[ref] != nil {
		d.fail("give each owner a short ref of its own", "owner ref %q is empty or declared twice", ref)
	} else if f := d.rules.owner(o); f != nil {
		d.bad = f
	} else {
		d.owners[ref] = o
	}
}

// oneOf reads a text that is one of the known ones, and returns its index.
func (s *scanner) oneOf(known keys) int {
	b := s.bytes()
	i := slices.Index(known, string(b))
	if i < 0 || len(b) == 0 {
		s.fail("it is one of "+known.String(), "unknown value %q", b)
	}
	return i
}

func (d *decoder) device(e *sampler.Event) {
	x := &attribution.Device{}
	e.Kind, e.Device = sampler.DeviceAdded, x
	var seen uint32
	for d.more('}') {
		switch d.key(deviceKeys, &seen) {
		case 0:
			e.Time = d.time()
		case 1:
			x.ID = d.text()
		case 2:
			x.Node = d.intern()
		case 3:
			x.Model = d.intern()
		case 4:
			x.CapacityType = d.intern()
		case 5:
			x.MemoryBytes = d.int(maxMemory)
		case 6:
			x.Labels = d.labels()
		case 7:
			x.Parent = d.text()
		case 8:
			x.Profile = d.intern()
		case 9:
			x.Share = d.share()
		case 10:
			x.Remainder = d.bool()
		case 11:
			for d.open('['); d.more(']'); {
				if i := d.oneOf(sensorNames); i >= 0 {
					x.Sensors |= 1 << i
				}
			}
		}
	}
	d.end()
	d.need(deviceKeys, seen, 4)
	e.DeviceID, e.Node = x.ID, x.Node
	if n := d.rules.nodes[x.Node]; n != nil {
		x.Cluster = n.cluster
	}
}

func (s *scanner) share() (m attribution.MIGShare) {
	parts := [...]*int32{&m.Compute, &m.ComputeOf, &m.Memory, &m.MemoryOf}
	n := 0
	for s.open('['); s.more(']') && n < len(parts); n++ {
		*parts[n] = int32(s.int(1024))
	}
	if n < len(parts) || s.line[s.at-1] != ']' {
		s.fail("share is [compute slices, of, memory slices, of]", "malformed share")
	}
	return m
}

func (d *decoder) deviceEnd(e *sampler.Event) {
	e.Kind = sampler.DeviceRemoved
	var seen uint32
	for d.more('}') {
		switch d.key(endedKeys, &seen) {
		case 0:
			e.Time = d.time()
		case 1:
			d.deviceID(e)
		}
	}
	d.end()
	d.need(endedKeys, seen, 2)
}

func (d *decoder) hold(e *sampler.Event, kind sampler.Kind) {
	e.Kind = kind
	ks := holdKeys
	if kind == sampler.Released {
		ks = holdKeys[:3]
	} else {
		e.Replicas = 1
	}
	var seen uint32
	for d.more('}') {
		switch d.key(ks, &seen) {
		case 0:
			e.Time = d.time()
		case 1:
			d.deviceID(e)
		case 2:
			e.Owner = d.ownerRef()
		case 3:
			e.Replicas = d.int(maxReplicas)
		}
	}
	d.end()
	d.need(ks, seen, 3)
}

func (d *decoder) endLine() (records int64) {
	var seen uint32
	for d.more('}') {
		if d.key(endKeys, &seen) == 0 {
			records = d.int(maxTime)
		}
	}
	d.end()
	d.need(endKeys, seen, 1)
	return records
}

// one is a new zero T from a slab.
func one[T any](slab *[]T) *T {
	if len(*slab) == cap(*slab) {
		*slab = make([]T, 0, 64)
	}
	*slab = (*slab)[:len(*slab)+1]
	return &(*slab)[len(*slab)-1]
}

// keep copies xs into a slab; nobody can append into what follows it.
func keep[T any](slab *[]T, xs []T) []T {
	if len(xs) == 0 {
		return nil
	}
	if cap(*slab)-len(*slab) < len(xs) {
		*slab = make([]T, 0, max(256, len(xs)))
	}
	n := len(*slab)
	*slab = append(*slab, xs...)
	return (*slab)[n:len(*slab):len(*slab)]
}
