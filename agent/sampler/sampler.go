// Package sampler says what the agent can see of a node, whatever it is seen
// with. Its children see it: nvml on the real driver, replay in a recording,
// simulated in a seeded imitation.
//
// Everything seen is an [Event]. Events of one device come in order of time.
// Counters are cumulative and never rates: what happened between two samples
// is their difference, whenever the second arrives.
package sampler

import (
	"context"

	"github.com/gpuledger/gpuledger/attribution"
)

// Kind says what an event is about.
type Kind uint8

// The kinds of event, and the fields of [Event] that each uses.
const (
	DeviceAdded   Kind = iota + 1 // Device: it exists from Time on
	DeviceRemoved                 // DeviceID
	Held                          // DeviceID, Owner, Replicas: the owner holds the device from Time on
	Released                      // DeviceID, Owner
	Sampled                       // Sample
	Tallied                       // Tally
)

// Event is one thing seen on a node.
type Event struct {
	Kind     Kind
	Time     int64 // Unix ns
	Node     string
	DeviceID string
	Device   *attribution.Device
	Owner    *attribution.Owner
	Replicas int64
	Sample   *Sample
	Tally    *Tally
}

// Sample is one reading of a device at Event.Time.
type Sample struct {
	// Gap says that nothing is known of the time since the previous sample:
	// it is unobserved, and counters may have started anew. The first sample
	// of a device starts observation and covers nothing.
	Gap bool
	// SMActive counts ns of SM activity since any fixed start.
	SMActive int64
	// Energy counts µJ since any fixed start (devices with SensorEnergy).
	Energy int64
	// ProcessSM says that Processes carry SM activity of their own.
	ProcessSM bool
	// SharedServer says that some of it since the previous sample was an MPS
	// server's, and split over its clients. Recordings don't keep this.
	SharedServer bool
	Processes    []Process
}

// Process is the reading of one process on a device. A process is identified
// by its pid and start time, never by the pid alone.
type Process struct {
	PID      uint32
	Start    uint64             // any number that differs when a pid is used again
	Owner    *attribution.Owner // who answers for it
	SMActive int64              // ns since any fixed start
	// MemoryBytes is what the process holds at the time of the sample; it
	// counts for the time since the previous one.
	MemoryBytes int64
}

// Tally is what an owner served in the time up to Event.Time.
type Tally struct {
	Owner               *attribution.Owner
	Model, Tenant, Tier string
	// Seconds is the stretch that the values cover: [Time − Seconds, Time).
	// They are spread over it evenly.
	Seconds int64
	Values  []Value
}

// Value is one measure's count in a tally.
type Value struct {
	Measure attribution.Measure
	Value   int64
}

// Node is a node whose events a source yields.
type Node struct {
	Cluster string
	Name    string
	Boot    attribution.Boot
}

// Script is a source of events with a time of its own: a recording, or a
// simulation. It is read ahead of that time by up to Horizon, since a recorded
// counter tells about the time before it.
type Script interface {
	// Nodes lists the nodes that events name. It may be called at any time.
	Nodes() []Node
	// Start and End bound the events' time, in Unix ns; End 0 is endless.
	Start() int64
	End() int64
	// Horizon is the longest time between two samples of a device that are to
	// be seen as one stretch, in ns.
	Horizon() int64
	// Next fills e with the next event, in order of time. The event and what
	// it points to stay valid and unchanged after later calls. At the end it
	// returns io.EOF; any other error ends the script.
	Next(e *Event) error
	Close() error
}

// Live is a source of events that happen now.
type Live interface {
	// Run sees until ctx ends. It calls producer once for each goroutine of
	// its own that yields events.
	Run(ctx context.Context, producer func() Producer) error
}

// Producer takes the events of one goroutine, which alone calls it.
type Producer interface {
	// Yield takes an event. It never blocks, and does not keep the event.
	Yield(e *Event)
	// Close says that there will be no more, and gives back what the producer
	// holds. A source calls it when the goroutine ends.
	Close()
}
