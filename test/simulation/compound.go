package simulation

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// Faults that take more than one thing to go wrong at a time.

// fuse has a process go no further than one of its next writes: the data went to
// the disk, and the disk is not done with it. Either the machine's power is cut
// then, or the process alone is killed, and the machine keeps what was written.
type fuse struct {
	power bool // is cut
	large bool // of writes only large ones count, and a power cut mostly tears them
	dir   string
	blown func()

	mu    sync.Mutex
	left  int // syncs until then
	holds int // how many seconds and chunks are in the newest write
	r     *rand.Rand
	after *memfs.FS // what a power cut leaves of the disk
}

// largeWrite is how many seconds and chunks are in a large write. Each ten ends
// with a write of two: its last second, and its chunk.
const largeWrite = 3

// carry is told what is written before it is synced.
func (f *fuse) carry(p []byte) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds = 0
	for _, r := range framesFrom(0, p) {
		if r.holds() {
			f.holds++
		}
	}
}

// burn is called before a sync, and reports whether that is too late.
func (f *fuse) burn(fs *memfs.FS) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left > 0 && f.large && f.holds < largeWrite {
		return false
	}
	if f.left--; f.left == 0 {
		if f.power {
			f.after = f.cut(fs)
		}
		f.blown()
	}
	return f.left <= 0
}

// cut is what is left of a disk: of a large write mostly some, since one that is
// gone as a whole, or there, is as none.
func (f *fuse) cut(fs *memfs.FS) *memfs.FS {
	after := fs.Crash(f.r)
	for range 8 {
		if !f.large || torn(after, f.dir) {
			break
		}
		after = fs.Crash(f.r)
	}
	return after
}

// left is what a power cut leaves of a disk.
func (d *disk) left(fs *memfs.FS, r *rand.Rand) *memfs.FS {
	if f := d.fuse.Load(); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.after != nil {
			return f.after
		}
	}
	return fs.Crash(r)
}

// light starts the agent, unless it runs, and has it end in the first to last of
// its next writes: of a new process the first is recovery's, the second begins a
// segment, and the third holds what the time gave that it was away. then is called
// when it has.
func (w *world) light(n *node, f *fuse, first, last int, then func()) {
	n.start()
	life := n.alive()
	if life == nil {
		return
	}
	f.dir, f.left, f.r = n.spoolDir(), first+w.r.IntN(last-first+1), rand.New(rand.NewPCG(w.r.Uint64(), 0))
	f.blown = func() {
		at := time.Now()
		w.later(0, func() {
			if n.alive() == life { // not another by now
				w.blow(n, f.power, at)
				then()
			}
		})
	}
	life.disk.fuse.Store(f)
}

// blow ends what a fuse was laid to. Where the director was about something else,
// the disk has taken nothing for a while.
func (w *world) blow(n *node, power bool, at time.Time) {
	w.event("the end in a write (%s), of all: %t", n.name, power)
	if late := time.Since(at); late > time.Second {
		n.log.failed(attribution.Second(late.Seconds()) + 1)
	}
	if power {
		n.powerOff()
	} else {
		n.kill()
	}
}

// away has the agent be away for a while, mostly: when it makes up for that, it
// writes much at a time.
func (w *world) away(n *node) {
	if w.r.IntN(4) > 0 {
		n.kill()
		w.wait(w.upTo(3 * time.Minute))
	}
	n.powerOn()
}

// tear cuts a machine's power in the middle of a write, mostly of a large one: an
// agent writes what it makes up for first second by second, to the end of a ten,
// and the rest at once.
func (w *world) tear(n *node) {
	back := func() {
		on := 20*time.Second + w.sometime()
		w.later(on, n.powerOn)
		w.later(on+w.upTo(20*time.Second), n.start)
	}
	if w.r.IntN(3) == 0 {
		w.away(n)
		w.light(n, &fuse{power: true}, 1, 6, back)
		return
	}
	n.powerOn() // it makes up for time in which the machine was up
	n.kill()
	w.wait(20*time.Second + w.upTo(2*time.Minute))
	w.light(n, &fuse{power: true, large: true}, 1, 1, back)
}

