// Package exportertest makes sealed seconds for tests of the exporter and its
// views.
package exportertest

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// The node of all seconds.
const (
	Cluster = "prod"
	Node    = "gpu-1"
)

// Start is the first second of an episode.
const Start attribution.Second = 1_700_000_000

const gib = 1 << 30

// Cut is a slice of a window by whom it is of.
type Cut struct {
	Owner                  attribution.Owner
	Basis                  attribution.Basis
	Time, SMActive, Memory int64
}

// Window is one second of a device.
type Window struct {
	Device attribution.Device
	Price  attribution.Price
	Energy int64
	Cuts   []Cut
}

// Served is a tally by whom it is of.
type Served struct {
	Owner               attribution.Owner
	Model, Tenant, Tier string
	Measure             attribution.Measure
	Value               int64
}

// Chunk builds one sealed second as the chunker does.
func Chunk(second attribution.Second, windows []Window, served []Served) *attribution.Chunk {
	r := attribution.Roster{Methods: []string{"sm/process"}}
	owner := func(o *attribution.Owner) uint32 {
		for i := range r.Owners {
			if attribution.CompareOwners(&r.Owners[i], o) == 0 {
				return uint32(i)
			}
		}
		r.Owners = append(r.Owners, *o)
		return uint32(len(r.Owners) - 1)
	}
	var ws []attribution.DeviceWindow
	for i := range windows {
		w := &windows[i]
		r.Devices = append(r.Devices, w.Device)
		dw := attribution.DeviceWindow{Device: uint32(i), Second: second, Price: w.Price, Energy: w.Energy}
		for j := range w.Cuts {
			c := &w.Cuts[j]
			dw.Slices = append(dw.Slices, attribution.Slice{
				Owner: owner(&c.Owner), Basis: c.Basis, Time: c.Time, SMActive: c.SMActive, Memory: c.Memory,
			})
		}
		ws = append(ws, dw)
	}
	var ts []attribution.Tally
	for i := range served {
		s := &served[i]
		r.Subjects = append(r.Subjects, attribution.Subject{Owner: owner(&s.Owner), Model: s.Model, Tenant: s.Tenant, Tier: s.Tier})
		r.Measures = append(r.Measures, s.Measure)
		ts = append(ts, attribution.Tally{Second: second, Subject: uint32(i), Measure: uint16(i), Value: s.Value})
	}
	key := attribution.ChunkKey{Cluster: Cluster, Node: Node, Sequence: second}
	return attribution.BuildChunk(key, 1, r.Facts(), ws, ts)
}

// Pod is a container of a pod of a Deployment.
func Pod(name string) attribution.Owner {
	return attribution.Owner{
		Kind: attribution.Container, Cluster: Cluster, Node: Node, Namespace: "shop", Pod: name, PodUID: "uid-" + name, Container: "server",
		ControllerKind: "Deployment", Controller: "chat",
		Labels: attribution.Labels{{Key: "app", Value: "chat"}, {Key: "pod-template-hash", Value: name}},
	}
}

// Process is a process outside pods.
func Process(kind attribution.OwnerKind, pid uint32, command string) attribution.Owner {
	return attribution.Owner{Kind: kind, Cluster: Cluster, Node: Node, PID: pid, Command: command}
}

// GPU is a device that can measure everything.
func GPU(id string) attribution.Device {
	return attribution.Device{
		ID: id, Cluster: Cluster, Node: Node, Model: "NVIDIA H100 80GB HBM3", CapacityType: "spot", MemoryBytes: 80 * gib,
		Sensors: attribution.SensorEnergy | attribution.SensorMemory,
	}
}

// MIG is an instance of GPU-b, which has no sensor for energy.
func MIG() attribution.Device {
	return attribution.Device{
		ID: "MIG-b1", Cluster: Cluster, Node: Node, Model: "NVIDIA A100-SXM4-40GB", CapacityType: "spot", MemoryBytes: 5 * gib,
		Parent: "GPU-b", Profile: "1g.5gb", Share: attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 1, MemoryOf: 8},
		Sensors: attribution.SensorMemory,
	}
}

// Price is one of revision 1.
func Price(perHour money.Amount) attribution.Price {
	return attribution.Price{PerHour: perHour, Revision: 1}
}

// Episode is second i of a node whose life has something of everything: a GPU
// shared by two pods, the second of which is there in every third second, and
// by host processes with a new pid each second; an unpriced MIG instance that
// nobody holds, and that in every fifth second nobody looks at; and what the
// first pod served.
func Episode(i int) *attribution.Chunk {
	second := Start + attribution.Second(i)
	shared := Window{Device: GPU("GPU-a"), Price: Price(2_500_000_001), Energy: 350_123_457, Cuts: []Cut{
		{Pod("chat-1"), attribution.Used, 333_333_333, 300_000_001, 30 * gib},
		{Pod("chat-1"), attribution.Reserved, 333_333_334, 0, 0},
		{Process(attribution.HostProcess, 1000+uint32(i), "Xorg"), attribution.Used, 33_333_333, 33_333_333, gib},
		{Process(attribution.UnknownProcess, 5000+uint32(i), "miner"), attribution.Unattributed, 100_000_000, 100_000_000, gib},
	}}
	rest := Cut{Pod("chat-1"), attribution.Unobserved, 200_000_000, 0, 0}
	if i%3 == 0 {
		rest = Cut{Pod("chat-2"), attribution.Used, 200_000_000, 150_000_000, 2 * gib}
	}
	shared.Cuts = append(shared.Cuts, rest)
	idle := Window{Device: MIG(), Cuts: []Cut{{attribution.Owner{}, attribution.Unallocated, 1e9, 0, 0}}}
	if i%5 == 4 {
		idle.Cuts[0].Basis = attribution.Unobserved
	}
	return Chunk(second, []Window{shared, idle}, []Served{
		{Pod("chat-1"), "llama", "acme", "gold", attribution.Success, 7_500_000},
		{Pod("chat-1"), "llama", "umbrella", "gold", attribution.Success, 500_000},
		{Pod("chat-1"), "llama", "acme", "gold", attribution.FailurePrefix + "oom", 1_000_000},
		{Pod("chat-1"), "llama", "acme", "gold", attribution.TokensInput, 1000},
		{Pod("chat-1"), "llama", "acme", "gold", attribution.TokensOutput, 200},
		{Pod("chat-1"), "llama", "acme", "gold", attribution.Queue, 3_000_000},
		{Pod("chat-1"), "llama", "acme", "gold", attribution.LatencyPrefix + "9", 7_500_000},
	})
}
