// Package pods keeps what is known of the node's pods: who a container is, for
// those who know only its id, its pod's UID, or its name.
//
// # The model
//
// A source (the kubelet's Pods API, the API server, the kubelet's /pods) writes
// pods to a [Directory]; everybody else reads its [View], an immutable
// snapshot. A pod that is deleted stays in the directory as one that has left,
// because its processes may outlive it: a force-deleted pod's do.
//
// A pod's UID here is the one in the names of its cgroups. Static pods have two:
// the kubelet's, 32 hex digits without dashes, which names the cgroups, and the
// one of the mirror pod that the API server shows. The first counts; a mirror
// pod tells it in an annotation.
package pods

import (
	"net/netip"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// Pod is a pod as its source described it last. It is not changed after it was
// given to a directory, which keeps a copy of it; pods of a [View] have owners,
// others have none.
type Pod struct {
	Namespace, Name string
	UID             string // as in cgroups: of a static pod, its config hash
	Labels          attribution.Labels
	ControllerKind  string // Deployment, StatefulSet, DaemonSet, Job, …; "" for none
	Controller      string
	// Terminal says that the pod has succeeded or failed: it will run no more,
	// but for a static pod, which a kubelet that is restarted may try again.
	Terminal bool
	// Terminating says that the pod is being deleted: it runs yet.
	Terminating bool
	Containers  []Container

	// IPs are the pod's addresses, the primary one first: at most one of each
	// family. With HostNetwork they are the node's, which others have too.
	IPs         []netip.Addr
	HostNetwork bool
	// Ports are the TCP ports that the containers declare.
	Ports []Port
	// Annotations are those that say where the pod tells what it has served:
	// prometheus.io/…, prometheus.kserve.io/… and gpuledger.io/….
	Annotations attribution.Labels

	// HAMi is the annotation hami.io/vgpu-devices-allocated, "" where there is
	// none: which GPUs a HAMi pod really has.
	HAMi string

	owners []*attribution.Owner // of Containers
	left   uint64               // nonzero: it is gone, and in which order it went
}

// Container is one container of a pod, of any kind.
type Container struct {
	Name string
	// ID is the runtime's, 64 hex digits, of the container that runs or ran
	// last; "" while unknown.
	ID string
	// Init says that it is an ordinary init container: it ends before the
	// others begin. A restartable one (a sidecar) is not.
	Init bool
	// Ended says that the container has stopped for good, or (an init
	// container) has succeeded.
	Ended bool
	// Started is when it began to run, Unix seconds; 0 while it does not.
	Started int64
}

// Port is a TCP port that a container declares. Declaring it binds nobody:
// a container may listen on others, and not on this.
type Port struct {
	Container int    // index in the pod's Containers
	Name      string // "" for none
	Number    uint16
}

// Gone reports whether the pod has been deleted.
func (p *Pod) Gone() bool { return p.left != 0 }

// Owner is who answers for a container of the pod. For the same facts it is the
// same pointer, whatever else of the pod changes. A name that the pod does not
// have gives nil, as does any of a pod that is not from a [View].
func (p *Pod) Owner(container string) *attribution.Owner {
	for i := range p.owners {
		if p.Containers[i].Name == container {
			return p.owners[i]
		}
	}
	return nil
}

// name keys pods by namespace and name; neither can hold a slash.
func name(namespace, pod string) string { return namespace + "/" + pod }

// settled is the pod as a directory keeps it: there, and with owners, which are
// those of an earlier description where they say the same. It is a copy, since
// the caller's may be in use: a description may be given twice.
func (p *Pod) settled(cluster, node string, before *Pod) *Pod {
	s := *p
	s.left = 0
	s.owners = make([]*attribution.Owner, len(p.Containers))
	for i := range p.Containers {
		o := &attribution.Owner{
			Kind: attribution.Container, Cluster: cluster, Node: node,
			Namespace: p.Namespace, Pod: p.Name, PodUID: p.UID, Container: p.Containers[i].Name,
			ControllerKind: p.ControllerKind, Controller: p.Controller, Labels: p.Labels,
		}
		if before != nil {
			if old := before.Owner(o.Container); old != nil && attribution.CompareOwners(old, o) == 0 {
				o = old
			}
		}
		s.owners[i] = o
	}
	return &s
}

// same reports whether two descriptions say the same of a pod.
func (p *Pod) same(x *Pod) bool {
	return p.Namespace == x.Namespace && p.Name == x.Name && p.UID == x.UID &&
		p.ControllerKind == x.ControllerKind && p.Controller == x.Controller && p.Terminal == x.Terminal &&
		p.Terminating == x.Terminating && p.HostNetwork == x.HostNetwork && p.HAMi == x.HAMi &&
		attribution.CompareLabels(p.Labels, x.Labels) == 0 && attribution.CompareLabels(p.Annotations, x.Annotations) == 0 &&
		slices.Equal(p.Containers, x.Containers) && slices.Equal(p.Ports, x.Ports) && slices.Equal(p.IPs, x.IPs)
}
