package attribution

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution/money"
)

// WindowNanos is the length of a window, in nanoseconds: one second.
const WindowNanos int64 = 1_000_000_000

// ChunkSeconds is the wall-clock span that a chunk never crosses.
const ChunkSeconds = 10

// Second is a Unix second. As the name of a window it covers
// [s, s+1) on the wall clock.
type Second int64

// Nanos is the second's first instant in Unix nanoseconds.
func (s Second) Nanos() int64 { return int64(s) * WindowNanos }

// ChunkStart is the first second of the wall-clock ten that s lies in.
func (s Second) ChunkStart() Second { return s - Second(floorMod(int64(s), ChunkSeconds)) }

// SecondOf is the window that the Unix time t (ns) lies in.
func SecondOf(t int64) Second { return Second((t - floorMod(t, WindowNanos)) / WindowNanos) }

func floorMod(a, b int64) int64 { return ((a % b) + b) % b }

// Basis says why an owner answers for a slice of device time.
type Basis uint8

// The five bases. The zero value is none of them, so that a forgotten basis
// cannot pass for a real one.
const (
	// Used time was covered by measured activity of the owner.
	Used Basis = iota + 1
	// Reserved time was held by the owner and not used: its idle.
	Reserved
	// Unallocated time was held by nobody and used by nobody.
	Unallocated
	// Unattributed time was used by something that maps to no owner. The pid
	// and command are kept.
	Unattributed
	// Unobserved time passed while the agent was not looking. It is billed to
	// the holders, visible as what it is.
	Unobserved
)

// Bases lists the five bases in their stable order.
var Bases = [...]Basis{Used, Reserved, Unallocated, Unattributed, Unobserved}

var basisNames = [...]string{"", "used", "reserved", "unallocated", "unattributed", "unobserved"}

// Valid reports whether b is one of the five bases.
func (b Basis) Valid() bool { return b >= Used && b <= Unobserved }

// String is the basis's name as it appears in reports and queries.
func (b Basis) String() string {
	if !b.Valid() {
		return fmt.Sprintf("basis(%d)", uint8(b))
	}
	return basisNames[b]
}

// ParseBasis is the inverse of [Basis.String].
func ParseBasis(s string) (Basis, error) {
	for _, b := range Bases {
		if basisNames[b] == s {
			return b, nil
		}
	}
	return 0, fmt.Errorf("unknown basis %q: want one of used, reserved, unallocated, unattributed, unobserved", s)
}

// Label is one key and value of a pod or node, as Kubernetes has it.
type Label struct{ Key, Value string }

// Labels is a set of labels, sorted by key, each key once. Build it with
// [MakeLabels]; the order is part of the identity of what carries it.
type Labels []Label

// MakeLabels sorts a map of labels into Labels.
func MakeLabels(m map[string]string) Labels {
	if len(m) == 0 {
		return nil
	}
	ls := make(Labels, 0, len(m))
	for k, v := range m {
		ls = append(ls, Label{k, v})
	}
	slices.SortFunc(ls, func(a, b Label) int { return cmp.Compare(a.Key, b.Key) })
	return ls
}

// Get is the value of a key, and whether the key is there at all: an empty
// label is not a missing one.
func (ls Labels) Get(key string) (string, bool) {
	i, ok := slices.BinarySearchFunc(ls, key, func(l Label, k string) int { return cmp.Compare(l.Key, k) })
	if !ok {
		return "", false
	}
	return ls[i].Value, true
}

// Map is the labels as a new map.
func (ls Labels) Map() map[string]string {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		m[l.Key] = l.Value
	}
	return m
}

