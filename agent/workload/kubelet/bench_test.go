package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

type discard struct{}

func (discard) Yield(*sampler.Event) {}
func (discard) Close()               {}

// One second of a quiet node of 110 pods, of which 32 share 8 GPUs: a list over
// the socket, the kubelet's side of it included, and four looks.
func BenchmarkSecond(b *testing.B) {
	k := kubelettest.New(b)
	dir := pods.NewDirectory("c", "n")
	var units []sampler.Unit
	for i := range 8 {
		units = append(units, sampler.Unit{ID: fmt.Sprintf("GPU-%08d-aaaa-4bbb-8ccc-000000000000", i), Index: i, Minor: i, Added: 1})
	}
	var listed []*podresources.PodResources
	for i := range 110 {
		name := fmt.Sprintf("pod-%d", i)
		dir.Put(pod("ns", name, fmt.Sprint(i), "main"))
		if i < 32 {
			listed = append(listed, has("ns", name, fmt.Sprintf("%s::%d", units[i%8].ID, i/8)))
		} else {
			listed = append(listed, kubelettest.Pod("ns", name, kubelettest.Container("main", "")))
		}
	}
	k.SetPods(listed...)
	c, err := NewClient(k.Path())
	if err != nil {
		b.Fatal(err)
	}
	w := newWatcher(Options{
		Cluster: "c", Node: "n", Pods: dir, Units: func() []sampler.Unit { return units },
		Now: func() int64 { return 1 }, Log: slog.New(slog.DiscardHandler),
	}, c)
	b.ReportAllocs()
	for b.Loop() {
		s, err := c.List(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		w.answered(s)
		for i := range 4 {
			w.renewUnits()
			if i == 0 {
				w.look(1)
			}
			w.step(discard{})
		}
	}
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}
