package process

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// childEnv makes the test binary a process that waits to be ended.
const childEnv = "PROCESS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// child starts a process; end ends it and awaits that it is gone.
func child(t *testing.T) (pid uint32, end func()) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"=1")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = stdin.Close()
		_ = c.Wait()
	})
	t.Cleanup(end)
	return uint32(c.Process.Pid), end
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(d)
}

// The kernel's own /proc: identity holds while a process lives, fails once it
// has ended, and files are given back.
func TestRealProcess(t *testing.T) {
	before := openFiles(t)
	table := New(Options{Cluster: "c", Node: "n"})
	defer table.Close()
	pid, end := child(t)
	id, ok := table.Identify(pid)
	if !ok || id.Start == 0 || id.Command == "" {
		t.Fatalf("%+v %v", id, ok)
	}
	again, ok := table.Identify(pid)
	if !ok || again != id {
		t.Fatalf("%+v %v, before %+v", again, ok, id)
	}
	o := table.Owner("GPU-1", pid, id)
	if o.PID != pid || o.Command != id.Command || o.Node != "n" {
		t.Fatalf("%+v", o)
	}
	if s := table.Stats(); s.Processes != 1 || s.Files != 1 {
		t.Fatalf("%+v", s)
	}
	end()
	if id, ok := table.Identify(pid); ok {
		t.Fatalf("a process that has ended is %+v", id)
	}
	if after := table.Owner("GPU-1", pid, id); after != o {
		t.Fatalf("its owner was %+v, and is %+v", o, after)
	}
	if s := table.Stats(); s.Files != 0 {
		t.Fatalf("%+v", s)
	}
	table.Close()
	if after := openFiles(t); after > before {
		t.Fatalf("%d files were open before, %d are after", before, after)
	}
}

// What nobody can read is nobody's: the real /proc has no such pid.
func TestRealNobody(t *testing.T) {
	table := New(Options{})
	defer table.Close()
	if id, ok := table.Identify(1<<31 - 1); ok {
		t.Fatalf("%+v", id)
	}
	if o := table.Owner("GPU-1", 1<<31-1, sampler.Identity{}); o.Kind != attribution.UnknownProcess || o.PID != 1<<31-1 {
		t.Fatalf("%+v", o)
	}
}

func TestPIDUsedAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "first", 100, "0::/system.slice/a.service\n")
	first, ok := w.Identify(42)
	if !ok || first != (sampler.Identity{Start: 100, Command: "first"}) {
		t.Fatalf("%+v %v", first, ok)
	}
	w.proc.start(42, "second", 200, inPod(uidA, ctrID("a")))
	second, ok := w.Identify(42)
	if !ok || second != (sampler.Identity{Start: 200, Command: "second"}) {
		t.Fatalf("%+v %v", second, ok)
	}
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("a")}))
	if o := w.Owner("GPU-1", 42, second); o.Pod != "web" {
		t.Errorf("the second: %+v", o)
	}
	if o := w.Owner("GPU-1", 42, first); o.Kind != attribution.HostProcess || o.Command != "first" {
		t.Errorf("the first, which has ended: %+v", o)
	}
	w.proc.end(42)
	if id, ok := w.Identify(42); ok {
		t.Errorf("it has ended: %+v", id)
	}
}

// A process that is known costs one system call.
func TestOneRead(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "x", 100, "0::/\n")
	w.owner("GPU-1", 42)
	opens, reads, _ := w.proc.counts()
	for range 10 {
		w.owner("GPU-1", 42)
	}
	o, r, _ := w.proc.counts()
	if o != opens || r != reads+10 {
		t.Fatalf("%d opens and %d reads for 10 checks", o-opens, r-reads)
	}
}

