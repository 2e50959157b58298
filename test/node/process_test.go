package node

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// mpsServer is what the kernel calls an MPS server, as far as 15 bytes go.
const mpsServer = "nvidia-cuda-mps-server"

// load is a process that uses a GPU.
type load struct {
	n            *node
	name         string
	line         int // of the scenario's processes
	device       string
	cmd          *exec.Cmd
	at           string // of one that is none: its place in proc
	begun, ended time.Time
	done         chan struct{}
}

// run starts a process in a container (nil: in none, on the host) that uses a
// device as p says: its Device, SM, duty, Memory and Kind.
func (n *node) run(c *container, p nvmlstub.Process) *load {
	n.t.Helper()
	l := n.plan(p)
	l.start(c)
	return l
}

// plan tells the stub of a process that is yet to be started. It looks at what
// it is told a few times a second only; of what is planned before that, each
// instant counts.
func (n *node) plan(p nvmlstub.Process) *load {
	n.t.Helper()
	n.loads++
	l := &load{n: n, name: n.name + "-" + strconv.Itoa(n.loads), line: len(n.gpus.Processes), device: p.Device, done: make(chan struct{})}
	p.Match = "--name " + l.name + " "
	p.Memory = cmp.Or(p.Memory, 2*nvmlstub.GiB)
	n.change(func(s *nvmlstub.Scenario) { s.Processes = append(s.Processes, p) })
	return l
}

// start starts a process that was planned.
func (l *load) start(c *container) {
	l.n.t.Helper()
	if c == nil {
		l.startAs("gpuload", "host", "0::/system.slice/ssh.service\n")
	} else {
		l.startAs("gpuload", c.id, c.cgroup)
	}
}

// startAs starts one of the test's programs, in a folder that has a cgroup file
// with this text.
func (l *load) startAs(program, folder, cgroup string) {
	n := l.n
	n.t.Helper()
	home := filepath.Join(n.dir, folder)
	n.must(os.MkdirAll(home, 0o700))
	n.must(os.WriteFile(filepath.Join(home, "cgroup"), []byte(cgroup), 0o600))
	l.cmd = exec.Command(filepath.Join(shared.bin, program), "--name", l.name)
	l.cmd.Dir = home // see show
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	l.begun = time.Now()
	n.must(l.cmd.Start())
	n.truth = append(n.truth, l)
	n.t.Cleanup(l.stop)
	go func() {
		_ = l.cmd.Wait() // killed
		l.ended = time.Now()
		close(l.done)
	}()
	n.show(l.cmd.Process.Pid)
}

// pid is a process that is none: a pid that the driver names, and its place in
// the node's proc file system. It lets the test decide which pid it has.
func (n *node) pid(c *container, pid int, start int, p nvmlstub.Process) *load {
	n.t.Helper()
	p.PID, p.At, p.Memory = pid, n.now(), 2*nvmlstub.GiB
	l := &load{n: n, line: len(n.gpus.Processes), device: p.Device, done: make(chan struct{}), begun: time.Now()}
	l.at = filepath.Join(n.proc(), strconv.Itoa(pid))
	n.must(os.Mkdir(l.at, 0o700))
	n.must(os.WriteFile(filepath.Join(l.at, "cgroup"), []byte(c.cgroup), 0o600))
	stat := fmt.Sprintf("%d (python) R 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d"+strings.Repeat(" 0", 30)+"\n", pid, start)
	n.must(os.WriteFile(filepath.Join(l.at, "stat"), []byte(stat), 0o600))
	n.change(func(s *nvmlstub.Scenario) { s.Processes = append(s.Processes, p) })
	n.truth = append(n.truth, l)
	return l
}

// end ends one that is none. An open stat of a process that has ended reads as
// nothing.
func (l *load) end() {
	l.n.t.Helper()
	l.n.change(func(s *nvmlstub.Scenario) { s.Processes[l.line].For = l.n.now() - s.Processes[l.line].At })
	l.n.must(os.Truncate(filepath.Join(l.at, "stat"), 0))
	l.n.must(os.RemoveAll(l.at))
	l.ended = time.Now()
	close(l.done)
}

// show gives a process its place in the node's proc file system, all at once.
// What is in it is the kernel's, so that it ends with the process; only its
// cgroup file is the one in the folder that it runs in.
func (n *node) show(pid int) {
	n.t.Helper()
	id := strconv.Itoa(pid)
	at := filepath.Join(n.proc(), "."+id)
	n.must(os.Mkdir(at, 0o700))
	for name, target := range map[string]string{"stat": "stat", "cmdline": "cmdline", "cgroup": "cwd/cgroup"} {
		n.must(os.Symlink(filepath.Join("/proc", id, target), filepath.Join(at, name)))
	}
	n.must(os.RemoveAll(filepath.Join(n.proc(), id)))
	n.must(os.Rename(at, filepath.Join(n.proc(), id)))
}

// proc is the node's proc file system. It is in the host's pid namespace,
// whatever the test is in: the stub speaks of the test's own pids.
func (n *node) proc() string { return filepath.Join(n.dir, "proc") }

func (n *node) makeProc() {
	n.t.Helper()
	n.must(os.MkdirAll(filepath.Join(n.proc(), "self", "ns"), 0o700))
	n.must(os.Symlink("pid:[4026531836]", filepath.Join(n.proc(), "self", "ns", "pid")))
}

// stop ends a process.
func (l *load) stop() {
	_ = l.cmd.Process.Kill()
	<-l.done
}

func (l *load) living() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// sm is the true SM time of processes.
func sm(from, to time.Time, loads ...*load) (sum time.Duration) {
	for _, l := range loads {
		s := l.n.gpus
		s.Processes = append([]nvmlstub.Process(nil), s.Processes...)
		for _, x := range l.n.truth {
			p := &s.Processes[x.line]
			var end time.Duration // 0: none
			if p.For != 0 {
				end = p.At + p.For
			}
			p.At = max(p.At, x.begun.Sub(s.Start))
			if !x.living() && (end == 0 || x.ended.Sub(s.Start) < end) {
				end = x.ended.Sub(s.Start)
			}
			if end > 0 {
				p.For = max(end-p.At, 1)
			}
		}
		sum += s.TrueSM(l.line, from, to)
	}
	return sum
}

// slurmCgroup is that of a Slurm job's process.
func slurmCgroup(job string) string {
	return "0::/system.slice/slurmstepd.scope/job_" + job + "/step_0/user/task_0\n"
}

// podCgroup is that of a container, as systemd and containerd make it.
func podCgroup(uid, id string) string {
	pod := "kubepods-burstable-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"
	return "0::/kubepods.slice/kubepods-burstable.slice/" + pod + "/cri-containerd-" + id + ".scope\n"
}
