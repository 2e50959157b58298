package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// pause lets time pass in the test's episode.
func (n *node) pause(d time.Duration) {
	n.t.Helper()
	n.until(n.now() + d)
}

// A container starts one short process after another. One that is there when
// the driver is asked, at the full second, is the container's from its begin to
// its end. Of one that comes and goes in between, the driver says that it was
// active, and nobody what its pid was: that is unattributed, never lost, and
// never the neighbour's.
func TestShortJobs(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	n.gpus.Scan = 10 * time.Millisecond
	x := n.pod("team-x/batch", has("shell", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 0})
	var loads []*load
	for range 6 {
		loads = append(loads, n.plan(nvmlstub.Process{Device: gpuA, SM: 50}))
	}
	n.start()
	n.pause(2 * time.Second)
	late := lateness(t, n.gpus.Scan)
	from := time.Now().Unix() + 1
	for i, l := range loads {
		at := time.Unix(from+2*int64(i), 0).Add(600 * time.Millisecond)
		if i%2 == 1 {
			at = at.Add(-450 * time.Millisecond)
		}
		n.until(at.Sub(n.gpus.Start))
		l.start(x.c("shell"))
		n.pause(650 * time.Millisecond)
		l.stop()
	}
	l := n.ledger(from-1, time.Now().Unix()+3)
	var seen, unsure time.Duration // what those did that are sure to be seen, and those that may be
	for _, job := range loads {
		const slack = 100 * time.Millisecond
		begun, ended, did := job.begun, job.ended, l.true(job)
		switch second := ended.Truncate(time.Second); {
		case begun.Add(slack).Before(second) && ended.Add(-slack).After(second):
			seen += did
		case begun.Add(-slack).After(second) && ended.Add(slack).Before(second.Add(time.Second)):
		default:
			unsure += did // on a busy machine
		}
	}
	all := l.true(loads...)
	used, lost := l.sum(gpuA, "team-x/batch/shell", "used"), l.sum(gpuA, "*", "unattributed")
	// Each share is rounded in each of up to three readings, and the stub's
	// scanner finds a process a few milliseconds late, on a busy machine some more.
	may := 6 * ((3*5+20)*time.Millisecond + late())
	near(t, "what all jobs used", used+lost, all, may)
	near(t, "what those used that were seen", used, seen+unsure/2, may/2+unsure/2)
	if got := l.sum(gpuA, "team-y/job/main", "used"); got > may {
		t.Errorf("the neighbour pays for %v of it\n%s", got, l)
	}
}

// A pid is used again at once, by a process in another pod.
func TestPIDReused(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	const pid = 4_194_000 // few systems have that many
	a := n.pid(x.c("main"), pid, 1000, nvmlstub.Process{Device: gpuA, SM: 62})
	n.start()
	first := n.observe(3)
	first.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).holding(1))
	a.end()
	b := n.pid(y.c("main"), pid, 2000, nvmlstub.Process{Device: gpuA, SM: 62})
	second := n.observe(3)
	second.expect(gpuA, by(x.c("main")).holding(1), by(y.c("main")).used(b).holding(1))
	whole := n.ledger(first.from, second.to)
	whole.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}

// A pod is deleted by force: the kubelet forgets it at once. Its process lives
// on, and what that uses is still its own; but it holds nothing, and the idle
// time is the other's.
func TestForceDeleted(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/stuck", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 35})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 25})
	n.start()
	n.observe(3).expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
	x.delete()
	n.observe(3).expect(gpuA, by(x.c("main")).used(a), by(y.c("main")).used(b).holding(1))
	a.stop()
	n.observe(3).expect(gpuA, by(y.c("main")).used(b).holding(1))
}

// A process on the host uses a GPU that a pod holds, and one that nobody does.
func TestHostProcess(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1))
	x := n.pod("team-x/job", has("main", gpuA))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 35})
	b := n.run(nil, nvmlstub.Process{Device: gpuA, SM: 20})
	c := n.run(nil, nvmlstub.Process{Device: gpuB, SM: 15})
	n.start()
	l := n.observe(4)
	l.expect(gpuA, by(x.c("main")).used(a).holding(1), host(b))
	l.expect(gpuB, host(c))
}

