package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

func client(t *testing.T, path string) *Client {
	t.Helper()
	c, err := NewClient(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestClient(t *testing.T) {
	k := kubelettest.New(t)
	k.SetPods(list(t, "c3-01-dra")...)
	b, err := os.ReadFile("testdata/v1-01-static-running.allocatable.bin")
	if err != nil {
		t.Fatal(err)
	}
	var allocatable podresources.AllocatableResourcesResponse
	if err := proto.Unmarshal(b, &allocatable); err != nil {
		t.Fatal(err)
	}
	k.SetAllocatable(allocatable.GetDevices()...)
	c := client(t, k.Path())
	ctx := context.Background()

	s, err := c.List(ctx)
	if err != nil || s.Epoch != 1 || c.Epoch() != 1 || s.Dropped != 0 || c.Moved() {
		t.Fatalf("%+v, %v", s, err)
	}
	var names []string
	for _, p := range s.Pods {
		for _, x := range p.Containers {
			names = append(names, fmt.Sprintf("%s/%s/%s %d+%d", p.Namespace, p.Name, x.Name, len(x.Devices), len(x.Dynamic)))
		}
	}
	if want := []string{
		"default/dra-own/main 0+1", "default/dra-shared-1/a 0+1", "default/dra-shared-1/b 0+1", "default/dra-shared-2/main 0+1",
		"default/gpu-a-lab-node-1/main 1+0", "research/trainer-6b88f8678d-7zvvw/main 1+0", "research/trainer-6b88f8678d-vhwfv/main 1+0",
	}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	p, err := c.Get(ctx, "default", "dra-own")
	if err != nil || len(p.Containers) != 1 || p.Containers[0].Dynamic[0].Claim != "dra-own-g-x4jxx" || len(p.Containers[0].Dynamic[0].CDI) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := c.Get(ctx, "default", "nosuch"); status.Code(err) != codes.Unknown {
		t.Error(err)
	}
	ds, err := c.Allocatable(ctx)
	if err != nil || len(ds) != 8 || ds[0] != (Device{"nvidia.com/gpu", gpu0 + "::0"}) {
		t.Errorf("%v, %v", ds, err)
	}

	k.Limit(1)
	if _, err := c.List(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.List(ctx); kindOf(err) != errorRateLimited {
		t.Error(err)
	}
	k.Limit(-1)
	// away: the file stays
	k.Stop()
	if _, err := c.List(ctx); kindOf(err) != errorUnavailable || c.Epoch() != 1 || c.Moved() {
		t.Errorf("%v, epoch %d", err, c.Epoch())
	}
	// back, on another file: at once, though the last dial failed
	k.Restart()
	if !c.Moved() {
		t.Error("it has not moved")
	}
	if s, err := c.List(ctx); err != nil || s.Epoch != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := os.Remove(k.Path()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(ctx); kindOf(err) != errorUnavailable || c.Moved() {
		t.Error(err)
	}
	if _, err := NewClient("relative/path"); err == nil {
		t.Error("a relative path is taken")
	}
}

// A kubelet that is replaced while it is asked answers nothing that counts: it
// may be the new one, reached by a connection that was dialled anew.
func TestAnswerOfTwoKubelets(t *testing.T) {
	k := kubelettest.New(t)
	c := client(t, k.Path())
	release := k.Hang()
	asked := make(chan error, 1)
	go func() {
		_, err := c.List(context.Background())
		asked <- err
	}()
	for k.Calls() == 0 {
		select {
		case err := <-asked:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	other, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Close(), os.Rename(other.Name(), k.Path())); err != nil {
		t.Fatal(err)
	}
	release()
	if err := <-asked; !errors.Is(err, ErrRestarted) || kindOf(err) != errorRestarted {
		t.Error(err)
	}
}

func TestTooLargeAnswer(t *testing.T) {
	k := kubelettest.New(t)
	c := client(t, k.Path())
	k.SetPods(kubelettest.Pod("ns", strings.Repeat("x", MaxMessageBytes)))
	if _, err := c.List(context.Background()); kindOf(err) != errorRateLimited { // gRPC's word for it
		t.Error(err)
	}
}

func TestErrorKinds(t *testing.T) {
	for want, err := range map[errorKind]error{
		errorTimeout: status.Error(codes.DeadlineExceeded, ""), errorOther: errors.New("x"),
		errorUnavailable: fmt.Errorf("kubelet: %w", os.ErrNotExist), errorRestarted: fmt.Errorf("kubelet: %w", ErrRestarted),
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v is %s", err, errorNames[got])
		}
	}
}

func TestBoundsOfASnapshot(t *testing.T) {
	long := strings.Repeat("x", MaxNameBytes+1)
	many := make([]string, MaxDevices)
	for i := range many {
		many[i] = fmt.Sprintf("d%06d", i)
	}
	s := snapshot(1, []*podresources.PodResources{
		has("ns", "ok", "a"), has(long, "p", "a"), has("ns", "long-id", long), has("ns", "z", many...), nil,
		kubelettest.Pod("ns", "a-claim", kubelettest.Claimed("c", "ns", long, "d", "p", "g")),
	})
	if len(s.Pods) != 6 || s.Dropped != 1+1+1+1 {
		t.Errorf("%d pods, %d dropped", len(s.Pods), s.Dropped)
	}
	pods := make([]*podresources.PodResources, MaxPods+3)
	if s := snapshot(1, pods); len(s.Pods) != MaxPods || s.Dropped != 3 {
		t.Errorf("%d pods, %d dropped", len(s.Pods), s.Dropped)
	}
}

// The watcher on a real socket: it holds, loses its kubelet, and goes on.
func TestWatcherOnASocket(t *testing.T) {
	k := kubelettest.New(t)
	k.SetPods(has("ns", "a", gpu0), has("ns", "b", gpu1))
	dir := pods.NewDirectory("c", "n")
	dir.Put(pod("ns", "a", "ua", "main"), pod("ns", "b", "ub", "main"))
	w, err := New(Options{
		Cluster: "c", Node: "n", Socket: k.Path(), Pods: dir, Units: func() []sampler.Unit { return gpus(gpu0, gpu1) },
		Interval: 500 * time.Millisecond, Now: func() int64 { return time.Now().UnixNano() }, Log: slog.New(slog.DiscardHandler),
		Living: func() (map[string]bool, error) { return map[string]bool{"ub": true}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.Ready() == nil {
		t.Error("ready before the first answer")
	}
	events := make(chanProducer, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx, func() sampler.Producer { return events }) }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-events:
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no event: want %s", want)
		}
	}
	expect("+" + gpu0 + " ns/a/main(ua)")
	expect("+" + gpu1 + " ns/b/main(ub)")
	k.Stop()
	k.SetPods(has("ns", "b", gpu1))
	k.Restart()
	expect("-" + gpu0 + " ns/a/main(ua)") // it has no process
	k.SetPods()
	expect("-" + gpu1 + " ns/b/main(ub)")
	if err := w.Ready(); err != nil || w.Stats().Epochs != 2 {
		t.Errorf("%v, %+v", err, w.Stats())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type chanProducer chan string

func (c chanProducer) Yield(e *sampler.Event) {
	sign := "+"
	if e.Kind == sampler.Released {
		sign = "-"
	}
	c <- sign + e.DeviceID + " " + ownerText(e.Owner)
}

func (c chanProducer) Close() {}
