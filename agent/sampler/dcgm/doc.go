// Package dcgm measures SM activity with NVIDIA's Data Center GPU Manager,
// where the driver's own library can't: MIG instances before Hopper have no
// activity in NVML at all, and other old GPUs have only "something ran".
//
// It is a side source. A [Source] is asked for the newest share of a GPU's or
// an instance's SM time ([sampler.Activity]), answers from memory, and says
// that it knows nothing whenever it doesn't. Whatever is wrong with DCGM is
// one line in the log and a counter; the agent goes on with NVML alone.
//
// There are three ways to it, since only one process of a machine can own the
// GPUs' profiling counters:
//
//   - [Embedded]: a hostengine within this process. Nothing else may profile.
//     DCGM's threads and memory are then the agent's.
//   - [Standalone]: a hostengine that runs already, which shares its counters
//     with all its clients.
//   - [Exporter]: a dcgm-exporter that runs already, by reading its page.
//
// # Age
//
// A reading is the mean share over the time up to its own time. A hostengine
// measures once a second, and its reading is good for 3 s. An exporter reads
// the counters at an interval of its own (30 s by default) and mostly doesn't
// say when. The time of its readings is that of the first scrape that found
// another page, which is late by at most the time between two scrapes (10 s);
// they are good for two and a half of the intervals that were seen between
// pages, for 3 s at least and 90 s at most. A page that no longer changes is thus
// soon not believed, even if its readings are all 0: an exporter that hangs
// looks the same. A page that has power or energy on it, as the default one,
// changes at each interval.
//
// # Numbers
//
// DCGM numbers its entities as it likes. GPUs are told apart by UUID here and
// instances by NVML's number, which the hierarchy and the exporter's GPU_I_ID
// have. So readings of another machine's exporter can't be taken for those of
// this one: nobody asks for them.
//
// # What go-dcgm needs
//
// The binding opens libdcgm.so.4 when it is used, not when the program starts.
// Its calls are bound lazily (-Wl,-z,lazy, as NVML's are), and a call that the
// library lacks would end the process: all calls are looked up before the
// first is made. The library is never unloaded. The binding has one hostengine
// a process, without a lock: so one Source of the first two modes a process,
// and all its calls are made by one goroutine. A call that hangs holds up that
// goroutine alone, readings grow old, and Run gives up on it when it ends.
package dcgm
