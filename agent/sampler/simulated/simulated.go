// Package simulated imitates GPU nodes: a [sampler.Script] that follows from a
// seed. It is what the demo shows, what tests check the ledger's figures
// against, and what the agent's own cost is measured with.
//
// # The model
//
// A device has seats; in each seat runs an app, as one pod after another. An
// app is an inference server, a training job, a notebook, a queue of
// short-lived jobs, or a process outside any pod. Once a second, give or take
// 80 ms, a device is sampled: each app asks for so many thousandths of the
// device, by the time of day and by chance; where together they ask for more
// than there is, each gets its share; counters of SM activity and energy grow by
// what was got. A server turns its SM time into requests, tokens and latencies,
// and tallies them each second. Now and then a device is not seen for some
// seconds, and its next sample says that there was a gap.
//
// All of it is integers drawn from the seed, the place and the time, so that
// the same options give the same events on every machine. What truly happened
// is kept as [Truth].
package simulated

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	second  = attribution.WindowNanos
	jitter  = 80 * second / 1000 // of a sample, either way
	horizon = 3 * second / 2     // more than a second and two jitters
	whole   = 1000               // thousandths of a device
)

// Profile is a sort of fleet.
type Profile uint8

// The profiles.
const (
	// Fleet is a mixed production fleet, for people to look at:
	// exclusive, time-sliced and MIG devices; servers of several teams and
	// models, training, notebooks, short jobs, bare processes, and much idle.
	Fleet Profile = iota
	// Busy is nodes on which each device is shared by four pods of two
	// processes each, without any coming and going: 64 processes on 8 devices.
	// It is what an agent's cost is measured with.
	Busy
)

// Options say what to simulate. The zero value of a field is its default.
type Options struct {
	Seed     uint64
	Cluster  string
	Profile  Profile
	Start    int64 // Unix second; 0 is 2026-01-01T00:00:00Z
	Duration int64 // seconds; 0 is endless
	Nodes    int   // 0 is 4, or 1 of Busy
	Devices  int   // GPUs of a node; 0 is 8
}

// FleetOptions are the demo's fleet: 4 nodes of 8 GPUs.
func FleetOptions() Options {
	return Options{Seed: 1, Cluster: "demo", Profile: Fleet, Nodes: 4, Devices: 8}
}

// NodeOptions are one busy node: 8 GPUs, 64 processes.
func NodeOptions() Options {
	return Options{Seed: 1, Cluster: "demo", Profile: Busy, Nodes: 1, Devices: 8}
}

const defaultStart = 1_767_225_600

// Script is a simulation. One goroutine uses it at a time.
type Script struct {
	opt   Options
	nodes []*node
	truth truth

	tick   int64 // the next one
	events []sampler.Event
	next   int // index into events

	// The memory of the tick under way; events keep it.
	samples   []sampler.Sample
	processes []sampler.Process
	tallies   []sampler.Tally
	values    []sampler.Value
}

var _ sampler.Script = (*Script)(nil)

type node struct {
	sampler.Node
	devices []*device
}

// New makes a simulation.
func New(opt Options) (*Script, error) {
	if opt.Start == 0 {
		opt.Start = defaultStart
	}
	if opt.Nodes == 0 {
		if opt.Nodes = 4; opt.Profile == Busy {
			opt.Nodes = 1
		}
	}
	if opt.Devices == 0 {
		opt.Devices = 8
	}
	switch {
	case opt.Profile > Busy:
		return nil, fmt.Errorf("simulation: unknown profile %d: want Fleet or Busy", opt.Profile)
	case opt.Start < 0 || opt.Duration < 0 || opt.Start+opt.Duration > 4_102_444_800:
		return nil, fmt.Errorf("simulation: start %d and duration %d s: want times from 1970 to 2100", opt.Start, opt.Duration)
	case opt.Nodes < 1 || opt.Nodes > 10_000 || opt.Devices < 1 || opt.Devices > 64:
		return nil, fmt.Errorf("simulation: %d nodes of %d devices: want 1 to 10000 of 1 to 64", opt.Nodes, opt.Devices)
	}
	s := &Script{opt: opt, truth: truth{used: make(map[*app]int64), served: make(map[string]*served)}}
	s.build()
	return s, nil
}

// Nodes lists the nodes. Their boots follow from the options, so the same
// simulation is the same ledger.
func (s *Script) Nodes() []sampler.Node {
	out := make([]sampler.Node, len(s.nodes))
	for i, n := range s.nodes {
		out[i] = n.Node
	}
	return out
}

// Start is the first instant, in Unix ns.
func (s *Script) Start() int64 { return s.opt.Start * second }

// End is the last instant, in Unix ns; 0 is never.
func (s *Script) End() int64 {
	if s.opt.Duration == 0 {
		return 0
	}
	return (s.opt.Start + s.opt.Duration) * second
}

// Horizon is the longest time between two samples without a gap.
func (s *Script) Horizon() int64 { return horizon }

// Close does nothing.
func (s *Script) Close() error { return nil }

// Next fills e with the next event; see [sampler.Script].
func (s *Script) Next(e *sampler.Event) error {
	for s.next == len(s.events) {
		if s.opt.Duration > 0 && s.tick > s.opt.Duration {
			return io.EOF
		}
		s.generate()
	}
	*e = s.events[s.next]
	s.next++
	return nil
}

// generate makes the events of one tick. All of them lie within half a second
// of it, so ticks follow one another in time.
func (s *Script) generate() {
	s.samples = make([]sampler.Sample, 0, cap(s.samples))
	s.processes = make([]sampler.Process, 0, len(s.processes)+16)
	s.tallies = make([]sampler.Tally, 0, len(s.tallies)+4)
	s.values = make([]sampler.Value, 0, len(s.values)+64)
	s.events, s.next = s.events[:0], 0
	for _, n := range s.nodes {
		for _, d := range n.devices {
			if s.tick == 0 {
				s.begin(d)
			} else {
				s.step(d)
			}
		}
	}
	slices.SortStableFunc(s.events, func(a, b sampler.Event) int { return cmp.Compare(a.Time, b.Time) })
	s.tick++
}

// last says that the tick is the simulation's end.
func (s *Script) last() bool { return s.opt.Duration > 0 && s.tick == s.opt.Duration }

// now is the tick's own time.
func (s *Script) now() int64 { return (s.opt.Start + s.tick) * second }

// draw is a number that looks random and depends on its arguments alone.
func draw(seed, x uint64) uint64 {
	var p rand.PCG
	p.Seed(seed, x)
	return p.Uint64()
}

// below is a drawn number from 0 to n−1.
func below(n int64, seed, x uint64) int64 { return int64(draw(seed, x) % uint64(n)) }
