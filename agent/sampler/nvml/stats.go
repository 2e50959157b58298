package nvml

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Bounds of what is counted by XID.
const (
	maxErrorDevices = 64
	maxErrorXIDs    = 64 // of a device
)

// Stats is what a sampler counts of itself and of its devices. Counters only
// grow, but for those of devices that were removed.
type Stats struct {
	Rescans        uint64 // looks for devices
	Reloads        uint64 // times that the driver was opened again
	FailedReadings uint64 // of all devices
	Hung           int    // devices whose reading hangs now
	Devices        []DeviceStats
	Errors         []ErrorCount // by device and XID
	OtherErrors    uint64       // XIDs beyond the bounds of Errors
	Dropped        Dropped
}

// DeviceStats is what is known of reading one device.
type DeviceStats struct {
	ID string
	// Activity is what measures its SM activity: gpm, dcgm, samples or rate; ""
	// before the first reading, where nothing does, and for a remainder.
	Activity       string
	FailedReadings uint64
	Failing        bool // three readings or more have failed in a row, or the driver is closed
	Hung           bool
	// EnergyMicroJoules is counted since the device was found. Of the rest of a
	// GPU in MIG mode it is the whole GPU's, which no device in the ledger has;
	// of an instance it is 0.
	EnergyMicroJoules int64
}

// ErrorCount is how often a GPU reported an error.
type ErrorCount struct {
	Device string // the GPU's UUID; "" where the driver did not say
	XID    uint64
	// Application says that it is put down to what ran on the GPU (XIDs 13, 31,
	// 43, 45, 68 and 109), not to the GPU, which NVIDIA's device plugin goes on
	// to call healthy.
	Application bool
	Count       uint64
}

// Dropped counts what was thrown away, by reason. Only Processes is time that
// goes to no owner; the others are the driver's noise.
type Dropped struct {
	Percent   uint64 // process samples over 100 %
	Stale     uint64 // process samples seen before
	Future    uint64 // process samples more than 5 s ahead of the clock
	Unlisted  uint64 // process samples of processes that don't run here
	Processes uint64 // listed processes beyond 4096 on a device
}

// deviceStats is written by a device's reader and the fleet.
type deviceStats struct {
	id      string
	source  atomic.Uint32
	failed  counter
	failing atomic.Bool
	hung    atomic.Bool
	energy  atomic.Int64
}

// counter counts here and in a sum over all devices.
type counter struct {
	n   atomic.Uint64
	sum *atomic.Uint64
}

func (c *counter) Add(n uint64) {
	c.n.Add(n)
	c.sum.Add(n)
}

// counts is what Stats is made of. Any goroutine may use it.
type counts struct {
	rescans, reloads, failed atomic.Uint64
	dropped                  dropped
	devices                  atomic.Pointer[[]*deviceStats] // never changed once stored

	mu     sync.Mutex // the rest
	errors map[errorKey]*errorCount
	gpus   map[string]int // XIDs of each in errors
	other  errorCount
}

type errorKey struct {
	gpu string
	xid uint64
}

type errorCount struct {
	n    uint64
	said pace
}

// XIDs that are put down to an application, as NVIDIA's device plugin has it:
// an exception in its kernels, its page fault, its stop, what was cleaned up
// after it, its video, its context switch.
func ofApplication(xid uint64) bool {
	switch xid {
	case 13, 31, 43, 45, 68, 109:
		return true
	}
	return false
}

// xid counts an error, and reports whether it may be logged.
func (c *counts) xid(gpu string, xid uint64, now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := errorKey{gpu, xid}
	e := c.errors[key]
	switch n, known := c.gpus[gpu]; {
	case e != nil:
	case n >= maxErrorXIDs || (!known && len(c.gpus) >= maxErrorDevices):
		e = &c.other
	default:
		if c.errors == nil {
			c.errors, c.gpus = make(map[errorKey]*errorCount), make(map[string]int)
		}
		e = &errorCount{}
		c.errors[key] = e
		c.gpus[gpu]++
	}
	e.n++
	return e.said.may(now)
}

// Stats is a snapshot, for any goroutine and at any time.
func (s *Sampler) Stats() Stats {
	c := &s.counts
	d := &c.dropped
	st := Stats{
		Rescans: c.rescans.Load(), Reloads: c.reloads.Load(), FailedReadings: c.failed.Load(),
		Dropped: Dropped{d.percent.Load(), d.stale.Load(), d.future.Load(), d.unlisted.Load(), d.processes.Load()},
	}
	if devices := c.devices.Load(); devices != nil {
		for _, x := range *devices {
			hung := x.hung.Load()
			if hung {
				st.Hung++
			}
			st.Devices = append(st.Devices, DeviceStats{
				ID: x.id, Activity: source(x.source.Load()).String(), FailedReadings: x.failed.n.Load(),
				Failing: x.failing.Load(), Hung: hung, EnergyMicroJoules: x.energy.Load(),
			})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st.OtherErrors = c.other.n
	for _, k := range slices.SortedFunc(maps.Keys(c.errors), errorKey.compare) {
		st.Errors = append(st.Errors, ErrorCount{k.gpu, k.xid, ofApplication(k.xid), c.errors[k].n})
	}
	return st
}

func (k errorKey) compare(x errorKey) int {
	return cmp.Or(cmp.Compare(k.gpu, x.gpu), cmp.Compare(k.xid, x.xid))
}