// Device is what is priced: a GPU, or a MIG instance of one. Where a GPU is
// cut, what is left of it is a device too, with Remainder set.
type Device struct {
	ID      string // NVML UUID, such as GPU-… or MIG-…
	Cluster string
	Node    string
	Model   string // NVML name, such as "NVIDIA H100 80GB HBM3"

	// CapacityType is how the node is paid for: on-demand, spot, reserved,
	// on-prem; "" where unknown.
	CapacityType string
	MemoryBytes  int64  // of this device; 0 where unknown
	Labels       Labels // of the node; prices may select on them

	// Parent is the GPU that a MIG instance was cut from, "" for a whole GPU.
	Parent string
	// Profile is the MIG profile, such as "1g.10gb".
	Profile string
	// Share is the part of the parent that an instance is; the zero value is
	// a whole GPU.
	Share MIGShare
	// Remainder marks the uncut rest of a GPU in MIG mode. Its ID is the GPU's.
	Remainder bool

	// Sensors says what could be measured at all, so that a 0 is told apart
	// from "not measured" (law 9).
	Sensors Sensors
}

// Sensors is a set of measurements that a device has.
type Sensors uint8

// The sensors. SM activity is not among them: without it a device's time is
// unobserved.
const (
	SensorEnergy Sensors = 1 << iota
	SensorMemory         // of processes
)

// MIGShare is a MIG instance's part of its parent: compute slices and memory
// slices, each of so many. An instance's price is the parent's times the mean
// of the two shares.
type MIGShare struct {
	Compute, ComputeOf int32
	Memory, MemoryOf   int32
}

// OwnerKind says what sort of thing an owner is.
type OwnerKind uint8

// The kinds of owner. Nobody is the zero Owner.
const (
	Nobody OwnerKind = iota
	// Container is a container of a Kubernetes pod.
	Container
	// HostProcess is a process known to run on the node outside any pod.
	HostProcess
	// UnknownProcess is a process that maps to no owner: its time is
	// unattributed, its pid and command are kept.
	UnknownProcess
	// Gateway is a backend behind a gateway that knows its customers: Node is
	// "gateway/" + the gateway's name, ControllerKind "Backend", Controller
	// the backend's address as the gateway tells it, "" where it does not. It
	// owns no device time; its tallies say whom others' time served.
	Gateway
)

var ownerKindNames = [...]string{"nobody", "container", "host-process", "unknown-process", "gateway"}

// Valid reports whether k is one of the kinds.
func (k OwnerKind) Valid() bool { return int(k) < len(ownerKindNames) }

// String is the kind's name.
func (k OwnerKind) String() string {
	if !k.Valid() {
		return fmt.Sprintf("owner-kind(%d)", uint8(k))
	}
	return ownerKindNames[k]
}

// Owner is who answers for device time. The zero value is nobody. Only facts
// are kept here: teams, models and tiers are mapped from them when asked.
type Owner struct {
	Kind           OwnerKind
	Cluster        string
	Node           string
	Namespace      string
	Pod            string
	PodUID         string
	Container      string
	ControllerKind string // Deployment, Job, …
	Controller     string
	PID            uint32 // of a process owner
	Command        string // of a process owner
	Labels         Labels // of the pod
}

// Subject is what was served: by which owner, under which model name, and for
// which customer and tier where they are known ("" where not).
type Subject struct {
	Owner  uint32 // index into Roster.Owners
	Model  string
	Tenant string
	Tier   string
}

// Count is a number of events in millionths of one. Real servers count whole
// requests; scaled traces and sampled gateways do not, and their fractions
// must not be rounded away sample by sample.
type Count int64

// One is a single event.
const One Count = 1_000_000

// Whole is the number of complete events.
func (c Count) Whole() int64 { return int64(c) / int64(One) }

// Measure names what a tally counts. Values of all measures add up over time
// and over owners, so rollups are plain sums.
//
//	success              Count    inferences that succeeded
//	failure/<reason>     Count    inferences that did not, by reason: abort where the client left
//	tokens/input         tokens   prompt tokens processed, those from a cache included
//	tokens/cached        tokens   of them, prompt tokens served from a cache
//	tokens/output        tokens   tokens generated
//	tokens/aborted       tokens   of the input tokens, those of requests that did not succeed
//	latency/<i>          Count    successes that took at most 2^(i/4) ms and more than 2^((i-1)/4) ms
//	first-token/<i>      Count    the same of the time to the first token
//	queue                Count    requests waiting, times seconds waited
//	running              Count    requests being served, times seconds
//	kv-cache             Count    share of the KV cache in use, times seconds
//	observed             Count    seconds for which queue, running and kv-cache were read, per server
//	checkpoint           Count    checkpoints that a training process has finished
//
// Gauges are counted times seconds, so that they add up like everything else:
// the mean queue is queue ÷ observed.
type Measure string

