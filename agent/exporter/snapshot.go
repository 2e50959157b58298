package exporter

import (
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// Snapshot is everything up to a second. It never changes; what it points to
// is shared between snapshots and never changes either.
type Snapshot struct {
	Cluster string
	Node    string
	// Second is the last one added: the snapshot stands at its end. 0 before
	// the first.
	Second attribution.Second
	// Currency is that of all costs and prices, "" as long as nothing was
	// priced.
	Currency string
	Labels   []string // keys of the exported pod labels
	Devices  []Device // by id
	Series   []Series // in no order
	Tallies  []Tally  // in no order
	Stats    Stats
}

// Series is what one owner answers for on one device and basis, since it began.
type Series struct {
	Owner  *Owner
	Device string // id
	Basis  attribution.Basis

	Since attribution.Second // its first: it was zero when that began
	Last  attribution.Second // the last that changed it

	Time     int64 // device time, ns
	Unpriced int64 // the part of Time without a price, ns

	// Cost is unknown until Priced: it was zero when CostSince began.
	Cost      money.Amount
	CostSince attribution.Second
	Priced    bool

	// Amounts are measured where the device and the basis can have them.
	SMActive    int64 // ns
	Memory      int64 // byte-seconds
	Energy      int64 // µJ
	HasSMActive bool
	HasMemory   bool
	HasEnergy   bool
}

// Device is a device and its totals.
type Device struct {
	ID    string
	Facts DeviceFacts // the latest

	Since, Last attribution.Second // as of a series
	Time        int64              // ns: a second for every window
	Energy      int64              // µJ, where Facts.Energy

	// Now is the window of Last. What it says is current where Last is the
	// snapshot's second.
	Now Window
}

// Current reports whether the device had a window in the snapshot's second, so
// that Now is now.
func (d *Device) Current(s *Snapshot) bool { return d.Last == s.Second }

// DeviceFacts say what a device is.
type DeviceFacts struct {
	Model        string
	Profile      string
	Parent       string
	CapacityType string
	MemoryBytes  int64 // 0 where unknown
	Memory       bool  // processes' memory can be measured
	Energy       bool  // energy can be measured
}

// Window is what a device did in one second.
type Window struct {
	PerHour  money.Amount // price, where Priced
	Priced   bool         // in the snapshot's currency
	Observed int64        // ns
	SMActive int64        // ns, within Observed
	Memory   int64        // byte-seconds: bytes on average
	Energy   int64        // µJ
}

// Metric says which counter a tally belongs to.
type Metric uint8

// The metrics of tallies.
const (
	// Inferences count millionths of one (attribution.Count), by Type success
	// or failure, failures by Reason.
	Inferences Metric = iota + 1
	// Tokens count tokens, by Type input, cached or output.
	Tokens
	// QueueTime counts millionths of a waiting request's second.
	QueueTime
)

// Tally is what one owner has served under one model name and tier.
type Tally struct {
	Owner  *Owner
	Model  string
	Tier   string
	Metric Metric
	Type   string
	Reason string

	Since, Last attribution.Second // as of a series
	Value       int64
}

// Stats are the exporter's counts of itself.
type Stats struct {
	Series, Tallies, Devices, Owners int // at present

	Seconds            uint64 // added
	OverflowedSlices   uint64 // added to the overflow owner or device
	OverflowedTallies  uint64
	OverflowedCommands uint64 // times that an owner was taken for Other
	Left               uint64 // series and tallies that left
	LeftUnexported     uint64 // of them, without all views having exported the last value
	Restarted          uint64 // series that began again for want of range
}

// publish makes the present state the snapshot.
func (e *Exporter) publish() {
	s := &Snapshot{
		Cluster: e.cluster, Node: e.node, Second: e.second, Currency: e.currency, Labels: e.o.Labels,
		Devices: make([]Device, 0, len(e.devices)), Series: slices.Clone(e.series), Tallies: slices.Clone(e.tallies),
	}
	for _, id := range slices.Sorted(maps.Keys(e.devices)) {
		s.Devices = append(s.Devices, e.devices[id].Device)
	}
	e.stats.Series, e.stats.Tallies, e.stats.Devices, e.stats.Owners = len(e.series), len(e.tallies), len(e.devices), len(e.owners)
	s.Stats = e.stats
	e.snapshot.Store(s)
}
