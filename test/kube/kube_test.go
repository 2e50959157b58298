package kube

import (
	"archive/tar"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	hybrid = `24 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
28 24 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	hybridSelf = "3:cpu,cpuacct:/\n2:memory:/user/1\n1:name=systemd:/\n0::/\n"
	pure       = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
)

func TestHierarchies(t *testing.T) {
	for name, test := range map[string]struct {
		mounts, self string
		want         []hierarchy
		pure         bool
	}{
		"hybrid": {hybrid, hybridSelf, []hierarchy{
			{"/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/" + cgroupName},
			{"/sys/fs/cgroup/memory", "memory", "/sys/fs/cgroup/memory/user/1/" + cgroupName},
			{"/sys/fs/cgroup/systemd", "none,name=systemd", "/sys/fs/cgroup/systemd/" + cgroupName},
			{"/sys/fs/cgroup/unified", "", "/sys/fs/cgroup/unified/" + cgroupName},
		}, false},
		"v2": {pure, "0::/user.slice/session-1.scope\n", []hierarchy{{"/sys/fs/cgroup", "", "/sys/fs/cgroup/" + cgroupName}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := hierarchies(test.mounts, test.self)
			if err != nil || !reflect.DeepEqual(got, test.want) || pureV2(got) != test.pure {
				t.Fatalf("%+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
	if _, err := hierarchies("", ""); err == nil {
		t.Fatal("a machine without cgroups is none to run on")
	}
}

// TestImage makes an image of this very program and reads it back.
func TestImage(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	image := Image{Name: "kube.test/x:1", Entrypoint: []string{"/bin/x"}, Files: map[string]string{"/bin/x": self}}
	if err := image.Write(file); err != nil {
		t.Fatal(err)
	}
	outer := untar(t, file)
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(outer["manifest.json"], &manifest); err != nil || len(manifest) != 1 || manifest[0].RepoTags[0] != image.Name {
		t.Fatalf("manifest %s: %v", outer["manifest.json"], err)
	}
	var config struct {
		Config struct{ Entrypoint []string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(outer[manifest[0].Config], &config); err != nil || !slices.Equal(config.Config.Entrypoint, image.Entrypoint) || len(config.RootFS.DiffIDs) != 1 {
		t.Fatalf("config %s: %v", outer[manifest[0].Config], err)
	}
	layer := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(layer, outer[manifest[0].Layers[0]], 0o600); err != nil {
		t.Fatal(err)
	}
	files := untar(t, layer)
	want, err := os.ReadFile(self)
	if err != nil || string(files["bin/x"]) != string(want) || !strings.Contains(string(files["etc/passwd"]), "nonroot") {
		t.Fatalf("the layer has not what it was made of: %v", err)
	}
}

func untar(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // tar says it as it is
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, double := files[h.Name]; double {
			t.Fatalf("%s is there twice", h.Name)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPKI(t *testing.T) {
	p, err := newPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.issue("again", p.ca.Subject, []net.IP{net.ParseIP(nodeIP)}, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.crt", "apiserver.crt", "kubelet.conf", "sa.pub", "again.key"} {
		if info, err := os.Stat(p.path(name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Fatalf("%s: %v, %v", name, info, err)
		}
	}
}
