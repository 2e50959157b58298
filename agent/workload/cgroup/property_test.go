package cgroup

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A pod's path, in whatever form, tells what it was made of.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uid := rapid.OneOf(
			rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`),
			rapid.StringMatching(`[0-9a-f]{32}`),
		).Draw(t, "uid")
		id := rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "id")
		node := rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "node")
		qos := rapid.SampledFrom([]string{"", "burstable", "besteffort"}).Draw(t, "qos")
		want := Pod{UID: uid, Container: id}

		var path string
		if rapid.Bool().Draw(t, "systemd") {
			path, want.Runtime = systemdPath(t, uid, id, qos)
		} else {
			path, want.Runtime = cgroupfsPath(t, uid, id, qos)
		}
		path = rapid.SampledFrom([]string{
			"", "", "/kubelet", "/docker/" + node, "/system.slice/docker-" + node + ".scope",
			"/machine.slice/libpod-" + node + ".scope/container", "/lxc.payload.n",
		}).Draw(t, "outside") + path
		path += rapid.SampledFrom([]string{"", "", "/container", "/init.scope", "/a/b/c", "/docker/" + node}).Draw(t, "inside")
		text := lines(t, relative(t, path))

		r, ok := Parse([]byte(text))
		if !ok || r != (Ref{Pod: want}) {
			t.Fatalf("%s\n got %+v %v\nwant %+v", text, r, ok, want)
		}
	})
}

func systemdPath(t *rapid.T, uid, id, qos string) (string, Runtime) {
	prefix := rapid.SampledFrom([]string{"", "kubelet-", "a-b-"}).Draw(t, "prefix")
	var path strings.Builder
	name := prefix + "kubepods"
	fmt.Fprintf(&path, "/%s.slice", name)
	if qos != "" {
		name += "-" + qos
		fmt.Fprintf(&path, "/%s.slice", name)
	}
	pod := fmt.Sprintf("/%s-pod%s.slice", name, strings.ReplaceAll(uid, "-", "_"))
	r := rapid.SampledFrom([]Runtime{Containerd, CRIO, Docker}).Draw(t, "runtime")
	word := map[Runtime]string{Containerd: "cri-containerd", CRIO: "crio", Docker: "docker"}[r]
	if rapid.Bool().Draw(t, "mismatch") {
		return "/system.slice/containerd.service" + pod + ":" + word + ":" + id, r
	}
	return path.String() + pod + "/" + word + "-" + id + ".scope", r
}

func cgroupfsPath(t *rapid.T, uid, id, qos string) (string, Runtime) {
	path := "/kubepods"
	if qos != "" {
		path += "/" + qos
	}
	path += "/pod" + uid
	if rapid.Bool().Draw(t, "crio") {
		return path + "/crio-" + id, CRIO
	}
	return path + "/" + id, Unknown
}

// relative shows a path as a reader in another pod of the same kubepods does,
// or of the same QoS class, or leaves it.
func relative(t *rapid.T, path string) string {
	i := strings.LastIndex(path, "kubepods")
	if i < 0 || rapid.Bool().Draw(t, "absolute") {
		return path
	}
	dots := strings.Repeat("/..", rapid.IntRange(1, 6).Draw(t, "dots"))
	i = strings.LastIndexByte(path[:i], '/')
	if rest := path[i+1:]; strings.HasPrefix(rest, "kubepods/") {
		rest = strings.TrimPrefix(rest, "kubepods/")
		if class, below, ok := strings.Cut(rest, "/"); ok && isQOS([]byte(class)) && rapid.Bool().Draw(t, "same class") {
			rest = below
		}
		return dots + "/" + rest
	}
	return dots + path[i:]
}

// lines makes the file that a process in a path has.
func lines(t *rapid.T, path string) string {
	var b strings.Builder
	controllers := []string{"name=systemd", "cpu,cpuacct", "memory", "devices", "pids", "rdma"}
	n := rapid.IntRange(0, len(controllers)).Draw(t, "hierarchies")
	for i := range n {
		fmt.Fprintf(&b, "%d:%s:%s\n", n-i, controllers[i], path)
	}
	if n == 0 || rapid.Bool().Draw(t, "unified too") {
		fmt.Fprintf(&b, "0::%s\n", path)
	}
	return b.String()
}

// Names that no kubelet and no runtime gives never look like a pod's.
func TestStrangersAreNoPods(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "id")
		name := rapid.OneOf(
			rapid.SampledFrom([]string{
				"docker", "machine.slice", "system.slice", "libpod-" + id + ".scope", "docker-" + id + ".scope", "container",
				"libpod_parent", "lxc", "lxc.payload.x", "init.scope", "kubepods", "burstable", "slurm", "step_0", id,
			}),
			rapid.StringMatching(`[a-z]{1,8}(\.service|\.slice|\.scope)?`),
		)
		path := "/" + strings.Join(rapid.SliceOfN(name, 0, 8).Draw(t, "names"), "/")
		if r, ok := Parse([]byte("0::" + path + "\n")); ok {
			t.Fatalf("%s: %+v", path, r)
		}
	})
}
