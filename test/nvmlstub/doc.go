// Package nvmlstub is a machine with NVIDIA GPUs where there are none: it
// builds a stub of the driver's library libnvidia-ml.so.1 (C, in lib/), writes
// the scenario files that tell the library what the GPUs do, and knows what
// the truth of a scenario is, so that a test can compare a program's account
// of it.
//
// # The model
//
// The library reads its scenario from the file that the environment variable
// GPULEDGER_NVML_SCENARIO names, and again whenever that file changes. A
// scenario is a list of lines that hold for a span of time each: devices, MIG
// instances, processes and what share of a device they use, and what goes
// wrong. Everything that the library answers (GPM, utilization samples,
// process samples, energy) is computed from these lines as a function of wall
// time, so all answers are about one and the same world; what was answered
// stays true when a new scenario begins. lib/README.md describes the language.
//
// A test that knows its pids beforehand names them. Otherwise a process line
// matches a part of processes' command lines; cmd/gpuload is a program that
// does nothing but exist under a chosen one.
//
// The driver's library is a process's for as long as that lives: after
// loading one variant, another can't be had. Run a process per stub.
package nvmlstub
