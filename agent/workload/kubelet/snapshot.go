package kubelet

import (
	"cmp"
	"slices"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Bounds of one answer of the kubelet. What lies beyond is left out and
// counted in [Snapshot.Dropped].
const (
	MaxMessageBytes = 16 << 20
	maxParts        = 1 << 18 // see package bounded
	MaxPods         = 4096
	MaxContainers   = 32 << 10
	MaxDevices      = 64 << 10 // of all containers, claims' included
	MaxCDI          = 16       // of a claim's device
	MaxNameBytes    = 512      // of any name
)

// Snapshot is what the kubelet says is held, in a stable order. It is not
// changed after it was made.
type Snapshot struct {
	// Epoch is the life of the kubelet that said it: see [Client.List].
	Epoch uint64
	Pods  []Pod // by namespace and name
	// Dropped counts what a bound left out. What is missing from such a
	// snapshot need not be missing at the kubelet.
	Dropped int
}

// Pod is one pod; the kubelet does not tell its UID.
type Pod struct {
	Namespace, Name string
	Containers      []Container // by name
}

// Container is what one container holds. Ordinary init containers are not
// among those that the kubelet lists.
type Container struct {
	Name    string
	Devices []Device  // by resource and id
	Dynamic []Dynamic // by driver, pool, device and claim
}

// Device is a device of a device plugin.
type Device struct {
	Resource string // such as nvidia.com/gpu
	ID       string // as the plugin calls it
}

// Dynamic is a device of a DRA claim.
type Dynamic struct {
	Driver, Pool, Name    string
	ClaimNamespace, Claim string
	Share                 string // of a device that is shared by capacity
	CDI                   []string
}

// snapshot takes over what the kubelet answered.
func snapshot(epoch uint64, pods []*podresources.PodResources) *Snapshot {
	c := converter{Snapshot: Snapshot{Epoch: epoch}}
	for i, p := range pods {
		if i == MaxPods {
			c.Dropped += len(pods) - i
			break
		}
		c.Pods = append(c.Pods, c.pod(p))
	}
	slices.SortStableFunc(c.Pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return &c.Snapshot
}

// converter counts what a snapshot has so far.
type converter struct {
	Snapshot
	containers, devices int
}

// take reports whether there is room for one more of something whose names
// have these lengths.
func (c *converter) take(n *int, most int, names ...string) bool {
	for _, s := range names {
		if len(s) > MaxNameBytes {
			c.Dropped++
			return false
		}
	}
	if *n == most {
		c.Dropped++
		return false
	}
	*n++
	return true
}

func (c *converter) pod(p *podresources.PodResources) Pod {
	pod := Pod{Namespace: p.GetNamespace(), Name: p.GetName()}
	for _, x := range p.GetContainers() {
		if len(x.GetDevices()) == 0 && len(x.GetDynamicResources()) == 0 {
			continue
		}
		if c.take(&c.containers, MaxContainers, pod.Namespace, pod.Name, x.GetName()) {
			pod.Containers = append(pod.Containers, c.container(x))
		}
	}
	slices.SortStableFunc(pod.Containers, func(a, b Container) int { return cmp.Compare(a.Name, b.Name) })
	return pod
}

func (c *converter) container(x *podresources.ContainerResources) Container {
	out := Container{Name: x.GetName()}
	for _, d := range x.GetDevices() {
		out.Devices = c.device(out.Devices, d)
	}
	sortDevices(out.Devices)
	out.Devices = slices.Compact(out.Devices) // one of two NUMA nodes may be under both
	for _, claim := range x.GetDynamicResources() {
		for _, d := range claim.GetClaimResources() {
			if !c.take(&c.devices, MaxDevices, d.GetDriverName(), d.GetPoolName(), d.GetDeviceName(), claim.GetClaimName(), claim.GetClaimNamespace(), d.GetShareId()) {
				continue
			}
			dyn := Dynamic{
				Driver: d.GetDriverName(), Pool: d.GetPoolName(), Name: d.GetDeviceName(),
				ClaimNamespace: claim.GetClaimNamespace(), Claim: claim.GetClaimName(), Share: d.GetShareId(),
			}
			for _, cdi := range d.GetCdiDevices() {
				if len(dyn.CDI) < MaxCDI && len(cdi.GetName()) <= MaxNameBytes {
					dyn.CDI = append(dyn.CDI, cdi.GetName())
				}
			}
			out.Dynamic = append(out.Dynamic, dyn)
		}
	}
	slices.SortStableFunc(out.Dynamic, func(a, b Dynamic) int {
		return cmp.Or(cmp.Compare(a.Driver, b.Driver), cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.ClaimNamespace, b.ClaimNamespace), cmp.Compare(a.Claim, b.Claim), cmp.Compare(a.Share, b.Share))
	})
	return out
}

// device appends the devices of one entry: kubelets make one entry a device,
// or one a resource and NUMA node.
func (c *converter) device(to []Device, d *podresources.ContainerDevices) []Device {
	for _, id := range d.GetDeviceIds() {
		if c.take(&c.devices, MaxDevices, d.GetResourceName(), id) {
			to = append(to, Device{Resource: d.GetResourceName(), ID: id})
		}
	}
	return to
}

func sortDevices(ds []Device) {
	slices.SortFunc(ds, func(a, b Device) int { return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.ID, b.ID)) })
}
