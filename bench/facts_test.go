package bench

import (
	"fmt"
	"math/rand/v2"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// fleet makes the facts that every benchmark shares: nodes of devices that are
// shared by owners, with the noise of real sampling: utilization in whole
// percents, read at jittered times, so that device times are odd nanoseconds.
type fleet struct {
	devices, owners int
	start           attribution.Second
	price           money.Amount
	// held is whether owners hold their devices, so that each has a used and a
	// reserved slice a second; else each has one slice.
	held bool
}

func (f fleet) device(node, d int) attribution.Device {
	return attribution.Device{
		ID: fmt.Sprintf("GPU-%08x-%04x-4f5e-9c3d-%012x", node*2654435761&0xffffffff, d, node*8+d), Cluster: "prod-eu-1", Node: nodeName(node),
		Model: "NVIDIA H100 80GB HBM3", CapacityType: "on-demand", MemoryBytes: 80 << 30, Sensors: attribution.SensorEnergy | attribution.SensorMemory,
		Labels: attribution.MakeLabels(map[string]string{"topology.kubernetes.io/zone": "eu-1a", "node.kubernetes.io/instance-type": "p5.48xlarge"}),
	}
}

func nodeName(n int) string { return fmt.Sprintf("ip-10-%d-%d-17.eu-1.compute.internal", n/250, n%250) }

// owner is a pod; it is renamed every day, as pods are.
func (f fleet) owner(node, d, o, day int) attribution.Owner {
	team := (node*31 + d*7 + o) % 50
	model := []string{"llama-3-70b", "mixtral-8x22b", "sdxl", "whisper-large", "bge-m3", "qwen2-72b", "flux-1", "llama-3-8b"}[(node+d+o)%8]
	return attribution.Owner{
		Kind: attribution.Container, Cluster: "prod-eu-1", Node: nodeName(node),
		Namespace: fmt.Sprintf("team-%02d", team), Pod: fmt.Sprintf("%s-%d-%08x-%d", model, day, uint32((node*64+d*8+o)*2654435761), o),
		PodUID:    fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", node, d, o, day, node*1000+d*10+o),
		Container: "server", ControllerKind: "Deployment", Controller: model,
		Labels: attribution.MakeLabels(map[string]string{"app.kubernetes.io/name": model, "team": fmt.Sprintf("team-%02d", team), "model": model}),
	}
}

// chunk is ten seconds of one node, from the n-th ten on.
func (f fleet) chunk(node, n int) *attribution.Chunk {
	rng := rand.New(rand.NewPCG(uint64(node), uint64(n)))
	start := f.start + attribution.Second(10*n)
	day := int(int64(start-f.start) / 86400)
	roster := &attribution.Roster{Owners: []attribution.Owner{{}}, Methods: []string{"sm/process"}}
	var windows []attribution.DeviceWindow
	for d := range f.devices {
		roster.Devices = append(roster.Devices, f.device(node, d))
		base := uint32(len(roster.Owners))
		for o := range f.owners {
			roster.Owners = append(roster.Owners, f.owner(node, d, o, day))
		}
		power := 200 + rng.Int64N(400) // W
		for s := range attribution.ChunkSeconds {
			windows = append(windows, attribution.DeviceWindow{
				Device: uint32(d), Second: start + attribution.Second(s),
				Price:  attribution.Price{PerHour: f.price, Revision: 1},
				Energy: (power + rng.Int64N(20)) * 1_000_000 / 1000 * 1000,
				Slices: f.slices(rng, base, node, d),
			})
		}
	}
	key := attribution.ChunkKey{Cluster: "prod-eu-1", Node: nodeName(node), Boot: attribution.Boot{1, byte(node), byte(node >> 8)}, Sequence: start}
	return attribution.BuildChunk(key, attribution.ChunkSeconds, roster.Facts(), windows, nil)
}

func (f fleet) slices(rng *rand.Rand, base uint32, node, d int) []attribution.Slice {
	var out []attribution.Slice
	left := attribution.WindowNanos
	for o := range f.owners {
		memory := int64(8+(node+d+o)%12) << 30 // byte-seconds of a second
		// Two readings meet in a window; each is a whole percent of its part.
		cut := rng.Int64N(40_000_000)
		limit := int64(90 / f.owners)
		sm := (rng.Int64N(limit)*(attribution.WindowNanos-cut) + rng.Int64N(limit)*cut) / 100
		owner := base + uint32(o)
		if !f.held {
			if o == f.owners-1 {
				sm = left // the last takes the rest: one slice an owner
			}
			out = append(out, attribution.Slice{Owner: owner, Basis: attribution.Used, Time: sm, SMActive: sm, Memory: memory})
			left -= sm
			continue
		}
		out = append(out, attribution.Slice{Owner: owner, Basis: attribution.Used, Time: sm, SMActive: sm, Memory: memory})
		left -= sm
	}
	if f.held {
		for o := range f.owners {
			part := left / int64(f.owners)
			if o == 0 {
				part += left % int64(f.owners)
			}
			out = append(out, attribution.Slice{Owner: base + uint32(o), Basis: attribution.Reserved, Time: part})
		}
	}
	return out
}

// slicesOf counts a chunk's slices.
func slicesOf(c *attribution.Chunk) (n int) {
	for i := range c.Windows {
		n += len(c.Windows[i].Slices)
	}
	return n
}

// defaultFleet is the fleet that DESIGN-scale figures are about: eight devices
// a node, four owners a device, four slices a device second.
func defaultFleet() fleet {
	return fleet{devices: 8, owners: 4, start: 1_767_225_600, price: 2_500_000_000}
}