// The command is the one that a process was met with: renaming itself makes
// nobody a second owner.
func TestRenamed(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxFiles = 1 })
	p := w.proc.start(42, "x", 100, "0::/\n")
	q := w.proc.start(43, "x", 100, "0::/\n") // not kept open
	before, beside := w.owner("GPU-1", 42), w.owner("GPU-1", 43)
	w.proc.change(p, func(p *fakeProcess) { p.stat = statText(42, "y", 100, 0) })
	w.proc.change(q, func(p *fakeProcess) { p.stat = statText(43, "y", 100, 0) })
	if o := w.owner("GPU-1", 42); o != before || o.Command != "x" {
		t.Errorf("%+v", o)
	}
	if o := w.owner("GPU-1", 43); o != beside || o.Command != "x" {
		t.Errorf("%+v", o)
	}
}

func TestBeyondMaxFiles(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(o *Options) {
		o.MaxFiles = 2
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for pid := range uint32(4) {
		w.proc.start(pid, "x", 100+uint64(pid), "0::/\n")
		if id, ok := w.Identify(pid); !ok || id.Start != 100+uint64(pid) {
			t.Fatalf("%d: %+v %v", pid, id, ok)
		}
	}
	if s := w.Stats(); s.Files != 2 || s.Unkept != 2 || s.Processes != 4 {
		t.Fatalf("%+v", s)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines logged, want 1:\n%s", n, log.String())
	}
	w.proc.start(3, "y", 500, "0::/\n")
	if id, ok := w.Identify(3); !ok || id.Start != 500 {
		t.Errorf("used again: %+v %v", id, ok)
	}
	w.proc.end(3)
	if id, ok := w.Identify(3); ok {
		t.Errorf("ended: %+v", id)
	}
	// A file that is free again is used.
	w.proc.end(0)
	w.Identify(0)
	w.Identify(2)
	if s := w.Stats(); s.Files != 2 {
		t.Errorf("%+v", s)
	}
}

func TestBeyondMaxProcesses(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxFiles = 1 })
	for pid := range uint32(MaxProcesses) {
		w.Owner("GPU-1", pid+1, sampler.Identity{})
	}
	w.proc.start(42, "x", 100, "0::/\n")
	id, ok := w.Identify(42)
	if !ok || id.Start != 100 {
		t.Fatalf("%+v %v", id, ok)
	}
	if o := w.Owner("GPU-1", 42, id); o.Kind != attribution.UnknownProcess || o.PID != 42 || o.Command != "x" {
		t.Errorf("%+v", o)
	}
	if s := w.Stats(); s.Processes != MaxProcesses || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
}

// What is not asked about any more is closed, and then forgotten; who is asked
// about stays.
func TestAgeing(t *testing.T) {
	w := newWorld(t, nil)
	for pid := range uint32(3) {
		w.proc.start(pid+1, "x", 100, "0::/\n")
		w.owner("GPU-1", pid+1)
	}
	w.proc.end(3)
	kept := w.owner("GPU-1", 1)
	for ; w.seconds < closeAfter+sweepEvery; w.seconds++ {
		w.Identify(1)
	}
	if s := w.Stats(); s.Files != 1 || s.Processes != 3 {
		t.Fatalf("%+v", s)
	}
	if id, ok := w.Identify(2); !ok || id.Start != 100 {
		t.Fatalf("its file was closed: %+v %v", id, ok)
	}
	for ; w.seconds < closeAfter+2*sweepEvery+forgetAfter; w.seconds++ {
		w.Identify(1)
	}
	if s := w.Stats(); s.Files != 1 || s.Processes != 1 {
		t.Fatalf("%+v", s)
	}
	if o := w.owner("GPU-1", 1); o != kept {
		t.Errorf("%+v is another than %+v", o, kept)
	}
}

// Cgroups that were read while the process ended may be another's.
func TestCgroupsOfAnother(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "x", 100, inPod(uidA, ctrID("a")))
	w.proc.afterCgroup = func() { w.proc.procs[42].ended = true }
	id, _ := w.Identify(42)
	if o := w.Owner("GPU-1", 42, id); o.Kind != attribution.UnknownProcess {
		t.Fatalf("%+v", o)
	}
	if s := w.Stats(); s.Unreadable != 1 {
		t.Errorf("%+v", s)
	}
	w.proc.afterCgroup = nil
}

