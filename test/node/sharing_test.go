package node

import (
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// Each GPU is one container's alone. Two are of one pod, and one of these runs
// several processes.
func TestExclusive(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1), t4(gpu(3), 2))
	train := n.pod("research/train", has("main", gpuA), has("eval", gpuB))
	serve := n.pod("prod/serve", has("server", gpu(3)))
	a := n.run(train.c("main"), nvmlstub.Process{Device: gpuA, SM: 41})
	b := n.run(train.c("main"), nvmlstub.Process{Device: gpuA, SM: 22})
	c := n.run(train.c("main"), nvmlstub.Process{Device: gpuA, SM: 7})
	d := n.run(train.c("eval"), nvmlstub.Process{Device: gpuB, SM: 88})
	e := n.run(serve.c("server"), nvmlstub.Process{Device: gpu(3), SM: 15})
	n.start()
	l := n.observe(8)
	l.expect(gpuA, by(train.c("main")).used(a, b, c).holding(1))
	l.expect(gpuB, by(train.c("eval")).used(d).holding(1))
	l.expect(gpu(3), by(serve.c("server")).used(e).holding(1))
	l.method(gpuA, "sm/device")
}

// One GPU is handed out four times by time slicing. One container has two of
// the replicas, one does nothing.
func TestTimeSlicing(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	chat := n.pod("prod/chat", has("llm", gpuA+"::0", gpuA+"::1"))
	notebook := n.pod("research/notebook", has("jupyter", gpuA+"::2"))
	idle := n.pod("research/forgotten", has("jupyter", gpuA+"::3"))
	a := n.run(chat.c("llm"), nvmlstub.Process{Device: gpuA, SM: 37})
	b := n.run(chat.c("llm"), nvmlstub.Process{Device: gpuA, SM: 12})
	c := n.run(notebook.c("jupyter"), nvmlstub.Process{Device: gpuA, SM: 23})
	n.run(idle.c("jupyter"), nvmlstub.Process{Device: gpuA, SM: 0})
	n.start()
	l := n.observe(8)
	l.expect(gpuA,
		by(chat.c("llm")).used(a, b).holding(2),
		by(notebook.c("jupyter")).used(c).holding(1),
		by(idle.c("jupyter")).holding(1))
	l.method(gpuA, "sm/process")
}

// More is asked for than there is, and the load comes in bursts.
func TestTimeSlicingContended(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), t4(gpuB, 1))
	n.gpus.Excess = true // shares that the driver tells add up to more than 100 %
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	z := n.pod("team-z/job", has("main", gpuB+"::0"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 90})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 47})
	c := n.run(z.c("main"), nvmlstub.Process{Device: gpuB, SM: 80, On: 300 * time.Millisecond, Off: 700 * time.Millisecond})
	n.start()
	l := n.observe(8)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
	l.expect(gpuB, by(z.c("main")).used(c).holding(1))
}

// The driver tells of processes what a ring of samples does: one process is
// credited with each period of a sixth of a second. Shares are estimates then,
// of which the sum is exact.
func TestTimeSlicingByDriverSamples(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), t4(gpuB, 1))
	n.gpus.Sampling = nvmlstub.Driver
	x := n.pod("team-x/job", has("main", gpuA+"::0", gpuB))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 50})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 30})
	c := n.run(x.c("main"), nvmlstub.Process{Device: gpuB, SM: 60})
	n.start()
	l := n.observeSeen(24, gpuA, gpuB)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
	near(t, "what both used", l.sum(gpuA, "*", "used"), l.true(a, b), l.exact(gpuA))
	l.within(gpuB, l.exact(gpuB), by(x.c("main")).used(c).holding(1)) // a single holder needs no samples
}

// The driver credits MPS clients with what they do.
func TestMPSClientPIDs(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/infer", has("main", gpuA+"::0"))
	y := n.pod("team-y/infer", has("main", gpuA+"::1"))
	mps := n.pod("gpu-operator/mps-control-daemon", has("daemon"))
	n.plan(nvmlstub.Process{Device: gpuA, Kind: nvmlstub.MPSServer}).startAs(mpsServer, "mps", mps.c("daemon").cgroup)
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 45, Kind: nvmlstub.MPSClient})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 21, Kind: nvmlstub.MPSClient})
	n.start()
	l := n.observe(6)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
	l.method(gpuA, "sm/process")
}

