package podwatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// fromCore is an object from the whole pod, by Kubernetes' own types.
func fromCore(p *corev1.Pod) *object {
	o := &object{}
	o.Metadata = metadata{
		Name: p.Name, Namespace: p.Namespace, UID: string(p.UID), ResourceVersion: p.ResourceVersion,
		Labels: p.Labels, Annotations: annotations{
			ConfigHash: p.Annotations["kubernetes.io/config.hash"], ConfigMirror: p.Annotations["kubernetes.io/config.mirror"],
			ConfigSource: p.Annotations["kubernetes.io/config.source"], HAMi: p.Annotations["hami.io/vgpu-devices-allocated"],
		}, Deleted: p.DeletionTimestamp != nil,
	}
	for name, text := range p.Annotations {
		if strings.HasPrefix(name, "prometheus.") || strings.HasPrefix(name, "gpuledger.io/") {
			if o.Metadata.Annotations.Serving == nil {
				o.Metadata.Annotations.Serving = map[string]string{}
			}
			o.Metadata.Annotations.Serving[name] = text
		}
	}
	o.Spec.HostNetwork, o.Status.IP = p.Spec.HostNetwork, p.Status.PodIP
	o.Status.HostIP = p.Status.HostIP
	for _, ip := range p.Status.HostIPs {
		o.Status.HostIPs = append(o.Status.HostIPs, podIP{ip.IP})
	}
	for _, ip := range p.Status.PodIPs {
		o.Status.IPs = append(o.Status.IPs, podIP{ip.IP})
	}
	for _, r := range p.OwnerReferences {
		o.Metadata.OwnerReferences = append(o.Metadata.OwnerReferences, ownerReference{Kind: r.Kind, Name: r.Name, Controller: r.Controller != nil && *r.Controller})
	}
	o.Spec.RestartPolicy, o.Status.Phase = string(p.Spec.RestartPolicy), string(p.Status.Phase)
	for _, c := range p.Spec.InitContainers {
		o.Spec.InitContainers = append(o.Spec.InitContainers, specOf(c.Name, c.RestartPolicy, len(c.RestartPolicyRules), c.Ports))
	}
	for _, c := range p.Spec.Containers {
		o.Spec.Containers = append(o.Spec.Containers, specOf(c.Name, c.RestartPolicy, len(c.RestartPolicyRules), c.Ports))
	}
	for _, c := range p.Spec.EphemeralContainers {
		o.Spec.EphemeralContainers = append(o.Spec.EphemeralContainers, specOf(c.Name, c.RestartPolicy, len(c.RestartPolicyRules), c.Ports))
	}
	o.Status.Init = statusesOf(p.Status.InitContainerStatuses)
	o.Status.Containers = statusesOf(p.Status.ContainerStatuses)
	o.Status.Ephemeral = statusesOf(p.Status.EphemeralContainerStatuses)
	return o
}

func specOf(name string, policy *corev1.ContainerRestartPolicy, rules int, declared []corev1.ContainerPort) container {
	c := container{Name: name}
	for _, p := range declared {
		if len(c.Ports) < maxItems {
			c.Ports = append(c.Ports, port{p.Name, p.ContainerPort, string(p.Protocol)})
		}
	}
	if policy != nil {
		c.RestartPolicy = string(*policy)
	}
	for range rules {
		c.RestartRules = append(c.RestartRules, struct{}{})
	}
	return c
}

func statusesOf(ss []corev1.ContainerStatus) (l list[containerStatus]) {
	state := func(s corev1.ContainerState) (c containerState) {
		if s.Running != nil {
			c.Running = &running{}
			if at := s.Running.StartedAt; !at.IsZero() {
				c.Running.Started = unixSeconds(max(at.Unix(), 0))
			}
		}
		if t := s.Terminated; t != nil {
			c.Terminated = &terminated{ExitCode: t.ExitCode, ContainerID: t.ContainerID}
		}
		return c
	}
	for _, s := range ss {
		l = append(l, containerStatus{Name: s.Name, ContainerID: s.ContainerID, State: state(s.State), LastState: state(s.LastTerminationState)})
	}
	return l
}

