// Package nvml sees the node's GPUs through NVIDIA's driver.
//
// # The model
//
// Each GPU, and each MIG instance of one, has a goroutine of its own (a
// reader) with a producer of its own, so that a call that hangs in the driver
// stalls that device alone. Readers tick once a second, on the second of the
// agent's clock plus a stagger of up to 400 ms in steps of 100, and turn what
// the driver says into cumulative counters:
//
//   - energy: the driver's own counter (mJ since it was loaded), as deltas, so
//     that a reloaded driver never makes ours go back;
//   - SM activity of the device: the first of these that there is. GPM's
//     SM_UTIL between two ticks (Hopper and newer); what [Options].Activity
//     measures, DCGM, of the GPU or of the GPU instance; the driver's samples
//     of GPU utilization; its last utilization rate. A share, times the time
//     between two ticks, added up;
//   - SM activity per process: the driver's process samples, likewise added
//     up (see processes.share for what has to be thrown away);
//   - memory per process: the compute, graphics and MPS lists together. From
//     the first process on whose memory the driver does not tell, the device
//     has no SensorMemory, and no memory is recorded.
//
// What can't be measured is not invented. A MIG instance has no process
// samples; with neither GPM nor DCGM it has no SM activity either, and its
// time is a gap. Several compute instances of one GPU instance each get the
// GPU instance's activity: their mean is right, their split is unknown.
//
// The energy of a GPU in MIG mode is on no device of the ledger. The driver
// counts the whole GPU's alone, of which a part (fans, memory, what leaks) is
// there whoever computes: any split over the instances would be an estimate
// beside measured figures. What was counted is in [Stats], by GPU.
//
// # MPS
//
// The driver may credit a client's work to the MPS server. It is never the
// server's: it is split over the clients that are visible, by their memory,
// else equally (Sample.SharedServer says so). Where no client is visible the
// sample says nothing of processes' SM activity (Sample.ProcessSM), and leaves
// the server out, so that the split goes by memory or by holdings. If other
// processes were active at the same time, they keep what is theirs, and the
// server's part is left to a single holder, or unattributed. A client that the
// driver credits itself is a process like any other.
//
// # Devices that come and go
//
// Devices are looked for every 30 seconds, and at once (but at most once a
// second) when an event, or a reading, says that something is wrong. Each GPU is
// asked by itself: one that hangs hides no other.
//
//   - A GPU or instance that is new begins. An instance that is gone ends, and
//     the GPU's rest is described anew; both within one second, while an
//     instance that is new begins in the next: the parts of a GPU never
//     overlap.
//   - A GPU that can't be read (lost, to be reset, hung) stays, unobserved and
//     billed to its holders, and is tried every second.
//   - A GPU that the driver no longer lists does so as well, for ten minutes.
//     Then it is removed, with its instances.
//   - A driver that is gone, or under which no device can be read, is shut down
//     and opened again at each look until that works. Before, every reader lets
//     go of it; while one hangs in a call that has to wait, since shutting down
//     under it would take the process along. Counters go on afterwards, behind
//     a gap.
//   - A kernel module of another version than the library that is loaded ends
//     Run ([ErrDriverReplaced]): only a new process can load another library.
//
// As long as the agent has it open, the driver can't be unloaded: the kernel
// counts its users. To change the driver, or to turn MIG mode on where that
// resets the GPU (before Hopper), stop the agent, as any that watches GPUs.
//
// Nothing that a driver returns makes this package panic. A failed reading is
// tried again at once, and then at the next tick; after three in a row, and
// until readings succeed again, the device's samples are gaps. An error is logged when it
// first appears and when it is gone. GPUs report errors of their own (XIDs):
// they are logged and counted, by GPU and number. Of anything that goes on
// happening three lines in five minutes are logged.
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