// Slurm gives GPUs to jobs, and says so in files.
func TestSlurm(t *testing.T) {
	n := newNode(t, h100(gpuA, 0), h100(gpuB, 1))
	n.set("kubernetes", map[string]any{"enabled": "off"})
	jobs := filepath.Join(n.dir, "jobs")
	n.set("slurm", map[string]any{"job_dir": jobs})
	n.must(os.Mkdir(jobs, 0o700))
	n.must(os.WriteFile(filepath.Join(jobs, "0"), []byte("4242\n"), 0o600))
	a := n.plan(nvmlstub.Process{Device: gpuA, SM: 64})
	a.startAs("gpuload", "4242", slurmCgroup("4242"))
	b := n.run(nil, nvmlstub.Process{Device: gpuB, SM: 9})
	job := claim{owner: "SlurmJob/4242", basis: "used"}
	n.start()
	l := n.observe(4)
	l.expect(gpuA, job.used(a).holding(1))
	l.expect(gpuB, host(b))
	a.stop()
	n.must(os.Remove(filepath.Join(jobs, "0")))
	n.observe(3).expect(gpuA)
}

// The kubelet is restarted: it is away, then lists nothing, then static pods
// only, then everything. Nobody was released.
func TestKubeletRestarted(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("kube-system/monitor-node", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	z := n.pod("team-z/idle", has("main", gpuA+"::2"))
	x.static = true
	a := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 25})
	n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 0})
	n.run(z.c("main"), nvmlstub.Process{Device: gpuA, SM: 0}) // an idle notebook keeps its context
	n.start()
	before := n.observe(2)
	n.kubelet.Stop()
	n.podsAPI.Stop()
	n.pause(2 * time.Second)
	n.listOnly(func(*pod) bool { return false })
	n.kubelet.Restart()
	n.pause(400 * time.Millisecond)
	n.podsAPI.Restart()
	n.listOnly(func(p *pod) bool { return p.static })
	n.pause(1500 * time.Millisecond)
	n.list()
	after := n.observe(3)
	whole := n.ledger(before.from, after.to)
	claims := []claim{by(x.c("main")).holding(1), by(y.c("main")).used(a).holding(1), by(z.c("main")).holding(1)}
	whole.eachSeen(gpuA, func(s *ledger) { s.expect(gpuA, claims...) })
	whole.expect(gpuA, claims...)
}

// The agent is killed, and the kubelet is restarted before it is back. The agent
// knows from its last run who held what; the kubelet does not say so yet.
func TestBothRestarted(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0", gpuA+"::1"))
	y := n.pod("team-y/idle", has("main", gpuA+"::2"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 43})
	n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 0})
	n.start()
	claims := []claim{by(x.c("main")).used(a).holding(2), by(y.c("main")).holding(1)}
	before := n.observe(2)
	before.expect(gpuA, claims...)
	killed := time.Now()
	n.crash()
	n.listOnly(func(*pod) bool { return false })
	n.kubelet.Restart()
	n.podsAPI.Restart()
	again := time.Now()
	n.start()
	n.observe(2).expect(gpuA, claims...)
	n.list()
	after := n.observe(3)
	after.expect(gpuA, claims...)
	whole := n.ledger(before.from, after.to)
	if away := whole.sum(gpuA, "*", "unobserved"); away > again.Sub(killed)+3*time.Second {
		t.Errorf("%v are unobserved, of %v that the agent was away", away, again.Sub(killed))
	}
	whole.each(func(s *ledger) {
		if s.sum(gpuA, "", "unallocated")+s.sum(gpuA, "", "unobserved") > 0 {
			t.Errorf("holders were released\n%s", s)
		}
	})
}

// The kubelet is gone for a while; a pod ends meanwhile, and that is learnt
// when it is back.
func TestKubeletDown(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 25})
	n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 0})
	n.start()
	before := n.observe(2)
	n.kubelet.Stop()
	n.podsAPI.Stop()
	down := n.observe(4)
	whole := n.ledger(before.from, down.to)
	whole.eachSeen(gpuA, func(s *ledger) { s.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).holding(1)) })
	a.stop()
	x.delete()
	n.kubelet.Restart()
	n.podsAPI.Restart()
	n.await("the pod's end is not learnt", func() bool { return n.latest().sum(gpuA, "team-x/job/main", "*") == 0 })
	n.observe(2).expect(gpuA, by(y.c("main")).holding(1))
}

// The kubelet refuses to answer so many calls. What is held stays held; what is
// new is learnt when it answers again.
func TestKubeletRateLimit(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 25})
	n.start()
	before := n.observe(2)
	n.kubelet.Limit(0)
	y := n.pod("team-y/job", has("main", gpuA+"::1"))
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 30})
	limited := n.observe(3)
	before.expect(gpuA, by(x.c("main")).used(a).holding(1))
	limited.expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b)) // whose process it is, is known
	n.kubelet.Limit(-1)
	n.await("the new pod's holding is not learnt", func() bool { return n.latest().sum(gpuA, "team-y/job/main", "reserved") > 0 })
	n.observe(3).expect(gpuA, by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(1))
}