// corePods draws pods with everything set that matters, and much that doesn't.
func corePods() *rapid.Generator[*corev1.Pod] {
	word := rapid.StringMatching(`[a-z]{0,8}`)
	yes := rapid.Ptr(rapid.Bool(), true)
	declared := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) corev1.ContainerPort {
		return corev1.ContainerPort{
			Name: word.Draw(t, "port"), ContainerPort: rapid.Int32().Draw(t, "number"), HostPort: 7,
			Protocol: corev1.Protocol(rapid.SampledFrom([]string{"", "TCP", "UDP"}).Draw(t, "protocol")),
		}
	}), 0, 3)
	policy := rapid.Ptr(rapid.SampledFrom([]corev1.ContainerRestartPolicy{"Always", "Never", "OnFailure"}), true)
	state := rapid.Custom(func(t *rapid.T) (s corev1.ContainerState) {
		switch rapid.IntRange(0, 3).Draw(t, "state") {
		case 0:
			s.Running = &corev1.ContainerStateRunning{StartedAt: metav1.Unix(1_700_000_000, 0)}
		case 1:
			s.Terminated = &corev1.ContainerStateTerminated{
				ExitCode: rapid.Int32().Draw(t, "code"), Signal: 9, Reason: word.Draw(t, "reason"),
				FinishedAt: metav1.Unix(1_700_000_000, 0), ContainerID: word.Draw(t, "id"),
			}
		case 2:
			s.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: word.Draw(t, "message")}
		}
		return s
	})
	status := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: word.Draw(t, "name"), ContainerID: word.Draw(t, "id"), Image: "image", Ready: true, RestartCount: 3,
			State: state.Draw(t, "now"), LastTerminationState: state.Draw(t, "before"), Started: yes.Draw(t, "started"),
		}
	}), 0, 3)
	spec := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) corev1.Container {
		return corev1.Container{
			Name: word.Draw(t, "name"), Image: "image", Command: []string{"sh", "-c"}, RestartPolicy: policy.Draw(t, "policy"),
			RestartPolicyRules: make([]corev1.ContainerRestartRule, rapid.IntRange(0, 2).Draw(t, "rules")),
			Env:                []corev1.EnvVar{{Name: "A", Value: "b"}},
			Ports:              declared.Draw(t, "ports"),
		}
	}), 0, 3)
	return rapid.Custom(func(t *rapid.T) *corev1.Pod {
		p := &corev1.Pod{}
		p.Name, p.Namespace, p.UID = word.Draw(t, "name"), word.Draw(t, "namespace"), types.UID(word.Draw(t, "uid"))
		p.ResourceVersion, p.Generation = word.Draw(t, "version"), 7
		if rapid.Bool().Draw(t, "deleted") {
			p.DeletionTimestamp = new(metav1.Unix(1_700_000_000, 0))
		}
		p.Labels = rapid.MapOfN(word, word, 0, 4).Draw(t, "labels")
		p.Annotations = rapid.MapOf(rapid.OneOf(word, rapid.SampledFrom([]string{
			"kubernetes.io/config.hash", "kubernetes.io/config.mirror", "kubernetes.io/config.source", "hami.io/vgpu-devices-allocated",
			"prometheus.io/port", "prometheus.io/scrape", "prometheus.kserve.io/path", "gpuledger.io/format", "gpuledger.io/",
		})), word).Draw(t, "annotations")
		for range rapid.IntRange(0, 2).Draw(t, "owners") {
			p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{
				APIVersion: "v1", Kind: word.Draw(t, "kind"), Name: word.Draw(t, "owner"), UID: "x", Controller: yes.Draw(t, "controller"),
			})
		}
		p.Spec = corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicy(word.Draw(t, "restart")), InitContainers: spec.Draw(t, "init"), Containers: spec.Draw(t, "containers")}
		for _, c := range spec.Draw(t, "ephemeral") {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: c.Name, RestartPolicy: c.RestartPolicy, RestartPolicyRules: c.RestartPolicyRules, Ports: c.Ports},
			})
		}
		p.Spec.HostNetwork = rapid.Bool().Draw(t, "host network")
		p.Status = corev1.PodStatus{
			PodIP: word.Draw(t, "ip"), HostIP: word.Draw(t, "host"), HostIPs: []corev1.HostIP{{IP: word.Draw(t, "host")}}, PodIPs: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) corev1.PodIP { return corev1.PodIP{IP: word.Draw(t, "ip")} }), 0, 3).Draw(t, "ips"),
			Phase: corev1.PodPhase(word.Draw(t, "phase")), Message: "message", InitContainerStatuses: status.Draw(t, "init statuses"),
			ContainerStatuses: status.Draw(t, "statuses"), EphemeralContainerStatuses: status.Draw(t, "ephemeral statuses"),
		}
		return p
	})
}

