package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// memoryGroup makes a memory cgroup of a limit for one program, beneath the own.
// A program in it takes no more, or is killed. It fails where cgroups can't be
// made.
func memoryGroup(b *testing.B, limit int64) (dir string, err error) {
	b.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(own)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		var root, file string
		switch part[1] {
		case "memory":
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case "":
			root, file = "/sys/fs/cgroup", "memory.max"
		default:
			continue
		}
		dir = filepath.Join(root, part[2], fmt.Sprintf("gpuledger-bench-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		b.Cleanup(func() { _ = os.Remove(dir) }) // empty by then
		if os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(limit, 10)), 0o644) == nil {
			return dir, nil
		}
	}
	return "", errors.New("no memory cgroup can be made")
}
