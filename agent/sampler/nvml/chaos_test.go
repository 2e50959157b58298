package nvml

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// act is one thing that is done to a machine, and the time until the next.
type act struct {
	What  string
	GPU   int
	Count int
	Wait  int // ms
}

const chaosGPUs = 3

func drawActs(t *rapid.T) []act {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) act {
		return act{
			What: rapid.SampledFrom([]string{
				"mig", "whole", "absent", "fail", "gone", "heal", "hang", "return", "closed", "list", "event", "swap",
			}).Draw(t, "what"),
			GPU:   rapid.IntRange(0, chaosGPUs-1).Draw(t, "gpu"),
			Count: rapid.IntRange(0, 3).Draw(t, "count"),
			Wait:  rapid.SampledFrom([]int{0, 300, 1000, 1700, 31000, 65000, 700_000}).Draw(t, "wait"),
		}
	}), 1, 9).Draw(t, "acts")
}

// machine is a node to which anything is done.
type machine struct {
	*rig
	handles map[string]*fakeHandle
	gpus    [chaosGPUs]struct {
		absent    bool
		mig       bool
		instances []int
	}
	hangs map[string]chan struct{}
}

func (m *machine) handle(id string) *fakeHandle {
	if m.handles[id] == nil {
		m.handles[id] = &fakeHandle{sm: 500_000, running: listed(1)}
	}
	return m.handles[id]
}

func (m *machine) units() (us []unit) {
	for i := range m.gpus {
		g := &m.gpus[i]
		id := fmt.Sprintf("GPU-%d", i)
		if g.absent {
			continue
		}
		if !g.mig {
			u := whole(id, m.handle(id), true)
			u.index = i
			us = append(us, u)
			continue
		}
		u := rest(id, m.handle(id))
		u.index = i
		us = append(us, u)
		for _, n := range g.instances {
			id := fmt.Sprintf("MIG-%d-%d", i, n)
			s := slice(id, u.uuid, n, m.handle(id))
			s.index = i
			us = append(us, s)
		}
	}
	return us
}

func (m *machine) unhang(id string) {
	if c := m.hangs[id]; c != nil {
		delete(m.hangs, id)
		m.handle(id).with(func(h *fakeHandle) { h.hang = nil })
		close(c)
	}
}

func (m *machine) do(a act) {
	g := &m.gpus[a.GPU]
	id := fmt.Sprintf("GPU-%d", a.GPU)
	if g.mig && a.Count > 0 {
		id = fmt.Sprintf("MIG-%d-%d", a.GPU, a.Count)
	}
	h := m.handle(id)
	switch a.What {
	case "mig":
		g.mig, g.instances = true, nil
		for n := range a.Count {
			g.instances = append(g.instances, n+1)
		}
	case "swap":
		g.instances = []int{a.Count + 1}
	case "whole":
		g.mig, g.absent = false, false
	case "absent":
		g.absent = true
	case "fail":
		h.with(func(h *fakeHandle) { h.err = errLost })
	case "gone":
		for _, h := range m.handles {
			h.with(func(h *fakeHandle) { h.err = errGone })
		}
	case "heal":
		m.heal()
	case "hang":
		if m.hangs[id] == nil {
			c := make(chan struct{})
			m.hangs[id] = c
			h.with(func(h *fakeHandle) { h.hang = c })
		}
	case "return":
		m.unhang(id)
	case "closed":
		m.node.with(func(n *fakeNode) { n.openErr = ErrNoDriver })
	case "list":
		m.node.set([]error{nil, errOdd, errLost, errGone}[a.Count], m.units()...)
		return
	case "event":
		select {
		case m.node.events <- event{kind: eventKind(a.Count), gpu: id, xid: uint64(a.Count)}:
		default:
		}
	}
	m.node.set(nil, m.units()...)
}

// heal makes everything well again, but what hangs.
func (m *machine) heal() {
	for _, h := range m.handles {
		h.with(func(h *fakeHandle) { h.err = nil })
	}
	m.node.with(func(n *fakeNode) { n.openErr = nil })
}

// check looks at what was yielded: each device's events in order of time,
// samples only while it is there.
func (m *machine) check() (there map[string]*attribution.Device, problem string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there, last := map[string]*attribution.Device{}, map[string]int64{}
	for i, e := range m.events {
		known := there[e.DeviceID]
		switch {
		case e.Time < last[e.DeviceID]:
			return nil, fmt.Sprintf("event %d of %s goes back", i, e.DeviceID)
		case e.Kind == sampler.DeviceAdded:
			there[e.DeviceID] = e.Device
		case known == nil:
			return nil, fmt.Sprintf("event %d is of %s, which is not there", i, e.DeviceID)
		case e.Kind == sampler.DeviceRemoved:
			delete(there, e.DeviceID)
		}
		last[e.DeviceID] = e.Time
		shares := map[string]int32{}
		for _, d := range there {
			if d.Parent != "" {
				if p := there[d.Parent]; p == nil || !p.Remainder {
					return nil, fmt.Sprintf("at event %d %s is there beside a whole %s", i, d.ID, d.Parent)
				}
				if shares[d.Parent] += d.Share.Compute; shares[d.Parent] > 7 {
					return nil, fmt.Sprintf("at event %d %s is cut in more than it has", i, d.Parent)
				}
			}
		}
	}
	return there, ""
}

// chaos does what it is told to a machine, and then lets it be well.
func chaos(t *testing.T, acts []act) (problem string) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{handles: map[string]*fakeHandle{}, hangs: map[string]chan struct{}{}}
		us := m.units()
		m.rig = newRigWith(t, withEvents, us...)
		for _, a := range acts {
			m.do(a)
			wait(time.Duration(a.Wait) * time.Millisecond)
		}
		m.heal()
		for _, id := range slices.Sorted(maps.Keys(m.hangs)) {
			m.unhang(id)
		}
		m.node.set(nil, m.units()...)
		wait(goneAfter + 3*rescanEvery)
		there, odd := m.check()
		var want []string
		for _, u := range m.units() {
			want = append(want, u.uuid)
			if there[u.uuid] == nil {
				problem = fmt.Sprintf("%s is not there in the end", u.uuid)
			} else if s := m.last(u.uuid); s.Sample.Gap || time.Now().UnixNano()-s.Time > 2*second {
				problem = fmt.Sprintf("%s is not read in the end", u.uuid)
			}
		}
		if len(there) != len(want) || len(m.s.Units()) != len(want) {
			problem = fmt.Sprintf("in the end there are %d and %d of %d devices", len(there), len(m.s.Units()), len(want))
		}
		if odd != "" {
			problem = odd
		}
		m.stop()
		if err := <-m.done; err != nil || m.open.Load() != 0 || m.node.open != nil || len(m.node.misuse) > 0 {
			problem = fmt.Sprintf("%v; %d producers, misuse %v", err, m.open.Load(), m.node.misuse)
		}
	})
	return problem
}

// Whatever is done to a machine: no call into a driver that was shut down, no
// event out of place, no GPU cut in more than it has, and in the end all is
// read that is there.
func TestLaw2AnythingMayHappenToAMachine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if problem := chaos(t, drawActs(rt)); problem != "" {
			rt.Fatal(problem)
		}
	})
}
