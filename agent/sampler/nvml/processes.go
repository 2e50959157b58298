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
	// othersEvery is how often, in readings, the lists are taken that seldom
	// have anything in them, where nothing else asks for them.
	othersEvery = 10
	// mpsServer is how the kernel shows "nvidia-cuda-mps-server" (15 bytes).
	mpsServer = "nvidia-cuda-mps"
)

// process is what a reader keeps of a process on its device.
type process struct {
	pid      uint32
	id       sampler.Identity
	owner    *attribution.Owner
	smActive int64 // ns
	memory   int64 // bytes
	client   bool  // of an MPS server
	server   bool  // it is one
	unlisted bool  // a server in none of the lists: known for its share alone
	reading  uint64

	seen   uint64 // the newest sample's time as of the reading before (µs)
	newest uint64 // and as of this one

	percent int64 // sum of this reading's shares
	shares  int64 // and their number
	gained  int64 // ns that they added to smActive
}

// processes follows the processes of one device. One goroutine uses it.
type processes struct {
	device  string
	owners  sampler.Owners
	dropped *dropped

	byPID   map[uint32]*process
	sorted  []*process // byPID, by pid
	reading uint64
	// cursor is the newest sample time that the driver has returned (µs). It is
	// the device's own: one cursor over several devices would skip samples.
	cursor uint64
	asked  uint64 // when (µs) the driver last answered
	hidden bool   // the driver has not said how much memory one of them holds
	others bool   // the last reading took the lists apart, and they had some

	clients        []*process // scratch
	weights, parts []int64
}

// dropped counts what was thrown away; see [Dropped].
type dropped struct {
	percent, stale, future, unlisted, processes atomic.Uint64
}

// wantsOthers reports whether a reading needs the lists beside that of
// computing processes: while they have somebody; where there is an MPS server
// (whose clients they have); where somebody is new, or was active without being
// known; and every tenth time.
func (p *processes) wantsOthers(computing []running, shares []processShare, now uint64) bool {
	if p.others || (p.reading+1)%othersEvery == 0 {
		return true
	}
	for _, known := range p.sorted {
		if known.server {
			return true
		}
	}
	for i := range computing {
		if p.byPID[computing[i].pid] == nil {
			return true
		}
	}
	for _, s := range shares {
		if s.percent <= 100 && s.time > p.cursor && s.time <= now+farFuture && p.byPID[s.pid] == nil {
			return true
		}
	}
	return false
}

// list takes the running lists of one reading. One that has come before, and
// is in none of them any more, has its last word at this reading.
func (p *processes) list(rs []running) {
	p.reading++
	changed := false
	for i := range rs {
		r := &rs[i]
		id, ok := p.owners.Identify(r.pid)
		known := p.byPID[r.pid]
		switch {
		case known != nil && !known.unlisted && (!ok || known.id == id):
			// Still there, or exiting: it keeps the name it had.
		case known == nil && len(p.byPID) >= maxProcesses:
			p.dropped.processes.Add(1)
			continue
		default: // new, its pid used again, or its command changed by exec
			next := &process{pid: r.pid, id: id, server: strings.HasPrefix(id.Command, mpsServer)}
			if known != nil && known.id.Start == id.Start {
				next.smActive, next.seen, next.newest = known.smActive, known.seen, known.newest
			}
			p.byPID[r.pid], known, changed = next, next, true
		}
		if known.reading != p.reading { // in the lists once, so far
			known.reading, known.memory, known.client = p.reading, -1, false
		}
		known.memory = max(known.memory, min(r.memory, maxMemory))
		known.client = known.client || r.client
	}
	if p.forget() || changed {
		p.sort()
	}
	for _, known := range p.sorted {
		p.hidden = p.hidden || known.memory < 0
		if found := p.owners.Owner(p.device, known.pid, known.id); found != known.owner {
			known.owner = better(known.owner, found)
		}
	}
	if p.hidden { // nor is there any use in what the others hold
		for _, known := range p.sorted {
			known.memory = 0
		}
	}
}

// forget drops those that had their last word.
func (p *processes) forget() (changed bool) {
	for pid, known := range p.byPID {
		if known.reading+1 < p.reading {
			delete(p.byPID, pid)
			changed = true
		}
	}
	return changed
}

func (p *processes) sort() {
	p.sorted = p.sorted[:0]
	for _, known := range p.byPID {
		p.sorted = append(p.sorted, known)
	}
	slices.SortFunc(p.sorted, func(a, b *process) int { return cmp.Compare(a.pid, b.pid) })
}

// clear forgets every process, but not how far their samples were read.
func (p *processes) clear() {
	clear(p.byPID)
	p.sorted, p.others = nil, false
}

// better keeps an owner that says the same, so that equal facts stay one.
func better(old, found *attribution.Owner) *attribution.Owner {
	if old != nil && attribution.CompareOwners(old, found) == 0 {
		return old
	}
	return found
}

