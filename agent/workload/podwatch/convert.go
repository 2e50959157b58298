package podwatch

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// Bounds of what is kept of a pod. The lengths are Kubernetes' own.
const (
	maxLabels     = 128
	maxLabelKey   = 253 + 1 + 63
	maxLabelValue = 63
	maxName       = 253
	maxUID        = 64
	// maxHAMi is a text's bound on the wire. A device takes some 60 bytes.
	maxHAMi = 4096

	maxIPs = 2 // one of each family
	// maxPorts bounds the ports of a pod that are kept, and the rest what is
	// kept of annotations that say where a server tells what it has served.
	maxPorts        = 64
	maxPortName     = 15
	maxServing      = 24
	maxServingBytes = 1024
)

// pod is the pod as a directory wants it, and how many of its facts were
// dropped because they are no Kubernetes names or beyond a bound. A pod without
// a namespace, name or UID is nil: one fact.
func (o *object) pod(node string) (p *pods.Pod, dropped int) {
	m := &o.Metadata
	p = &pods.Pod{
		Namespace: m.Namespace, Name: m.Name, UID: o.uid(node),
		Terminal: o.terminal(), Terminating: bool(m.Deleted), HostNetwork: o.Spec.HostNetwork, HAMi: m.Annotations.HAMi,
	}
	if !name(p.Namespace) || !name(p.Name) || !uid(p.UID) {
		return nil, 1
	}
	if len(p.HAMi) > maxHAMi || !utf8.ValidString(p.HAMi) {
		p.HAMi = ""
		dropped++
	}
	var d int
	p.Labels, d = labels(m.Labels)
	dropped += d
	p.ControllerKind, p.Controller, d = o.controller(node)
	dropped += d
	p.Containers, d = o.containers()
	dropped += d
	p.Ports, d = o.ports(p.Containers)
	dropped += d
	p.IPs, d = o.ips()
	dropped += d
	p.Annotations, d = servingAnnotations(m.Annotations.Serving)
	return p, dropped + d
}

// ips are the pod's addresses, the primary one first. The node's are no pod's
// that is not on its network, whatever the status says.
func (o *object) ips() (ips []netip.Addr, dropped int) {
	all := make([]string, 0, len(o.Status.IPs)+1)
	if o.Status.IP != "" {
		all = append(all, o.Status.IP)
	}
	for i := range o.Status.IPs {
		if ip := o.Status.IPs[i].IP; ip != o.Status.IP {
			all = append(all, ip)
		}
	}
	for _, text := range all {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" || len(ips) == maxIPs || (!o.Spec.HostNetwork && o.hosts(ip)) {
			dropped++
			continue
		}
		ips = append(ips, ip.Unmap())
	}
	return ips, dropped
}

// hosts reports whether an address is the node's.
func (o *object) hosts(ip netip.Addr) bool {
	is := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && a.Unmap() == ip.Unmap()
	}
	return is(o.Status.HostIP) || slices.ContainsFunc(o.Status.HostIPs, func(h podIP) bool { return is(h.IP) })
}

// ports are the pod's TCP ports, in the order of its containers.
func (o *object) ports(containers []pods.Container) (ps []pods.Port, dropped int) {
	seen := 0
	add := func(specs []container) {
		for i := range specs {
			// A container that was dropped has no place among those kept.
			at := seen + slices.IndexFunc(containers[seen:], func(c pods.Container) bool { return c.Name == specs[i].Name })
			if at < seen {
				continue
			}
			seen = at + 1
			for _, p := range specs[i].Ports {
				switch {
				case p.Protocol != "" && p.Protocol != "TCP":
				case p.Number < 1 || p.Number > 65535 || !text(p.Name, 0, maxPortName) || len(ps) == maxPorts:
					dropped++
				default:
					ps = append(ps, pods.Port{Container: at, Name: p.Name, Number: uint16(p.Number)})
				}
			}
		}
	}
	add(o.Spec.InitContainers)
	add(o.Spec.Containers)
	add(o.Spec.EphemeralContainers)
	return ps, dropped
}

// servingAnnotations are the first maxServing by key.
func servingAnnotations(m map[string]string) (as attribution.Labels, dropped int) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if v := m[k]; len(as) == maxServing || !text(k, 1, maxLabelKey) || !text(v, 0, maxServingBytes) {
			dropped++
		} else {
			as = append(as, attribution.Label{Key: k, Value: v})
		}
	}
	return as, dropped
}

func (o *object) terminal() bool { return o.Status.Phase == "Succeeded" || o.Status.Phase == "Failed" }

// uid is the UID that names the pod's cgroups. A mirror pod tells that of the
// static pod behind it; anybody may write the annotations, so they count only
// where the rest is as a kubelet makes it.
func (o *object) uid(node string) string {
	a := &o.Metadata.Annotations
	if o.mirror(node) && uid(a.ConfigHash) {
		return a.ConfigHash
	}
	return o.Metadata.UID
}