// killInWrite kills an agent in the middle of a write. The next one goes on
// behind that, mostly without a collector, until the power is cut.
func (w *world) killInWrite(n *node) {
	w.away(n)
	if w.r.IntN(4) > 0 {
		n.link.refuse(true)
		n.link.cut()
	}
	w.light(n, &fuse{}, 2, 4, func() { w.later(w.upTo(2*time.Second), n.start) })
	off := 2*time.Second + w.upTo(time.Minute)
	on := off + w.sometime()
	w.later(off, n.powerOff)
	w.later(on, n.powerOn)
	w.later(on+w.upTo(20*time.Second), n.start)
	w.later(on+w.sometime(), func() { n.link.refuse(false) })
}

// handOver has a node go from one collector to another and not hear what the
// first makes of what it has, and asks both.
func (w *world) handOver(n *node) {
	c := n.link.newest()
	if len(w.at) < 2 || c == nil {
		return
	}
	n.link.move(1)
	n.link.forsake()
	w.askAll(4, 3*time.Second)
	c.roll()
	w.askAll(4, 3*time.Second)
	w.later(w.sometime(), c.start)
	if w.r.IntN(2) == 0 {
		n.link.move(len(w.at) - 1)
		n.link.cut()
		w.askAll(2, 5*time.Second)
	}
}

// askAll asks all collectors, again and again.
func (w *world) askAll(times int, most time.Duration) {
	for range times {
		w.wait(w.upTo(most))
		for _, c := range w.at {
			w.ask(c)
		}
	}
}

// flipAtRestart has the last chunk rot while the agent is away for a moment, which
// the collector may have by then, and it goes on, mostly to be killed at once:
// between any two steps of making good what was damaged.
func (w *world) flipAtRestart(n *node) {
	n.leave()
	n.damage(rotChunk)
	if w.r.IntN(2) == 0 {
		w.wait(w.upTo(20 * time.Second))
	}
	switch w.r.IntN(4) {
	case 0:
		n.start()
	case 1:
		n.start()
		w.wait(w.upTo(4 * time.Second))
		n.kill()
	default:
		w.light(n, &fuse{}, 1, 7, n.start)
	}
	w.later(w.upTo(10*time.Second), n.start)
}

// rotAtRestart has a roster of the journal rot while the agent is away for a moment.
func (w *world) rotAtRestart(n *node) {
	n.kill()
	n.damage(rotRoster)
	w.wait(w.upTo(10 * time.Second))
	n.start()
}

// rotFirst has the power fail after an agent's first write, to a new segment, and
// that write rot: nothing but the segment's head tells then what the log came to.
func (w *world) rotFirst(n *node) {
	w.event("a segment's first write rots (%s)", n.name)
	for range 3 {
		n.leave()
		n.link.refuse(true)
		w.light(n, &fuse{power: true}, 4, 4, func() {
			n.damage(rotFirst)
			n.powerOn()
			w.later(5*time.Second+w.upTo(20*time.Second), n.start)
		})
		w.wait(40 * time.Second)
		n.powerOn()
		n.start()
		n.link.refuse(false)
		w.wait(time.Minute)
	}
}

// rerateUnheard has a rerating take effect, and the collector hear of a failure.
func (w *world) rerateUnheard(*node) {
	c := w.any()
	c.storeTrouble(0, 0, 1)
	w.rerateAt(c)
	c.storeTrouble(0, 0, 0)
}

// stall has stores be slow while agents have a backlog. Nothing else happens behind
// it: those whose chunks waited for memory must go on by themselves.
func (w *world) stall() {
	w.event("stores stall")
	for _, n := range w.nodes {
		n.link.refuse(true)
		n.link.cut()
	}
	w.wait(time.Minute + w.upTo(2*time.Minute))
	for _, c := range w.at {
		c.start()
		c.storeTrouble(10*time.Second, 0, 0)
	}
	for _, n := range w.nodes {
		n.link.refuse(false)
	}
	w.wait(40*time.Second + w.upTo(time.Minute))
}

// siege has little go wrong, for a long time: a disk is full for longer than
// memory lasts.
func (w *world) siege(d time.Duration) {
	n := w.nodes[w.r.IntN(len(w.nodes))]
	if n.log.failing() {
		return
	}
	w.event("disk full for %v (%s)", d, n.name)
	n.log.fails()
	n.fs.SetCapacity(1) // whatever is freed, others take
	w.later(d, n.healDisk)
}
