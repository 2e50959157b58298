package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// bubble runs a test in fake time; the rig's watcher is stopped at its end.
func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		f(t, r)
		if r.cancel != nil {
			r.stop()
		}
		if r.broken != nil {
			t.Error(r.broken)
		}
	})
}

func TestHoldings(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.dir.Put(pod("ns", "a", "ua", "main", "side"))
		r.kubelet.list(has("ns", "a", gpu0+"::0", gpu0+"::3", gpu1+"::1"))
		r.run().pass(900 * time.Millisecond)
		r.expect("0.00 +GPU-1 ns/a/main(ua) x2", "0.00 +GPU-2 ns/a/main(ua) x1")
		if got := r.w.Holders(gpu0); len(got) != 1 || got[0] != r.dir.View().ByUID("ua").Owner("main") {
			t.Errorf("holders %v", got)
		}

		// fewer replicas; another container; resources that are no GPUs; overlap
		// of a node that was sliced anew
		r.kubelet.list(kubelettest.Pod("ns", "a", kubelettest.Container("main", "nvidia.com/gpu", gpu0+"::0"), kubelettest.Container("side", "nvidia.com/gpu.shared", gpu0)),
			kubelettest.Pod("ns", "nic", kubelettest.Container("main", "example.com/nic", "eth0")))
		r.pass(time.Second)
		r.expect("1.25 +GPU-1 ns/a/main(ua) x1", "1.25 +GPU-1 ns/a/side(ua) x1", "1.25 -GPU-2 ns/a/main(ua)")
		if got := r.w.Holders(gpu0); len(got) != 2 || got[0].Container != "main" {
			t.Errorf("holders %v", got)
		}
		// the order of a list says nothing
		r.pass(10 * time.Second)
		r.expect()
		if s := r.w.Stats(); s.Holdings != 2 || s.Lists != uint64(r.kubelet.count()) || s.Epochs != 1 || r.w.Ready() != nil {
			t.Errorf("%+v, %v", s, r.w.Ready())
		}
		// a pod that has ended is listed by kubelets before 1.34
		ended := pod("ns", "a", "ua", "main", "side")
		ended.Terminal = true
		r.dir.Put(ended)
		synctest.Wait()
		r.expect("11.90 -GPU-1 ns/a/main(ua)", "11.90 -GPU-1 ns/a/side(ua)")
	})
}

func TestPodIsWaitedFor(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.run().pass(600 * time.Millisecond)
		r.kubelet.list(has("ns", "late", gpu0), has("ns", "later", gpu1))
		r.pass(time.Second) // listed at 1.0
		r.expect()
		r.dir.Put(pod("ns", "late", "u1", "main"))
		synctest.Wait()
		r.expect("1.00 +GPU-1 ns/late/main(u1) x1") // from when it was listed
		r.pass(time.Second)
		r.expect("1.00 +GPU-2 ns/later/main x1") // unknown for 0.7 s
		r.dir.Put(pod("ns", "later", "u2", "main"))
		synctest.Wait()
		r.expect("2.60 -GPU-2 ns/later/main", "2.60 +GPU-2 ns/later/main(u2) x1")
		labelled := pod("ns", "later", "u2", "main")
		labelled.Labels = attribution.MakeLabels(map[string]string{"team": "x"})
		r.dir.Put(labelled)
		synctest.Wait()
		r.expect("2.60 -GPU-2 ns/later/main(u2)", "2.60 +GPU-2 ns/later/main(u2)[{team x}] x1")
		// a pod of half a second of which nothing else is ever known
		r.pass(1200 * time.Millisecond)
		r.kubelet.list(has("ns", "later", gpu1), has("ns", "blink", gpu0+"::1"))
		r.pass(300 * time.Millisecond)
		r.expect("4.00 -GPU-1 ns/late/main(u1)")
		r.kubelet.list(has("ns", "later", gpu1))
		r.pass(100 * time.Millisecond)
		r.dir.Put(pod("x", "x", "x")) // asks soon
		r.pass(500 * time.Millisecond)
		r.expect("4.00 +GPU-1 ns/blink/main x1", "4.25 -GPU-1 ns/blink/main")
	})
}

