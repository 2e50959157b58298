// Package kube starts a real Kubernetes on this machine, for tests: etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler, containerd and a
// kubelet that is a registered node, in seconds and without a virtual machine.
//
// # The node
//
// A node is a set of namespaces (mount, net, uts, ipc, cgroup) and a cgroup of
// its own. It has its own /run, /var/lib and /var/log, a network with nothing
// outside it, and the machine's pid namespace: a pod with hostPID sees the pids
// that it would see on any node. Nothing outside the cache folder changes.
//
// Three kinds of processes make it, all of them this same program under
// another name ([Main]):
//
//	keeper   outside of the node: makes its cgroup, and takes everything down
//	         when the program that started it says so, or is gone
//	node     holds the namespaces, sets up mounts and the network, then waits
//	enter    joins cgroup and namespaces, then becomes the daemon or the
//	         command that is to run in the node
//
// There is no kube-proxy and no DNS: the only service with a working address
// is that of the API server. Images are made from this machine's own files, so
// that no registry is asked for anything.
//
// # What it needs
//
// Root, Linux with cgroup v1, hybrid or v2, Go, gcc, and Debian's containerd,
// runc, etcd-server and containernetworking-plugins. Kubernetes itself is built
// once from its Go modules (kubernetes/go.mod, which keeps them out of the
// project's own) into the cache: GPULEDGER_KUBE_CACHE, by default
// gpuledger-kube in the user's cache folder. One node can run in one cache
// folder at a time.
package kube
