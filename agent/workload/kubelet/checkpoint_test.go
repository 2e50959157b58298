package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRecordedCheckpoints(t *testing.T) {
	for name, want := range map[string]string{
		"v1-01-static-running": "main=GPU-2~::1 one=GPU-1~::3 two=GPU-2~::3",
		"v1-04-init-running":   "main=GPU-2~::1 one=GPU-1~::3 two=GPU-2~::3 prep=GPU-2~::0 side=GPU-2~::0 main=GPU-1~::2 main=GPU-1~::0",
		"c3-01-dra":            "main=GPU-2~::2 main=GPU-2~::0 main=GPU-2~::1 main=GPU-1~::2",
	} {
		grants, changed, err := NewCheckpoint("testdata/" + name + ".checkpoint.json").Read()
		var got []string
		for _, g := range grants {
			if g.PodUID == "" || g.Resource != "nvidia.com/gpu" {
				t.Errorf("%+v", g)
			}
			for _, id := range g.IDs {
				got = append(got, g.Container+"="+id[:5]+"~"+id[len(gpu0):])
			}
		}
		if s := strings.Join(got, " "); err != nil || !changed || s != want {
			t.Errorf("%s: %s, %t, %v", name, s, changed, err)
		}
	}
}

// Forms that the recordings don't have. Their checksums were computed with the
// printer that the kubelet uses.
func TestCheckpointForms(t *testing.T) {
	for name, test := range map[string]struct {
		data string
		sum  uint64
		want string
	}{
		"nothing": {`{"PodDeviceEntries":null,"RegisteredDevices":null}`, 1944006890, "[]"},
		"empty":   {`{"PodDeviceEntries":[],"RegisteredDevices":{}}`, 2932075448, "[]"},
		"odd": {
			`{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"r","DeviceIDs":null,"AllocResp":null},{"PodUID":"u","ContainerName":"d","ResourceName":"r","DeviceIDs":{},"AllocResp":""},{"PodUID":"u","ContainerName":"e","ResourceName":"r","DeviceIDs":{"10":["a"],"-1":[],"9":["b","c"],"2":null},"AllocResp":"AAE="}],"RegisteredDevices":{"b":["x"],"a":null,"c":[]}}`,
			956420816, "[{u c r []} {u d r []} {u e r [a b c]}]",
		},
		"v1": {
			`{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"nvidia.com/gpu","DeviceIDs":["GPU-a","GPU-b"],"AllocResp":"AAE="},{"PodUID":"v","ContainerName":"c","ResourceName":"nvidia.com/gpu","DeviceIDs":[],"AllocResp":null}],"RegisteredDevices":{"nvidia.com/gpu":["GPU-a","GPU-b"]}}`,
			1769748562, "[{u c nvidia.com/gpu [GPU-a GPU-b]} {v c nvidia.com/gpu []}]",
		},
	} {
		grants, err := ParseCheckpoint(fmt.Appendf(nil, `{"Data":%s,"Checksum":%d}`, test.data, test.sum))
		if got := fmt.Sprint(grants); err != nil || got != test.want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if _, err := ParseCheckpoint(fmt.Appendf(nil, `{"Data":%s,"Checksum":%d}`, test.data, test.sum+1)); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []string{"", "[]", `{"Data":{"PodDeviceEntries":[{"DeviceIDs":"x"}]}}`, strings.Repeat(" ", MaxCheckpointBytes+1)} {
		if _, err := ParseCheckpoint([]byte(s)); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%.20q: %v", s, err)
		}
	}
}

func TestCheckpointIsReadWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet_internal_checkpoint")
	c := NewCheckpoint(path)
	expect := func(what string, grants int, changed, fails bool) {
		t.Helper()
		gs, ch, err := c.Read()
		if len(gs) != grants || ch != changed || (err != nil) != fails {
			t.Errorf("%s: %d grants, changed %t, %v", what, len(gs), ch, err)
		}
	}
	write := func(name string) {
		t.Helper()
		b, err := os.ReadFile("testdata/" + name + ".checkpoint.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	expect("no file", 0, false, false)
	write("v1-01-static-running")
	expect("the first", 3, true, false)
	expect("the same", 3, false, false)
	write("v1-04-init-running")
	expect("another", 7, true, false)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	expect("damaged", 7, false, true)
	expect("damaged as before", 7, false, false)
	write("v1-01-static-running")
	expect("whole again", 3, true, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("gone", 0, true, false)
	expect("still gone", 0, false, false)
}

func FuzzCheckpoint(f *testing.F) {
	for _, name := range []string{"v1-01-static-running", "v1-04-init-running"} {
		b, err := os.ReadFile("testdata/" + name + ".checkpoint.json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"Data":{"PodDeviceEntries":[{"DeviceIDs":["b","a","b"]}]},"Checksum":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		grants, err := ParseCheckpoint(b)
		if err != nil && (!errors.Is(err, ErrCheckpoint) || grants != nil) {
			t.Fatal(err)
		}
		for _, g := range grants {
			if !slices.IsSorted(g.IDs) {
				t.Fatal(g.IDs)
			}
		}
	})
}
