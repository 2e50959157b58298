package process

import (
	"cmp"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/cgroup"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// Bounds of a table.
const (
	// MaxProcesses bounds the processes that are known, the ended included.
	// More are refused: they are told apart, but nobody answers for them.
	MaxProcesses = 16_384
	// DefaultFiles bounds the processes of which a file is kept open. The
	// kernel keeps a page for each.
	DefaultFiles = 2048

	maxAnswers = 128 // devices of one process whose owner is remembered
)

// How long, in seconds, after it was last asked about a process's file is kept
// open, and the process known.
const (
	closeAfter  = 30
	forgetAfter = 180
	sweepEvery  = 10
)

// Options is what a Table needs.
type Options struct {
	Cluster, Node string
	// ProcFS is where the node's proc file system is. Default: /proc.
	ProcFS string
	// Pods is the node's pods as they are now; nil on a node that runs none.
	// It is called for every question, by several goroutines.
	Pods func() *pods.View
	// Holders are the owners that hold a device now; nil where nobody holds
	// any. It answers from memory, to several goroutines; the result is only
	// read.
	Holders func(device string) []*attribution.Owner
	// Untrusted says that a pid may be a stranger's (see CheckPIDNamespace):
	// processes are told apart as well as can be, and nobody answers for any.
	Untrusted bool
	// MaxFiles is how many files may be kept open: see DefaultFiles, which is
	// what 0 means; below 0 is none. It is never more than half of what this
	// process may open.
	MaxFiles int
	Log      *slog.Logger
}

// Table knows the node's processes that were asked about. It is a
// [sampler.Owners]: any goroutine may use it.
type Table struct {
	opts  Options
	files files
	now   func() int64 // s, monotonic
	swept atomic.Int64
	epoch atomic.Pointer[epoch]
	buffs sync.Pool // of *scratch

	mu    sync.RWMutex
	byPID map[uint32]*process // the last met
	known map[key]*process

	open    atomic.Int64 // files
	full    atomic.Bool  // of processes, or files: that has been said
	refused atomic.Uint64
	unkept  atomic.Uint64
	unknown [reasons]atomic.Uint64
}

var _ sampler.Owners = (*Table)(nil)

type key struct {
	pid   uint32
	start uint64
}

// process is one that was asked about.
type process struct {
	pid   uint32
	id    sampler.Identity
	asked atomic.Int64 // when, by Table.now

	mu      sync.Mutex
	file    procFile // its comm or stat, nil if none is kept open
	ref     cgroup.Ref
	read    bool // ref is
	probe   [1]byte
	answers []answer
	self    *attribution.Owner // as a host process
	job     *attribution.Owner // as its job
	nobody  *attribution.Owner // as an unknown one
}

// scratch is space to read files.
type scratch struct {
	stat   [maxStat]byte
	cgroup [cgroup.MaxBytes]byte
}

// New makes a table. Close it.
func New(opts Options) *Table {
	opts.ProcFS = cmp.Or(opts.ProcFS, "/proc")
	opts.MaxFiles = min(cmp.Or(opts.MaxFiles, DefaultFiles), openLimit()/2)
	began := time.Now()
	t := &Table{
		opts: opts, files: procFS(opts.ProcFS), now: func() int64 { return int64(time.Since(began) / time.Second) },
		byPID: make(map[uint32]*process), known: make(map[key]*process),
	}
	t.buffs.New = func() any { return new(scratch) }
	t.epoch.Store(&epoch{})
	return t
}

// Close closes the files that are kept open. The table may be used on.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.known {
		t.drop(p)
	}
}

// Stats is what a table has, and what it could not do so far.
type Stats struct {
	Processes int // known, the ended included
	Files     int // kept open

	Refused uint64 // answers for processes beyond MaxProcesses
	Unkept  uint64 // files that were not kept open for the limit

	// Answers that were nobody, by reason.
	Unreadable       uint64 // the process, or its cgroups, can't be read
	UnknownPod       uint64 // it is in a pod that is not (yet) known
	UnknownContainer uint64 // the pod is known, but not which container
	Untrusted        uint64 // pids can't be trusted
}

// Stats may be called at any time.
func (t *Table) Stats() Stats {
	t.mu.RLock()
	n := len(t.known)
	t.mu.RUnlock()
	return Stats{
		Processes: n, Files: int(t.open.Load()), Refused: t.refused.Load(), Unkept: t.unkept.Load(),
		Unreadable: t.unknown[unreadable].Load(), UnknownPod: t.unknown[unknownPod].Load(),
		UnknownContainer: t.unknown[unknownContainer].Load(), Untrusted: t.unknown[untrusted].Load(),
	}
}

// Identify implements [sampler.Owners].
func (t *Table) Identify(pid uint32) (sampler.Identity, bool) {
	now := t.now()
	if last := t.swept.Load(); now-last >= sweepEvery && t.swept.CompareAndSwap(last, now) {
		t.sweep(now)
	}
	t.mu.RLock()
	p := t.byPID[pid]
	t.mu.RUnlock()
	if p != nil && t.lives(p) {
		p.asked.Store(now)
		return p.id, true
	}
	return t.meet(pid, now)
}

