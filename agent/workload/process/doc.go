// Package process tells who answers for the processes on a node: a container
// of a pod, a Slurm job, or the process itself.
//
// # Which process
//
// A pid is used again, so a process is its pid and its start. A [Table] reads
// both when it first meets a process, and keeps its /proc/PID/comm open: a read
// of it fails once the process has ended, even if the pid has a new one, so
// that each later check is one system call, of under a microsecond, and exact.
// The command is the one
// that the process had when it was met: a process that renames itself stays
// one owner. Its cgroups are read once, then too, because they are gone when
// it has ended; what a process that is ending shows of them is not believed
// where it says nothing (cgroup v1 shows the root).
//
// # Who answers
//
// The first of these that applies:
//
//  1. The Slurm job in whose cgroup the process is, if it holds the device.
//  2. The container in whose cgroup the process is, if the directory of pods
//     knows its id; a pod that is gone answers on for what it left running.
//  3. Of a pod that the directory knows by UID alone (a container too new for
//     its status, a sandbox that runs the pod whole): the pod's container that
//     holds the device, if exactly one does; else its only container that has
//     not ended; else its only container. If there are several, nobody until
//     it is known which.
//  4. The Slurm job in whose cgroup the process is.
//  5. Of a pod that the directory does not know: the holder of the device
//     whose pod it does not know either, if there is exactly one; else nobody,
//     until it knows.
//  6. A process in no pod and no job: the Slurm job that holds the device, if
//     exactly one does; else the process itself.
//
// Nobody is an owner of kind UnknownProcess, with pid and command, and its use
// of the device is unattributed. Of a path that names pods within pods the
// outermost that the directory knows counts: a container may name the cgroups
// inside its own as it likes, and none outside. Without a directory (a node
// that runs no pods) a container whose path tells no pod is another engine's,
// and the process its own owner.
package process