// same compares objects; an empty map or list is none.
func same(t rapid.TB, what string, got, want *object) {
	t.Helper()
	for _, o := range []*object{got, want} {
		if len(o.Metadata.Labels) == 0 {
			o.Metadata.Labels = nil
		}
	}
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.ReplaceAll(g, []byte("[]"), []byte("null")), bytes.ReplaceAll(w, []byte("[]"), []byte("null"))) {
		t.Fatalf("%s\ngot  %s\nwant %s", what, g, w)
	}
}

// What Kubernetes' own types write, this reads, in both forms.
func TestBothFormsOfAPod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := corePods().Draw(t, "pod")
		b, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := o.unmarshal(b); err != nil {
			t.Fatal(err)
		}
		same(t, "protobuf", &o, fromCore(p))
		if b, err = json.Marshal(p); err != nil {
			t.Fatal(err)
		}
		var j object
		if err := json.Unmarshal(b, &j); err != nil {
			t.Fatal(err)
		}
		same(t, "JSON", &j, fromCore(p))
	})
}

func TestRecordingsInBothForms(t *testing.T) {
	for _, p := range corePodsOf(t) {
		b, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := o.unmarshal(b); err != nil {
			t.Fatal(err)
		}
		same(t, p.Name, &o, fromCore(p))
	}
}

func corePodsOf(t testing.TB) (all []*corev1.Pod) {
	t.Helper()
	for _, file := range recordings {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		var l corev1.PodList
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		for i, o := range recording(t, file) {
			same(t, file, o, fromCore(&l.Items[i]))
			all = append(all, &l.Items[i])
		}
	}
	return all
}

// A message that would be much in memory is refused.
func TestUnmarshalIsBounded(t *testing.T) {
	spec := bytes.Repeat([]byte{2<<3 | 2, 0}, maxItems+1) // empty containers
	b := append([]byte{2<<3 | 2, 0x82, 0x04}, spec...)
	if err := new(object).unmarshal(b); !errors.Is(err, errTooMany) {
		t.Errorf("%d containers: %v", maxItems+1, err)
	}
	b = append([]byte{2<<3 | 2, 0x80, 0x04}, spec[2:]...)
	var o object
	if err := o.unmarshal(b); err != nil || len(o.Spec.Containers) != maxItems {
		t.Errorf("%d containers: %v", len(o.Spec.Containers), err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, p := range corePodsOf(f) {
		b, err := p.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{1<<3 | 2, 2, 5 << 3, 1}) // a UID that is a number
	f.Fuzz(func(t *testing.T, b []byte) {
		var o object
		if err := o.unmarshal(b); err != nil {
			return
		}
		o.pod(node)
		var p corev1.Pod
		if p.Unmarshal(b) != nil {
			return
		}
		if want := fromCore(&p); !reflect.DeepEqual(o.Status, want.Status) || !reflect.DeepEqual(o.Spec, want.Spec) {
			t.Errorf("got  %+v\nwant %+v", o, want)
		}
	})
}
