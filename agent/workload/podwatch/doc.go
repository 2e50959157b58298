// Package podwatch fills a [pods.Directory] with the pods of the node it runs
// on, and knows what the devices of DRA claims are.
//
// # Sources
//
// Three things know a node's pods. They are preferred in this order:
//
//  1. The kubelet's Pods API ([PodsAPI]), a stream on a unix socket: the only one
//     that needs no credentials and knows a pod before it runs.
//  2. The API server ([APIServer]): a list and watch of the pods whose
//     spec.nodeName is the node's. Container ids are in a pod's status, so the
//     pods themselves are watched, not their metadata.
//  3. The kubelet's /pods over https ([Kubelet]), read every ten seconds, and at
//     once when somebody met a pod that is not known ([Watcher.Poke]).
//
// One source leads: it alone writes. A source that never worked is left at its
// first failure, one that worked after 30 s of failures, for the next, and from
// the last for the first. While the leading source is not the best, better ones
// are tried every minute beside it; one takes over when it has all pods. A
// source that is chosen by name is kept, whatever happens. Attempts that follow
// each other are 1 s to 30 s apart, a quarter more or less.
//
// Whatever fails, the directory keeps what it knows. A kubelet that has just
// restarted tells of no pods for some hundred milliseconds, then of static ones
// only, and stays at that while the API server is away. What it does not tell
// of is gone for the directory, where pods that are gone resolve as before, and
// are there again once they are told of. The Pods API also lets a pod go some
// seconds after its end, while the API server still shows it.
//
// # Names
//
// A pod's UID is that of its cgroups. For a static pod it is the kubelet's hash
// of its configuration; the API server shows a mirror of it with another UID,
// which has the hash in the annotation kubernetes.io/config.hash. Everybody can
// write annotations, so it counts only for a pod that the node itself controls.
// A static pod's controller is therefore its Node, whatever source tells.
//
// A pod of a ReplicaSet whose name ends in the pod's label pod-template-hash
// belongs to a Deployment, whose name is the rest. A Job stays a Job: which
// CronJob made it can't be told from a pod.
//
// # Why no client library
//
// All sources end in a few fields of a pod, and what is read is bounded while it
// is decoded: per object, per list, per text. Measured in a program that has
// gRPC and TLS (Go 1.26, linux/amd64, resident after start): client-go's rest
// and cache with the core API take 6.8 MiB of memory and 16 MB of binary, its
// rest alone 4.6 MiB and 9 MB, this package 1.7 MiB and 4 MB. Its reflector
// besides waits out a backoff of up to a minute when it should stop, and does
// not tell for how long it has failed.
package podwatch
