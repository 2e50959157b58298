// Package nvml sees the node's GPUs through NVIDIA's driver.
//
// # The model
//
// Each GPU, and each MIG instance of one, has a goroutine of its own (a
// reader) with a producer of its own, so that a call that hangs in the driver
// stalls that device alone. Readers tick once a second, on the second of the
// agent's clock plus a stagger of at most 400 ms, and turn what the driver
// says into cumulative counters:
//
//   - energy: the driver's own counter (mJ since it was loaded), as deltas, so
//     that a reloaded driver never makes ours go back;
//   - SM activity of the device: GPM's SM_UTIL between two ticks where the GPU
//     has it (Hopper and newer), else the driver's samples of GPU utilization,
//     else its last utilization rate: a percentage, times the time between two
//     ticks, added up;
//   - SM activity per process: the driver's process samples, likewise added
//     up (see activity.go for what has to be thrown away);
//   - memory per process: the compute, graphics and MPS lists together. From
//     the first process on whose memory the driver does not tell, the device
//     has no SensorMemory, and no memory is recorded.
//
// What can't be measured is not invented. A MIG instance has no process
// samples and no energy; without GPM it has no SM activity either, and its
// time is a gap. Several compute instances of one GPU instance each get the
// GPU instance's activity: their mean is right, their split is unknown.
//
// Nothing that a driver returns makes this package panic. A failed reading is
// tried again at the next tick; after three in a row, and until readings
// succeed again, the device's samples are gaps. An error is logged when it
// first appears and when it is gone.
//
// # Building
//
// The driver's library is opened at run time; the binary starts without one.
// Toolchains that link with -z now by default must be told not to, or the
// binary fails at exec with undefined nvml symbols:
//
//	go build -ldflags=-extldflags=-Wl,-z,lazy
//
// (cgo does not accept this flag in a #cgo line.)
package nvml
