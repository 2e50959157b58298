package loadgen

import (
	"fmt"
	"slices"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

// Fleet says what its nodes do. It does not change while it is played, and any
// number of goroutines use it.
type Fleet struct {
	Cluster string
	Devices int    // of a node, 1 to 64
	Owners  int    // of a device, 1 to 64: all but the last use it, the last holds the idle rest
	Seed    uint64 // another seed, other facts
	// Life is how long a pod runs, in seconds. The pods of a device are
	// replaced together, those of other devices at other times.
	Life int64
	// Rater prices the devices; nil: nothing has a price.
	Rater *rating.Rater
	// priced is the second by whose prices the whole run is rated, so that what
	// is made again is the same.
	priced attribution.Second

	scratch sync.Pool // of *scratch
}

// served are the devices of a node whose first owner serves requests.
const served = 2

// measures of what is served, in canonical order.
var measures = []attribution.Measure{attribution.Success, attribution.TokensOutput}

// node is one of the fleet's.
type node struct {
	fleet *Fleet
	index int
	name  string
	boot  attribution.Boot
}

func (f *Fleet) node(index int) *node {
	n := &node{fleet: f, index: index, name: fmt.Sprintf("load-%05d", index)}
	for i := range n.boot {
		n.boot[i] = byte(f.hash(uint64(index), 0xb007, uint64(i)))
	}
	return n
}

// hash is a number that depends on all of its arguments and the seed
// (splitmix64's finalizer, chained).
func (f *Fleet) hash(parts ...uint64) uint64 {
	h := f.Seed
	for _, p := range parts {
		h += 0x9e3779b97f4a7c15 + p
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

// cast is who is on a node for a while: the roster of its seconds, and where in
// it everyone is.
type cast struct {
	since, until attribution.Second // in between, nobody comes or goes

	roster  *attribution.Roster
	id      attribution.Fingerprint
	price   []attribution.Price // by roster device
	devices []int               // roster device → device
	// By roster device, in the order of the roster's owners: who they are.
	owners [][]placed
	tells  []int // roster subject → device that it serves on
}

// placed is a device's owner and where the roster has it.
type placed struct {
	slot  int
	owner uint32
}

// generation counts the pods that a device has had by a second.
func (n *node) generation(device int, s attribution.Second) int64 {
	return int64(s+n.offset(device)) / n.fleet.Life
}

// offset is how far a device's generations are from those of second 0.
func (n *node) offset(device int) attribution.Second {
	return attribution.Second(n.fleet.hash(uint64(n.index), uint64(device), 0x9e4) % uint64(n.fleet.Life))
}

// castAt is who is there in a second; last is returned where that is the same.
func (n *node) castAt(s attribution.Second, last *cast) *cast {
	if last != nil && last.since <= s && s < last.until {
		return last
	}
	c := n.newCast(s)
	c.since, c.until = s-attribution.Second(n.fleet.Life), s+attribution.Second(n.fleet.Life)
	for d := range n.fleet.Devices {
		began := attribution.Second(n.generation(d, s)*n.fleet.Life) - n.offset(d)
		c.since, c.until = max(c.since, began), min(c.until, began+attribution.Second(n.fleet.Life))
	}
	return c
}

// newCast has BuildChunk make the canonical roster of a second, and notes where
// everyone is in it.
func (n *node) newCast(s attribution.Second) *cast {
	f := n.fleet
	r := &attribution.Roster{Owners: []attribution.Owner{{}}, Methods: []string{"sm/process"}, Measures: measures}
	var windows []attribution.DeviceWindow
	var tallies []attribution.Tally
	at := make(map[string]placed) // by pod UID
	for d := range f.Devices {
		r.Devices = append(r.Devices, n.device(d))
		w := attribution.DeviceWindow{Device: uint32(d), Second: s}
		for o := range f.Owners {
			owner := n.owner(d, o, n.generation(d, s))
			at[owner.PodUID] = placed{slot: d*f.Owners + o}
			w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(len(r.Owners)), Basis: attribution.Reserved, Time: 1})
			r.Owners = append(r.Owners, owner)
		}
		windows = append(windows, w)
		if d < served {
			r.Subjects = append(r.Subjects, attribution.Subject{Owner: w.Slices[0].Owner, Model: r.Owners[w.Slices[0].Owner].Controller})
			for m := range measures {
				tallies = append(tallies, attribution.Tally{Second: s, Subject: uint32(len(r.Subjects) - 1), Measure: uint16(m)})
			}
		}
	}
	built := attribution.BuildChunk(attribution.ChunkKey{}, 1, r.Facts(), windows, tallies).Roster
	c := &cast{roster: built, id: built.Fingerprint(), price: make([]attribution.Price, f.Devices)}
	if f.Rater != nil {
		f.Rater.Prices(built.Devices, f.priced, c.price)
	}
	c.owners = make([][]placed, f.Devices)
	for i := range built.Devices {
		d := slices.IndexFunc(r.Devices, func(x attribution.Device) bool { return x.ID == built.Devices[i].ID })
		c.devices = append(c.devices, d)
		for k := range built.Owners {
			if p := at[built.Owners[k].PodUID]; p.slot/f.Owners == d {
				c.owners[i] = append(c.owners[i], placed{p.slot % f.Owners, uint32(k)})
			}
		}
	}
	for i := range built.Subjects {
		c.tells = append(c.tells, at[built.Owners[built.Subjects[i].Owner].PodUID].slot/f.Owners)
	}
	return c
}

func (n *node) device(d int) attribution.Device {
	id := n.fleet.hash(uint64(n.index), uint64(d), 0xde51ce)
	return attribution.Device{
		ID: fmt.Sprintf("GPU-%08x-%04x-4f5e-9c3d-%012x", uint32(id), d, id>>16), Cluster: n.fleet.Cluster, Node: n.name,
		Model: "NVIDIA H100 80GB HBM3", CapacityType: "on-demand", MemoryBytes: 80 << 30,
		Sensors: attribution.SensorEnergy | attribution.SensorMemory,
		Labels:  attribution.Labels{{Key: "node.kubernetes.io/instance-type", Value: "p5.48xlarge"}, {Key: "topology.kubernetes.io/zone", Value: "eu-1a"}},
	}
}

// models are what the pods serve.
var models = []string{"llama-3-70b", "mixtral-8x22b", "sdxl", "whisper-large", "bge-m3", "qwen2-72b", "flux-1", "llama-3-8b"}

func (n *node) owner(d, o int, generation int64) attribution.Owner {
	f := n.fleet
	id := f.hash(uint64(n.index), uint64(d), uint64(o), uint64(generation))
	team := fmt.Sprintf("team-%02d", f.hash(uint64(n.index), uint64(d), uint64(o))%50)
	model := models[(n.index+d+o)%len(models)]
	return attribution.Owner{
		Kind: attribution.Container, Cluster: f.Cluster, Node: n.name, Namespace: team, Pod: fmt.Sprintf("%s-%08x-%d", model, uint32(id), o),
		PodUID:    fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", n.index, d, o, generation%0x1000, id>>16),
		Container: "server", ControllerKind: "Deployment", Controller: model,
		Labels: attribution.Labels{{Key: "app.kubernetes.io/name", Value: model}, {Key: "team", Value: team}},
	}
}

// slicesOfSecond is how many slices a node has in a second.
func (f *Fleet) slicesOfSecond() int64 {
	return int64(f.Devices * max(2, f.Owners)) // one owner alone has a used and a reserved one
}
