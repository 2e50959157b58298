package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/gpuledger/gpuledger/agent/workload/cgroup"
)

// maxScan bounds the processes of a scan.
const maxScan = 1 << 17

// ErrIncomplete says that not all processes could be seen: who is missing from
// the result may live.
var ErrIncomplete = errors.New("not all processes are known")

// Living finds the pods that have at least one process, by UID; and, where a
// path tells no pod, the containers, by id (the two can't be taken for each
// other). It reads the cgroups of every process of the node, for when the
// kubelet's word can't be taken. With an error, which wraps ErrIncomplete, the
// pods that were found live, and of others nothing is known. A process that is
// ending is not seen under cgroup v1.
func Living(procFS string) (map[string]bool, error) {
	d, err := os.Open(procFS)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	defer func() { _ = d.Close() }()
	living := make(map[string]bool)
	buf := make([]byte, cgroup.MaxBytes)
	var missed error
	if err := checkVisible(procFS); err != nil {
		missed = fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	for seen := 0; ; {
		names, err := d.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return living, missed
		}
		if err != nil {
			return living, fmt.Errorf("%w: %w", ErrIncomplete, err)
		}
		for _, name := range names {
			if _, err := strconv.ParseUint(name, 10, 32); err != nil {
				continue
			}
			if seen++; seen > maxScan {
				return living, fmt.Errorf("%w: more than %d", ErrIncomplete, maxScan)
			}
			n, err := readFile(filepath.Join(procFS, name, "cgroup"), buf)
			switch {
			case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ESRCH):
				continue // it has just ended
			case err != nil:
				missed = fmt.Errorf("%w: process %s: %w", ErrIncomplete, name, err)
				continue
			}
			note(living, buf[:n])
		}
	}
}

// note takes in what a process's cgroups tell.
func note(living map[string]bool, text []byte) {
	ref, _ := cgroup.Parse(text)
	for _, p := range []cgroup.Pod{ref.Outer, ref.Pod} {
		switch {
		case p.UID != "":
			living[p.UID] = true
		case p.Container != "":
			living[p.Container] = true
		}
	}
}
