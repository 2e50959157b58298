package process

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// fakeProc is a proc file system with the kernel's behaviour: an open file
// belongs to one process, and fails once that has ended.
type fakeProc struct {
	mu          sync.Mutex
	procs       map[uint32]*fakeProcess
	opens       int
	reads       int
	isOpen      int // now
	afterCgroup func()
	beforeStat  func() // a stat is opened
	noNames     bool   // there is no comm
}

type fakeProcess struct {
	stat, cgroup string
	ended        bool
	unreadable   bool // its cgroups
}

func newFakeProc() *fakeProc { return &fakeProc{procs: make(map[uint32]*fakeProcess)} }

func statText(pid uint32, command string, start, flags uint64) string {
	return fmt.Sprintf("%d (%s) S 1 1 1 0 -1 %d 1 0 0 0 0 0 0 0 20 0 1 0 %d 1 1 1\n", pid, command, flags, start)
}

// start begins a process; what had the pid has ended.
func (f *fakeProc) start(pid uint32, command string, start uint64, cgroup string) *fakeProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.procs[pid]; old != nil {
		old.ended = true
	}
	p := &fakeProcess{stat: statText(pid, command, start, 0), cgroup: cgroup}
	f.procs[pid] = p
	return p
}

func (f *fakeProc) end(pid uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.procs[pid]; p != nil {
		p.ended = true
		delete(f.procs, pid)
	}
}

func (f *fakeProc) change(p *fakeProcess, with func(*fakeProcess)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	with(p)
}

// counts are the opens and reads so far, and the files open now.
func (f *fakeProc) counts() (opens, reads, open int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opens, f.reads, f.isOpen
}

func (f *fakeProc) open(pid uint32) (procFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.beforeStat != nil {
		f.beforeStat()
	}
	return f.openFile(pid, func(p *fakeProcess) string { return p.stat })
}

func (f *fakeProc) name(pid uint32) (procFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noNames {
		return nil, syscall.ENOENT
	}
	return f.openFile(pid, func(*fakeProcess) string { return "comm\n" })
}

func (f *fakeProc) openFile(pid uint32, text func(*fakeProcess) string) (procFile, error) {
	p := f.procs[pid]
	if p == nil {
		return nil, syscall.ENOENT
	}
	f.opens++
	f.isOpen++
	return &fakeFile{f, p, text, false}, nil
}

func (f *fakeProc) cgroup(pid uint32, buf []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.procs[pid]
	switch {
	case p == nil:
		return 0, syscall.ENOENT
	case p.unreadable:
		return 0, syscall.EACCES
	}
	n := copy(buf, p.cgroup)
	if f.afterCgroup != nil {
		f.afterCgroup()
	}
	return n, nil
}

type fakeFile struct {
	fs     *fakeProc
	p      *fakeProcess
	text   func(*fakeProcess) string
	closed bool
}

func (s *fakeFile) read(buf []byte) (int, error) {
	s.fs.mu.Lock()
	defer s.fs.mu.Unlock()
	s.fs.reads++
	switch {
	case s.closed:
		return 0, syscall.EBADF
	case s.p.ended:
		return 0, syscall.ESRCH
	}
	return copy(buf, s.text(s.p)), nil
}

func (s *fakeFile) close() {
	s.fs.mu.Lock()
	defer s.fs.mu.Unlock()
	if s.closed {
		panic("a file is closed twice")
	}
	s.closed = true
	s.fs.isOpen--
}

// world is a table on a fake node.
type world struct {
	*Table
	proc    *fakeProc
	dir     *pods.Directory
	mu      sync.Mutex
	holders map[string][]*attribution.Owner
	seconds int64
}

func newWorld(t testing.TB, change func(*Options)) *world {
	w := &world{proc: newFakeProc(), dir: pods.NewDirectory("c", "n"), holders: make(map[string][]*attribution.Owner)}
	opts := Options{Cluster: "c", Node: "n", Pods: w.dir.View, Holders: w.held}
	if change != nil {
		change(&opts)
	}
	w.Table = New(opts)
	w.files = w.proc
	w.now = func() int64 { return w.seconds }
	t.Cleanup(func() {
		w.Close()
		if _, _, open := w.proc.counts(); open != 0 || w.Stats().Files != 0 {
			t.Errorf("%d files are still open (counted: %d)", open, w.Stats().Files)
		}
	})
	return w
}

func (w *world) held(device string) []*attribution.Owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.holders[device]
}

func (w *world) hold(device string, owners ...*attribution.Owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holders[device] = owners
}

// owner asks as a sampler does.
func (w *world) owner(device string, pid uint32) *attribution.Owner {
	id, _ := w.Identify(pid)
	return w.Owner(device, pid, id)
}

const (
	uidA = "0f4f1d2c-9a1b-4c3d-8e5f-a0b1c2d3e4f5"
	uidB = "11111111-2222-3333-4444-555555555555"
)

// ctrID is a container's id.
func ctrID(digit string) string { return strings.Repeat(digit, 64) }

func inPod(uid, container string) string {
	return "0::/kubepods/burstable/pod" + uid + "/" + container + "\n"
}

func pod(name, uid string, cs ...pods.Container) *pods.Pod {
	return &pods.Pod{Namespace: "ns", Name: name, UID: uid, Containers: cs}
}

// unseen is a container's owner as holdings have it before its pod is known.
func unseen(name, container string) *attribution.Owner {
	return &attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: name, Container: container}
}
