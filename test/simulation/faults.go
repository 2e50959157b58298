package simulation

import (
	"context"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rerating"
)

// fault is something that happens.
type fault struct {
	name   string
	weight int
	f      func(w *world, n *node)
}

// faults are all that may happen in a stretch of trouble.
func faults() []fault {
	return []fault{
		{"cut", 6, (*world).cut},
		{"partition", 3, (*world).partition},
		{"silence", 4, (*world).silence},
		{"repeat", 6, (*world).repeat},
		{"forsaken", 5, (*world).forsake},
		{"agent killed", 6, (*world).killAgent},
		{"power cut", 5, (*world).powerCut},
		{"agent restarted", 4, (*world).restartAgent},
		{"collector killed", 6, (*world).killCollector},
		{"collector rolled", 4, (*world).rollCollector},
		{"store fails", 5, (*world).failStore},
		{"disk fails", 4, (*world).failDisk},
		{"disk full", 4, (*world).fillDisk},
		{"bit flip", 3, (*world).flipBit},
		{"bit flip at a crash", 2, (*world).flipAtCrash},
		{"clock stepped", 4, (*world).stepClock},
		{"source hangs", 4, (*world).hangSource},
		{"rate card", 3, func(w *world, _ *node) { w.applyCard() }},
		{"rerating", 3, (*world).rerate},
		{"node joins", 1, (*world).join},
		{"move", 3, (*world).move},
		{"power cut in a write", 3, (*world).tear},
		{"killed in a write", 3, (*world).killInWrite},
		{"bit flip at a restart", 3, (*world).flipAtRestart},
		{"roster rots at a restart", 2, (*world).rotAtRestart},
		{"hand-over", 3, (*world).handOver},
		{"rerating unheard", 1, (*world).rerateUnheard},
		{"question", 8, func(*world, *node) {}}, // see trouble
	}
}

// trouble has faults happen for a while, one every so often.
func (w *world) trouble(d, every time.Duration) {
	w.event("trouble for %v, every %v", d, every)
	all, sum := faults(), 0
	for _, f := range all {
		sum += f.weight
	}
	for end := time.Now().Add(d); time.Now().Before(end) && !w.isBroken(); {
		w.wait(time.Duration(w.r.ExpFloat64() * float64(every)))
		x := w.r.IntN(sum)
		for _, f := range all {
			if x -= f.weight; x < 0 {
				w.stats.faults[f.name]++
				n := w.nodes[w.r.IntN(len(w.nodes))]
				w.event("%s (%s)", f.name, n.name)
				f.f(w, n)
				w.ask(w.any())
				break
			}
		}
	}
}

// any is any of the collectors.
func (w *world) any() *collector {
	if len(w.at) == 1 {
		return w.at[0]
	}
	return w.at[w.r.IntN(len(w.at))]
}

func (w *world) cut(n *node) { n.link.cut() }

func (w *world) forsake(n *node) { n.link.forsake() }

// move has a node go to another collector, which the first may not know of.
func (w *world) move(n *node) {
	n.link.move(1 + w.r.IntN(2))
	if w.r.IntN(2) == 0 {
		n.link.cut()
	} else {
		n.link.forsake()
	}
}

// flipAtCrash damages what was written last, and has the machine come back at
// once: what the collectors have seen live may not be what is sealed then.
func (w *world) flipAtCrash(n *node) {
	life := n.take(poweredOff)
	if life == nil {
		return
	}
	life.disk.kill()
	n.damage(rotNewest)
	n.log.off()
	n.on = false
	heal(n.fs)
	n.fs = n.fs.Crash(n.r)
	n.gone(life)
	n.powerOn()
	n.start()
}

func (w *world) partition(n *node) {
	n.link.refuse(true)
	n.link.cut()
	w.later(w.upTo(3*time.Minute), func() { n.link.refuse(false) })
}

func (w *world) silence(n *node) {
	n.link.freeze(true)
	w.later(w.upTo(90*time.Second), func() { n.link.freeze(false) })
}

func (w *world) repeat(n *node) { n.link.ghost(w.upTo(10 * time.Second)) }

func (w *world) killAgent(n *node) {
	n.kill()
	w.later(w.sometime(), n.start)
}

// sometime is mostly soon.
func (w *world) sometime() time.Duration {
	switch w.r.IntN(4) {
	case 0:
		return 0
	case 1:
		return w.upTo(5 * time.Minute)
	}
	return w.upTo(30 * time.Second)
}

func (w *world) powerCut(n *node) {
	n.powerOff()
	on := w.sometime()
	w.later(on, n.powerOn)
	w.later(on+w.upTo(20*time.Second), n.start)
}

func (w *world) restartAgent(n *node) {
	n.leave()
	w.later(w.sometime(), n.start)
}

func (w *world) killCollector(*node) {
	c := w.any()
	c.crash()
	w.later(w.sometime(), c.start)
}

func (w *world) rollCollector(*node) {
	c := w.any()
	c.roll()
	w.later(w.sometime(), c.start)
}