// The driver credits the MPS server with what its clients do. It is split over
// them by memory, 3 to 1, and the method says so; whoever computes without MPS
// keeps what is his.
func TestMPSServerPID(t *testing.T) {
	d := h100(gpuA, 0)
	d.CreditServer = true
	n := newNode(t, d)
	x := n.pod("team-x/infer", has("main", gpuA+"::0"))
	y := n.pod("team-y/infer", has("main", gpuA+"::1"))
	z := n.pod("team-z/plain", has("main", gpuA+"::2"))
	mps := n.pod("gpu-operator/mps-control-daemon", has("daemon"))
	n.plan(nvmlstub.Process{Device: gpuA, Kind: nvmlstub.MPSServer}).startAs(mpsServer, "mps", mps.c("daemon").cgroup)
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 40, Kind: nvmlstub.MPSClient, Memory: 12 * nvmlstub.GiB})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 20, Kind: nvmlstub.MPSClient, Memory: 4 * nvmlstub.GiB})
	c := n.run(z.c("main"), nvmlstub.Process{Device: gpuA, SM: 10})
	n.start()
	l := n.observe(6)
	both := l.true(a, b)
	l.expect(gpuA,
		by(x.c("main")).amounts(both*3/4).holding(1),
		by(y.c("main")).amounts(both/4).holding(1),
		by(z.c("main")).used(c).holding(1))
	l.method(gpuA, "sm/mps")
}

// Only the MPS server is seen at all. Its work is its clients', whom only the
// holdings tell: two replicas to one.
func TestMPSServerOnly(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/infer", has("main", gpuA+"::0", gpuA+"::1"))
	y := n.pod("team-y/infer", has("main", gpuA+"::2"))
	mps := n.pod("gpu-operator/mps-control-daemon", has("daemon"))
	server := n.plan(nvmlstub.Process{Device: gpuA, SM: 60, Kind: nvmlstub.MPSServer})
	server.startAs(mpsServer, "mps", mps.c("daemon").cgroup)
	n.start()
	l := n.observe(6)
	all := l.true(server)
	l.expect(gpuA, by(x.c("main")).amounts(all*2/3).holding(2), by(y.c("main")).amounts(all/3).holding(1))
	l.method(gpuA, "sm/replicas")
}

// Two pods use one GPU by one DRA claim. There is no API server to ask for
// ResourceSlices: the device's name is its minor number.
func TestDynamicResources(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1))
	x := n.pod("team-x/first", claims("main", "shared", n.name, "gpu-1"))
	y := n.pod("team-x/second", claims("main", "shared", n.name, "gpu-1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuB, SM: 50})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuB, SM: 14})
	n.start()
	l := n.observe(6)
	l.expect(gpuA)
	l.expect(gpuB, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}

// The driver's ResourceSlices call devices what they like.
func TestDynamicResourcesBySlices(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1))
	n.sliced(map[string]string{"left": gpuB, "right": gpuA})
	x := n.pod("team-x/first", claims("main", "shared", n.name, "left"))
	y := n.pod("team-x/second", claims("main", "shared", n.name, "left"), claims("side", "own", n.name, "right"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuB, SM: 31})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuB, SM: 44})
	c := n.run(y.c("side"), nvmlstub.Process{Device: gpuA, SM: 9})
	n.start()
	l := n.observe(6)
	l.expect(gpuA, by(y.c("side")).used(c).holding(1))
	l.expect(gpuB, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}

// A node without Kubernetes: processes answer for themselves, and what is idle
// is nobody's.
func TestBareProcesses(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	n.set("kubernetes", map[string]any{"enabled": "off"})
	a := n.run(nil, nvmlstub.Process{Device: gpuA, SM: 33})
	b := n.run(nil, nvmlstub.Process{Device: gpuA, SM: 18})
	n.start()
	n.observe(5).expect(gpuA, host(a, b))
}
