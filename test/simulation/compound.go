package simulation

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// Faults that take more than one thing to go wrong at a time.

// fuse has a machine's power cut in the middle of one of the next writes: after
// the data went to the disk, and before the disk was done with it.
type fuse struct {
	blown func()

	mu    sync.Mutex
	left  int // syncs until then
	r     *rand.Rand
	after *memfs.FS // what the disk is then
}

// burn is called before a sync, and reports whether the power is gone.
func (f *fuse) burn(fs *memfs.FS) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left == 0 {
		f.after = fs.Crash(f.r)
		f.blown()
	}
	return f.left <= 0
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

// tear cuts a machine's power in the middle of a write, mostly while the agent
// makes up for the time that it was away: then it writes much at a time.
func (w *world) tear(n *node) {
	if w.r.IntN(4) > 0 {
		n.kill()
		w.wait(w.upTo(3 * time.Minute))
	}
	n.powerOn()
	n.start()
	life := n.alive()
	if life == nil {
		return
	}
	blown := func() {
		at := time.Now()
		w.later(0, func() { w.tornOff(n, life, at) })
	}
	life.disk.fuse.Store(&fuse{left: 1 + w.r.IntN(6), r: rand.New(rand.NewPCG(w.r.Uint64(), 0)), blown: blown})
	on := 20*time.Second + w.sometime()
	w.later(on, n.powerOn)
	w.later(on+w.upTo(20*time.Second), n.start)
}

// tornOff is the power cut of a fuse that has blown, unless the agent is another
// by now. Where the director was about something else, the disk has taken nothing
// for a while.
func (w *world) tornOff(n *node, life *agentLife, blown time.Time) {
	if n.alive() == life {
		w.event("power cut in a write (%s)", n.name)
		if late := time.Since(blown); late > time.Second {
			n.log.failed(attribution.Second(late.Seconds()) + 1)
		}
		n.powerOff()
	}
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
// the collector may have by then, and it goes on, mostly to be killed at once.
func (w *world) flipAtRestart(n *node) {
	n.leave()
	n.damageChunk()
	w.wait(w.upTo(20 * time.Second))
	n.start()
	if w.r.IntN(4) > 0 {
		w.wait(w.upTo(4 * time.Second))
		n.kill()
	}
	w.later(w.upTo(10*time.Second), n.start)
}

// rerateUnheard has a rerating take effect, and the collector hear of a failure.
func (w *world) rerateUnheard(*node) {
	c := w.any()
	c.storeTrouble(0, 0, 1)
	w.rerateAt(c)
	c.storeTrouble(0, 0, 0)
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
