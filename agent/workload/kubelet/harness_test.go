package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	gpu0 = "GPU-11111111-aaaa-4bbb-8ccc-000000000000"
	gpu1 = "GPU-22222222-aaaa-4bbb-8ccc-000000000001"
	gpu2 = "GPU-33333333-aaaa-4bbb-8ccc-000000000002"
	gpu3 = "GPU-44444444-aaaa-4bbb-8ccc-000000000003"
)

func gpus(ids ...string) (us []sampler.Unit) {
	for i, id := range ids {
		us = append(us, sampler.Unit{ID: id, Index: i, Minor: i, GPUInstance: -1, ComputeInstance: -1, Placement: -1, Added: uint64(i + 1)})
	}
	return us
}

// fakeKubelet lists what it is told to.
type fakeKubelet struct {
	mu      sync.Mutex
	epoch   uint64
	listed  []*podresources.PodResources
	dropped int
	err     error
	moved   bool
	calls   []time.Time
}

func (k *fakeKubelet) List(context.Context) (*Snapshot, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, time.Now())
	k.moved = false
	if k.err != nil {
		return nil, k.err
	}
	s := snapshot(k.epoch, k.listed)
	s.Dropped = k.dropped
	return s, nil
}

func (k *fakeKubelet) Moved() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.moved
}

func (k *fakeKubelet) Close() error { return nil }

// restart begins an epoch with a list.
func (k *fakeKubelet) restart(ps ...*podresources.PodResources) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epoch++
	k.listed, k.err, k.moved = ps, nil, true
}

func (k *fakeKubelet) list(ps ...*podresources.PodResources) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listed, k.err = ps, nil
}

func (k *fakeKubelet) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// times is when it was asked.
func (k *fakeKubelet) times() []time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.calls)
}

func (k *fakeKubelet) count() int { return len(k.times()) }

// rig runs a watcher in a bubble of fake time.
type rig struct {
	t       *testing.T
	kubelet *fakeKubelet
	dir     *pods.Directory
	opt     Options
	w       *Watcher
	cancel  context.CancelFunc
	done    chan struct{}
	start   time.Time

	mu     sync.Mutex
	units  []sampler.Unit
	living map[string]bool
	asked  int
	log    []string
	held   map[string]sampler.Holding // by device and owner
	broken error                      // an event that makes no sense
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, kubelet: &fakeKubelet{epoch: 1}, dir: pods.NewDirectory("c", "n"), units: gpus(gpu0, gpu1), living: map[string]bool{}, held: map[string]sampler.Holding{}, start: time.Now()}
	r.opt = Options{
		Cluster: "c", Node: "n", Socket: "/nowhere", Pods: r.dir, Now: func() int64 { return time.Now().UnixNano() }, Log: slog.New(slog.DiscardHandler),
		Units: func() []sampler.Unit {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.units
		},
		Living: func() (map[string]bool, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.asked++
			if r.living == nil {
				return nil, errors.New("no /proc")
			}
			return maps.Clone(r.living), nil
		},
	}
	return r
}

// run starts the watcher, or another after stop, with the holdings so far.
func (r *rig) run() *rig {
	r.opt.Initial = slices.Collect(maps.Values(r.held))
	r.w = newWatcher(r.opt, r.kubelet)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		if err := r.w.Run(ctx, func() sampler.Producer { return r }); err != nil {
			r.broken = err
		}
	}()
	synctest.Wait()
	return r
}

func (r *rig) stop() {
	r.cancel()
	<-r.done
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func ownerText(o *attribution.Owner) string {
	s := fmt.Sprintf("%s/%s/%s", o.Namespace, o.Pod, o.Container)
	if o.PodUID != "" {
		s += "(" + o.PodUID + ")"
	}
	if len(o.Labels) > 0 {
		s += fmt.Sprint(o.Labels)
	}
	return s
}

// Yield implements sampler.Producer.
func (r *rig) Yield(e *sampler.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := float64(e.Time-r.start.UnixNano()) / 1e9
	device := e.DeviceID
	if len(device) > 5 {
		device = device[:5]
	}
	k := e.DeviceID + " " + ownerText(e.Owner)
	_, there := r.held[k]
	if e.Kind == sampler.Held {
		r.log = append(r.log, fmt.Sprintf("%.2f +%s %s x%d", at, device, ownerText(e.Owner), e.Replicas))
		r.held[k] = sampler.Holding{DeviceID: e.DeviceID, Owner: e.Owner, Replicas: e.Replicas}
	} else {
		r.log = append(r.log, fmt.Sprintf("%.2f -%s %s", at, device, ownerText(e.Owner)))
		delete(r.held, k)
	}
	if e.Node != "n" || e.Owner.Kind != attribution.Container || (e.Kind == sampler.Held) != (e.Replicas > 0) || (e.Kind == sampler.Released && !there) {
		r.broken = fmt.Errorf("a bad event: %+v of %s", e, ownerText(e.Owner))
	}
}

// Close implements sampler.Producer.
func (r *rig) Close() {}

// take is the events since the last call.
func (r *rig) take() (log []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	log, r.log = r.log, nil
	return log
}

// askedLiving is how often it was asked which pods live.
func (r *rig) askedLiving() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// expect compares the events since the last call.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	got := r.take()
	if !slices.Equal(got, want) {
		r.t.Errorf("events:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if r.broken != nil {
		r.t.Error(r.broken)
	}
}

// now is the holdings, as "GPU-1 ns/pod/container x2".
func (r *rig) now() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.held {
		out = append(out, fmt.Sprintf("%.5s %s x%d", h.DeviceID, ownerText(h.Owner), h.Replicas))
	}
	slices.Sort(out)
	return out
}

func (r *rig) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// pod is a pod as a directory knows it.
func pod(namespace, name, uid string, containers ...string) *pods.Pod {
	p := &pods.Pod{Namespace: namespace, Name: name, UID: uid}
	for _, c := range containers {
		p.Containers = append(p.Containers, pods.Container{Name: c})
	}
	return p
}

func has(namespace, name string, ids ...string) *podresources.PodResources {
	return kubelettest.Pod(namespace, name, kubelettest.Container("main", "nvidia.com/gpu", ids...))
}

func sortedHoldings(hs []sampler.Holding) []sampler.Holding {
	slices.SortFunc(hs, func(a, b sampler.Holding) int {
		return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), attribution.CompareOwners(a.Owner, b.Owner))
	})
	return hs
}