// The fixed measures; failures and the two histograms extend a prefix.
const (
	Success          Measure = "success"
	FailurePrefix    Measure = "failure/"
	Aborted          Measure = FailurePrefix + "abort"
	TokensInput      Measure = "tokens/input"
	TokensCached     Measure = "tokens/cached"
	TokensOutput     Measure = "tokens/output"
	TokensAborted    Measure = "tokens/aborted"
	LatencyPrefix    Measure = "latency/"
	FirstTokenPrefix Measure = "first-token/"
	Queue            Measure = "queue"
	Running          Measure = "running"
	KVCache          Measure = "kv-cache"
	Observed         Measure = "observed"
	Checkpoint       Measure = "checkpoint"
)

// Serves reports whether the measure counts requests or tokens. An owner that
// has none of these, but checkpoints or gauges, is not known to serve anything.
func (m Measure) Serves() bool {
	return m == Success || m == TokensInput || m == TokensOutput || strings.HasPrefix(string(m), string(FailurePrefix))
}

// Tally is what was served in one window. No tally means "not measured"; a
// tally of 0 means "measured: none" (law 9).
type Tally struct {
	Second  Second
	Subject uint32 // index into Roster.Subjects
	Measure uint16 // index into Roster.Measures
	Value   int64  // ≥ 0, in the measure's unit
}

// Price is the hourly price under which a window was rated. Revision 0 means
// unpriced: time is recorded, cost is unknown, which is not 0 (law 9).
type Price struct {
	PerHour  money.Amount
	Revision uint32 // of the rate card
}

// Known reports whether there is a price at all.
func (p Price) Known() bool { return p.Revision != 0 }

// Slice is one owner's part of a window on one basis.
type Slice struct {
	Owner    uint32 // index into Roster.Owners
	Basis    Basis
	Time     int64        // device time, ns
	SMActive int64        // SM activity measured within it, ns
	Memory   int64        // byte-seconds
	Energy   int64        // µJ
	Cost     money.Amount // 0 where the window is unpriced
}

// DeviceWindow is one second of one device, cut into slices. Slices are
// ordered by (owner index, basis), each pair once.
type DeviceWindow struct {
	Device uint32 // index into Roster.Devices
	Method uint16 // index into Roster.Methods: the policy that decided
	Second Second
	Price  Price
	Energy int64 // µJ of the device in this second; the slices' sum
	Slices []Slice
}

// Roster is the dictionary of a chunk: exactly the devices, owners, methods,
// subjects and measures that occur in it, each once, in canonical order.
// Everything else refers to it by index. Most chunks of a node share one
// roster, so it travels and is stored once, under its content's fingerprint.
type Roster struct {
	Devices  []Device
	Owners   []Owner
	Methods  []string
	Subjects []Subject
	Measures []Measure
}

// Boot is one life of a node's spool: it changes when the spool is new.
type Boot [16]byte

// ChunkKey identifies a chunk. The sequence is the Unix second of its first
// window, so that it says itself where it belongs.
type ChunkKey struct {
	Cluster  string
	Node     string
	Boot     Boot
	Sequence Second
}

// Chunk holds what one node's devices did in a run of consecutive seconds
// within one wall-clock ten. It is a deterministic function of its windows.
type Chunk struct {
	Key ChunkKey
	// Seconds is the number of windows, 1 to 10: the chunk covers
	// [Key.Sequence, Key.Sequence+Seconds).
	Seconds int
	Roster  *Roster
	// Windows are ordered by (device index, second).
	Windows []DeviceWindow
	// Tallies are ordered by (second, subject, measure), each triple once.
	Tallies []Tally
}

// End is the first second after the chunk.
func (c *Chunk) End() Second { return c.Key.Sequence + Second(c.Seconds) }
