package process

import (
	"testing"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestOwners(t *testing.T) {
	main := func(id string) pods.Container { return pods.Container{Name: "main", ID: id} }
	side := func(id string) pods.Container { return pods.Container{Name: "side", ID: id} }
	ended := func(c pods.Container) pods.Container { c.Ended = true; return c }
	job := func(id string) *attribution.Owner { return sampler.JobOwner("c", "n", id) }
	known := func(name, uid, container string) *attribution.Owner {
		o := unseen(name, container)
		o.PodUID = uid
		return o
	}
	host := &attribution.Owner{Kind: attribution.HostProcess, Cluster: "c", Node: "n", PID: 42, Command: "x"}
	nobody := &attribution.Owner{Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: 42, Command: "x"}
	relative := "0::/../cri-containerd-" + ctrID("a") + ".scope\n"
	inJob := "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
	const service = "0::/system.slice/x.service\n"

	for name, c := range map[string]struct {
		cgroup  string
		pods    []*pods.Pod
		gone    []string
		holders []*attribution.Owner
		noPods  bool
		want    *attribution.Owner
	}{
		"by container id": {
			cgroup: inPod(uidA, ctrID("a")), want: known("web", uidA, "main"),
			pods: []*pods.Pod{pod("web", uidA, side(ctrID("b")), main(ctrID("a")))},
		},
		"by container id alone": {cgroup: relative, pods: []*pods.Pod{pod("web", uidA, main(ctrID("a")))}, want: known("web", uidA, "main")},
		"of a pod that is gone": {
			cgroup: inPod(uidA, ctrID("a")), want: known("web", uidA, "main"), gone: []string{uidA},
			pods: []*pods.Pod{pod("web", uidA, main(ctrID("a")))},
		},
		"of a static pod": {
			cgroup: inPod("d6d9c21fe3433f3de47a0d6c46d8b2bb", ctrID("a")), want: known("st", "d6d9c21fe3433f3de47a0d6c46d8b2bb", "main"),
			pods: []*pods.Pod{pod("st", "d6d9c21fe3433f3de47a0d6c46d8b2bb", main(ctrID("a")))},
		},
		"a new container, the pod's only one": {
			cgroup: inPod(uidA, ctrID("a")), want: known("web", uidA, "main"),
			pods: []*pods.Pod{pod("web", uidA, main(ctrID("0")))}, // it was restarted
		},
		"a new container, the only one that has not ended": {
			cgroup: inPod(uidA, ctrID("a")), want: known("web", uidA, "main"),
			pods: []*pods.Pod{pod("web", uidA, ended(side(ctrID("b"))), main(""))},
		},
		"a new container of several": {
			cgroup: inPod(uidA, ctrID("a")), want: nobody,
			pods: []*pods.Pod{pod("web", uidA, side(""), main(""))},
		},
		"a new container of several, one of which holds the device": {
			cgroup: inPod(uidA, ctrID("a")), want: known("web", uidA, "main"),
			pods:    []*pods.Pod{pod("web", uidA, side(""), main(""))},
			holders: []*attribution.Owner{known("web", uidA, "main"), known("db", uidB, "side"), job("7")},
		},
		"the same, by the name that the holding has": {
			cgroup: inPod(uidA, ctrID("a")), want: known("web", uidA, "main"),
			pods:    []*pods.Pod{pod("web", uidA, side(""), main(""))},
			holders: []*attribution.Owner{unseen("web", "main"), unseen("db", "side")},
		},
		"a new container of several that hold the device": {
			cgroup: inPod(uidA, ctrID("a")), want: nobody,
			pods:    []*pods.Pod{pod("web", uidA, side(""), main(""))},
			holders: []*attribution.Owner{known("web", uidA, "main"), known("web", uidA, "side")},
		},
		"a sandbox that runs the pod whole": {
			cgroup: "0::/kubepods/pod" + uidA + "/kata_" + ctrID("9") + "\n", want: known("web", uidA, "main"),
			pods: []*pods.Pod{pod("web", uidA, main(ctrID("a")))},
		},
		"all have ended, of several": {
			cgroup: inPod(uidA, ctrID("9")), want: nobody,
			pods: []*pods.Pod{pod("web", uidA, ended(side(ctrID("b"))), ended(main(ctrID("a"))))},
		},
		"a pod that nobody knows": {cgroup: inPod(uidA, ctrID("a")), want: nobody},
		"a pod that nobody knows, one such holds the device": {
			cgroup: inPod(uidA, ctrID("a")), want: unseen("web", "main"),
			pods:    []*pods.Pod{pod("db", uidB, main(ctrID("b")))},
			holders: []*attribution.Owner{unseen("web", "main"), known("db", uidB, "main")},
		},
		"a container that nobody knows, one such holds the device": {
			cgroup: relative, holders: []*attribution.Owner{unseen("web", "main")}, want: unseen("web", "main"),
		},
		"a pod that nobody knows, two such hold the device": {
			cgroup: inPod(uidA, ctrID("a")), holders: []*attribution.Owner{unseen("web", "main"), unseen("db", "main")}, want: nobody,
		},
		"a pod that nobody knows, a known one holds the device by name": {
			cgroup: inPod(uidA, ctrID("a")), want: nobody,
			pods:    []*pods.Pod{pod("db", uidB, main(ctrID("b")))},
			holders: []*attribution.Owner{unseen("db", "main")},
		},
		"a pod that nobody knows, its gone namesake is known": {
			cgroup: inPod(uidA, ctrID("a")), want: unseen("db", "main"), gone: []string{uidB},
			pods:    []*pods.Pod{pod("db", uidB, main(ctrID("b")))},
			holders: []*attribution.Owner{unseen("db", "main")},
		},
		"a forged pod inside a known one": {
			cgroup: "0::/kubepods/pod" + uidA + "/" + ctrID("a") + "/kubepods/pod" + uidB + "/" + ctrID("b") + "\n", want: known("web", uidA, "main"),
			pods: []*pods.Pod{pod("web", uidA, main(ctrID("a"))), pod("db", uidB, main(ctrID("b")))},
		},
		"a node in a pod that this node does not know": {
			cgroup: "0::/kubepods/pod" + uidA + "/" + ctrID("a") + "/kubepods/pod" + uidB + "/" + ctrID("b") + "\n", want: known("db", uidB, "main"),
			pods: []*pods.Pod{pod("db", uidB, main(ctrID("b")))},
		},
		"a host process":                        {cgroup: service, want: host, pods: []*pods.Pod{pod("web", uidA, main(ctrID("a")))}},
		"a host process on a pod's device":      {cgroup: service, want: host, holders: []*attribution.Owner{unseen("web", "main")}},
		"a host process on a job's device":      {cgroup: service, want: job("7"), holders: []*attribution.Owner{job("7")}},
		"a host process on a device of jobs":    {cgroup: service, want: host, holders: []*attribution.Owner{job("7"), job("8")}},
		"a job's":                               {cgroup: inJob, want: job("7")},
		"a job's, on its device":                {cgroup: inJob, want: job("7"), holders: []*attribution.Owner{job("7"), job("8")}},
		"a job's, on another's device":          {cgroup: inJob, want: job("7"), holders: []*attribution.Owner{job("8")}},
		"a container of an engine without pods": {cgroup: relative, noPods: true, want: host},
		"a pod's, where there are no pods":      {cgroup: inPod(uidA, ctrID("a")), noPods: true, want: nobody},
		"a job in a pod": {
			cgroup: inPod(uidA, ctrID("a")+"/system.slice/slurmstepd.scope/job_7/step_0"), want: known("web", uidA, "main"),
			pods:    []*pods.Pod{pod("web", uidA, main(ctrID("a")))},
			holders: []*attribution.Owner{known("web", uidA, "main")},
		},
		"a job in a pod, on its device": {
			cgroup: inPod(uidA, ctrID("a")+"/system.slice/slurmstepd.scope/job_7/step_0"), want: job("7"),
			pods:    []*pods.Pod{pod("web", uidA, main(ctrID("a")))},
			holders: []*attribution.Owner{known("web", uidA, "main"), job("7")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) {
				if c.noPods {
					o.Pods = nil
				}
			})
			w.proc.start(42, "x", 100, c.cgroup)
			w.dir.Put(c.pods...)
			w.dir.Delete(c.gone...)
			w.hold("GPU-1", c.holders...)
			o := w.owner("GPU-1", 42)
			if attribution.CompareOwners(o, c.want) != 0 {
				t.Fatalf("\n got %+v\nwant %+v", o, c.want)
			}
			if again := w.owner("GPU-1", 42); again != o {
				t.Error("the same answer is another pointer")
			}
			w.dir.Put(pod("unrelated", "99999999-2222-3333-4444-555555555555", main(ctrID("7"))))
			if again := w.owner("GPU-1", 42); again != o {
				t.Error("the same answer is another pointer after the directory changed")
			}
			w.proc.end(42)
			w.Identify(42)
			if after := w.Owner("GPU-1", 42, sampler.Identity{Start: 100, Command: "x"}); after != o {
				t.Errorf("after its end it is %+v", after)
			}
			if counted := w.Stats().UnknownPod+w.Stats().UnknownContainer > 0; counted != (o.Kind == attribution.UnknownProcess) {
				t.Errorf("%+v", w.Stats())
			}
		})
	}
}

