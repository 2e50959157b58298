package node

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/dcgmstub"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// Instances of a GPU with 7 compute and 8 memory slices.
const (
	mig3 = "MIG-33333333-0000-4000-8000-000000000003"
	mig2 = "MIG-22222222-0000-4000-8000-000000000002"
	mig1 = "MIG-11111111-0000-4000-8000-000000000001"
)

func a100(uuid string, minor int) nvmlstub.Device {
	d := h100(uuid, minor)
	d.Name, d.GPM = "NVIDIA A100-SXM4-80GB", false
	return d
}

// cut cuts a GPU in 3g.40gb and 1g.10gb.
func (n *node) cut(device string) {
	n.gpus.MIG = append(n.gpus.MIG, nvmlstub.MIG{Device: device})
	n.gpus.Instances = append(n.gpus.Instances,
		nvmlstub.Instance{UUID: mig3, Device: device, GI: 1, Profile: "3g.40gb", Size: 4, Slices: 3, Memory: 40 * nvmlstub.GiB},
		nvmlstub.Instance{UUID: mig1, Device: device, GI: 9, Profile: "1g.10gb", Start: 4, Size: 1, Slices: 1, Memory: 10 * nvmlstub.GiB})
}

// Two instances of one GPU are two devices, with SM activity of their own
// (GPM). What is not cut is nobody's. No process samples exist under MIG, so
// two pods that share an instance are told apart by memory, 3 to 1.
func TestMIG(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	n.cut(gpuA)
	x := n.pod("team-x/train", has("main", mig3))
	y := n.pod("team-y/notebook", has("main", mig1+"::0"))
	z := n.pod("team-z/notebook", has("main", mig1+"::1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: mig3, SM: 77})
	b := n.run(y.c("main"), nvmlstub.Process{Device: mig1, SM: 30, Memory: 6 * nvmlstub.GiB})
	c := n.run(z.c("main"), nvmlstub.Process{Device: mig1, SM: 10, Memory: 2 * nvmlstub.GiB})
	n.start()
	l := n.observe(6)
	l.expect(mig3, by(x.c("main")).used(a).holding(1))
	both := l.true(b, c)
	l.expect(mig1, by(y.c("main")).amounts(both*3/4).holding(1), by(z.c("main")).amounts(both/4).holding(1))
	l.method(mig1, "sm/memory")
	l.expect(gpuA) // unallocated
}

// Before Hopper nothing in NVML knows an instance's activity: its time is its
// holder's, and unobserved.
func TestMIGWithoutGPM(t *testing.T) {
	n := newNode(t, a100(gpuA, 0))
	n.cut(gpuA)
	x := n.pod("team-x/train", has("main", mig3))
	n.run(x.c("main"), nvmlstub.Process{Device: mig3, SM: 77})
	n.start()
	l := n.observe(4)
	l.unobserved(mig3, by(x.c("main")).holding(1))
	l.unobserved(mig1)
	l.expect(gpuA)
}

// DCGM knows it: from a hostengine in the agent's process.
func TestMIGWithDCGM(t *testing.T) {
	n := newNode(t, a100(gpuA, 0))
	n.cut(gpuA)
	library, err := dcgmstub.Build(t.Context(), filepath.Join(shared.dir, "lib"))
	n.must(err)
	scenario := filepath.Join(n.dir, "dcgm")
	n.env = dcgmstub.Env(library, scenario)
	n.must(dcgmstub.Write(scenario, fmt.Sprintf(`gpu 0 %s
gi 0 0 1
gi 1 0 9
value gpu 0 1002 0.21
value gi 0 1002 0.43
value gi 1 1002 0.08
`, gpuA)))
	n.set("dcgm", map[string]any{"mode": "embedded"})
	x := n.pod("team-x/train", has("main", mig3))
	y := n.pod("team-y/notebook", has("main", mig1))
	a := n.run(x.c("main"), nvmlstub.Process{Device: mig3, SM: 43})
	b := n.run(y.c("main"), nvmlstub.Process{Device: mig1, SM: 8})
	n.start()
	n.await("DCGM is not read", func() bool { return n.latest().sum(mig3, "*", "used") > 0 })
	l := n.observe(6)
	l.expect(mig3, by(x.c("main")).used(a).holding(1))
	l.expect(mig1, by(y.c("main")).used(b).holding(1))
}

// One of two instances is cut anew while the other works: at no time do the
// parts of the GPU overlap, or cost more or less than it.
func TestMIGRepartitioned(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	n.cut(gpuA)
	x := n.pod("team-x/train", has("main", mig3))
	y := n.pod("team-y/notebook", has("main", mig1))
	a := n.run(x.c("main"), nvmlstub.Process{Device: mig3, SM: 60})
	b := n.run(y.c("main"), nvmlstub.Process{Device: mig1, SM: 50})
	n.gone[mig1], n.gone[mig2] = true, true
	n.start()
	before := n.observe(3)
	before.expect(mig1, by(y.c("main")).used(b).holding(1))

	b.stop()
	y.delete()
	at := n.now() + time.Second
	n.change(func(s *nvmlstub.Scenario) {
		s.Instances[1].For = at
		s.Instances = append(s.Instances, nvmlstub.Instance{
			Span: nvmlstub.Span{At: at}, UUID: mig2, Device: gpuA, GI: 5, Profile: "2g.20gb", Start: 4, Size: 2, Slices: 2, Memory: 20 * nvmlstub.GiB,
		})
		s.Events = append(s.Events, nvmlstub.Event{At: at, Device: gpuA, Type: 0x100}) // MIG configuration changed
	})
	z := n.pod("team-z/notebook", has("main", mig2))
	n.until(at)
	n.await("the new instance is not seen", func() bool { return n.latest().sum(mig2, "*", "*") > 0 })
	c := n.run(z.c("main"), nvmlstub.Process{Device: mig2, SM: 20})
	l := n.observe(4)
	l.expect(mig3, by(x.c("main")).used(a).holding(1))
	l.expect(mig2, by(z.c("main")).used(c).holding(1))
	l.expect(gpuA)
	if l.sum(mig1, "*", "*") != 0 {
		t.Errorf("the instance that is gone is still there\n%s", l)
	}
	whole := n.ledger(before.from, l.to)
	whole.expect(mig3, by(x.c("main")).used(a).holding(1)) // undisturbed throughout
}
