package querytest

import (
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Start is the world's first second, a whole day.
const Start attribution.Second = 1_700_006_400

// World is the facts of a small fleet.
type World struct {
	Devices  []attribution.Device
	Owners   []attribution.Owner
	Methods  []string
	Subjects []attribution.Subject
	Measures []attribution.Measure
}

// The world's owners.
const (
	NobodyOwner = iota
	Llama       // serves two models
	Ranker      // serves one, counts no tokens
	Trainer     // serves nothing: not measured
	Idler       // a server without a single request
	Stranger    // an unknown process
)

// The world's subjects.
const (
	LlamaBig = iota
	LlamaSmall
	RankerRank
	IdlerChat
)

// The world's measures.
const (
	Success = iota
	Input
	Output
	Timeout
)

// NewWorld makes the facts: two nodes, three devices, five owners. The device
// on node n2 measures neither energy nor memory.
func NewWorld() *World {
	w := &World{
		Methods:  []string{"sm/device"},
		Measures: []attribution.Measure{attribution.Success, attribution.TokensInput, attribution.TokensOutput, "failure/timeout"},
	}
	all := attribution.SensorEnergy | attribution.SensorMemory
	for _, d := range []attribution.Device{
		{ID: "GPU-a", Node: "n1", Model: "NVIDIA H100", CapacityType: "on-demand", Sensors: all},
		{ID: "GPU-b", Node: "n1", Model: "NVIDIA H100", CapacityType: "on-demand", Sensors: all},
		{ID: "GPU-c", Node: "n2", Model: "NVIDIA L4"},
	} {
		d.Cluster = "east"
		w.Devices = append(w.Devices, d)
	}
	pod := func(node, ns, name, kind string, labels map[string]string) attribution.Owner {
		return attribution.Owner{
			Kind: attribution.Container, Cluster: "east", Node: node, Namespace: ns, Pod: name + "-0", PodUID: "uid-" + name,
			Container: "main", ControllerKind: kind, Controller: name, Labels: attribution.MakeLabels(labels),
		}
	}
	w.Owners = []attribution.Owner{
		NobodyOwner: {},
		Llama:       pod("n1", "search", "llama", "Deployment", map[string]string{"team": "search", "app": "chat"}),
		Ranker:      pod("n1", "ads", "ranker", "Deployment", map[string]string{"team": "ads", "app": ""}),
		Trainer:     pod("n1", "research", "train", "Job", nil),
		Idler:       pod("n2", "search", "idler", "Deployment", map[string]string{"team": "search"}),
		Stranger:    {Kind: attribution.UnknownProcess, Cluster: "east", Node: "n2", PID: 4242, Command: "miner"},
	}
	w.Subjects = []attribution.Subject{
		LlamaBig: {Owner: Llama, Model: "llama-70b", Tier: "gold"}, LlamaSmall: {Owner: Llama, Model: "llama-8b"},
		RankerRank: {Owner: Ranker, Model: "rank-1"}, IdlerChat: {Owner: Idler, Model: "chat-1"},
	}
	return w
}

// Device, Owner, Method, Subject and Measure make a World attribution.Facts.

// Device is a device of the world.
func (w *World) Device(i uint32) *attribution.Device { return &w.Devices[i] }

// Owner is an owner of the world.
func (w *World) Owner(i uint32) *attribution.Owner { return &w.Owners[i] }

// Method is a method of the world.
func (w *World) Method(i uint16) string { return w.Methods[i] }

// Subject is a subject of the world.
func (w *World) Subject(i uint32) *attribution.Subject { return &w.Subjects[i] }

// Measure is a measure of the world.
func (w *World) Measure(i uint16) attribution.Measure { return w.Measures[i] }

// Price is 2.50 an hour under revision 1.
var Price = attribution.Price{PerHour: 2_500_000_000 * money.Amount(1), Revision: 1}

// Chunk is the ten seconds, or fewer, of one node from a second on. It depends
// on its arguments alone.
//
//	GPU-a  llama uses 1/4 and holds the rest
//	GPU-b  ranker uses 1/10 until second 300, then trainer all of it; what was not held is unallocated
//	GPU-c  idler holds it, a stranger uses 1/5; unpriced
func (w *World) Chunk(node string, from attribution.Second, seconds int) *attribution.Chunk {
	var ws []attribution.DeviceWindow
	var ts []attribution.Tally
	const n = attribution.WindowNanos
	for s := from; s < from+attribution.Second(seconds); s++ {
		at := int64(s - Start)
		wobble := at % 7 * 1_000_003 // ns, so that sums are not round
		if node == "n2" {
			ws = append(ws, attribution.DeviceWindow{Device: 2, Second: s, Slices: []attribution.Slice{
				{Owner: Idler, Basis: attribution.Reserved, Time: n - n/5 - wobble},
				{Owner: Stranger, Basis: attribution.Unattributed, Time: n/5 + wobble, SMActive: n / 5},
			}})
			ts = append(ts, attribution.Tally{Second: s, Subject: IdlerChat, Measure: Success})
			continue
		}
		ws = append(ws, attribution.DeviceWindow{Device: 0, Second: s, Price: Price, Energy: 300_000_000 + at, Slices: []attribution.Slice{
			{Owner: Llama, Basis: attribution.Used, Time: n/4 + wobble, SMActive: n / 4, Memory: 40 << 30},
			{Owner: Llama, Basis: attribution.Reserved, Time: n - n/4 - wobble},
		}}, attribution.DeviceWindow{Device: 1, Second: s, Price: Price, Energy: 200_000_000, Slices: w.second(at, wobble)})
		if at%5 == 0 {
			one := int64(attribution.One)
			ts = append(ts,
				attribution.Tally{Second: s, Subject: LlamaBig, Measure: Success, Value: one + one/3},
				attribution.Tally{Second: s, Subject: LlamaBig, Measure: Input, Value: 700 + at},
				attribution.Tally{Second: s, Subject: LlamaBig, Measure: Output, Value: 100},
				attribution.Tally{Second: s, Subject: LlamaSmall, Measure: Success, Value: 3 * one},
				attribution.Tally{Second: s, Subject: LlamaSmall, Measure: Input, Value: 90},
				attribution.Tally{Second: s, Subject: LlamaSmall, Measure: Output, Value: 10},
				attribution.Tally{Second: s, Subject: LlamaSmall, Measure: Timeout, Value: one / 2})
			if at < 300 {
				ts = append(ts, attribution.Tally{Second: s, Subject: RankerRank, Measure: Success, Value: 20 * one})
			}
		}
	}
	key := attribution.ChunkKey{Cluster: "east", Node: node, Boot: attribution.Boot{1}, Sequence: from}
	c := attribution.BuildChunk(key, seconds, w, ws, ts)
	if err := c.Check(); err != nil {
		panic(fmt.Sprintf("BUG: querytest: %v", err))
	}
	return c
}

func (w *World) second(at, wobble int64) []attribution.Slice {
	const n = attribution.WindowNanos
	switch {
	case at >= 300:
		return []attribution.Slice{{Owner: Trainer, Basis: attribution.Used, Time: n, SMActive: n, Memory: 10 << 30}}
	case at >= 290:
		return []attribution.Slice{{Owner: Ranker, Basis: attribution.Unobserved, Time: n}}
	case at >= 120 && at < 150:
		return []attribution.Slice{{Owner: NobodyOwner, Basis: attribution.Unallocated, Time: n}}
	}
	return []attribution.Slice{
		{Owner: Ranker, Basis: attribution.Used, Time: n/10 + wobble, SMActive: n / 10, Memory: 1 << 30},
		{Owner: Ranker, Basis: attribution.Reserved, Time: n - n/10 - wobble},
	}
}

// Chunks is all nodes' chunks over [Start+from, Start+to), both multiples of
// ten.
func (w *World) Chunks(from, to int64) []*attribution.Chunk {
	var cs []*attribution.Chunk
	for _, node := range []string{"n1", "n2"} {
		for at := from; at < to; at += attribution.ChunkSeconds {
			cs = append(cs, w.Chunk(node, Start+attribution.Second(at), attribution.ChunkSeconds))
		}
	}
	return cs
}

// Open is an overlay: chunks that the store's commits before Number do not
// have.
type Open struct {
	Number uint64 // of the commit that will hold them; 0: none yet
	Items  []*attribution.Chunk
	Stale  int // how many calls still fail
}

type staleError struct{}

func (staleError) Error() string { return "the view is too old" }

// Since gives the open chunks.
func (o *Open) Since(commits uint64, from, to attribution.Second, f func(store.Pending)) error {
	if o.Stale > 0 {
		o.Stale--
		return staleError{}
	}
	if o.Number != 0 && commits >= o.Number {
		return nil
	}
	for _, c := range o.Items {
		if c.Key.Sequence < to && c.End() > from {
			f(packed{c})
		}
	}
	return nil
}

// packed is an open chunk that is decoded when somebody reads it, as most are.
type packed struct{ chunk *attribution.Chunk }

func (p packed) Key() *attribution.ChunkKey  { return &p.chunk.Key }
func (p packed) Seconds() int                { return p.chunk.Seconds }
func (p packed) Roster() *attribution.Roster { return p.chunk.Roster }

// Chunk is a copy in the arena, so that what is kept of one is the next one's.
func (p packed) Chunk(mem *wire.Arena) *attribution.Chunk {
	c := *p.chunk
	c.Windows, c.Tallies = mem.Windows(len(c.Windows)), mem.Tallies(len(c.Tallies))
	copy(c.Tallies, p.chunk.Tallies)
	for i, w := range p.chunk.Windows {
		own := mem.Slices(len(w.Slices))
		copy(own, w.Slices)
		w.Slices, c.Windows[i] = own, w
	}
	return &c
}