// What nobody could answer is asked again, and found when it becomes known.
func TestAskedAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "x", 100, inPod(uidA, ctrID("a")))
	if o := w.owner("GPU-1", 42); o.Kind != attribution.UnknownProcess {
		t.Fatalf("%+v", o)
	}
	w.hold("GPU-1", unseen("web", "main"))
	if o := w.owner("GPU-1", 42); o.Pod != "web" || o.PodUID != "" {
		t.Fatalf("its holder: %+v", o)
	}
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main"}, pods.Container{Name: "side"}))
	if o := w.owner("GPU-1", 42); o.PodUID != uidA || o.Container != "main" {
		t.Fatalf("its pod: %+v", o)
	}
	if o := w.owner("GPU-2", 42); o.Kind != attribution.UnknownProcess {
		t.Fatalf("on a device that neither container holds: %+v", o)
	}
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("b")}, pods.Container{Name: "side", ID: ctrID("a")}))
	for _, device := range []string{"GPU-1", "GPU-2"} {
		if o := w.owner(device, 42); o.Container != "side" {
			t.Fatalf("its container: %+v", o)
		}
	}
	if s := w.Stats(); s.UnknownPod != 1 || s.UnknownContainer != 1 {
		t.Errorf("%+v", s)
	}
}

// A job that ends while its process lives on leaves it to itself.
func TestJobEnds(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "x", 100, "0::/system.slice/docker-"+ctrID("a")+".scope\n")
	w.hold("GPU-1", sampler.JobOwner("c", "n", "7"))
	if o := w.owner("GPU-1", 42); !sampler.IsJob(o) {
		t.Fatalf("%+v", o)
	}
	w.hold("GPU-1")
	if o := w.owner("GPU-1", 42); o.PID != 42 || o.Kind != attribution.HostProcess {
		t.Fatalf("%+v", o)
	}
}

func TestUntrusted(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Untrusted = true })
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("a")}))
	w.hold("GPU-1", sampler.JobOwner("c", "n", "7"))
	w.proc.start(42, "stranger", 100, inPod(uidA, ctrID("a")))
	o := w.owner("GPU-1", 42)
	want := &attribution.Owner{Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: 42}
	if attribution.CompareOwners(o, want) != 0 {
		t.Fatalf("%+v", o)
	}
	if w.owner("GPU-1", 42) != o || w.Stats().Untrusted != 2 {
		t.Errorf("%+v", w.Stats())
	}
	if id, ok := w.Identify(42); !ok || id.Start != 100 {
		t.Errorf("not told apart: %+v %v", id, ok)
	}
}

func TestManyDevices(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "x", 100, inPod(uidA, ctrID("a")))
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("a")}))
	first := w.owner("GPU-1", 42)
	for i := range 3 * maxAnswers {
		if o := w.owner(string(rune('A'+i)), 42); o != first {
			t.Fatalf("%+v", o)
		}
	}
	id, _ := w.Identify(42)
	if n := len(w.find(42, id).answers); n > maxAnswers {
		t.Errorf("%d answers are remembered", n)
	}
}
