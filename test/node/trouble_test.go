package node

import (
	"os"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// Drivers answer with samples that make no sense. None of them counts.
func TestNonsenseSamples(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 34})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 27})
	mine := a.cmd.Process.Pid
	idle := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 0}).cmd.Process.Pid
	n.gpus.Samples = []nvmlstub.Sample{
		{Device: gpuA, PID: mine, SM: 90, Ago: time.Minute},     // stale
		{Device: gpuA, PID: 4_000_000, SM: 70, Ago: time.Hour},  // of a process long dead
		{Device: gpuA, PID: 4_000_001, SM: 70},                  // of a process that is not there
		{Device: gpuA, PID: idle, SM: 37_100},                   // more than there is
		{Device: gpuA, PID: idle, SM: 80, Ahead: 9 * time.Hour}, // of the future
	}
	n.gpus.Counts = []nvmlstub.Count{{Device: gpuA, Count: 100}} // however many there are
	n.start()
	l := n.observe(6)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}

// For a while the driver has nothing to say of processes. The GPU's activity is
// still known: a single holder's is its own, that of a shared one is nobody's.
func TestNotFound(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"), has("own", gpuB))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 40})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 30})
	c := n.run(y.c("own"), nvmlstub.Process{Device: gpuB, SM: 75})
	n.gpus.Faults = []nvmlstub.Fault{{Function: "GetProcessUtilization", Target: "*", Error: "NOT_FOUND"}}
	n.start()
	l := n.observe(4)
	l.expect(gpuA, by(x.c("main")).holding(1), by(y.c("main")).holding(1), nobodys(a, b))
	l.expect(gpuB, by(y.c("own")).used(c).holding(1))
	n.change(func(s *nvmlstub.Scenario) { s.Faults = nil })
	l = n.observe(4)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}

// A call for one of eight GPUs hangs, here for eight seconds;
// GPULEDGER_NODE_HANG says otherwise, such as 30s. Nothing is lost for the
// others; the time of the one is unobserved, its holder's, and measured again
// afterwards.
func TestHang(t *testing.T) {
	hang := 8 * time.Second
	if text := os.Getenv("GPULEDGER_NODE_HANG"); text != "" {
		var err error
		if hang, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	var devices []nvmlstub.Device
	for i := range 8 {
		devices = append(devices, h100(gpu(i), i))
	}
	n := newNode(t, devices...)
	p := n.pod("research/train", has("main", gpu(0), gpu(1), gpu(2), gpu(3), gpu(4), gpu(5), gpu(6), gpu(7)))
	var loads []*load
	for i := range 8 {
		loads = append(loads, n.run(p.c("main"), nvmlstub.Process{Device: gpu(i), SM: 11 * (i + 1)}))
	}
	n.start()
	before := n.observe(2)
	for i := range 8 {
		before.expect(gpu(i), by(p.c("main")).used(loads[i]).holding(1))
	}
	at := n.now() + time.Second
	n.change(func(s *nvmlstub.Scenario) {
		s.Faults = []nvmlstub.Fault{{Span: nvmlstub.Span{At: at, For: hang}, Function: "*", Target: gpu(3)}}
	})
	n.until(at + hang)
	began, ended := n.gpus.Start.Add(at), n.gpus.Start.Add(at+hang)
	after := n.observe(4)
	whole := n.ledger(before.from, after.to)
	for i := range 8 {
		if i != 3 {
			whole.eachSeen(gpu(i), func(s *ledger) { s.expect(gpu(i), by(p.c("main")).used(loads[i]).holding(1)) })
		}
	}
	// The reading that hangs began within the first second, and the first that
	// is good again ends what may be measured late.
	whole.between(began.Unix()+1, ended.Unix()-1).unobserved(gpu(3), by(p.c("main")).holding(1))
	after.expect(gpu(3), by(p.c("main")).used(loads[3]).holding(1))
}

// A GPU falls off the bus, and comes back.
func TestLost(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1))
	p := n.pod("research/train", has("main", gpuA, gpuB))
	a := n.run(p.c("main"), nvmlstub.Process{Device: gpuA, SM: 66})
	b := n.run(p.c("main"), nvmlstub.Process{Device: gpuB, SM: 55})
	n.start()
	before := n.observe(2)
	at := n.now() + time.Second
	n.change(func(s *nvmlstub.Scenario) {
		s.Losses = []nvmlstub.Loss{{Span: nvmlstub.Span{At: at, For: 7 * time.Second}, Device: gpuA}}
		s.Events = []nvmlstub.Event{{At: at, Device: gpuA, XID: 79}}
	})
	n.until(at + 7*time.Second)
	lost, back := n.gpus.Start.Add(at), n.gpus.Start.Add(at+7*time.Second)
	after := n.observe(4)
	whole := n.ledger(before.from, after.to)
	before.expect(gpuA, by(p.c("main")).used(a).holding(1))
	whole.between(lost.Unix()+1, back.Unix()-1).unobserved(gpuA, by(p.c("main")).holding(1))
	after.expect(gpuA, by(p.c("main")).used(a).holding(1))
	whole.eachSeen(gpuB, func(s *ledger) { s.expect(gpuB, by(p.c("main")).used(b).holding(1)) })
}