// A pod that has ended leaves the directory before the kubelet's list. It is not
// held again by its name; its successor is.
func TestEndedPodThatIsStillListed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.dir.Put(pod("ns", "web-0", "u1", "main"))
		r.kubelet.list(has("ns", "web-0", gpu0))
		r.run()
		r.expect("0.00 +GPU-1 ns/web-0/main(u1) x1")
		ended := pod("ns", "web-0", "u1", "main")
		ended.Terminal = true
		r.dir.Put(ended)
		r.pass(200 * time.Millisecond)
		r.expect("0.00 -GPU-1 ns/web-0/main(u1)")
		r.dir.Delete("u1")
		r.pass(3 * time.Second)
		r.expect()
		r.dir.Put(pod("ns", "web-0", "u2", "main"))
		r.pass(time.Second)
		r.expect("3.20 +GPU-1 ns/web-0/main(u2) x1")
		// If nothing is known of a successor, the list counts after a while.
		ended = pod("ns", "web-0", "u2", "main")
		ended.Terminal = true
		r.dir.Put(ended)
		r.dir.Delete("u2")
		r.pass(time.Second)
		r.expect("4.20 -GPU-1 ns/web-0/main(u2)")
		r.pass(endedWait + 2*time.Second)
		if got := r.now(); len(got) != 1 || !strings.Contains(got[0], "ns/web-0/main") {
			t.Errorf("held: %q", got)
		}
	})
}

// A device of two NUMA nodes, listed under both, is one replica.
func TestDeviceListedTwice(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.dir.Put(pod("ns", "a", "ua", "main"))
		r.kubelet.list(has("ns", "a", gpu0+"::1", gpu0+"::2", gpu0+"::1"))
		r.run()
		r.expect("0.00 +GPU-1 ns/a/main(ua) x2")
	})
}

func TestReplacementOfOneName(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.dir.Put(pod("ns", "web-0", "u1", "main"))
		r.kubelet.list(has("ns", "web-0", gpu0))
		r.run()
		r.expect("0.00 +GPU-1 ns/web-0/main(u1) x1")
		// It is gone, and its successor is listed on both before it is known.
		r.dir.Delete("u1")
		r.kubelet.list(has("ns", "web-0", gpu0, gpu1))
		r.pass(800 * time.Millisecond)
		r.expect()
		r.dir.Put(pod("ns", "web-0", "u2", "main"))
		r.pass(time.Second)
		r.expect("0.25 +GPU-2 ns/web-0/main(u2) x1", "1.00 -GPU-1 ns/web-0/main(u1)", "1.00 +GPU-1 ns/web-0/main(u2) x1")
	})
}

// What a restarted kubelet does not list is not released.
func TestRestartIsNoRelease(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, name := range []string{"a", "b", "c", "d"} {
			r.dir.Put(pod("ns", name, "u"+name, "main"))
			r.living["u"+name] = true
		}
		r.kubelet.list(has("ns", "a", gpu0+"::0"), has("ns", "b", gpu0+"::1"), has("ns", "c", gpu0+"::2"), has("ns", "d", gpu0+"::3"))
		r.run().pass(time.Second)
		r.take()

		r.kubelet.fail(status.Error(codes.Unavailable, "connection refused"))
		r.pass(time.Minute)
		r.kubelet.fail(status.Error(codes.ResourceExhausted, "rejected by rate limit"))
		r.pass(10 * time.Second)
		r.expect()
		if s := r.w.Stats(); s.Errors["unavailable"] == 0 || s.Errors["rate-limited"] == 0 || r.w.Ready() == nil {
			t.Errorf("%+v, %v", s, r.w.Ready())
		}
		calls := r.kubelet.count()
		if calls > 15 {
			t.Errorf("%d calls in a minute and more of failures", calls)
		}

		r.kubelet.restart() // an empty list
		r.pass(300 * time.Millisecond)
		if r.kubelet.count() == calls || r.w.Stats().Unconfirmed != 4 {
			t.Errorf("a new socket is not asked at once: %+v", r.w.Stats())
		}
		r.kubelet.list(has("ns", "a", gpu0+"::0"))
		r.pass(time.Minute)
		r.expect()
		if s := r.w.Stats(); s.Unconfirmed != 3 || s.Epochs != 2 {
			t.Errorf("%+v", s)
		}
		if n := r.askedLiving(); n < 25 || n > 32 {
			t.Errorf("asked which pods live %d times in a minute", n)
		}

		// listed again: in this epoch, absence counts
		r.kubelet.list(has("ns", "b", gpu0+"::1"))
		r.pass(2 * time.Second)
		// no process left
		r.set(func() { delete(r.living, "uc") })
		r.pass(2 * time.Second)
		// another pod has its device
		r.dir.Put(pod("ns", "e", "ue", "main"))
		r.kubelet.list(has("ns", "b", gpu0+"::1"), has("ns", "e", gpu0+"::3"))
		r.pass(2 * time.Second)
		log := r.take()
		for i, want := range []string{"-GPU-1 ns/a/main(ua)", "-GPU-1 ns/c/main(uc)", "-GPU-1 ns/d/main(ud)", "+GPU-1 ns/e/main(ue) x1"} {
			if i >= len(log) || log[i][len(log[i])-len(want):] != want {
				t.Errorf("event %d: want %s in %v", i, want, log)
			}
		}
		asked := r.askedLiving()
		r.pass(time.Minute)
		if r.askedLiving() != asked || r.w.Stats().Unconfirmed != 0 {
			t.Errorf("living pods are asked for without need, or %+v", r.w.Stats())
		}
	})
}