// lives reports whether a process that was met still is, as far as its open
// file tells: one system call. Where it can't tell it is false.
func (t *Table) lives(p *process) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		return false
	}
	if n, err := p.file.read(p.probe[:]); err != nil || n == 0 {
		t.closeFile(p)
		return false
	}
	if !p.read && !t.opts.Untrusted {
		t.retryCgroups(p)
	}
	return true
}

// meet identifies the process that has a pid now.
func (t *Table) meet(pid uint32, now int64) (sampler.Identity, bool) {
	b := t.buffs.Get().(*scratch)
	defer t.buffs.Put(b)
	f, err := t.files.open(pid)
	if err != nil {
		return sampler.Identity{}, false
	}
	n, err := f.read(b.stat[:])
	s, ok := parseStat(b.stat[:n])
	if err != nil || !ok {
		f.close()
		return sampler.Identity{}, false
	}
	p := t.enter(pid, s.Identity, now)
	if p == nil {
		f.close()
		return s.Identity, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.read {
		t.readCgroups(p, f, f, b)
	}
	if p.file != nil || !t.keep() {
		f.close()
	} else {
		p.file = t.lasting(pid, f)
	}
	return p.id, true
}

// lasting is the file of a process that is kept open instead of its stat: its
// comm, if that is the same process's, which it is if the stat can be read on
// after it was opened.
func (t *Table) lasting(pid uint32, stat procFile) procFile {
	name, err := t.files.name(pid)
	if err != nil {
		return stat
	}
	var probe [1]byte
	if n, err := stat.read(probe[:]); err != nil || n == 0 {
		name.close()
		return stat // which tells that the process has ended
	}
	stat.close()
	return name
}

// enter finds a process, or takes it in; nil if there is no room.
func (t *Table) enter(pid uint32, id sampler.Identity, now int64) *process {
	k := key{pid, id.Start}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.known[k]
	if p == nil {
		if len(t.known) >= MaxProcesses {
			t.sayFull("processes beyond the limit are nobody's", MaxProcesses)
			return nil
		}
		p = &process{pid: pid, id: id}
		t.known[k] = p
	}
	p.asked.Store(now)
	if id.Start != 0 {
		t.byPID[pid] = p
	}
	return p
}

// retryCgroups tries again to learn what a process's cgroups tell. p is locked.
func (t *Table) retryCgroups(p *process) {
	stat, err := t.files.open(p.pid) // another process's, unless p.file can be read on
	if err != nil {
		return
	}
	defer stat.close()
	b := t.buffs.Get().(*scratch)
	defer t.buffs.Put(b)
	t.readCgroups(p, stat, p.file, b)
}

// readCgroups learns what a process's cgroups tell, if it can: that the
// process still is when they and its stat were read, which its own file tells,
// or else they are another's. p is locked.
func (t *Table) readCgroups(p *process, stat, own procFile, b *scratch) {
	if t.opts.Untrusted {
		return
	}
	n, err := t.files.cgroup(p.pid, b.cgroup[:])
	if err != nil {
		return
	}
	ref, ok := cgroup.Parse(b.cgroup[:n])
	m, err := stat.read(b.stat[:])
	s, readable := parseStat(b.stat[:m])
	if err != nil || !readable || (s.exiting && !ok) {
		return
	}
	if own != stat {
		if n, err := own.read(p.probe[:]); err != nil || n == 0 {
			return
		}
	}
	p.ref, p.read = ref, true
	p.answers = nil
}

// keep takes one of the files that may be kept open.
func (t *Table) keep() bool {
	if t.open.Add(1) > int64(t.opts.MaxFiles) {
		t.open.Add(-1)
		t.unkept.Add(1)
		t.sayFull("processes beyond the limit are told apart by their start alone", t.opts.MaxFiles)
		return false
	}
	return true
}

// sayFull logs the first time that a limit is met.
func (t *Table) sayFull(what string, limit int) {
	if t.opts.Log != nil && !t.full.Swap(true) {
		t.opts.Log.Warn("too many processes on the devices", "consequence", what, "limit", limit)
	}
}

// closeFile ends that a process's stat is kept open. p is locked.
func (t *Table) closeFile(p *process) {
	if p.file != nil {
		p.file.close()
		p.file = nil
		t.open.Add(-1)
	}
}

func (t *Table) drop(p *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.closeFile(p)
}

// sweep closes and forgets what was not asked about for a while.
func (t *Table) sweep(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, p := range t.known {
		idle := now - p.asked.Load()
		if idle >= closeAfter {
			t.drop(p)
		}
		if idle >= forgetAfter {
			delete(t.known, k)
			if t.byPID[p.pid] == p {
				delete(t.byPID, p.pid)
			}
		}
	}
}
