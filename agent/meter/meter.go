package meter

import (
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gpuledger/gpuledger/attribution"
)

// Options bounds a meter. A field that is 0 takes the default.
type Options struct {
	// From is the first second to be sealed.
	From attribution.Second
	// Policy decides what is used. The default is attribution.PolicySM.
	Policy attribution.Policy

	// LaneRecords is the size of a lane's ring, 64 bytes a record, rounded up
	// to a power of two. It must take what a producer records between two
	// calls of Seal; a script's, the records of one event. Default 2048.
	LaneRecords int
	// Lanes is how many producers there may be. Default 1024.
	Lanes int
	// Devices bounds devices, and apart from that their descriptions.
	// Default 1024.
	Devices int
	// Owners and Subjects bound how many are known, those that appeared
	// within the last minute included. Default 8192 each.
	Owners   int
	Subjects int
	// Measures are never forgotten. Default 1024, at most 65535.
	Measures int
	// Intervals is how many activities, and how many uses, are kept apart per
	// device. Default 8192, 72 bytes each.
	Intervals int
	// Changes is how many changes of holdings and existence that lie ahead
	// are kept apart per device. Default 4096.
	Changes int
	// Tallies is how many tallies are kept apart. Default 65536.
	Tallies int

	// KeepRestored says that the source of holdings knows those that
	// [Meter.Restore] brings, and will release them. Without it they end when
	// their device is added again.
	KeepRestored bool
}

func (o Options) withDefaults() Options {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&o.LaneRecords, 2048)
	set(&o.Lanes, 1024)
	set(&o.Devices, 1024)
	set(&o.Owners, 8192)
	set(&o.Subjects, 8192)
	set(&o.Measures, 1024)
	set(&o.Intervals, 8192)
	set(&o.Changes, 4096)
	set(&o.Tallies, 65536)
	o.Measures = min(o.Measures, 65535)
	size := 1
	for size < o.LaneRecords && size < 1<<24 {
		size *= 2
	}
	o.LaneRecords = size
	if o.Policy.Name == "" {
		o.Policy = attribution.PolicySM
	}
	return o
}

// Meter collects what producers saw and seals it into windows. Registration,
// [Meter.SetPolicy], [Meter.Next] and [Meter.Stats] are for any goroutine;
// each [Lane] is for its producer; everything else is for the sealer, the one
// goroutine that calls [Meter.Seal].
type Meter struct {
	opt    Options
	stats  *counters
	policy atomic.Pointer[attribution.Policy]
	next   atomic.Int64 // the first unsealed second; the sealer writes it
	lanes  atomic.Pointer[[]*Lane]

	mu       sync.Mutex
	seed     maphash.Seed
	devices  *table[attribution.Device]
	owners   *table[attribution.Owner]
	subjects *table[subject]
	byID     map[string]*deviceEntry // the description registered last
	measures map[attribution.Measure]MeasureHandle
	laneIDs  uint32

	refusedMeasures, refusedLanes, refusedSlots uint64

	measureNames atomic.Pointer[[]attribution.Measure] // by handle; grows under mu

	sealer
}

// sealer is what the sealer's goroutine has to itself.
type sealer struct {
	skip      attribution.Second // windows before it are not handed out
	swept     attribution.Second
	mark      uint64
	slots     map[string]*slot // by device id
	order     []*slot          // by device id, ascending
	tallies   queue
	unsent    bool // the last emit failed: sealed is to be handed out again
	sealed    Sealed
	cutter    cutter
	absorbing func(*Record, uint32)
}

// New makes a meter that will seal from opt.From on.
func New(opt Options) *Meter {
	opt = opt.withDefaults()
	m := &Meter{
		opt: opt, stats: new(counters), seed: maphash.MakeSeed(),
		devices:  newTable(opt.Devices, equalDevices),
		owners:   newTable(opt.Owners, equalOwners),
		subjects: newTable(opt.Subjects, equalSubjects),
		byID:     map[string]*deviceEntry{},
		measures: map[attribution.Measure]MeasureHandle{},
	}
	m.owners.numbers = []*ownerEntry{{}} // 0 is nobody
	m.lanes.Store(&[]*Lane{})
	m.measureNames.Store(&[]attribution.Measure{"", failureOther})
	m.measures[failureOther] = 1
	m.next.Store(int64(opt.From))
	m.policy.Store(&opt.Policy)
	m.slots = map[string]*slot{}
	m.sealed.Facts = facts{m}
	m.absorbing = m.absorb
	return m
}

// SetPolicy changes the policy from the next unsealed window on.
func (m *Meter) SetPolicy(p attribution.Policy) { m.policy.Store(&p) }

// Next is the first unsealed second.
func (m *Meter) Next() attribution.Second { return attribution.Second(m.next.Load()) }

// Lane opens a lane for one more producer. Any goroutine may call it.
func (m *Meter) Lane() (*Lane, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lanes := *m.lanes.Load()
	if len(lanes) >= m.opt.Lanes {
		m.refusedLanes++
		return nil, fmt.Errorf("a lane: %w: %d lanes; close those of producers that have ended", ErrFull, m.opt.Lanes)
	}
	m.laneIDs++
	l := newLane(m.laneIDs, m.opt.LaneRecords, m.stats)
	lanes = append(slices.Clone(lanes), l)
	m.lanes.Store(&lanes)
	return l, nil
}

// Drain takes over what the lanes hold, so that they have room again. Seal
// does the same first; a script's player, which records faster than windows
// come, drains after every event.
func (m *Meter) Drain() {
	reap := false
	for _, l := range *m.lanes.Load() {
		reap = l.drain(m.absorbing) || reap
	}
	if reap {
		m.reapLanes()
	}
}

// reapLanes forgets closed lanes. They were closed before they were drained
// only if nothing is left in them.
func (m *Meter) reapLanes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []*Lane
	for _, l := range *m.lanes.Load() {
		if !l.closed.Load() || l.published.Load() != l.consumed.Load() || l.spilled.Load() != l.taken {
			left = append(left, l)
		}
	}
	m.lanes.Store(&left)
}