func (w *world) failStore(*node) {
	c := w.any()
	delay := time.Duration(0)
	if w.r.IntN(2) == 0 {
		delay = w.upTo(8 * time.Second)
	}
	c.storeTrouble(delay, w.r.Float64()*0.6, w.r.Float64()*0.4)
	w.later(w.upTo(2*time.Minute), func() { c.storeTrouble(0, 0, 0) })
}

func (w *world) failDisk(n *node) {
	if n.log.failing() {
		return
	}
	n.log.fails()
	fail(n.fs, w.r.IntN(diskWays), w.r.Float64(), w.r)
	w.later(w.upTo(time.Minute), n.healDisk)
}

// fillDisk leaves a disk little space, for long enough that it is used up.
func (w *world) fillDisk(n *node) {
	if n.log.failing() {
		return
	}
	n.log.fails()
	fail(n.fs, diskFull, 0, w.r)
	w.later(time.Minute+w.upTo(4*time.Minute), n.healDisk)
}

func (n *node) healDisk() {
	heal(n.fs)
	n.log.heal()
}

func (w *world) flipBit(n *node) { n.damage(rot) }

// most is how far a node's clock may be off: the collector refuses what lies an
// hour ahead of its own.
const most = 55 * time.Minute

func (w *world) stepClock(n *node) {
	n.machine.stepTo(w.upTo(2*most) - most)
}

func (w *world) hangSource(n *node) {
	n.hang(true)
	w.later(w.upTo(40*time.Second), func() { n.hang(false) })
}

func (w *world) join(*node) {
	if len(w.nodes) >= 5 {
		return
	}
	w.addNode(len(w.nodes))
	n := w.nodes[len(w.nodes)-1]
	n.powerOn()
	n.start()
}

// rerate prices a stretch of the past anew, or undoes that.
func (w *world) rerate(*node) { w.rerateAt(w.any()) }

func (w *world) rerateAt(c *collector) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	now := attribution.Second(time.Now().Unix())
	back := attribution.Second(w.r.Int64N(1200))
	e := rerating.Entry{From: now - back, To: now - back + 1 + attribution.Second(w.r.Int64N(600)), Currency: "USD", Reason: fmt.Sprint(w.r.Uint32())}
	card := cardOf(money.Amount(1+w.r.Int64N(9_000_000_000)), money.Amount(1+w.r.Int64N(2_000_000_000)))
	e.Card = &card
	life := c.alive()
	if life == nil {
		return
	}
	j, err := journal(life.store)
	if n := j.Next(); err == nil && n > 1 && w.r.IntN(3) == 0 {
		e = rerating.Entry{Undoes: 1 + w.r.Uint32N(n-1), Currency: "USD"}
	}
	if err = c.rerate(ctx, e); err != nil && !expected(err) {
		w.broken("a rerating fails: %v", err)
	}
}

// quiet lets a long time pass in which little is up.
func (w *world) quiet(d time.Duration, scale int64) {
	way := w.r.IntN(8)
	w.event("quiet for %v, way %d", d, way)
	w.wait(w.upTo(90 * time.Second))
	end := time.Now().Add(d)
	switch way {
	case 0, 5: // everything works
		w.wait(min(w.upTo(time.Duration(scale*int64(time.Hour))), d))
	case 1: // no collector
		for _, c := range w.at {
			c.crash()
		}
		// Not until spools are nearly full, which lets go of journals.
		w.wait(min(w.upTo(time.Duration(scale*int64(10*time.Minute))), 20*time.Minute, d))
	case 2: // no agents, on machines that are up
		for _, n := range w.nodes {
			n.kill()
		}
		w.wait(min(w.upTo(time.Duration(scale*int64(20*time.Minute))), d))
	case 4: // everything works, but for a disk
		d := min(40*time.Minute+w.upTo(20*time.Minute), d)
		w.siege(d)
		w.wait(d + w.upTo(time.Minute))
	case 3: // as long as it takes, where that is not billed
		w.asleep = true
		for _, n := range w.nodes {
			if n.kill(); n.maxGap > time.Hour {
				n.powerOff()
			}
		}
		w.rollAll()
		w.rest(end)
	}
	w.asleep = true
	for _, n := range w.nodes {
		if w.r.IntN(2) == 0 {
			n.leave()
		}
		n.powerOff()
	}
	w.rollAll()
	w.rest(end)
	w.event("awake")
	w.asleep = false
	for _, n := range w.nodes {
		n.powerOn()
		n.start()
	}
	for _, c := range w.at {
		if w.r.IntN(3) > 0 {
			c.start()
		} else {
			w.later(w.upTo(time.Minute), c.start)
		}
	}
	w.wait(time.Minute)
}

func (w *world) rollAll() {
	for _, c := range w.at {
		c.roll()
	}
}

// rest waits for a time.
func (w *world) rest(until time.Time) {
	if d := time.Until(until); d > 0 {
		w.wait(d)
	}
}
