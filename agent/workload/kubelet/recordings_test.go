package kubelet

import (
	"bufio"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
)

// list is a recorded answer.
func list(t *testing.T, name string) []*podresources.PodResources {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".list.bin")
	if err != nil {
		t.Fatal(err)
	}
	var r podresources.ListPodResourcesResponse
	if err := proto.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r.GetPodResources()
}

// slice is the recorded ResourceSlice, by pool and device.
func slice(t *testing.T) map[string]deviceid.Attributes {
	t.Helper()
	b, err := os.ReadFile("testdata/c3-01-dra.slice.json")
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Spec struct {
			Devices []struct {
				Name       string
				Attributes map[string]struct{ String string }
			}
			Pool struct{ Name string }
		}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	m := map[string]deviceid.Attributes{}
	for _, d := range s.Spec.Devices {
		m[s.Spec.Pool.Name+"/"+d.Name] = deviceid.Attributes{UUID: d.Attributes["uuid"].String, Type: d.Attributes["type"].String, Minor: -1, Placement: -1}
	}
	return m
}

func TestRecordedLists(t *testing.T) {
	for name, want := range map[string][]string{
		"v1-01-static-running": {"GPU-1 research/gpu-b-lab-node-1/one x1", "GPU-2 default/gpu-a-lab-node-1/main x1", "GPU-2 research/gpu-b-lab-node-1/two x1"},
		"c1-05-static-and-api": {
			"GPU-1 research/trainer-64db5cdfb-mg7l4/main x1", "GPU-2 default/gpu-a-lab-node-1/main x1", "GPU-2 research/trainer-64db5cdfb-dns57/main x1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.kubelet.list(list(t, name)...)
				r.run().pass(2 * time.Second)
				if got := r.now(); !slices.Equal(got, want) {
					t.Errorf("%q", got)
				}
			})
		})
	}
	// systemd's is another driver's cgroups, the list is as any
	s := snapshot(1, list(t, "v2-systemd"))
	if len(s.Pods) == 0 || s.Dropped != 0 || !slices.IsSortedFunc(s.Pods, func(a, b Pod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) }) {
		t.Errorf("%+v", s)
	}
}

var (
	timelineAt   = regexp.MustCompile(`^(\d\d:\d\d:\d\d\.\d{3}) (?:sock ino (\d+)|## (.*))$`)
	timelineList = regexp.MustCompile(`^    (\S+)/(\S+)/(\S+)=(\S*)$`)
)

// moment is a list in the recorded timeline.
type moment struct {
	at    time.Duration // since its beginning
	inode string
	pods  []*podresources.PodResources
	err   bool
}

func timeline(t *testing.T) (ms []moment) {
	t.Helper()
	f, err := os.Open("testdata/v1-timeline.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var start time.Time
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if m := timelineAt.FindStringSubmatch(line); m != nil {
			at, err := time.Parse("15:04:05.000", m[1])
			if err != nil {
				t.Fatal(err)
			}
			if start.IsZero() {
				start = at
			}
			if m[2] != "" {
				ms = append(ms, moment{at: at.Sub(start), inode: m[2]})
			}
			continue
		}
		last := &ms[len(ms)-1]
		m := timelineList.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "    ERR"):
			last.err = true
		case line == "    (empty)":
		case m == nil:
			t.Fatalf("timeline: %q", line)
		default:
			var ids []string
			if m[4] != "" {
				ids = strings.Split(m[4], "+")
			}
			last.pods = append(last.pods, kubelettest.Pod(m[1], m[2], kubelettest.Container(m[3], "nvidia.com/gpu", ids...)))
		}
	}
	return ms
}

// The recorded two minutes: two restarts of the kubelet, one of them with the
// plugin away, release nobody.
func TestRecordedTimeline(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, p := range []string{"crash", "done", "gpu-a", "gpu-init", "gpu-two"} {
			r.dir.Put(pod("default", p+"-lab-node-1", p, "main", "side", "sidecar"))
			r.living[p] = true
		}
		r.dir.Put(pod("research", "gpu-b-lab-node-1", "gpu-b", "one", "two"))
		r.living["gpu-b"] = true
		r.run()
		ms, inode := timeline(t), ""
		for _, m := range ms {
			r.pass(m.at - time.Since(r.start))
			switch {
			case m.err:
				r.kubelet.fail(status.Error(codes.Unavailable, "gone"))
			case m.inode != inode:
				inode = m.inode
				r.kubelet.restart(m.pods...)
			default:
				r.kubelet.list(m.pods...)
			}
		}
		r.pass(10 * time.Second)
		var got []string
		for _, line := range r.take() { // times are the polls': what happened in which order is what counts
			_, what, _ := strings.Cut(line, " ")
			got = append(got, what)
		}
		want := []string{
			"+GPU-1 research/gpu-b-lab-node-1/one(gpu-b) x1", "+GPU-2 default/gpu-a-lab-node-1/main(gpu-a) x1", "+GPU-2 research/gpu-b-lab-node-1/two(gpu-b) x1",
			"+GPU-1 default/crash-lab-node-1/main(crash) x1", "+GPU-1 default/done-lab-node-1/main(done) x1",
			"-GPU-1 default/done-lab-node-1/main(done)",
			"+GPU-1 default/gpu-init-lab-node-1/main(gpu-init) x1", "+GPU-2 default/gpu-init-lab-node-1/side(gpu-init) x1",
			"-GPU-1 default/gpu-init-lab-node-1/main(gpu-init)", "-GPU-2 default/gpu-init-lab-node-1/side(gpu-init)",
			"+GPU-2 default/gpu-two-lab-node-1/main(gpu-two) x2", "-GPU-2 default/gpu-two-lab-node-1/main(gpu-two)",
			// stopped, started: empty at first, all again, and the crashed one is given up
			"-GPU-1 default/crash-lab-node-1/main(crash)",
			// killed, started: the crashed one is listed for a second again
			"+GPU-1 default/crash-lab-node-1/main(crash) x1", "-GPU-1 default/crash-lab-node-1/main(crash)",
			"-GPU-1 research/gpu-b-lab-node-1/one(gpu-b)", "-GPU-2 research/gpu-b-lab-node-1/two(gpu-b)",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
	})
}
