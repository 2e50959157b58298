package nvml

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/attribution"
)

// Owners tells who answers for the processes on this node. Readers of several
// devices call it at the same time.
type Owners interface {
	// Identify reads what tells a running process from another of the same
	// pid; false if it can't be read. It is called for each process at each
	// reading.
	Identify(pid uint32) (Identity, bool)
	// Owner finds who answers for a process. It is called when the process is
	// first seen, and again at each reading as long as the answer is of kind
	// UnknownProcess. It never returns nil, and the result never changes.
	Owner(pid uint32, id Identity) *attribution.Owner
}

// Identity tells processes with the same pid apart.
type Identity struct {
	Start   uint64 // clock ticks since boot; 0 where unreadable
	Command string // as the kernel keeps it: at most 15 bytes, here valid UTF-8
}

// HostProcesses is the Owners of a node without containers, or of which none
// are known: every process that can be read answers for itself.
type HostProcesses struct {
	Cluster, Node string
	ProcFS        string // usually /proc
}

// Identify reads /proc/PID/stat.
func (h HostProcesses) Identify(pid uint32) (Identity, bool) {
	b, err := os.ReadFile(filepath.Join(h.ProcFS, strconv.FormatUint(uint64(pid), 10), "stat"))
	if err != nil {
		return Identity{}, false
	}
	return parseStat(b)
}

// Owner is the process itself: a host process, or an unknown one where it
// could not be read.
func (h HostProcesses) Owner(pid uint32, id Identity) *attribution.Owner {
	kind := attribution.HostProcess
	if id == (Identity{}) {
		kind = attribution.UnknownProcess
	}
	return &attribution.Owner{Kind: kind, Cluster: h.Cluster, Node: h.Node, PID: pid, Command: id.Command}
}

// UnknownProcesses is the Owners where pids can't be trusted: processes are
// told apart as well as can be, and nobody answers for them.
type UnknownProcesses struct{ HostProcesses }

// Owner is an unknown process.
func (u UnknownProcesses) Owner(pid uint32, _ Identity) *attribution.Owner {
	return u.HostProcesses.Owner(pid, Identity{})
}

// parseStat takes the command (field 2, in parentheses that it may itself
// contain) and the start time (field 22) out of /proc/PID/stat.
func parseStat(b []byte) (Identity, bool) {
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return Identity{}, false
	}
	fields := bytes.Fields(b[to+1:])
	const start = 22 - 3 // the first field behind the command is the third
	if len(fields) <= start {
		return Identity{}, false
	}
	ticks, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return Identity{}, false
	}
	return Identity{Start: ticks, Command: readable(b[from+1 : to])}, true
}

// readable is a command as text. A process names itself, in any bytes; what is
// not UTF-8 can't travel, and would take its node's chunk with it.
func readable(command []byte) string {
	return strings.ToValidUTF8(string(command), string(utf8.RuneError))
}

// initPIDNamespace is the inode of the first pid namespace
// (PROC_PID_INIT_INO in the kernel's proc_ns.h).
const initPIDNamespace = "pid:[4026531836]"

// CheckPIDNamespace fails outside the host's pid namespace. There the driver
// translates the pids that are visible and returns others as they are, so that
// a stranger's pid may look like one of ours.
func CheckPIDNamespace(procFS string) error {
	ns, err := os.Readlink(filepath.Join(procFS, "self/ns/pid"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // a kernel without namespaces
	case err != nil:
		return fmt.Errorf("read the pid namespace: %w", err)
	case ns != initPIDNamespace:
		return fmt.Errorf("%w (%s): run the agent with hostPID: true, or with --pid=host", ErrPIDNamespace, ns)
	}
	return nil
}