// A driver of 2018 lacks half of the symbols; what it has is enough.
func TestOldDriver(t *testing.T) {
	n := newNode(t, t4(gpuA, 0))
	n.variant = nvmlstub.OldDriver()
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 52})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 17})
	n.start()
	l := n.observe(6)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}

// The driver is unloaded under the agent, and another one loaded. It is opened
// again at a look for devices, of which there is one every 30 s.
func TestDriverReloaded(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	p := n.pod("research/train", has("main", gpuA))
	a := n.run(p.c("main"), nvmlstub.Process{Device: gpuA, SM: 48})
	n.start()
	before := n.observe(2)
	at := n.now() + time.Second
	n.change(func(s *nvmlstub.Scenario) { s.Unloaded = []nvmlstub.Span{{At: at, For: 5 * time.Second}} })
	n.until(at + 5*time.Second)
	gone := n.gpus.Start.Add(at)
	n.await("the driver is not opened again", func() bool { return n.latest().sum(gpuA, "*", "used") > 0 })
	after := n.observe(3)
	whole := n.ledger(before.from, after.to)
	before.expect(gpuA, by(p.c("main")).used(a).holding(1))
	whole.between(gone.Unix()+1, gone.Unix()+5).unobserved(gpuA, by(p.c("main")).holding(1))
	after.expect(gpuA, by(p.c("main")).used(a).holding(1))
}

// A GPU is added to a running node. It is seen at the next look.
func TestGPUAdded(t *testing.T) {
	later := h100(gpuB, 1)
	later.At = 6 * time.Second
	n := newNode(t, h100(gpuA, 0), later)
	n.gone[gpuB] = true
	p := n.pod("research/train", has("main", gpuA))
	q := n.pod("research/late", has("main", gpuB))
	a := n.run(p.c("main"), nvmlstub.Process{Device: gpuA, SM: 48})
	n.start()
	n.await("the GPU is not seen", func() bool { return n.latest().sum(gpuB, "*", "*") > 0 })
	b := n.run(q.c("main"), nvmlstub.Process{Device: gpuB, SM: 31})
	l := n.observe(4)
	l.expect(gpuA, by(p.c("main")).used(a).holding(1))
	l.expect(gpuB, by(q.c("main")).used(b).holding(1))
}

// The agent is killed and started again: what it did not see is unobserved, the
// holders', and there once.
func TestAgentKilled(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1", gpuA+"::2"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 34})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 27})
	n.start()
	claims := []claim{by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(2)}
	before := n.observe(3)
	before.expect(gpuA, claims...)
	killed := time.Now()
	n.crash()
	wait := time.NewTimer(4 * time.Second)
	<-wait.C
	again := time.Now()
	n.start()
	after := n.observe(3)
	after.expect(gpuA, claims...)
	whole := n.ledger(before.from, after.to)
	whole.between(killed.Unix()+1, again.Unix()).unobserved(gpuA, by(x.c("main")).holding(1), by(y.c("main")).holding(2))
	whole.conserved()
}
