package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
)

// list has the kubelet list what it has.
func (n *node) list() {
	n.listOnly(func(*pod) bool { return true })
}

// listOnly has the kubelet list some of what it has.
func (n *node) listOnly(which func(*pod) bool) {
	var all []*podresources.PodResources
	for _, p := range n.pods {
		if !p.unlisted && which(p) {
			all = append(all, p.resources())
		}
	}
	n.kubelet.SetPods(all...)
}

// resources is a pod as PodResources lists it: an entry for each device.
func (p *pod) resources() *podresources.PodResources {
	out := kubelettest.Pod(p.namespace, p.name)
	for _, c := range p.containers {
		r := kubelettest.Container(c.name, "")
		for _, g := range c.grants {
			if g.claim != "" {
				claimed := kubelettest.Claimed(c.name, p.namespace, g.claim, "gpu.nvidia.com", g.pool, g.device)
				r.DynamicResources = append(r.DynamicResources, claimed.DynamicResources...)
				continue
			}
			r.Devices = append(r.Devices, &podresources.ContainerDevices{ResourceName: g.resource, DeviceIds: []string{g.id}})
		}
		out.Containers = append(out.Containers, r)
	}
	return out
}

// object is a pod as the kubelet's Pods API has it.
func (p *pod) object() []byte {
	p.n.t.Helper()
	o := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.namespace, Name: p.name, UID: types.UID(p.uid), Labels: map[string]string{"app": p.name},
			Annotations: p.annotations,
		},
		Spec:   corev1.PodSpec{NodeName: p.n.name, HostNetwork: p.port != 0},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.ip},
	}
	for _, c := range p.containers {
		o.Spec.Containers = append(o.Spec.Containers, corev1.Container{Name: c.name, Ports: p.ports()})
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.name, ContainerID: "containerd://" + c.id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(p.started)}},
		})
	}
	b, err := o.Marshal()
	p.n.must(err)
	return b
}

// ports are those that the pod's containers declare.
func (p *pod) ports() []corev1.ContainerPort {
	if p.port == 0 {
		return nil
	}
	return []corev1.ContainerPort{{ContainerPort: p.port}}
}

// sliced is an API server that knows one thing: the ResourceSlice of the DRA
// driver, which calls GPUs by these names.
func (n *node) sliced(devices map[string]string) {
	n.t.Helper()
	type object = map[string]any
	var listed []object
	for name, uuid := range devices {
		listed = append(listed, object{"name": name, "attributes": object{"uuid": object{"string": uuid}, "type": object{"string": "gpu"}}})
	}
	slice := object{
		"metadata": object{"name": n.name + "-gpu.nvidia.com"},
		"spec":     object{"driver": "gpu.nvidia.com", "nodeName": n.name, "pool": object{"name": n.name, "generation": 1}, "devices": listed},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/resource.k8s.io/v1/resourceslices" {
			http.Error(w, `{"kind":"Status","code":404,"reason":"NotFound"}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		_ = json.NewEncoder(w).Encode(object{
			"kind": "ResourceSliceList", "apiVersion": "resource.k8s.io/v1", "metadata": object{"resourceVersion": "7"}, "items": []object{slice},
		})
	}))
	n.t.Cleanup(server.Close)
	config := filepath.Join(n.dir, "kubeconfig")
	n.must(os.WriteFile(config, fmt.Appendf(nil, `current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: %q}}]
users: [{name: it, user: {token: secret}}]
`, server.URL), 0o600))
	n.set("kubernetes", map[string]any{"kubeconfig": config})
}
