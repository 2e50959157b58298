package nvmlstub

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Span is when a line holds: from At after the scenario's start, for so long.
// For 0 is for ever.
type Span struct {
	At, For time.Duration
}

// Unavailable is the memory of a process that the driver does not tell.
const Unavailable int64 = -1

// Sizes in bytes.
const (
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
)

// Sampling is how the library answers which process used how much.
type Sampling string

// What the library's process samples are.
const (
	// Exact: every process's sample is its true share since the time that was
	// last seen, within the last second. Rounded to a percent.
	Exact Sampling = "exact"
	// Driver: as the real driver does, a ring of 72 samples, each crediting one
	// process with what the device did in a Period; the answer is the mean per
	// process. Shares are then estimates.
	Driver Sampling = "driver"
	// Raw is Driver with every sample of the ring returned by itself.
	Raw Sampling = "raw"
)

// Kind is what a process is to the driver.
type Kind string

// Kinds of processes; the default is Compute.
const (
	Compute   Kind = "compute"
	Graphics  Kind = "graphics"
	MPSClient Kind = "mps-client"
	MPSServer Kind = "mps-server"
	// Hidden is on no list and has no samples, but uses the device.
	Hidden Kind = "hidden"
)

// Scenario is a machine's GPUs and what happens to them. Lines may refer to
// devices and instances by their UUIDs. The zero value of a setting leaves it
// to the library.
type Scenario struct {
	Start    time.Time     // all Spans count from here; zero: when it is written
	Clock    time.Time     // not zero: where the library's time stands still
	Version  string        // of the driver
	Period   time.Duration // of the driver's samples; 1/6 s
	Sampling Sampling
	Excess   bool          // shares of a busy device may add up to more than 100 %
	ProcFS   string        // where matching processes are looked for; /proc
	Scan     time.Duration // how often; 100 ms

	Devices   []Device
	MIG       []MIG
	Instances []Instance
	Processes []Process
	Samples   []Sample
	Counts    []Count
	Faults    []Fault
	Losses    []Loss
	Unloaded  []Span // the driver is not there
	Events    []Event
}

// Device is a GPU. Its place in the scenario is its index.
type Device struct {
	Span
	UUID, Name   string
	Minor        int
	Bus          string // such as 0000:3b:00
	Memory       int64  // bytes
	Slices       int    // compute slices: 7 (which 0 is), or 4
	GPM, Energy  bool   // has them
	Idle, Full   int    // W, at no and at full SM activity
	CreditServer bool   // samples credit an MPS server for its clients
}

// MIG is a GPU's MIG mode. A GPU without any such line has none.
type MIG struct {
	Span
	Device string
}

// Instance is a MIG device: a compute instance of a GPU instance.
type Instance struct {
	Span
	UUID, Device string
	GI, CI       int
	Profile      string // such as 1g.10gb
	ProfileID    int    // the driver's number; 0: that of the plain profile
	Start, Size  int    // its placement, in memory slices
	Slices       int    // compute slices of the GPU instance
	Compute      int    // of them the compute instance's; 0: all
	Memory       int64  // bytes
}

// Process is a process on a device (or MIG instance), by its pid or by a part
// of its command line. Every argument, the last too, is followed by a blank.
// A line that matches several processes is about each of them.
type Process struct {
	Span
	PID     int
	Match   string
	Device  string
	SM      int           // percent of the device (or instance) that it wants
	On, Off time.Duration // its duty: a pattern of Unix time, that begins with On
	Memory  int64         // bytes, or Unavailable
	Kind    Kind
}

// Sample is one that the driver returns with every answer, whatever is asked:
// stale, of the future, of a process that is not there, or nonsense.
type Sample struct {
	Span
	Device     string
	PID, SM    int
	Ago, Ahead time.Duration
}

// Count is a wrong number of process samples in the driver's second answer.
type Count struct {
	Span
	Device string
	Count  int
}

// Fault is what happens to calls. Function is a name such as GetSamples, or *;
// Target a UUID or *. With Error the call fails with that code, such as
// NOT_FOUND; with Delay it takes that long; with neither it hangs.
type Fault struct {
	Span
	Function, Target string
	Error            string
	Delay            time.Duration
}

// Loss is a GPU that has fallen off the bus.
type Loss struct {
	Span
	Device string
}

// Event is what EventSetWait returns once: an XID, or, where that is 0, the
// event of a Type.
type Event struct {
	At     time.Duration
	Device string
	XID    int
	Type   uint32
	MIG    bool // it is an instance's: GI and CI
	GI, CI int
}

// Write makes the scenario the file's, at once: no reader sees half of it. A
// scenario without a start has started now, and keeps that.
func (s *Scenario) Write(path string) error {
	if s.Start.IsZero() {
		s.Start = time.Now().Round(0)
	}
	text, err := s.Render()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".scenario-")
	if err != nil {
		return fmt.Errorf("write a scenario: %w", err)
	}
	_, err = f.WriteString(text)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to tell
		return fmt.Errorf("write a scenario: %w", err)
	}
	return nil
}
