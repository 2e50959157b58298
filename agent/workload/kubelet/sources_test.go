package kubelet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

func TestInitContainers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		b, err := os.ReadFile("testdata/v1-04-init-running.checkpoint.json")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "checkpoint")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r.opt.Checkpoint = path
		const uid = "1e2351f6f2361eb132f3f0e12c6b13a4"
		p := pod("default", "gpu-init-lab-node-1", uid, "prep", "side", "main")
		p.Containers[0].Init = true
		r.dir.Put(p)
		r.living[uid] = true
		r.kubelet.list(list(t, "v1-04-init-running")...)
		r.run().pass(time.Second)
		want := []string{
			"GPU-1 default/gpu-init-lab-node-1/main(" + uid + ") x1", "GPU-2 default/gpu-init-lab-node-1/prep(" + uid + ") x1",
		}
		ours := func() []string {
			return slices.DeleteFunc(r.now(), func(s string) bool { return s[6:len("GPU-1 default/gpu-init")] != "default/gpu-init" })
		}
		if got := ours(); !slices.Equal(got, want) {
			t.Errorf("held: %v", got)
		}
		// a restart of kubelet and agent leaves it
		r.stop()
		r.kubelet.restart()
		r.run().pass(10 * time.Second)
		if got := ours(); !slices.Equal(got, want) {
			t.Errorf("held after a restart: %v", got)
		}
		// a bad file changes nothing and is counted once
		if err := os.WriteFile(path, []byte(`{"Data":{},"Checksum":1}`), 0o600); err != nil {
			t.Fatal(err)
		}
		r.pass(5 * time.Second)
		if got := ours(); !slices.Equal(got, want) || r.w.Stats().CheckpointErrors != 1 {
			t.Errorf("held after damage: %v, %+v", got, r.w.Stats())
		}
		r.kubelet.list(list(t, "v1-04-init-running")...)
		r.pass(time.Second)
		ended := pod("default", "gpu-init-lab-node-1", uid, "prep", "side", "main")
		ended.Containers[0].Init, ended.Containers[0].Ended = true, true
		r.dir.Put(ended)
		synctest.Wait()
		want[1] = strings.ReplaceAll(want[1], "prep", "side") // which was given the same replica, for later
		if got := ours(); !slices.Equal(got, want) {
			t.Errorf("held after its end: %v", got)
		}
		// Nor does an init container that ended while nobody looked stay for as
		// long as its pod lives.
		r.stop()
		r.held["x"] = sampler.Holding{DeviceID: gpu1, Owner: ended.Owner("prep"), Replicas: 1}
		r.run().pass(2 * time.Second)
		delete(r.held, "x")
		if n := len(r.w.Holders(gpu1)); n != 3 { // side, gpu-a and gpu-b
			t.Errorf("%d holders of %v", n, r.now())
		}
		r.broken = nil // the release of what the rig held under another name
	})
}

func TestHAMi(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		p := pod("ns", "h", "uh", "init", "main", "side")
		p.HAMi = gpu1 + ",NVIDIA,1024,20:" + gpu1 + ",NVIDIA,1024,20:;;"
		odd := pod("ns", "odd", "uo", "main")
		odd.HAMi = "nonsense"
		r.kubelet.list(has("ns", "h", gpu0+"-3", gpu0+"-4"), has("ns", "odd", gpu0+"-5"), has("ns", "unknown", gpu0+"-6"))
		r.run().pass(500 * time.Millisecond)
		r.expect()
		r.dir.Put(p, odd)
		synctest.Wait()
		r.expect("0.00 +GPU-1 ns/odd/main(uo) x1", "0.00 +GPU-2 ns/h/main(uh) x2") // what the annotation says
		r.pass(time.Second)
		r.expect("0.00 +GPU-1 ns/unknown/main x1")
		if s := r.w.Stats(); s.Unresolved != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestDynamicResources(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.units = gpus(gpu0, gpu1, gpu2, gpu3)
		known := true
		r.opt.Slices = func(_, pool, device string) (deviceid.Attributes, bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			a, ok := slice(t)[pool+"/"+device]
			return a, ok && known
		}
		r.kubelet.list(list(t, "c3-01-dra")...)
		r.run().pass(2 * time.Second)
		want := []string{
			"GPU-1 research/trainer-6b88f8678d-7zvvw/main x1", "GPU-2 default/gpu-a-lab-node-1/main x1", "GPU-2 research/trainer-6b88f8678d-vhwfv/main x1",
			"GPU-3 default/dra-shared-1/a x1", "GPU-3 default/dra-shared-1/b x1", "GPU-3 default/dra-shared-2/main x1", "GPU-4 default/dra-own/main x1",
		}
		if got := r.now(); !slices.Equal(got, want) {
			t.Errorf("held: %q", got)
		}
		// Without slices gpu-1 would be another GPU, by its minor: but who holds
		// something by that name holds what it was.
		r.set(func() { known = false })
		r.kubelet.restart(list(t, "c3-01-dra")...)
		r.take()
		r.pass(5 * time.Second)
		if got := r.now(); !slices.Equal(got, want) {
			t.Errorf("held without slices: %q", got)
		}
	})
}

// Of init containers that were given the same device the first that has not
// ended has it, whatever the order of the checkpoint.
func TestInitContainersTakeTurns(t *testing.T) {
	p := pod("ns", "a", "ua", "one", "two", "main")
	p.Containers[0].Init, p.Containers[1].Init = true, true
	w := &wanter{tracker: newTracker("c", "n", nil), resolver: deviceid.New(deviceid.Options{Units: gpus(gpu0)})}
	for _, c := range []struct {
		ended [2]bool
		want  string
	}{{[2]bool{false, false}, "one"}, {[2]bool{true, false}, "two"}, {[2]bool{true, true}, "main"}} {
		p.Containers[0].Ended, p.Containers[1].Ended = c.ended[0], c.ended[1]
		dir := pods.NewDirectory("c", "n")
		dir.Put(p)
		var grants []Grant
		for _, name := range []string{"main", "two", "one"} {
			grants = append(grants, Grant{PodUID: "ua", Container: name, Resource: "nvidia.com/gpu", IDs: []string{gpu0}})
		}
		w.begin(w.resolver, dir.View(), grants, 0)
		got := w.list(snapshot(1, []*podresources.PodResources{has("ns", "a", gpu0)}))
		got = append(got, w.initial()...)
		if len(got) != 1 || got[0].name != c.want || got[0].replicas != 1 {
			t.Errorf("%v ended: %+v, want %s's", c.ended, got, c.want)
		}
	}
}
