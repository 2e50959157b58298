package replay

import "github.com/gpuledger/gpuledger/attribution"

// Version is the version of the format that this package reads and writes.
const Version = 1

// The limits of a recording. Within them its sums fit 64-bit integers, and
// reading it takes a bounded amount of memory, whatever it says.
const (
	maxLine      = 1 << 20   // bytes of a line
	maxNodes     = 4096      // of a recording
	maxDevices   = 1024      // of a node at one time: as many as a meter takes
	maxOwners    = 1_000_000 // of a recording
	maxDeclared  = 256 << 20 // bytes of the lines that declare devices and owners
	maxProcesses = 4096      // of a sample
	maxReasons   = 256       // different reasons for failure in a recording: with the other measures, within what a meter takes
	maxLabels    = 256       // of a device or owner, and entries of the header's maps
	maxText      = 4096      // bytes of a string
	maxReplicas  = 1_000_000 // of a device

	maxTime     = 4_102_444_800 * attribution.WindowNanos // the year 2100
	maxDuration = 400 * 86_400 * attribution.WindowNanos
	maxInterval = 3600 * attribution.WindowNanos

	maxMemory = 1 << 42           // bytes of a process or device
	maxPower  = 100_000_000_000   // µJ of a device in a second: 100 kW
	maxCount  = 1_000_000_000     // events of a tally's entry
	maxTokens = 1_000_000_000_000 // tokens of a tally's entry
	maxValue  = maxCount * int64(attribution.One)
)
