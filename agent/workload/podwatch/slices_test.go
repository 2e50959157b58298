package podwatch

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
)

const slicesPath = "/apis/resource.k8s.io/v1/resourceslices"

// recordedSlices are the items of the recording.
func recordedSlices(t *testing.T) (items []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "resourceslices.json"))
	if err != nil {
		t.Fatal(err)
	}
	var l struct{ Items []json.RawMessage }
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatal(err)
	}
	for _, i := range l.Items {
		items = append(items, string(i))
	}
	return items
}

// sliceJSON is a slice of one device.
func sliceJSON(name string, generation int, device string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":"VERSION"},"spec":{"driver":"gpu.nvidia.com","nodeName":"lab-node-1",
		"pool":{"name":"p","generation":%d},"devices":[%s]}}`, name, generation, device)
}

func gpuJSON(name, uuid string) string {
	return fmt.Sprintf(`{"name":%q,"attributes":{"uuid":{"string":%q},"type":{"string":"gpu"}}}`, name, uuid)
}

// watchSlices runs the watch; want looks until a device is what it should be.
func watchSlices(t *testing.T, a *api, log *journal) (s *Slices, want func(driver, pool, device, uuid string)) {
	t.Helper()
	s, err := NewSlices(SlicesOptions{Node: node, Kubeconfig: a.kubeconfig(), Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, func(driver, pool, device, uuid string) {
		t.Helper()
		for {
			if got, _ := s.Lookup(driver, pool, device); got.UUID == uuid {
				return
			}
			select {
			case <-s.Changed():
			case <-t.Context().Done():
				t.Fatalf("%s is not known as %q", device, uuid)
			}
		}
	}
}

func TestSlices(t *testing.T) {
	var log journal
	a := newAPI(t, slicesPath, "ResourceSliceList", recordedSlices(t)...)
	s, want := watchSlices(t, a, &log)
	if a.set(func() {}); len(a.requests) != 0 {
		t.Error("something was asked before anybody wanted to know")
	}
	want("gpu.nvidia.com", "lab-node-1", "gpu-0", "GPU-33333333-aaaa-4bbb-8ccc-000000000002")
	got, ok := s.Lookup("gpu.nvidia.com", "lab-node-1", "gpu-1")
	if wanted := (deviceid.Attributes{UUID: "GPU-44444444-aaaa-4bbb-8ccc-000000000003", Type: "gpu", Minor: -1, Placement: -1}); !ok || got != wanted {
		t.Errorf("%+v, want %+v", got, wanted)
	}
	for _, other := range [][3]string{{"gpu.nvidia.com", "lab-node-1", "gpu-2"}, {"gpu.nvidia.com", "x", "gpu-0"}, {"x", "lab-node-1", "gpu-0"}} {
		if _, ok := s.Lookup(other[0], other[1], other[2]); ok {
			t.Errorf("%v is known", other)
		}
	}
	a.change("ADDED", sliceJSON("one", 1, gpuJSON("d", "GPU-1")+","+gpuJSON("old", "GPU-OLD")))
	want("gpu.nvidia.com", "p", "d", "GPU-1")
	a.change("ADDED", sliceJSON("two", 2, gpuJSON("d", "GPU-2")))
	want("gpu.nvidia.com", "p", "d", "GPU-2")
	want("gpu.nvidia.com", "p", "old", "GPU-OLD") // claims may still mean it
	a.change("DELETED", sliceJSON("one", 1, ""))
	want("gpu.nvidia.com", "p", "old", "")
	want("gpu.nvidia.com", "p", "d", "GPU-2")
	a.change("ADDED", strings.Replace(sliceJSON("three", 9, gpuJSON("d", "GPU-9")), node, "another", 1))
	a.change("MODIFIED", sliceJSON("two", 3, gpuJSON("d", "GPU-3")))
	want("gpu.nvidia.com", "p", "d", "GPU-3")
	if st := s.Stats(); st.Devices != 3 || st.Dropped != 1 || st.Failures != 0 || log.String() != "" {
		t.Errorf("%+v\n%s", st, &log)
	}
}

func TestSlicesOfOlderServers(t *testing.T) {
	for _, version := range []string{"v1beta2", "v1beta1"} {
		device := gpuJSON("d", "GPU-1")
		if version == "v1beta1" {
			device = strings.Replace(device, `"attributes"`, `"basic":{"attributes"`, 1) + "}"
		}
		var log journal
		a := newAPI(t, "/apis/resource.k8s.io/"+version+"/resourceslices", "ResourceSliceList", sliceJSON("one", 1, device))
		_, want := watchSlices(t, a, &log)
		want("gpu.nvidia.com", "p", "d", "GPU-1")
		if log.String() != "" {
			t.Errorf("%s: %s", version, &log)
		}
	}
}

// A cluster that has no slices, or refuses them, gives one line.
func TestSlicesThatCannotBeHad(t *testing.T) {
	for text, prepare := range map[string]func(a *api){
		"does not serve":                 func(a *api) { a.path = "/elsewhere" },
		"resourceslices.resource.k8s.io": func(a *api) { a.refuse = http.StatusForbidden },
	} {
		a := newAPI(t, slicesPath, "ResourceSliceList")
		prepare(a)
		var log lines
		s, err := NewSlices(SlicesOptions{Node: node, Kubeconfig: a.kubeconfig(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		log.written = make(chan string, 10)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		s.Lookup("a", "b", "c")
		if line := <-log.written; !strings.Contains(line, text) {
			t.Errorf("it says %s", line)
		}
		cancel()
		<-done
		if len(log.written) != 0 || s.Stats().Failures != 1 {
			t.Errorf("%d more lines, %+v", len(log.written), s.Stats())
		}
	}
	if _, err := NewSlices(SlicesOptions{}); err == nil {
		t.Error("slices of no node")
	}
}

// lines hands on what is written.
type lines struct{ written chan string }

func (l *lines) Write(b []byte) (int, error) {
	l.written <- string(b)
	return len(b), nil
}

func TestDeviceAttributes(t *testing.T) {
	for name, c := range map[string]struct {
		driver, device string
		want           deviceid.Attributes
		known          bool
	}{
		"static MIG": {
			nvidiaDriver, `{"attributes":{"type":{"string":"mig"},"uuid":{"string":"MIG-1"},"parentUUID":{"string":"GPU-1"},"profile":{"string":"1g.5gb"},
				"index":{"int":1},"parentMinor":{"int":2}},"capacity":{"memory":{"value":"4864Mi"},"memorySlice3":{"value":"1"},"memorySlice2":{"value":"1"}}}`,
			deviceid.Attributes{UUID: "MIG-1", ParentUUID: "GPU-1", Type: "mig", Minor: 2, Profile: "1g.5gb", Placement: 2},
			true,
		},
		"dynamic MIG": {
			nvidiaDriver, `{"attributes":{"type":{"string":"mig"},"parentUUID":{"string":"GPU-1"},"profile":{"string":"3g.20gb"}},
				"consumesCounters":[{"counterSet":"gpu-0-counter-set","counters":{"memory-slice-4":{"value":"1"},"memory-slice-5":{"value":"1"},"encoders":{}}}]}`,
			deviceid.Attributes{ParentUUID: "GPU-1", Type: "mig", Minor: -1, Profile: "3g.20gb", Placement: 4},
			true,
		},
		"qualified names": {
			"x.com", `{"attributes":{"x.com/uuid":{"string":"GPU-1"},"x.com/minor":{"int":7},"x.com/type":{"string":"gpu"}},"capacity":{"memorySlice0":{}}}`,
			deviceid.Attributes{UUID: "GPU-1", Type: "gpu", Minor: 7, Placement: -1},
			true,
		},
		"another's": {"nic.example", `{"attributes":{"type":{"string":"nic"}}}`, deviceid.Attributes{Type: "nic", Minor: -1, Placement: -1}, false},
		"nonsense": {
			nvidiaDriver, `{"attributes":{"type":{"int":1},"uuid":{"bool":true},"minor":{"int":-5},"profile":{"string":"` + strings.Repeat("x", 300) + `"}}}`,
			deviceid.Attributes{Minor: -1, Placement: -1},
			true,
		},
	} {
		var d device
		if err := json.Unmarshal([]byte(c.device), &d); err != nil {
			t.Fatal(err)
		}
		if got, known := d.attributes(c.driver); got != c.want || known != c.known {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, known, c.want, c.known)
		}
	}
}

func TestSlicesAreBounded(t *testing.T) {
	s, err := NewSlices(SlicesOptions{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	s.slices = map[string]*published{}
	for i := range maxSlices + 10 {
		var devices []string
		for j := range 10 {
			devices = append(devices, gpuJSON(fmt.Sprint(i, "-", j), fmt.Sprint("GPU-", i, j)))
		}
		x := &slice{}
		if err := json.Unmarshal([]byte(sliceJSON(fmt.Sprint(i), 1, strings.Join(devices, ","))), x); err != nil {
			t.Fatal(err)
		}
		s.put(x)
	}
	s.put(nil)
	s.publish()
	over := maxSlices*10 - maxDevices
	if st := s.Stats(); st.Devices != maxDevices || st.Dropped != uint64(11+over) {
		t.Errorf("%+v", st)
	}
	was := maps.Clone(*s.devices.Load())
	<-s.Changed()
	s.slices = map[string]*published{}
	s.publish()
	if len(was) != maxDevices || s.Stats().Devices != 0 {
		t.Error("devices stay")
	}
}
