package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setUp makes a node of new namespaces.
func (n *node) setUp() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"host name", func() error { return unix.Sethostname([]byte(NodeName)) }},
		{"cgroups", n.mountCgroups},
		{"folders", n.mountFolders},
		{"sysctls", n.hideSysctls},
		{"network", n.network},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("set up the node's %s: %w", step.what, err)
		}
	}
	return nil
}

// mountCgroups shows the hierarchies as the machine has them, but from the
// node's own directories downwards.
func (n *node) mountCgroups() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// sysfs shows the devices of the network namespace in which it was mounted.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if pureV2(n.Cgroups) {
		return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
	}
	if err := unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, h := range n.Cgroups {
		if err := os.MkdirAll(h.Mount, 0o755); err != nil {
			return err
		}
		kind := "cgroup"
		if h.v2() {
			kind = "cgroup2"
		}
		if err := unix.Mount(kind, h.Mount, kind, 0, h.Options); err != nil {
			return fmt.Errorf("mount %s: %w", h.Mount, err)
		}
	}
	return nil
}

// mountFolders gives the node a /run, /var/lib and /var/log of its own. What
// is written lies in the run folder.
func (n *node) mountFolders() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib", "/var/log"} {
		name := filepath.Join(n.Run, strings.ReplaceAll(dir[1:], "/", "-"))
		upper, work := filepath.Join(name, "upper"), filepath.Join(name, "work")
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
		if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// The kubelet's folder is not on an overlay: it is read from outside, too.
	kubelet := filepath.Join(n.Run, "kubelet")
	if err := errors.Join(os.MkdirAll(kubelet, 0o755), os.MkdirAll("/var/lib/kubelet", 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(kubelet, "/var/lib/kubelet", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// hideSysctls puts files over the sysctls that the kubelet sets for the whole
// machine. They hold what it wants already.
func (n *node) hideSysctls() error {
	dir := filepath.Join(n.Run, "sysctl")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", target, err)
		}
	}
	return nil
}

const cniConfig = `{"cniVersion":"1.0.0","name":"kube","plugins":[{"type":"bridge","bridge":"cni0",
"isGateway":true,"ipMasq":false,"hairpinMode":true,"ipam":{"type":"host-local",
"ranges":[[{"subnet":"%s"}]],"routes":[{"dst":"0.0.0.0/0"}],"dataDir":"%s"}}]}
`

// network makes a bridge with the node's address and that of the API server's
// service, so that no kube-proxy is needed for it.
func (n *node) network() error {
	for _, args := range []string{
		"link set lo up",
		"link add node0 type bridge",
		"addr add " + nodeIP + "/24 dev node0",
		"addr add " + apiIP + "/32 dev node0",
		"link set node0 up",
		"route add default dev node0",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil { //nolint:noctx // a moment
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	dir := filepath.Join(n.Run, "cni")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	conf := fmt.Sprintf(cniConfig, podCIDR, filepath.Join(n.Run, "cni-addresses"))
	return os.WriteFile(filepath.Join(dir, "10-kube.conflist"), []byte(conf), 0o644)
}
