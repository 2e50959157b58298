package sampler

import "github.com/gpuledger/gpuledger/attribution"

// Unit is a device as the driver numbers it: what a kubelet's, a plugin's or a
// job system's name for it is resolved by.
type Unit struct {
	ID     string // NVML UUID, the device's id in every event
	Parent string // UUID of the GPU that a MIG instance was cut from, else ""

	Index int // of the GPU in the driver's list; −1 where unknown
	Minor int // of the GPU's device file, /dev/nvidia<minor>; −1 where unknown

	// Of a MIG instance; −1 otherwise, or where unknown.
	GPUInstance, ComputeInstance int
	Placement                    int    // first memory slice of the GPU instance
	Profile                      string // such as "1g.10gb"

	// Remainder is the uncut rest of a GPU in MIG mode. Its ID is the GPU's.
	Remainder bool
	// Added numbers the [DeviceAdded] that began the device as it now is. A
	// device that was removed and came back has another; its holdings ended
	// with the removal and have to be stated again.
	Added uint64
}

// Holding is who holds a device.
type Holding struct {
	DeviceID string
	Owner    *attribution.Owner
	Replicas int64 // ≥ 1
}

// Owners tells who answers for the processes on this node. Goroutines of
// several devices call it at the same time.
type Owners interface {
	// Identify tells a running process from another of the same pid; false if
	// it can't be read. It is called for each process at each reading.
	Identify(pid uint32) (Identity, bool)
	// Owner finds who answers for a process that was seen on a device (its
	// UUID). It is called for each process at each reading, also after the
	// process has ended, since what is known of its pod may change. It never
	// returns nil; the result is never changed, and is the same pointer for as
	// long as the answer is the same.
	Owner(device string, pid uint32, id Identity) *attribution.Owner
}

// Identity tells processes with the same pid apart.
type Identity struct {
	Start   uint64 // clock ticks since boot; 0 where unreadable
	Command string // as the kernel keeps it: at most 15 bytes, here valid UTF-8
}

// Activity measures SM activity where the driver's library can't: DCGM, or
// another's readings of it. Goroutines of several devices call it at the same
// time, each once a second, and it answers from memory.
type Activity interface {
	// SMShare is the newest share of SM time in use of a GPU (gpuInstance −1),
	// or of a GPU instance of it, in millionths, over the time up to at (Unix
	// ns on the machine's wall clock). False: nothing is known, or nothing
	// recent.
	SMShare(gpu string, gpuInstance int) (share, at int64, ok bool)
}
