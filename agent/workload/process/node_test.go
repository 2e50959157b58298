package process

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// tree makes a proc file system of plain files.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(to, name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTreeOfFiles(t *testing.T) {
	table := New(Options{Cluster: "c", Node: "n", ProcFS: tree(t, map[string]string{
		"42/stat": statText(42, "x", 100, 0), "42/cgroup": "0::/\n",
		"43/stat": "43 (broken", "43/cgroup": "0::/\n",
	})})
	defer table.Close()
	if id, ok := table.Identify(42); !ok || id.Start != 100 {
		t.Errorf("%+v %v", id, ok)
	}
	for _, pid := range []uint32{43, 44} {
		if id, ok := table.Identify(pid); ok {
			t.Errorf("%d: %+v", pid, id)
		}
	}
	if s := table.Stats(); s.Files != 1 || s.Processes != 1 {
		t.Errorf("%+v", s)
	}
}

func TestPIDNamespace(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	const other = "-> pid:[4026532000]"
	node := func(change map[string]string) map[string]string {
		m := map[string]string{
			"self": "-> " + self, self + "/ns/pid": other, self + "/cgroup": "0::/\n",
			"1/cgroup": "0::/../../../../init.scope\n",
		}
		maps.Copy(m, change)
		return m
	}
	for name, c := range map[string]struct {
		files         map[string]string
		plain, nested bool // accepted
	}{
		"the first namespace":              {node(map[string]string{self + "/ns/pid": "-> " + initPIDNamespace, "1/cgroup": inPod(uidA, ctrID("a"))}), true, true},
		"a kernel without namespaces":      {map[string]string{"1/cgroup": "0::/\n"}, true, true},
		"a nested node":                    {node(nil), false, true},
		"a nested node, absolute paths":    {node(map[string]string{"1/cgroup": "0::/init.scope\n", self + "/cgroup": inPod(uidA, ctrID("a"))}), false, true},
		"a nested node, cgroup v1":         {node(map[string]string{"1/cgroup": "2:cpu:/docker/" + ctrID("d") + "\n", self + "/cgroup": "2:cpu:/docker/" + ctrID("d") + "/kubelet/kubepods/pod" + uidA + "/" + ctrID("a") + "\n"}), false, true},
		"a pod's shared namespace":         {node(map[string]string{"1/cgroup": inPod(uidA, ctrID("b")), self + "/cgroup": inPod(uidA, ctrID("a"))}), false, false},
		"the same, private, systemd":       {node(map[string]string{"1/cgroup": "0::/../cri-containerd-" + ctrID("b") + ".scope\n"}), false, false},
		"the same, private, cgroupfs":      {node(map[string]string{"1/cgroup": "0::/../" + ctrID("b") + "\n"}), false, false},
		"the same, private, CRI-O":         {node(map[string]string{"1/cgroup": "0::/../../crio-" + ctrID("b") + ".scope/container\n"}), false, false},
		"an init in the agent's container": {node(map[string]string{"1/cgroup": "0::/\n"}), false, false},
		"another namespace's proc":         {node(map[string]string{"self": "-> 999999999", "999999999/ns/pid": other, "999999999/cgroup": "0::/\n"}), false, false},
		"no pid 1 to be seen":              {map[string]string{"self": "-> " + self, self + "/ns/pid": other, self + "/cgroup": "0::/\n"}, false, false},
	} {
		dir := tree(t, c.files)
		for nested, accepted := range map[bool]bool{false: c.plain, true: c.nested} {
			err := CheckPIDNamespace(dir, nested)
			if (err == nil) != accepted || (err != nil && !errors.Is(err, ErrPIDNamespace)) {
				t.Errorf("%s (nested %v): %v", name, nested, err)
			}
			if err != nil && !strings.Contains(err.Error(), "hostPID: true") {
				t.Errorf("%s: no hint in %v", name, err)
			}
		}
	}
}

func TestLiving(t *testing.T) {
	files := map[string]string{
		"1/cgroup": "0::/init.scope\n", "2/stat": "no cgroup: it has just ended",
		"10/cgroup": inPod(uidA, ctrID("a")), "11/cgroup": inPod(uidA, ctrID("b")),
		"12/cgroup":  "0::/../../kubepods-besteffort-pod" + strings.ReplaceAll(uidB, "-", "_") + ".slice/cri-containerd-" + ctrID("c") + ".scope\n",
		"13/cgroup":  "0::/../cri-containerd-" + ctrID("d") + ".scope\n",
		"net/cgroup": inPod("99999999-2222-3333-4444-555555555555", ctrID("e")),
		"cmdline":    "x", "self": "-> 1",
	}
	got, err := Living(tree(t, files))
	want := map[string]bool{uidA: true, uidB: true, ctrID("d"): true}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	if _, err := Living(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrIncomplete) || !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	dir := tree(t, files)
	if err := os.Mkdir(filepath.Join(dir, "14"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "14/cgroup"), 0o755); err != nil { // can't be read
		t.Fatal(err)
	}
	if got, err := Living(dir); !errors.Is(err, ErrIncomplete) || !maps.Equal(got, want) {
		t.Errorf("%v %v, want %v and an error", got, err, want)
	}
}

// A proc file system with hidepid shows a process its own, and says nothing of
// the others: they are not known, rather than gone.
func TestHiddenProcesses(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	files := map[string]string{
		"self": "-> " + self, self + "/ns/pid": "-> " + initPIDNamespace, self + "/stat": "x", self + "/cgroup": inPod(uidA, ctrID("a")),
	}
	dir := tree(t, files)
	if got, err := Living(dir); !errors.Is(err, ErrIncomplete) || !errors.Is(err, ErrHidden) || !got[uidA] {
		t.Errorf("%v, %v", got, err)
	}
	if err := CheckPIDNamespace(dir, false); !errors.Is(err, ErrHidden) || !strings.Contains(err.Error(), "hidepid") {
		t.Errorf("%v", err)
	}
	files["1/cgroup"] = "0::/init.scope\n"
	dir = tree(t, files)
	if got, err := Living(dir); err != nil || !got[uidA] {
		t.Errorf("%v, %v", got, err)
	}
	if err := CheckPIDNamespace(dir, false); err != nil {
		t.Error(err)
	}
}

func TestLivingReal(t *testing.T) {
	if _, err := os.Stat("/proc/self/cgroup"); err != nil {
		t.Skip("no /proc here")
	}
	if _, err := Living("/proc"); err != nil {
		t.Error(err)
	}
}
