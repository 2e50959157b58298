package nvml

import (
	"errors"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// ErrNoDriver says that this machine has no NVIDIA driver, or none that works.
var ErrNoDriver = errors.New("no NVIDIA driver")

// ErrDriverReplaced says that the kernel module is of another version than the
// library that this process has loaded, as after an upgrade of the driver. A
// process can't load another: it has to be started again.
var ErrDriverReplaced = errors.New("the NVIDIA driver was replaced under this process")

// ErrHung says that a call into the driver did not return in time for Run to
// end cleanly.
var ErrHung = errors.New("the driver hangs")

// What a driver's answer means, whatever the driver.
var (
	errNotSupported = errors.New("not supported by this device")
	errNoData       = errors.New("no data yet")
	errLost         = errors.New("the GPU is lost, or has to be reset")
	errGone         = errors.New("the driver is not loaded") // or was, since it was opened
)

// errDenied is errNotSupported for want of a permission, which this process
// will not get.
var errDenied error = denied{}

type denied struct{}

func (denied) Error() string        { return "no permission" }
func (denied) Is(target error) bool { return target == errNotSupported }

// driver is what the sampler asks of NVML. Calls may hang. Once closed, neither
// it nor anything that it has returned is used again.
type driver interface {
	// list looks for the devices that exist now. A later call returns new
	// handles for the same devices; one that was never read needs no close.
	list() listing
	// events begins to listen to the GPUs that exist now; errNotSupported if
	// none of them tells anything.
	events() (events, error)
	close() error
}

// listing is what a look for devices found.
type listing struct {
	gpus []gpu
	err  error // why this may not be all
}

// gpu is a GPU: itself or, in MIG mode, its uncut rest; then its instances.
type gpu struct {
	units    []unit // at least one
	complete bool   // no instance is missing for an error
}

// unit is a device: what is known of it, and a handle to read it by.
type unit struct {
	facts
	place
	gpm     bool  // has GPM
	stagger int64 // ns into each second at which it is read
	handle  handle
}

// facts describe a device. Where one changes it is described anew.
type facts struct {
	uuid, model     string
	memoryBytes     int64
	parent, profile string
	share           attribution.MIGShare
	remainder       bool // the uncut rest of a GPU in MIG mode
	energy          bool // has an energy counter of its own
}

// place is where the driver has a device: −1 where unknown, or where it makes
// no sense. It may change without the device being another.
type place struct {
	index, minor                 int // of the GPU
	gpuInstance, computeInstance int
	placement                    int // first memory slice of the GPU instance
}

// handle reads one device. It is used by one goroutine at a time. Any call may
// return errNotSupported (now and for ever) or errNoData (ask again later).
type handle interface {
	// energy is in mJ since the driver was loaded; of a Remainder, the whole
	// GPU's.
	energy() (uint64, error)
	// present fails where the device can't be reached, and reads nothing.
	present() error
	// smShare is the share of SM time in use between the previous successful
	// call and this one, in millionths (devices with gpm).
	smShare() (int64, error)
	// busySamples appends the driver's samples of GPU utilization newer than
	// after (µs); errNoData if there are none.
	busySamples(dst []busySample, after uint64) ([]busySample, error)
	// busyShare is GPU utilization over the driver's last period, in percent.
	busyShare() (uint32, error)
	// processShares appends the driver's samples per process newer than after
	// (µs); none is not an error.
	processShares(dst []processShare, after uint64) ([]processShare, error)
	// computing appends the processes that compute on the device now.
	computing(dst []running) ([]running, error)
	// others appends those that the driver lists apart: graphics, and the
	// clients of an MPS server. A process may be in several lists.
	others(dst []running) ([]running, error)
	// close frees what reading has taken.
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

// events tells of what happens to GPUs. One goroutine uses it.
type events interface {
	// wait is for the next event; errNoData if none comes within d.
	wait(d time.Duration) (event, error)
	close()
}

// event is something that happened to a GPU.
type event struct {
	kind                         eventKind
	gpu                          string // UUID; "" where the driver does not say
	xid                          uint64
	gpuInstance, computeInstance int // −1: the whole GPU
}

type eventKind uint8

const (
	eventXID    eventKind = iota + 1 // an error, with its number
	eventMIG                         // instances were made or destroyed
	eventHealth                      // the GPU became unavailable, or wants to be recovered
)
