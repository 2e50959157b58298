package nvml

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

const (
	// maxProcesses bounds what is kept per device. A GPU runs at most a few
	// dozen contexts; a list longer than this is broken.
	maxProcesses = 4096
	// maxMemory bounds what one process is believed to hold: 64 TiB.
	maxMemory = 1 << 46
	// farFuture bounds how far a sample's time may be ahead of the wall clock.
	farFuture = 5_000_000 // µs
	// mpsServer is how the kernel shows "nvidia-cuda-mps-server" (15 bytes).
	mpsServer = "nvidia-cuda-mps"
)

// process is what a reader keeps of a process on its device.
type process struct {
	pid      uint32
	id       Identity
	owner    *attribution.Owner
	smActive int64 // ns
	memory   int64 // bytes
	client   bool  // of an MPS server
	reading  uint64
	percent  int64 // sum of this reading's shares
	shares   int64 // and their number
	gained   int64 // ns that they added to smActive
}

// processes follows the processes of one device. One goroutine uses it.
type processes struct {
	owners  Owners
	byPID   map[uint32]*process
	reading uint64
	// cursor is the newest sample time that the driver has returned (µs). It is
	// the device's own: one cursor over several devices would skip samples.
	cursor  uint64
	hidden  bool // the driver has not said how much memory one of them holds
	dropped *Dropped
	scratch []*process
}

// Dropped counts what a sampler has thrown away, by reason. Only Processes is
// time that goes to no owner; the others are the driver's noise.
type Dropped struct {
	Percent   atomic.Uint64 // process samples over 100 %
	Stale     atomic.Uint64 // process samples seen before
	Future    atomic.Uint64 // process samples more than 5 s ahead of the clock
	Unlisted  atomic.Uint64 // process samples of processes that don't run here
	Processes atomic.Uint64 // listed processes beyond 4096 on a device
}

// list takes the running lists of one reading.
func (p *processes) list(rs []running) {
	p.reading++
	for _, r := range rs {
		id, ok := p.owners.Identify(r.pid)
		known := p.byPID[r.pid]
		switch {
		case known != nil && (!ok || known.id == id):
			// Still there, or exiting: it keeps the name it had.
		case known == nil && len(p.byPID) >= maxProcesses:
			p.dropped.Processes.Add(1)
			continue
		default: // new, its pid used again, or its command changed by exec
			next := &process{pid: r.pid, id: id, owner: p.owners.Owner(r.pid, id)}
			if known != nil && known.id.Start == id.Start {
				next.smActive = known.smActive
			}
			p.byPID[r.pid], known = next, next
		}
		if known.owner.Kind == attribution.UnknownProcess {
			known.owner = better(known.owner, p.owners.Owner(r.pid, known.id))
		}
		if known.reading != p.reading { // in the lists once, so far
			known.reading, known.memory, known.client = p.reading, -1, false
		}
		known.memory = max(known.memory, min(r.memory, maxMemory))
		known.client = known.client || r.client
	}
	for _, known := range p.byPID {
		p.hidden = p.hidden || known.memory < 0
	}
	if p.hidden { // nor is there any use in what the others hold
		for _, known := range p.byPID {
			known.memory = 0
		}
	}
}

// better keeps an owner that says the same, so that equal facts stay one.
func better(old, found *attribution.Owner) *attribution.Owner {
	if attribution.CompareOwners(old, found) == 0 {
		return old
	}
	return found
}

// after is the time to ask for samples after; now is the machine's wall clock
// in µs. A cursor far ahead of it means that the clock was set back.
func (p *processes) after(now uint64) uint64 {
	if p.cursor > now+farFuture {
		p.cursor = now
	}
	return p.cursor
}

// share adds elapsed ns of the driver's per-process samples to the counters.
// now is the machine's wall clock in µs. Each sample is the process's
// utilization since the last question, so it is taken times the time between
// two questions; the driver's own times only tell old samples from new ones.
//
// Thrown away, because drivers return it: shares over 100 %, samples at or
// before the cursor (long-dead processes are repeated), samples of the future,
// and samples of processes on none of the running lists. A process that has
// just left the lists keeps its final second.
//
// The shares of a device may still add up to more than its activity, or less.
// The split scales them down, or calls the rest unattributed.
func (p *processes) share(samples []processShare, elapsed int64, now uint64) {
	newest := p.cursor
	for _, s := range samples {
		known := p.byPID[s.pid]
		switch {
		case s.percent > 100:
			p.dropped.Percent.Add(1)
		case s.time <= p.cursor:
			p.dropped.Stale.Add(1)
		case s.time > now+farFuture:
			p.dropped.Future.Add(1)
		default:
			newest = max(newest, s.time)
			if known == nil {
				p.dropped.Unlisted.Add(1)
				continue
			}
			known.percent += int64(s.percent)
			known.shares++
		}
	}
	p.cursor = newest
	for _, known := range p.byPID {
		known.gained = 0
		if known.shares > 0 {
			known.gained = elapsed / 100 * known.percent / known.shares
			known.smActive += known.gained
		}
		known.percent, known.shares = 0, 0
	}
}

// sorted is the processes by pid.
func (p *processes) sorted() []*process {
	p.scratch = p.scratch[:0]
	for _, known := range p.byPID {
		p.scratch = append(p.scratch, known)
	}
	slices.SortFunc(p.scratch, func(a, b *process) int { return cmp.Compare(a.pid, b.pid) })
	return p.scratch
}

// shareServers gives what share credited to MPS servers to their clients: by
// memory, else equally. Where the driver credits the clients themselves, their
// servers have gained nothing: then it is false.
func (p *processes) shareServers() bool {
	var clients []*process
	var gained int64
	var weights []int64
	for _, known := range p.sorted() {
		switch {
		case known.client:
			clients = append(clients, known)
			weights = append(weights, known.memory)
		case strings.HasPrefix(known.id.Command, mpsServer):
			gained += known.gained
		}
	}
	if len(clients) == 0 || gained == 0 {
		return false
	}
	if slices.Max(weights) == 0 {
		for i := range weights {
			weights[i] = 1
		}
	}
	parts := make([]int64, len(clients))
	apportion.ByWeight(gained, weights, parts)
	for i, c := range clients {
		c.smActive += parts[i]
	}
	for _, known := range p.byPID {
		if !known.client && strings.HasPrefix(known.id.Command, mpsServer) {
			known.smActive -= known.gained
			known.gained = 0
		}
	}
	return true
}

// appendTo appends the readings to dst, by pid. A process that is missing from
// this reading's lists has its last word; one that was missing from the lists
// before as well is forgotten.
func (p *processes) appendTo(dst []sampler.Process) []sampler.Process {
	for _, known := range p.sorted() {
		if known.reading+1 < p.reading {
			delete(p.byPID, known.pid)
			continue
		}
		dst = append(dst, sampler.Process{
			PID: known.pid, Start: known.id.Start, Owner: known.owner,
			SMActive: known.smActive, MemoryBytes: known.memory,
		})
	}
	return dst
}
