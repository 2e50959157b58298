package meter

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// cutter is the scratch space in which windows are cut. Windows of one second
// stay in it until the next second is cut.
type cutter struct {
	splitter attribution.Splitter
	edges    []int64
	segs     []attribution.Segment
	uses     []attribution.Use
	users    []*ownerEntry // of uses
	slices   []attribution.Slice
	methods  []string
}

// cut makes the window of one device, if it existed in that second, and lets
// the second pass for the slot.
func (m *Meter) cut(s *slot, second attribution.Second) {
	c := &m.cutter
	from, to := second.Nanos(), (second + 1).Nanos()
	s.applyUntil(from)
	activities, uses := s.activity.started(to), s.uses.started(to)
	m.findEdges(s, activities, from, to)
	c.segs, c.uses, c.users = c.segs[:0], c.uses[:0], c.users[:0]
	var device *deviceEntry
	var energy int64
	for i := 1; i < len(c.edges); i++ {
		s.applyUntil(c.edges[i-1])
		if s.exists && device == nil {
			device = s.device
		}
		energy += m.segment(s, activities, uses, c.edges[i-1], c.edges[i])
	}
	s.activity.retire(activities, to)
	s.uses.retire(uses, to)
	if device == nil {
		return
	}
	for i := range c.segs {
		c.segs[i].MemoryBytes = device.value.MemoryBytes
	}
	base := len(c.slices)
	var method string
	c.slices, method = c.splitter.Split(c.segs, c.slices)
	out := c.slices[base:len(c.slices):len(c.slices)]
	for i := range out {
		m.owners.numbers[out[i].Owner].seen = second
	}
	s.touched, device.seen = second, second
	m.sealed.Windows = append(m.sealed.Windows, attribution.DeviceWindow{
		Device: device.number, Method: c.method(method), Second: second, Energy: energy, Slices: out,
	})
}

// findEdges collects the instants at which a window is cut, its ends included.
func (m *Meter) findEdges(s *slot, activities int, from, to int64) {
	e := m.cutter.edges[:0]
	e = append(e, from, to)
	for i := range s.activity.all()[:activities] {
		x := &s.activity.all()[i]
		if x.from > from {
			e = append(e, x.from)
		}
		if x.to < to && x.to > from {
			e = append(e, x.to)
		}
	}
	for i := range s.changes {
		if s.changes[i].at >= to {
			break
		}
		e = append(e, s.changes[i].at)
	}
	if len(e) > 2 {
		slices.Sort(e)
		e = slices.Compact(e)
	}
	m.cutter.edges = e
}

// segment appends what happened on a device in [from, to), in which nothing
// changed, and returns the energy.
func (m *Meter) segment(s *slot, activities, uses int, from, to int64) (energy int64) {
	c := &m.cutter
	g := attribution.Segment{Length: to - from}
	for i := range s.activity.all()[:activities] {
		x := &s.activity.all()[i]
		if x.from >= to {
			break
		}
		if x.to <= from {
			continue
		}
		a, b := x.take(to)
		if !s.exists {
			m.stats.stray.add(activity, a, b)
			continue
		}
		g.ProcessSM = x.processSM && (g.ProcessSM || !g.Observed)
		g.SharedServer = g.SharedServer || x.sharedServer
		g.Observed = true
		g.SMActive += a
		energy += b
	}
	most := mostIn(g.Length)
	if over, overEnergy := max(g.SMActive-g.Length, 0), max(energy-most, 0); over > 0 || overEnergy > 0 {
		m.stats.clamped.add(activity, over, overEnergy)
		g.SMActive, energy = g.SMActive-over, energy-overEnergy
	}
	base := len(c.uses)
	for i := range s.uses.all()[:uses] {
		x := &s.uses.all()[i]
		if x.from >= to {
			break
		}
		if x.to <= from {
			continue
		}
		a, b := x.take(to)
		switch {
		case !s.exists:
			m.stats.stray.add(use, a, b)
		case a > 0 || b > 0:
			c.use(base, x.owner, a, b)
		}
	}
	for i := range c.uses[base:] {
		u := &c.uses[base+i]
		if over, overMemory := max(u.SMActive-g.Length, 0), max(u.Memory-most, 0); over > 0 || overMemory > 0 {
			m.stats.clamped.add(use, over, overMemory)
			u.SMActive, u.Memory = u.SMActive-over, u.Memory-overMemory
		}
	}
	if s.exists {
		g.Holdings = s.held()
		g.Uses = c.uses[base:len(c.uses):len(c.uses)]
	}
	c.segs = append(c.segs, g)
	return energy
}

// use adds to an owner's use in the segment whose uses begin at base. They
// mostly come in order.
func (c *cutter) use(base int, o *ownerEntry, smActive, memory int64) {
	i := len(c.uses)
	for ; i > base; i-- {
		n := compareOwners(c.users[i-1], o)
		if n == 0 {
			c.uses[i-1].SMActive += smActive
			c.uses[i-1].Memory += memory
			return
		}
		if n < 0 {
			break
		}
	}
	// Nobody's use is a process that maps to no owner.
	u := attribution.Use{Kind: attribution.UnknownProcess, SMActive: smActive, Memory: memory}
	if o != nil {
		u.Owner, u.Kind = o.number, o.value.Kind
	}
	c.uses = slices.Insert(c.uses, i, u)
	c.users = slices.Insert(c.users, i, o)
}

// method numbers a method's name. There are as many as policies times means.
func (c *cutter) method(name string) uint16 {
	if i := slices.Index(c.methods, name); i >= 0 {
		return uint16(i)
	}
	c.methods = append(c.methods, name)
	return uint16(len(c.methods) - 1)
}
