// Package kubelet watches what the kubelet has given to containers: whole GPUs,
// replicas of shared ones, MIG instances, devices of DRA claims. A [Watcher]
// yields it as holdings.
//
// # The model
//
// The kubelet's PodResources API lists pods by name, each container with its
// devices in the words of their device plugin. The list is asked for once a
// second, and at once when the node's pods or devices have changed; there is
// nothing to watch. Package deviceid tells which device a name means; package
// pods tells who the container is. Two names of one GPU in a container are two
// replicas of one holding.
//
// Ordinary init containers are never listed. What they hold is read from the
// checkpoint of the kubelet's device manager, which remembers what was given to
// every container until its pod is gone: it counts for an init container of a
// pod that is known, until the container has ended. The kubelet gives the same
// device to containers of the pod that run later, and lists it as theirs while
// the init container runs: it is held by the one whose turn it is.
//
// # What absence means
//
//  1. No answer says nothing. While the kubelet is away, refuses to answer or
//     answers with more than there is room for, nothing changes.
//  2. The kubelet makes its socket anew when it starts; that begins an epoch.
//     What was listed in an epoch and is not any more has been released.
//  3. A kubelet that has just started lists nothing, then static pods, then
//     pods as it learns of them, which may be never while the API server is
//     away. What was held before the epoch, by the last run of the agent too,
//     is therefore held until one of these is known: it is listed (and rule 2
//     applies again); another pod has its device; its pod has had no process for
//     two seconds; its init container has ended; or, where nothing tells whether
//     its pod lives, [Patience] has passed.
//
// # Who the owner is
//
// A holding begins when it is first listed. Its owner is the container as
// package pods describes it; where the pod is not known yet, it is waited for,
// up to 0.7 s, and then the owner is a container known by name alone until more
// is known. An owner that changes is released, and the other holds, at one
// instant. A holding ends with its device, and is stated anew when the device
// comes back or is another: a MIG instance cut anew.
//
// # What the kubelet does not tell
//
// Of a claim it lists every device under every container that refers to the
// claim, by whichever request, and not that a claim has admin access: such a
// container, a monitor, counts as one more holder. Devices that init containers
// have by claims are in no checkpoint that is read here.
package kubelet
