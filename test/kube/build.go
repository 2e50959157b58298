package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// version is that of the Kubernetes modules in kubernetes/go.mod.
const version = "v1.36.3"

// debian are the packages that bring the programs which are not built.
var debian = map[string]string{
	"containerd": "containerd", "ctr": "containerd", "runc": "runc", "etcd": "etcd-server", "/usr/lib/cni/bridge": "containernetworking-plugins",
}

// build makes what is not in the cache yet. Kubernetes is built once for each
// version; the rest is small, and built each time.
func (c *Cluster) build(ctx context.Context) error {
	var missing []string
	for name, pkg := range debian {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return errors.New("a node needs programs that are not installed: apt-get install --no-install-recommends " + strings.Join(missing, " "))
	}
	for _, name := range []string{"kubelet", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl"} {
		if err := c.buildKubernetes(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range []string{"pause", "deviceplugin"} {
		if err := c.GoBuild(ctx, name, "./test/kube/cmd/"+name, "", false); err != nil {
			return err
		}
	}
	return nil
}

// buildKubernetes builds one of Kubernetes' programs, unless it is there.
func (c *Cluster) buildKubernetes(ctx context.Context, name string) error {
	stamp := c.path("bin", name+".version")
	if b, err := os.ReadFile(stamp); err == nil && string(b) == version {
		return nil
	}
	c.say("building %s %s", name, version)
	const pkg = "k8s.io/component-base/version"
	major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	flags := fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean", pkg, version, major, minor)
	dir := filepath.Join(sourceDir(), "kubernetes")
	if err := goBuild(ctx, dir, c.path("bin", name), "k8s.io/kubernetes/cmd/"+name, flags, false); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(version), 0o644)
}

// GoBuild builds a program of the project into the cache's bin. Package is as
// from the project's root.
func (c *Cluster) GoBuild(ctx context.Context, name, pkg, ldflags string, cgo bool) error {
	return goBuild(ctx, filepath.Join(sourceDir(), "..", ".."), c.path("bin", name), pkg, ldflags, cgo)
}

// Bin is the path of a program in the cache.
func (c *Cluster) Bin(name string) string { return c.path("bin", name) }

func goBuild(ctx context.Context, dir, out, pkg, ldflags string, cgo bool) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", out, pkg)
	cmd.Dir = dir
	enabled := "CGO_ENABLED=0"
	if cgo {
		enabled = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off", "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations", enabled)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// sourceDir is the folder of this package's source: the programs are built
// from the tree that the test was.
func sourceDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}
