// Package nodestub is a Kubernetes node where there is none: real processes
// that look to an agent as if they ran in containers of pods.
//
// # The model
//
// A [Node] is two unix sockets and a folder. The sockets are a kubelet's
// (PodResources, Pods API; see kubelettest), and list the pods that were added,
// with their devices. The folder is a proc file system (the agent's setting
// nvml.proc_fs) of the processes that were added: of each, its stat and comm are
// links to the real ones, so that what is read ends with the process, and its
// cgroup is a file that says which container it is in. So the agent's own code does all of
// its work, and a machine without Kubernetes, and without root, will do.
//
// Beside package nvmlstub, which is the GPUs, it is a whole node.
package nodestub

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
)

// Pod is a pod of the node.
type Pod struct {
	Namespace, Name  string
	Kind, Controller string // what made it, such as Job train; "": nothing did
	Labels           map[string]string
	Containers       []Container
}

// Container is one of a pod, with the devices that it was given and the
// processes that run in it.
type Container struct {
	Name     string
	Resource string   // such as nvidia.com/gpu
	Devices  []string // ids as the device plugin's
	PIDs     []int
}

// Node is a node. One goroutine at a time uses it.
type Node struct {
	dir       string
	resources *kubelettest.Server
	pods      *kubelettest.PodsServer
	listed    []*podresources.PodResources
}

// New makes a node without pods, whose proc file system is below dir. It ends
// with the test.
func New(t testing.TB, dir string) *Node {
	t.Helper()
	n := &Node{dir: dir, resources: kubelettest.New(t), pods: kubelettest.NewPods(t)}
	ns := filepath.Join(n.ProcFS(), "self", "ns")
	if err := os.MkdirAll(ns, 0o755); err != nil {
		t.Fatal(err)
	}
	// The kernel's first pid namespace, where an agent has to be: its pids are
	// those that are added here, wherever this runs.
	if err := os.Symlink("pid:[4026531836]", filepath.Join(ns, "pid")); err != nil {
		t.Fatal(err)
	}
	return n
}

// ProcFS is where the node's proc file system is.
func (n *Node) ProcFS() string { return filepath.Join(n.dir, "proc") }

// Settings are the agent's that let it find the node's parts: YAML, with a line
// of the section nvml besides.
func (n *Node) Settings(nvml string) string {
	return fmt.Sprintf(`nvml: {proc_fs: %q, %s}
kubernetes:
  enabled: "on"
  pod_resources_socket: %q
  checkpoint: %q
  pods: pods-api
  pods_api_sockets: [%q]
  node_labels: []
`, n.ProcFS(), nvml, n.resources.Path(), filepath.Join(n.dir, "checkpoint"), n.pods.Path())
}

// PodResources is the path of the kubelet's PodResources socket.
func (n *Node) PodResources() string { return n.resources.Path() }

// Add starts a pod: its processes are in its containers, and the kubelet tells
// of it.
func (n *Node) Add(p *Pod) error {
	uid := p.UID()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: p.Name, UID: types.UID(uid), Labels: p.Labels,
	}}
	if p.Controller != "" {
		yes := true
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: p.Kind, Name: p.Controller, Controller: &yes}}
	}
	pod.Status.Phase = corev1.PodRunning
	listed := kubelettest.Pod(p.Namespace, p.Name)
	for _, c := range p.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, ContainerID: "containerd://" + p.id(c.Name),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		})
		listed.Containers = append(listed.Containers, kubelettest.Container(c.Name, c.Resource, c.Devices...))
		for _, pid := range c.PIDs {
			if err := n.AddProcess(pid, p.cgroup(c.Name)); err != nil {
				return err
			}
		}
	}
	text, err := pod.Marshal()
	if err != nil {
		return fmt.Errorf("encode pod %s: %w", p.Name, err)
	}
	n.pods.Put(uid, text)
	n.listed = append(n.listed, listed)
	n.resources.SetPods(n.listed...)
	return nil
}

// Remove ends a pod for the kubelet. What its processes do is theirs.
func (n *Node) Remove(p *Pod) error {
	gone, err := (&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID())}}).Marshal()
	if err != nil {
		return fmt.Errorf("encode pod %s: %w", p.Name, err)
	}
	n.listed = slices.DeleteFunc(n.listed, func(l *podresources.PodResources) bool {
		return l.GetNamespace() == p.Namespace && l.GetName() == p.Name
	})
	n.resources.SetPods(n.listed...)
	n.pods.Delete(p.UID(), gone)
	return nil
}

// AddProcess makes a real process one of the node's, in a cgroup, which a
// process keeps.
func (n *Node) AddProcess(pid int, cgroup string) error {
	name := strconv.Itoa(pid)
	made, err := os.MkdirTemp(n.dir, "process-")
	if err != nil {
		return fmt.Errorf("add process %d: %w", pid, err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(made, "cgroup"), []byte("0::"+cgroup+"\n"), 0o644), //nolint:gosec // as in /proc
		os.Symlink(filepath.Join("/proc", name, "stat"), filepath.Join(made, "stat")),
		os.Symlink(filepath.Join("/proc", name, "comm"), filepath.Join(made, "comm")),
		os.Rename(made, filepath.Join(n.ProcFS(), name)),
	)
	if err != nil {
		return fmt.Errorf("add process %d: %w", pid, err)
	}
	return nil
}

// UID is the pod's: the same for the same name.
func (p *Pod) UID() string {
	h := digest("pod", p.Namespace, p.Name)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:32]}, "-")
}

// id is a container's.
func (p *Pod) id(container string) string { return digest("container", p.UID(), container) }

// cgroup is a container's, as containerd and the kubelet make it under systemd.
func (p *Pod) cgroup(container string) string {
	return fmt.Sprintf("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%s.slice/cri-containerd-%s.scope",
		strings.ReplaceAll(p.UID(), "-", "_"), p.id(container))
}

func digest(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "/")))
	return hex.EncodeToString(sum[:])
}
