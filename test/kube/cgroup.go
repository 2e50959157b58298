package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupName is the directory that a node has in every hierarchy.
const cgroupName = "gpuledger-kube"

// hierarchy is one mounted cgroup hierarchy and the node's place in it.
type hierarchy struct {
	Mount   string `json:"mount"`             // where the machine has it
	Options string `json:"options,omitempty"` // v1: what to mount it with; "" is v2
	Dir     string `json:"dir"`               // the node's directory
}

func (h hierarchy) v2() bool { return h.Options == "" }

// home is where the node's daemons live. On v2 a cgroup with children can't
// have processes of its own, and the kubelet makes children of the root.
func (h hierarchy) home() string {
	if h.v2() {
		return filepath.Join(h.Dir, "system")
	}
	return h.Dir
}

// hierarchies are those of this machine, from its mountinfo, with the node's
// directory below the cgroup of the caller, from /proc/self/cgroup.
func hierarchies(mountinfo, self string) ([]hierarchy, error) {
	own := map[string]string{}
	for line := range strings.Lines(self) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			own[f[1]] = f[2]
		}
	}
	var all []hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		h := hierarchy{Mount: left[4]}
		switch right[0] {
		case "cgroup":
			controllers := cgroupControllers(right[2])
			h.Options = controllers
			if strings.HasPrefix(controllers, "name=") {
				h.Options = "none," + controllers
			}
			h.Dir = filepath.Join(h.Mount, own[controllers], cgroupName)
		case "cgroup2":
			// The caller's own v2 cgroup has processes, so it can't have
			// children with controllers: the node's is at the top.
			h.Dir = filepath.Join(h.Mount, cgroupName)
		default:
			continue
		}
		if !slices.ContainsFunc(all, func(o hierarchy) bool { return o.Options == h.Options }) {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return all, nil
}

// cgroupControllers are those among the options of a v1 mount, as
// /proc/self/cgroup writes them.
func cgroupControllers(options string) string {
	var c []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "xattr", "clone_children", "noprefix", "all", "relatime":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				c = append(c, o)
			}
		}
	}
	return strings.Join(c, ",")
}

// makeCgroups makes the node's directories.
func makeCgroups(all []hierarchy) error {
	pure := pureV2(all)
	for _, h := range all {
		if err := os.MkdirAll(h.home(), 0o755); err != nil {
			return fmt.Errorf("make a cgroup (root is needed, and a writable %s): %w", h.Mount, err)
		}
		var err error
		switch {
		case pure:
			err = delegate(h.Mount)
		case slices.Contains(strings.Split(h.Options, ","), "cpuset"):
			err = inheritCpuset(h.Dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pureV2 tells whether v2 has the controllers, because there is no v1.
func pureV2(all []hierarchy) bool { return len(all) == 1 && all[0].v2() }

// delegate gives the children of a v2 directory the controllers that the
// kubelet needs.
func delegate(dir string) error {
	for _, c := range []string{"cpuset", "cpu", "io", "memory", "pids"} {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
		if err != nil && c != "io" {
			return fmt.Errorf("give the controller %s to the children of %s: %w", c, dir, err)
		}
	}
	return nil
}

// inheritCpuset fills a new v1 cpuset, which begins empty and takes nobody.
func inheritCpuset(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if err == nil && len(bytes.TrimSpace(b)) > 0 {
			err = os.WriteFile(filepath.Join(dir, f), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0o644)
}

// joinCgroups moves this process to the node's directories themselves, so that
// a cgroup namespace can begin there, or to where daemons live.
func joinCgroups(all []hierarchy, home bool) error {
	pid := []byte(strconv.Itoa(os.Getpid()))
	for _, h := range all {
		dir := h.Dir
		if home {
			dir = h.home()
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0o644); err != nil {
			return fmt.Errorf("join the cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// killCgroups kills whatever is in the node, again and again until nothing is
// left, and removes its directories. It gives up after 20 s.
func killCgroups(all []hierarchy) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		left, err := killOnce(all)
		if left == 0 {
			if err = removeCgroups(all); err == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%d processes of the node don't end", left), err)
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
}

// killOnce kills every process in the node's cgroups but this one: how many
// there were.
func killOnce(all []hierarchy) (int, error) {
	seen := map[int]bool{os.Getpid(): true}
	for _, h := range all {
		err := filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return ignoreGone(err)
			}
			b, err := os.ReadFile(path)
			for f := range bytes.FieldsSeq(b) {
				if pid, err := strconv.Atoi(string(f)); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					_ = unix.Kill(pid, unix.SIGKILL) // it may be gone by now
				}
			}
			return ignoreGone(err)
		})
		if err != nil {
			return len(seen) - 1, err
		}
	}
	return len(seen) - 1, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// removeCgroups removes the node's directories, deepest first.
func removeCgroups(all []hierarchy) error {
	var errs []error
	for _, h := range all {
		var dirs []string
		err := filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return ignoreGone(err)
		})
		errs = append(errs, err)
		for _, d := range slices.Backward(dirs) {
			errs = append(errs, ignoreGone(unix.Rmdir(d)))
		}
	}
	return errors.Join(errs...)
}