func TestPatience(t *testing.T) {
	for name, test := range map[string]struct {
		known, proc bool
		want        time.Duration // 0: for ever
	}{
		"nothing but a name": {false, true, Patience},
		"no processes known": {true, false, Patience},
		"it lives":           {true, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if test.known {
					r.dir.Put(pod("ns", "a", "ua", "main"))
				}
				r.living = map[string]bool{"ua": true}
				if !test.proc {
					r.living = nil
				}
				r.kubelet.list(has("ns", "a", gpu0))
				r.run().pass(2 * time.Second)
				r.kubelet.restart()
				r.pass(Patience - 2*time.Second)
				if len(r.now()) != 1 {
					t.Error("ended early")
				}
				r.pass(5 * time.Second)
				if got := len(r.now()) == 0; got != (test.want != 0) || (r.w.Stats().Expired == 1) != got {
					t.Errorf("ended %t, %+v", got, r.w.Stats())
				}
			})
		})
	}
}

// Where cgroups tell containers but not pods, a pod lives by its container; one
// whose containers are not known is not taken for dead.
func TestLivingByContainer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := strings.Repeat("a", 64)
		for _, name := range []string{"lives", "dead", "forgotten"} {
			p := pod("ns", name, "u"+name, "main")
			p.Containers[0].ID = strings.Repeat(name[:1], 64)
			if name == "lives" {
				p.Containers[0].ID = id
			}
			r.dir.Put(p)
		}
		r.living = map[string]bool{id: true}
		r.kubelet.list(has("ns", "lives", gpu0+"::0"), has("ns", "dead", gpu0+"::1"), has("ns", "forgotten", gpu0+"::2"))
		r.run()
		r.stop()
		r.opt.Pods = pods.NewDirectory("c", "n")
		r.opt.Pods.Put(r.dir.View().ByUID("ulives"), r.dir.View().ByUID("udead"))
		r.kubelet.restart()
		r.run().pass(time.Minute)
		if got := r.now(); !slices.Equal(got, []string{"GPU-1 ns/forgotten/main(uforgotten) x1", "GPU-1 ns/lives/main(ulives) x1"}) {
			t.Errorf("held: %v", got)
		}
	})
}