// lateness is how long after its time a sample may be the driver's to give
// (µs): its longest sampling period.
const lateness = 1_000_000

// after is the time to ask for samples after; now is the machine's wall clock
// in µs. A cursor far ahead of it means that the clock was set back. One that
// is far behind stems from before the device was idle: the driver's answer is
// a mean over the time that is asked for, which that would thin out, so it is
// asked for no more than the time since the last question.
func (p *processes) after(now uint64) uint64 {
	if p.cursor > now+farFuture {
		p.cursor, p.asked = now, 0
		for _, known := range p.sorted {
			known.seen, known.newest = 0, 0
		}
	}
	if p.asked < lateness || p.asked > now {
		return p.cursor
	}
	return max(p.cursor, p.asked-lateness)
}

// share adds elapsed ns of the driver's per-process samples to the counters.
// now is the machine's wall clock in µs. Each sample is the process's
// utilization since the last question, so it is taken times the time between
// two questions; the driver's own times only tell old samples from new ones.
//
// Thrown away, because drivers return it: shares over 100 %, samples at or
// before the device's cursor or the process's own last one (long-dead
// processes are repeated), samples of the future, and samples of processes on
// none of the running lists. A process that has just left the lists keeps its
// final second.
//
// The shares of a device may still add up to more than its activity, or less.
// The split scales them down, or calls the rest unattributed.
func (p *processes) share(samples []processShare, elapsed int64, now uint64) {
	newest := p.cursor
	for _, s := range samples {
		switch {
		case s.percent > 100:
			p.dropped.percent.Add(1)
			continue
		case s.time <= p.cursor:
			p.dropped.stale.Add(1)
			continue
		case s.time > now+farFuture:
			p.dropped.future.Add(1)
			continue
		}
		newest = max(newest, s.time)
		known := p.byPID[s.pid]
		if known == nil {
			known = p.server(s.pid)
		}
		switch {
		case known == nil:
			p.dropped.unlisted.Add(1)
			continue
		case s.time <= known.seen || s.time == known.newest:
			p.dropped.stale.Add(1)
			continue
		}
		known.newest = max(known.newest, s.time)
		known.percent += int64(s.percent)
		known.shares++
	}
	p.cursor, p.asked = newest, now
	for _, known := range p.sorted {
		known.gained = 0
		if known.shares > 0 {
			known.gained = apportion.MulDiv(elapsed, known.percent, 100*known.shares)
			known.smActive += known.gained
		}
		known.seen, known.percent, known.shares = known.newest, 0, 0
	}
}

// server is the MPS server with a pid that is in no list; nil if it is none.
func (p *processes) server(pid uint32) *process {
	if len(p.byPID) >= maxProcesses {
		return nil
	}
	id, ok := p.owners.Identify(pid)
	if !ok || !strings.HasPrefix(id.Command, mpsServer) {
		return nil
	}
	known := &process{pid: pid, id: id, owner: p.owners.Owner(p.device, pid, id), server: true, unlisted: true, reading: p.reading}
	p.byPID[pid] = known
	p.sort()
	return known
}

// credit is what became of the activity that a reading credited to MPS
// servers.
type credit uint8

const (
	creditNone    credit = iota // there was none: the clients were credited, if any
	creditClients               // it was split over the visible clients
	creditNobody                // no client is visible: whose it is, is not known
)

// shareServers takes what share credited to MPS servers from them, since it is
// their clients' work: by the clients' memory, else equally. alone reports that
// no process but the servers has gained anything.
func (p *processes) shareServers() (c credit, alone bool) {
	var gained int64
	alone = true
	p.clients = p.clients[:0]
	for _, known := range p.sorted {
		switch {
		case known.server && !known.client:
			gained += known.gained
			known.smActive -= known.gained
		default:
			alone = alone && known.gained == 0
			if known.client {
				p.clients = append(p.clients, known)
			}
		}
	}
	switch {
	case gained == 0:
		return creditNone, alone
	case len(p.clients) == 0:
		return creditNobody, alone
	}
	p.weights, p.parts = p.weights[:0], p.parts[:0]
	for _, c := range p.clients {
		p.weights, p.parts = append(p.weights, c.memory), append(p.parts, 0)
	}
	if slices.Max(p.weights) == 0 {
		for i := range p.weights {
			p.weights[i] = 1
		}
	}
	apportion.ByWeight(gained, p.weights, p.parts)
	for i, c := range p.clients {
		c.smActive += p.parts[i]
	}
	return creditClients, alone
}

// appendTo appends the readings to dst, by pid; those of MPS servers if they
// are wanted.
func (p *processes) appendTo(dst []sampler.Process, servers bool) []sampler.Process {
	for _, known := range p.sorted {
		if known.unlisted || (known.server && !known.client && !servers) {
			continue
		}
		dst = append(dst, sampler.Process{
			PID: known.pid, Start: known.id.Start, Owner: known.owner,
			SMActive: known.smActive, MemoryBytes: known.memory,
		})
	}
	return dst
}
