package nvml

import (
	"errors"

	"github.com/gpuledger/gpuledger/attribution"
)

// ErrNoDriver says that this machine has no NVIDIA driver, or none that works.
var ErrNoDriver = errors.New("no NVIDIA driver")

// ErrPIDNamespace says that pids can't be told apart: outside the host's pid
// namespace the driver mixes pids of both.
var ErrPIDNamespace = errors.New("not in the host's pid namespace")

// ErrHung says that a call into the driver did not return in time for Run to
// end cleanly.
var ErrHung = errors.New("the driver hangs")

// What a driver's answer means, whatever the driver.
var (
	errNotSupported = errors.New("not supported by this device")
	errNoData       = errors.New("no data yet")
)

// driver is what the sampler asks of NVML. Calls may hang.
type driver interface {
	// units lists the devices that exist now, with an error if that may not be
	// all. A later call returns new handles for the same devices.
	units() ([]unit, error)
	close() error
}

// unit is a device: what is known of it, and a handle to read it by.
type unit struct {
	facts
	handle handle
}

// facts are what does not change while a device exists.
type facts struct {
	uuid, model     string
	memoryBytes     int64
	parent, profile string
	share           attribution.MIGShare
	remainder       bool // the uncut rest of a GPU in MIG mode
	energy          bool // has an energy counter of its own
	gpm             bool // has GPM
}

// handle reads one device. It is used by one goroutine at a time. Any call may
// return errNotSupported (now and for ever) or errNoData (ask again later).
type handle interface {
	// energy is in mJ since the driver was loaded.
	energy() (uint64, error)
	// smShare is the share of SM time in use between the previous successful
	// call and this one, in millionths (devices with gpm).
	smShare() (int64, error)
	// busySamples are the driver's samples of GPU utilization newer than after
	// (µs); errNoData if there are none.
	busySamples(after uint64) ([]busySample, error)
	// busyShare is GPU utilization over the driver's last period, in percent.
	busyShare() (uint32, error)
	// processShares are the driver's samples per process newer than after
	// (µs); none is not an error.
	processShares(after uint64) ([]processShare, error)
	// processes appends the processes that run on the device now.
	processes(dst []running) ([]running, error)
	close()
}

// busySample is a device's utilization at a time (µs, the machine's wall
// clock).
type busySample struct {
	time    uint64
	percent uint32
}

// processShare is one process's SM utilization up to a time (µs, the machine's
// wall clock). Drivers are known to return nonsense here.
type processShare struct {
	pid     uint32
	time    uint64
	percent uint32
}

// running is a process on a device.
type running struct {
	pid    uint32
	memory int64 // bytes; −1: not available
	client bool  // of an MPS server
}
