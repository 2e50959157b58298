package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gpuledger/gpuledger/agent/workload/cgroup"
)

// ErrPIDNamespace says that pids can't be told apart: outside the host's pid
// namespace the driver mixes pids of both.
var ErrPIDNamespace = errors.New("not in the host's pid namespace")

// ErrHidden says that processes of others can't be seen.
var ErrHidden = errors.New("the proc file system hides processes")

// checkVisible fails, with an error wrapping ErrHidden, where the proc file
// system has only some processes: this one, but not the first, which always is.
// With hidepid that is so for who has neither the mount's group nor
// CAP_SYS_PTRACE; before Linux 5.8 for all mounts of a pid namespace.
func checkVisible(procFS string) error {
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(procFS, name))
		return err == nil
	}
	if there("1") || !there("self/stat") {
		return nil
	}
	return fmt.Errorf("%w: %s is mounted with hidepid: give the agent CAP_SYS_PTRACE, or the group that the mount names", ErrHidden, procFS)
}

// initPIDNamespace is the inode of the first pid namespace
// (PROC_PID_INIT_INO in the kernel's proc_ns.h).
const initPIDNamespace = "pid:[4026531836]"

// CheckPIDNamespace fails, with an error wrapping ErrPIDNamespace, outside the
// host's pid namespace. There the driver translates the pids that are visible
// and returns others as they are, so that a stranger's pid may look like one
// of ours. In the host's it fails, with an error wrapping ErrHidden, where the
// processes of others can't be seen.
//
// A nested node, such as kind's, is a container with a pid namespace of its
// own, and nested allows that: the namespace is accepted if its pid 1 is a
// node's init and not a container's, that is, neither the agent itself, nor in
// the agent's own cgroup, nor in a pod's. Two risks remain then. Processes of
// the machine outside the node that use its GPUs are returned with pids that
// mean another process here, or none: a nested node must be the only one to
// use its GPUs. And a pod that runs an init with cgroups of its own, with the
// agent below it, looks like a node: its other pods' processes are not seen,
// or mistaken.
func CheckPIDNamespace(procFS string, nested bool) error {
	ns, err := os.Readlink(filepath.Join(procFS, "self/ns/pid"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // a kernel without namespaces
	case err != nil:
		return fmt.Errorf("read the pid namespace: %w", err)
	case ns == initPIDNamespace:
		return checkVisible(procFS)
	case !nested:
		return fmt.Errorf("%w (%s): run the agent with hostPID: true, or with --pid=host; where the node is a container itself, as kind's are, say that it is nested", ErrPIDNamespace, ns)
	}
	if why := notANode(procFS); why != "" {
		return fmt.Errorf("%w (%s), nor in a nested node's: %s; run the agent with hostPID: true", ErrPIDNamespace, ns, why)
	}
	return nil
}

// notANode says why the pid namespace is not a node's, "" if it is.
func notANode(procFS string) string {
	self, err := os.Readlink(filepath.Join(procFS, "self"))
	switch pid := strconv.Itoa(os.Getpid()); {
	case err != nil:
		return fmt.Sprintf("the agent can't find itself: %v", err)
	case self != pid:
		return procFS + " is the proc file system of another pid namespace"
	case self == "1":
		return "pid 1 is the agent itself"
	}
	first, err := readCgroups(procFS, "1")
	if err != nil {
		return fmt.Sprintf("the cgroups of pid 1 can't be read: %v", err)
	}
	own, err := readCgroups(procFS, "self")
	if err != nil {
		return fmt.Sprintf("the agent's own cgroups can't be read: %v", err)
	}
	if _, ok := cgroup.Parse(first); ok {
		return "pid 1 is in a pod"
	}
	if bytes.Equal(first, own) {
		return "pid 1 is in the same cgroup as the agent"
	}
	return ""
}

func readCgroups(procFS, pid string) ([]byte, error) {
	buf := make([]byte, cgroup.MaxBytes)
	n, err := readFile(filepath.Join(procFS, pid, "cgroup"), buf)
	return buf[:n], err
}