// mirror reports whether this is what a kubelet shows the API server of a
// static pod.
func (o *object) mirror(node string) bool {
	a := &o.Metadata.Annotations
	kind, name := o.owner()
	return a.ConfigMirror != "" && a.ConfigMirror == a.ConfigHash && kind == "Node" && name == node
}

// static reports whether this is a static pod as the kubelet itself has it.
func (o *object) static() bool {
	a := &o.Metadata.Annotations
	return a.ConfigSource != "" && a.ConfigSource != "api" && a.ConfigHash == o.Metadata.UID
}

// owner is the controlling owner.
func (o *object) owner() (kind, name string) {
	for i := range o.Metadata.OwnerReferences {
		if r := &o.Metadata.OwnerReferences[i]; r.Controller {
			return r.Kind, r.Name
		}
	}
	return "", ""
}

func (o *object) controller(node string) (kind, controller string, dropped int) {
	kind, controller = o.owner()
	switch {
	case kind == "" && controller == "":
		if o.static() {
			return "Node", node, 0
		}
		return "", "", 0
	case !name(kind) || !name(controller):
		return "", "", 1
	}
	if hash := o.Metadata.Labels["pod-template-hash"]; kind == "ReplicaSet" && hash != "" {
		if deployment, ok := strings.CutSuffix(controller, "-"+hash); ok && deployment != "" {
			return "Deployment", deployment, 0
		}
	}
	return kind, controller, 0
}

// labels are the first maxLabels by key.
func labels(m map[string]string) (attribution.Labels, int) {
	dropped := 0
	var ls attribution.Labels
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if v := m[k]; len(ls) == maxLabels || !text(k, 1, maxLabelKey) || !text(v, 0, maxLabelValue) {
			dropped++
		} else {
			ls = append(ls, attribution.Label{Key: k, Value: v})
		}
	}
	return ls, dropped
}

// containers are the pod's of all kinds: init, ordinary, ephemeral.
func (o *object) containers() (cs []pods.Container, dropped int) {
	s := &o.Spec
	add := func(specs []container, states []containerStatus, init, ephemeral bool) {
		for i := range specs {
			spec := &specs[i]
			if !name(spec.Name) || len(cs) == maxItems || slices.ContainsFunc(cs, func(c pods.Container) bool { return c.Name == spec.Name }) {
				dropped++
				continue
			}
			c := pods.Container{Name: spec.Name, Init: init && spec.RestartPolicy != "Always"}
			at := slices.IndexFunc(states, func(s containerStatus) bool { return s.Name == spec.Name })
			if at >= 0 {
				c.ID = states[at].id()
				if r := states[at].State.Running; r != nil {
					c.Started = int64(r.Started)
				}
			}
			c.Ended = o.ended(at, states, again(spec, s.RestartPolicy, c.Init, ephemeral))
			cs = append(cs, c)
		}
	}
	add(s.InitContainers, o.Status.Init, true, false)
	add(s.Containers, o.Status.Containers, false, false)
	add(s.EphemeralContainers, o.Status.Ephemeral, false, true)
	return cs, dropped
}

// again is when a container is started again after its end: Always, OnFailure,
// Never, or "?" where rules of its own decide.
func again(c *container, pod string, init, ephemeral bool) string {
	switch {
	case ephemeral:
		return "Never"
	case len(c.RestartRules) > 0:
		return "?"
	case c.RestartPolicy != "":
		pod = c.RestartPolicy
	}
	if init && pod != "Never" { // also in pods that restart always
		return "OnFailure"
	}
	return pod
}

// ended reports whether the container of a state (−1: it has none) has stopped
// for good.
func (o *object) ended(at int, states []containerStatus, again string) bool {
	if at < 0 {
		return o.terminal()
	}
	s := &states[at].State
	switch {
	case s.Running != nil:
		return false
	case o.terminal():
		return true
	case s.Terminated == nil:
		return false
	}
	return again == "Never" || (again == "OnFailure" && s.Terminated.ExitCode == 0)
}

// id is the runtime's id of the container that runs or ran last.
func (s *containerStatus) id() string {
	for _, t := range []*terminated{{ContainerID: s.ContainerID}, s.State.Terminated, s.LastState.Terminated} {
		if t == nil {
			continue
		}
		_, id, _ := strings.Cut(t.ContainerID, "://")
		if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
			return id
		}
	}
	return ""
}

// text reports whether s is UTF-8 of between low and high bytes.
func text(s string, low, high int) bool {
	return len(s) >= low && len(s) <= high && utf8.ValidString(s)
}

func name(s string) bool { return text(s, 1, maxName) && !strings.Contains(s, "/") }

// uid reports whether s can be a pod's: a UUID, or the hash of a static pod.
func uid(s string) bool {
	return s != "" && len(s) <= maxUID && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}
