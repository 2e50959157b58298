package wire_test

import (
	"fmt"
	"math/rand/v2"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

const gib = int64(1) << 30

// shape is a node for tests and benchmarks.
type shape struct {
	devices, owners, seconds int // owners per device
	reserved                 bool
	tallies                  bool
	policy                   attribution.Policy
	changing                 bool // owners come and go
	seed                     uint64
}

// chunk makes a chunk as a node's meter would: drivers report whole percents,
// samples come every 100 to 160 ms with jitter to the nanosecond, and holders
// share what is idle.
func (s shape) chunk() *attribution.Chunk {
	r := rand.New(rand.NewPCG(s.seed, 1))
	facts := &attribution.Roster{Owners: make([]attribution.Owner, 1)}
	key := attribution.ChunkKey{Cluster: "prod", Node: "gpu-node-17", Boot: attribution.Boot{1, 2, 3}, Sequence: 1_790_000_000}
	var windows []attribution.DeviceWindow
	var tallies []attribution.Tally
	for d := range s.devices {
		facts.Devices = append(facts.Devices, attribution.Device{
			ID: fmt.Sprintf("GPU-%08x", r.Uint32()), Cluster: key.Cluster, Node: key.Node, Model: "NVIDIA H100 80GB HBM3",
			MemoryBytes: 80 * gib, Sensors: attribution.SensorEnergy | attribution.SensorMemory,
			Labels: attribution.Labels{{Key: "topology.kubernetes.io/zone", Value: "eu-1a"}},
		})
		first := uint32(len(facts.Owners))
		for o := range s.owners {
			facts.Owners = append(facts.Owners, attribution.Owner{
				Kind: attribution.Container, Cluster: key.Cluster, Node: key.Node, Namespace: "inference",
				Pod: fmt.Sprintf("llm-%d-%d-%04x", d, o, r.Uint32()&0xffff), Container: "server",
				Labels: attribution.Labels{{Key: "app", Value: "llm"}},
			})
			if s.tallies {
				facts.Subjects = append(facts.Subjects, attribution.Subject{Owner: first + uint32(o), Model: "llama"})
			}
		}
		windows = s.device(r, facts, key.Sequence, uint32(d), first, windows)
	}
	if s.tallies {
		for _, m := range []attribution.Measure{"success", "tokens/input", "tokens/output", "latency/31", "latency/32", "queue"} {
			for i := range facts.Subjects {
				for t := range s.seconds {
					tallies = append(tallies, attribution.Tally{
						Second: key.Sequence + attribution.Second(t), Subject: uint32(i), Measure: uint16(len(facts.Measures)), Value: r.Int64N(1 << 20),
					})
				}
			}
			facts.Measures = append(facts.Measures, m)
		}
	}
	return attribution.BuildChunk(key, s.seconds, facts.Facts(), windows, tallies)
}

func (s shape) device(r *rand.Rand, facts *attribution.Roster, start attribution.Second, device, owner uint32, out []attribution.DeviceWindow) []attribution.DeviceWindow {
	if s.policy.Name == "" {
		s.policy = attribution.PolicySM
	}
	splitter := attribution.Splitter{Policy: s.policy}
	percent := make([]int64, s.owners)
	load := make([]int64, s.owners)
	for o := range load {
		load[o] = r.Int64N(int64(100 / s.owners))
	}
	from := -r.Int64N(1e8) // ns from the window's start: the sample before it
	for t := range s.seconds {
		active := make([]int64, s.owners)
		for from < attribution.WindowNanos {
			to := from + 1e8 + r.Int64N(6e7)
			for o := range percent {
				percent[o] = min(max(load[o]+r.Int64N(7)-3, 0), int64(100/s.owners))
				a := percent[o] * (to - from) / 100
				active[o] += apportion.Until(a, from, to, attribution.WindowNanos) - apportion.Until(a, from, to, 0)
			}
			if to > attribution.WindowNanos {
				// The rest is the next window's; the noise of this generator
				// need not carry it over exactly.
				from = to
				break
			}
			from = to
		}
		from -= attribution.WindowNanos
		g := attribution.Segment{Length: attribution.WindowNanos, Observed: true, ProcessSM: true, MemoryBytes: 80 * gib}
		for o := range s.owners {
			if s.changing && r.IntN(4) == 0 {
				continue
			}
			g.SMActive += active[o]
			if s.reserved {
				g.Holdings = append(g.Holdings, attribution.Holding{Owner: owner + uint32(o), Replicas: 1})
			}
			g.Uses = append(g.Uses, attribution.Use{
				Owner: owner + uint32(o), Kind: attribution.Container, SMActive: active[o], Memory: int64(8+o)*gib + r.Int64N(3) - 1,
			})
		}
		slices, method := splitter.Split([]attribution.Segment{g}, nil)
		out = append(out, attribution.DeviceWindow{
			Device: device, Method: methodIndex(facts, method), Second: start + attribution.Second(t),
			Price: attribution.Price{PerHour: 2_500_000_000, Revision: 3}, Energy: 400_000_000 + r.Int64N(30_000_000), Slices: slices,
		})
	}
	return out
}

func methodIndex(facts *attribution.Roster, name string) uint16 {
	for i, m := range facts.Methods {
		if m == name {
			return uint16(i)
		}
	}
	facts.Methods = append(facts.Methods, name)
	return uint16(len(facts.Methods) - 1)
}

func slicesOf(c *attribution.Chunk) (n int) {
	for i := range c.Windows {
		n += len(c.Windows[i].Slices)
	}
	return n
}

var shapes = []struct {
	name string
	shape
}{
	{"8x4-used-reserved", shape{devices: 8, owners: 4, seconds: 10, reserved: true}},
	{"8x4-used", shape{devices: 8, owners: 4, seconds: 10}},
	{"8x2-used-reserved", shape{devices: 8, owners: 2, seconds: 10, reserved: true}},
	{"8x1-exclusive", shape{devices: 8, owners: 1, seconds: 10, reserved: true}},
	{"8x4-dominant", shape{devices: 8, owners: 4, seconds: 10, reserved: true, policy: attribution.PolicyDominant}},
	{"8x4-changing", shape{devices: 8, owners: 4, seconds: 10, reserved: true, changing: true}},
	{"8x4-tallies", shape{devices: 8, owners: 4, seconds: 10, reserved: true, tallies: true}},
	{"8x4-one-second", shape{devices: 8, owners: 4, seconds: 1, reserved: true}},
	{"1x1", shape{devices: 1, owners: 1, seconds: 10, reserved: true}},
	{"8x64", shape{devices: 8, owners: 64, seconds: 10, reserved: true}},
}