// Under cgroup v1 a process that is ending shows the root.
func TestExiting(t *testing.T) {
	w := newWorld(t, nil)
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("a")}))
	for pid, cgroups := range map[uint32]string{42: "1:cpu:/\n", 43: inPod(uidA, ctrID("a"))} {
		p := w.proc.start(pid, "x", 100, cgroups)
		p.stat = statText(pid, "x", 100, exitingFlag)
	}
	if o := w.owner("GPU-1", 42); o.Kind != attribution.UnknownProcess {
		t.Errorf("%+v", o)
	}
	if o := w.owner("GPU-1", 43); o.Pod != "web" {
		t.Errorf("%+v", o)
	}
}

func TestUnreadableUntilRead(t *testing.T) {
	w := newWorld(t, nil)
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("a")}))
	p := w.proc.start(42, "x", 100, inPod(uidA, ctrID("a")))
	p.unreadable = true
	o := w.owner("GPU-1", 42)
	if o.Kind != attribution.UnknownProcess || o.PID != 42 || o.Command != "x" {
		t.Fatalf("%+v", o)
	}
	if again := w.owner("GPU-1", 42); again != o {
		t.Fatalf("%+v is another", again)
	}
	w.proc.change(p, func(p *fakeProcess) { p.unreadable = false })
	if o := w.owner("GPU-1", 42); o.Pod != "web" {
		t.Fatalf("%+v", o)
	}
	if s := w.Stats(); s.Unreadable != 2 {
		t.Errorf("%+v", s)
	}
}

// Many goroutines ask while processes and pods come and go: under the race
// detector.
func TestConcurrent(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxFiles = 8 })
	w.hold("GPU-0", sampler.JobOwner("c", "n", "7"))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			device := fmt.Sprintf("GPU-%d", g)
			for i := range 500 {
				pid := uint32(i % 16)
				if id, ok := w.Identify(pid); ok {
					if o := w.Owner(device, pid, id); o == nil {
						t.Error("no owner")
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 500 {
			pid := uint32(i*7) % 16
			switch i % 4 {
			case 0:
				w.proc.end(pid)
			default:
				w.proc.start(pid, "x", uint64(i), inPod(uidA, ctrID("abcdef"[i%6:i%6+1])))
			}
			w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("abcdef"[i%6 : i%6+1])}))
			w.Stats()
		}
	})
	wg.Wait()
}

// A descriptor reads anew each time, from the start.
func TestDescriptor(t *testing.T) {
	f, err := procFS("/proc").open(uint32(os.Getpid()))
	if err != nil {
		t.Skip(err)
	}
	var a, b [maxStat]byte
	n, err := f.read(a[:])
	m, err2 := f.read(b[:])
	if err != nil || err2 != nil || n < 50 || m < 50 || a[0] != b[0] {
		t.Errorf("%d %v, %d %v", n, err, m, err2)
	}
	f.close()
	if _, err := f.read(a[:]); err != syscall.EBADF { //nolint:errorlint // bare
		t.Error(err)
	}
}

func BenchmarkIdentify(b *testing.B) {
	for _, files := range []int{DefaultFiles, -1} {
		name := "kept open"
		if files < 0 {
			name = "opened each time"
		}
		b.Run(name, func(b *testing.B) {
			table := New(Options{MaxFiles: files})
			defer table.Close()
			pid := uint32(os.Getpid())
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := table.Identify(pid); !ok {
					b.Fatal("not identified")
				}
			}
		})
	}
}

func BenchmarkOwner(b *testing.B) {
	w := newWorld(b, nil)
	w.proc.start(42, "x", 100, inPod(uidA, ctrID("a")))
	w.proc.start(43, "x", 100, "0::/system.slice/x.service\n")
	w.dir.Put(pod("web", uidA, pods.Container{Name: "main", ID: ctrID("a")}))
	for name, pid := range map[string]uint32{"container": 42, "host": 43} {
		b.Run(name, func(b *testing.B) {
			id, _ := w.Identify(pid)
			b.ReportAllocs()
			for b.Loop() {
				w.Owner("GPU-1", pid, id)
			}
		})
	}
}
