// Package cgroup tells from a process's /proc/PID/cgroup which container of a
// pod it runs in, or which Slurm job. It is pure: text in, a [Ref] out.
//
// # The model
//
// The file has one line `0::PATH` (cgroup v2), one `N:CONTROLLERS:PATH` for
// each hierarchy (v1), or both. A path names what the process is in, from the
// outside in; the kernel lets no name contain a newline. Two things in it are
// proof of a pod, each with the pod's UID:
//
//   - a systemd slice of the kubelet's, `[…-]kubepods[-QOS]-pod<uid>.slice`,
//     where the UID has _ for -;
//   - a cgroup `pod<uid>` in one named kubepods or after a QoS class
//     (burstable, besteffort; guaranteed pods have none).
//
// A UID is an API pod's (8-4-4-4-12) or the 32 hex digits of a static pod's
// configuration. The name that follows the pod's is the container's, as the
// runtimes write it: `<id>`, `cri-containerd-<id>.scope`, `crio-<id>.scope`,
// `docker-<id>.scope`, `crio-<id>`, or, where the drivers of kubelet and
// runtime differ, `…pod<uid>.slice:cri-containerd:<id>` in one. Anything else
// there (crio-conmon, Kata's sandbox) is the pod's and of no container. What
// lies inside a container is its own affair.
//
// From a private cgroup namespace other processes' paths are relative
// (`/../../…`), and what they share with the reader's own is missing: the word
// kubepods, the pod of the reader's own. A path may then tell the container
// alone.
//
// Nodes nest: a kind node is a container, and may itself be in a pod. A path
// then names several pods. The deepest is the [Ref]'s, the outermost is kept
// beside it, since who may write its own cgroups can put any name inside its
// own container, and none outside: of two pods the outer one can't be forged.
//
// What runs in a user's session is never a pod's, whatever it names its
// cgroups: systemd gives users a subtree of their own.
package cgroup
