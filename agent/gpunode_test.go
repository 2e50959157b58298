package agent

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// Every restored holding is taken over by the one source that will end it, or
// is ended: otherwise it would be billed for ever.
func TestLaw2RestoredHoldingsAreTakenOverOrEnded(t *testing.T) {
	pod := &attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: "p", Container: "m"}
	held := []sampler.Holding{
		{DeviceID: "GPU-pod", Owner: pod, Replicas: 1},
		{DeviceID: "GPU-job", Owner: sampler.JobOwner("c", "n", "7"), Replicas: 1},
		{DeviceID: "GPU-renamed", Owner: sampler.JobOwner("old", "n", "7"), Replicas: 1},
	}
	for name, test := range map[string]struct {
		jobs   string
		ended  []string
		taken  int // by the jobs' watcher
		holder string
	}{
		"with jobs":    {"/jobs", []string{"GPU-pod", "GPU-renamed"}, 1, "GPU-job"},
		"without jobs": {"", []string{"GPU-pod", "GPU-job", "GPU-renamed"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := &gpuNode{log: slog.New(slog.DiscardHandler)}
			cfg := &Config{Cluster: "c", Slurm: SlurmConfig{JobDir: test.jobs}}
			if err := n.openHolders(cfg, "n", false, Beginning{Now: func() int64 { return 5 }, Held: held}); err != nil {
				t.Fatal(err)
			}
			if test.taken > 0 && (n.slurm.Stats().Holdings != test.taken || len(n.slurm.Holders(test.holder)) != 1) {
				t.Errorf("the watcher of jobs has %+v", n.slurm.Stats())
			}
			p := &events{}
			n.releaseOrphans(func() sampler.Producer { return p })
			if len(p.of) != len(test.ended) || !p.closed {
				t.Fatalf("ended %v, closed %v", p.of, p.closed)
			}
			for i, e := range p.of {
				if e.Kind != sampler.Released || e.DeviceID != test.ended[i] || e.Owner == nil || e.Time != 5 {
					t.Errorf("%+v, want the end of %s", e, test.ended[i])
				}
			}
		})
	}
}

// Pods are read again at once for one that is unknown, and not for ever.
func TestUnknownPodsAreAskedForLessAndLess(t *testing.T) {
	var a asking
	asked := func(answers ...uint64) (at []int) {
		for i, n := range answers {
			if a.again(n) {
				at = append(at, i)
			}
		}
		return at
	}
	if at := asked(0, 0, 3, 3, 3, 4); !slices.Equal(at, []int{2, 5}) {
		t.Errorf("asked at %v", at)
	}
	for i := range uint64(100) {
		if again := a.again(5 + i); again != slices.Contains([]uint64{2, 4, 8}, i+2) {
			t.Errorf("second %d: %v", i+2, again)
		}
	}
}

// events is a producer that keeps what it is given.
type events struct {
	of     []sampler.Event
	closed bool
}

func (p *events) Yield(e *sampler.Event) { p.of = append(p.of, *e) }
func (p *events) Close()                 { p.closed = true }