func TestLastRunsHoldings(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, name := range []string{"stays", "ended", "lives"} {
			r.dir.Put(pod("ns", name, "u"+name, "main"))
		}
		r.kubelet.list(has("ns", "stays", gpu0), has("ns", "ended", gpu1+"::0"), has("ns", "lives", gpu1+"::1"))
		r.run()
		r.stop()
		r.take()
		r.living["ulives"] = true
		r.kubelet.restart(has("ns", "stays", gpu0))
		bare := &attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: "stays", Container: "main"}
		twice := sampler.Holding{DeviceID: gpu0, Owner: bare, Replicas: 1}
		r.held[gpu0+" "+ownerText(bare)] = twice // the same pod under two owners
		process := &attribution.Owner{Kind: attribution.HostProcess, PID: 1}
		r.opt.Initial = nil
		r.held["x"] = sampler.Holding{DeviceID: gpu0, Owner: process, Replicas: 1} // not ours
		r.units = nil                                                              // the driver comes up later
		r.run()
		delete(r.held, "x")
		if got := r.w.Holders(gpu1); len(got) != 2 {
			t.Errorf("holders %v", got)
		}
		r.expect("0.00 -GPU-1 ns/stays/main")
		r.pass(900 * time.Millisecond)
		r.set(func() { r.units = gpus(gpu0, gpu1) })
		r.pass(4 * time.Second)
		log := r.take()
		for _, want := range []string{"1.00 +GPU-1 ns/stays/main(ustays) x1", "1.00 +GPU-2 ns/ended/main(uended) x1", "3.00 -GPU-2 ns/ended/main(uended)"} {
			if !slices.Contains(log, want) {
				t.Errorf("want %q in %q", want, log)
			}
		}
		if got := r.now(); !slices.Equal(got, []string{"GPU-1 ns/stays/main(ustays) x1", "GPU-2 ns/lives/main(ulives) x1"}) {
			t.Errorf("held: %v", got)
		}
	})
}

func TestUnitsComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.dir.Put(pod("ns", "a", "ua", "main"), pod("ns", "m", "um", "main"))
		const mig = "MIG-aaaaaaaa-aaaa-5bbb-8ccc-000000000001"
		r.kubelet.list(has("ns", "a", gpu0), kubelettest.Pod("ns", "m", kubelettest.Container("main", "nvidia.com/mig-1g.10gb", mig)))
		r.run().pass(900 * time.Millisecond)
		r.expect("0.00 +GPU-1 ns/a/main(ua) x1")
		if s := r.w.Stats(); s.Unresolved != 1 {
			t.Errorf("%+v", s)
		}
		us := append(gpus(gpu0, gpu1), sampler.Unit{ID: mig, Parent: gpu1, Added: 9})
		us[1].Remainder = true
		r.set(func() { r.units = us })
		r.pass(time.Second)
		r.expect("1.00 +MIG-a ns/m/main(um) x1")
		// lost, and back as another
		r.set(func() { r.units = gpus(gpu0) })
		r.pass(2 * time.Second)
		r.expect()
		if s := r.w.Stats(); s.Holdings != 2 || s.Unresolved != 1 {
			t.Errorf("%+v", s)
		}
		again := slices.Clone(us)
		again[2].Added = 10
		r.set(func() { r.units = again })
		r.pass(time.Second)
		r.expect("4.00 +MIG-a ns/m/main(um) x1")
		// the whole GPU is cut under its holder: the rest is not what it holds
		cut := append(slices.Clone(again), sampler.Unit{ID: "MIG-x", Parent: gpu0, Added: 12})
		cut[0].Remainder, cut[0].Added = true, 11
		r.set(func() { r.units = cut })
		r.pass(time.Second)
		r.expect("5.00 -GPU-1 ns/a/main(ua)")
	})
}

func TestPace(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		for i := range 100 { // changes all the time
			r.dir.Put(pod("ns", "p", fmt.Sprint(i)))
			r.pass(100 * time.Millisecond)
		}
		calls := r.kubelet.times()
		if n := len(calls); n < 18 || n > 21 {
			t.Errorf("%d lists in 10 s of changes", n)
		}
		for i := range calls[1:] {
			if calls[i+1].Sub(calls[i]) < hurried || i > 0 && calls[i+1].Sub(calls[i-1]) < spread {
				t.Errorf("list %d comes too soon", i+1)
			}
		}
		before := len(calls)
		r.pass(time.Minute)
		if n := r.kubelet.count() - before; n != 60 {
			t.Errorf("%d lists in a quiet minute", n)
		}
		r.kubelet.fail(errors.New("odd"))
		before = r.kubelet.count()
		r.pass(time.Minute)
		if n := r.kubelet.count() - before; n < 6 || n > 10 || r.w.Stats().Errors["other"] != uint64(n) {
			t.Errorf("%d lists in a minute of errors, %+v", n, r.w.Stats())
		}
	})
}

func TestIncompleteListEndsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var log bytes.Buffer
		r.opt.Log = slog.New(slog.NewTextHandler(&log, nil))
		r.dir.Put(pod("ns", "a", "ua", "main"), pod("ns", "b", "ub", "main"))
		r.kubelet.list(has("ns", "a", gpu0))
		r.run()
		r.kubelet.mu.Lock()
		r.kubelet.dropped, r.kubelet.listed = 1, []*podresources.PodResources{has("ns", "b", gpu1)}
		r.kubelet.mu.Unlock()
		r.pass(5 * time.Second)
		if n := strings.Count(log.String(), "more than there is room for"); n != 1 {
			t.Errorf("%d lines for as many lists:\n%s", n, &log)
		}
		if got := r.now(); len(got) != 2 || r.w.Stats().Dropped == 0 {
			t.Errorf("held: %v, %+v", got, r.w.Stats())
		}
	})
}

func TestStoppedWhileWaiting(t *testing.T) {
	bubble(t, func(_ *testing.T, r *rig) {
		r.kubelet.list(has("ns", "late", gpu0))
		r.run()
		r.expect()
		r.stop()
		r.expect("0.00 +GPU-1 ns/late/main x1")
	})
}

// A directory where the checkpoint should be, as a mount of a missing file
// makes one, is said once.
func TestUnreadableCheckpointIsSaidOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var log bytes.Buffer
		r.opt.Log = slog.New(slog.NewTextHandler(&log, nil))
		r.opt.Checkpoint = t.TempDir()
		r.dir.Put(pod("ns", "a", "ua", "main"))
		r.kubelet.list(has("ns", "a", gpu0))
		r.run().pass(10 * time.Second)
		r.expect("0.00 +GPU-1 ns/a/main(ua) x1")
		if n := strings.Count(log.String(), "checkpoint can't be read"); n != 1 || r.w.Stats().CheckpointErrors < 5 {
			t.Errorf("%d lines, %+v:\n%s", n, r.w.Stats(), &log)
		}
	})
}

// The driver takes a moment to find its devices when the agent starts; until
// then no name can be resolved, and that is nothing to warn of.
func TestDevicesAreWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var log bytes.Buffer
		r.opt.Log = slog.New(slog.NewTextHandler(&log, nil))
		r.dir.Put(pod("ns", "a", "ua", "main"))
		r.kubelet.list(has("ns", "a", gpu0))
		r.held["x"] = sampler.Holding{DeviceID: gpu1, Owner: r.dir.View().ByUID("ua").Owner("main"), Replicas: 1}
		units := r.units
		r.units = nil
		r.run().pass(5 * time.Second)
		r.expect()
		if s := r.w.Stats(); log.Len() > 0 || s.Unresolved != 0 || s.Unconfirmed != 0 {
			t.Errorf("%+v\n%s", s, &log)
		}
		r.set(func() { r.units = units })
		r.pass(500 * time.Millisecond)
		if got := r.take(); len(got) == 0 || !strings.HasSuffix(got[0], "+GPU-1 ns/a/main(ua) x1") {
			t.Errorf("%q", got)
		}
		r.broken = nil // what the rig holds under another name
	})
}

// Where changes of devices are told, a watcher that knows all that is held
// wakes up for its lists alone, and sees a change at once.
func TestSettled(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		changed := make(chan struct{}, 1)
		var looks atomic.Int64
		units := r.opt.Units
		r.opt.UnitsChanged, r.opt.Units = changed, func() []sampler.Unit {
			looks.Add(1)
			return units()
		}
		r.dir.Put(pod("ns", "a", "ua", "main"))
		r.kubelet.list(has("ns", "a", gpu0), has("ns", "later", gpu1))
		r.run().pass(2 * time.Second) // the pod that is not known was waited for
		before, lists := looks.Load(), int64(r.kubelet.count())
		r.pass(10 * time.Second)
		if n, m := int64(r.kubelet.count())-lists, looks.Load()-before; n != 10 || m != 2*n {
			t.Errorf("%d lists, and %d looks, in 10 s", n, m)
		}
		r.take()
		r.pass(300 * time.Millisecond)
		r.set(func() { r.units = gpus(gpu0) })
		changed <- struct{}{}
		r.pass(100 * time.Millisecond)
		r.set(func() { r.units = gpus(gpu0, gpu1); r.units[1].Added++ })
		changed <- struct{}{}
		synctest.Wait()
		r.expect("12.40 +GPU-2 ns/later/main x1")
	})
}
