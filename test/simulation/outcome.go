package simulation

import (
	"math"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// outcome is what may be stored of a second of a node.
type outcome struct {
	must bool // be there
	// In which life of the machine it was sealed, if it was; nil: none. Where it is
	// firm, it is there if any later one of that life is: agents seal in order.
	life     *machineLife
	firm     bool
	windows  bool // have windows, if it is there
	observed bool // may be as the script says
	// May be unobserved, and held as in a second of one of these, ends included.
	unobserved bool
	held       []stretch
	anyone     bool // held by anyone whom the script knows, or nobody
	// By a card from lo to hi; 0: unpriced.
	lo, hi uint32
	priced bool // lo and hi are set
}

// outcomes are those of all seconds of a node that may be there.
func (n *node) outcomes() map[attribution.Second]*outcome {
	l := &n.log
	l.mu.Lock()
	defer l.mu.Unlock()
	e := expectation{n: n, l: l, out: map[attribution.Second]*outcome{}}
	for _, m := range l.lives {
		e.machine(m)
	}
	// What a full disk cost is billed as it was held when that began.
	for _, w := range l.weak {
		held := []stretch{w}
		for s := w.from; s <= w.from+weakBefore+2; s++ {
			if o := e.out[s]; o != nil {
				held = append(held, o.held...)
			}
		}
		e.full = append(e.full, held)
	}
	for s, o := range e.out {
		e.loosen(s, o)
	}
	return e.out
}

// expectation works outcomes out.
type expectation struct {
	n      *node
	l      *nodeLog
	out    map[attribution.Second]*outcome
	prev   *begin             // the newest agent that opened its source
	sure   bool               // what it kept is durable for sure
	kept   []stretch          // of which seconds holdings may be that were kept last
	torn   bool               // what was kept may be older, or gone
	full   [][]stretch        // by weak stretch, how devices may have been held when it began
	resume attribution.Second // the next agent goes on here, or a little later
	booted attribution.Second // when the machine came up, at the latest, as the agents since then have it
	anew   *machineLife       // in which the timeline began anew last; nil: none
}

// machine is one life of the machine.
func (e *expectation) machine(m *machineLife) {
	var agents []*begin // that got so far
	for _, b := range m.agents {
		if b.source != nil {
			agents = append(agents, b)
		}
	}
	for i, b := range agents {
		added, seen := b.source.state()
		// What it had only in memory the next one makes up for, unless the
		// machine was off in between, or it came too late.
		again := attribution.Second(math.MaxInt64)
		if j := slices.IndexFunc(agents[i+1:], e.l.lasting); j >= 0 {
			again = agents[i+1+j].opened0 - attribution.Second(e.n.maxGap.Seconds()) + 3
		}
		e.gap(b, m, added, again)
		if added != 0 {
			e.watch(b, added, seen, again)
		}
		e.keeps(b, added)
	}
}

func (l *nodeLog) weakIn(x stretch) bool {
	return slices.ContainsFunc(l.weak, func(w stretch) bool { return w.from < x.to && x.from < w.to })
}

// keeps works out what an agent has kept of who holds what when it ends. One
// that lived long enough on a healthy disk has kept its last seconds' holdings;
// else it may be those that it began with.
func (e *expectation) keeps(b *begin, added attribution.Second) {
	e.torn = slices.ContainsFunc(e.l.rot, func(at attribution.Second) bool { return at >= b.opened0-1 })
	last := stretch{b.end - unsealed - 1, b.end}
	healthy := added != 0 && b.end-added > young && !e.l.weakIn(stretch{last.from - 1, last.to + 1})
	switch {
	case healthy:
		e.kept, e.sure = []stretch{last}, true
	case added != 0:
		e.kept = append(slices.Clone(e.kept), stretch{added - 1, b.end})
	}
	e.booted = max(e.booted, b.booted)
	switch {
	case e.prev == nil || e.l.lasting(b):
		e.resume, e.booted = b.sealed(), 0
	case b.opened0 < e.resume: // all was lost, and the timeline has begun anew
		e.resume = b.opened0
	}
	if b.again != 0 {
		e.resume = min(e.resume, b.again)
	}
	e.prev = b
}

// young reports whether an agent ended before it kept all that it sealed. One that
// is told to stop while it waits for a rate card has sealed nothing: it leaves what
// it came back to the next.
func (b *begin) young() bool { return b.end-b.opened0 < young }

// lasting reports whether an agent is sure to have kept what it sealed of the time
// before it looked: it lived for long enough, and the disk worked when it ended.
func (l *nodeLog) lasting(b *begin) bool {
	return !b.young() && !l.weakIn(stretch{b.end - 1, b.end + 1})
}

// gap is the time between an agent and the one before it, in which the machine
// was up.
func (e *expectation) gap(b *begin, m *machineLife, added, again attribution.Second) {
	p := e.prev
	if p == nil {
		return
	}
	end := b.end - 1
	if added != 0 {
		end = added
	}
	boot := m.boot
	if b.opened0 < e.resume { // all was lost, and the timeline has begun anew
		e.anew, e.resume = m, b.booted-1
	}
	if e.anew == m || !e.l.lasting(p) { // the machine may have come up by another clock
		boot = min(boot, b.booted)
	}
	up := m.boot         // for sure, as this agent has it
	if !e.l.lasting(p) { // any of those before may have been the last that kept anything
		up = max(up, b.booted, e.booted)
	}
	oldest := b.opened0 - attribution.Second(e.n.maxGap.Seconds())
	for s := e.resume; s <= max(oldest, b.booted)+3; s++ {
		if o := e.out[s]; o != nil { // lost, it is not made up for
			// With it all that is behind it in a life of the machine that is over.
			o.must, o.firm = false, o.firm && b.life != p.life && s < b.booted-3
		}
	}
	for s := max(e.resume, boot-1, oldest-3); s < end; s++ {
		o := e.at(s)
		o.unobserved = true
		o.held = append(slices.Clip(o.held), e.kept...)
		o.anyone = o.anyone || e.torn || !e.sure
		lo, hi := e.l.inForce(min(p.end-unsealed, b.opened0)-2, b.opened0+30), e.l.newest(b.opened0+30)
		if !e.sure {
			lo = 0
		}
		if o.observed { // of the tail of the life before, which may have kept it
			o.lo, o.hi = min(o.lo, lo), max(o.hi, hi)
			if o.life != m { // either's
				o.life, o.firm = nil, false
			}
			continue
		}
		o.life, o.firm = m, e.sure && !e.torn && (p.life == b.life || s > p.end) && s > oldest+3 && s > up+2
		o.windows = e.sure && !e.torn && s > p.end
		// The edges are to the second. Where the timeline of another life of the
		// machine came as far, it may be sealed up to there.
		o.must = e.sure && (p.life == b.life || s > p.end) && s > oldest+3 && s < b.sealed() && s > up+2 && (e.l.lasting(b) || s > again)
		if !o.priced || lo < o.lo { // else an agent that kept little may have sealed it
			o.lo = lo
		}
		o.priced, o.hi = true, hi
	}
}

func (e *expectation) at(s attribution.Second) *outcome {
	o := e.out[s]
	if o == nil {
		o = &outcome{}
		e.out[s] = o
	}
	return o
}

// watch is the time in which an agent looked.
func (e *expectation) watch(b *begin, added attribution.Second, seen []stretch, again attribution.Second) {
	loose := b.sealed()
	if b.young() {
		loose = b.opened0 - young
	}
	if b.again != 0 { // with what was sealed when that began
		loose = min(loose, b.again-2)
	}
	for s := added; s < max(b.end-1, b.shown+1); s++ {
		o := e.at(s)
		was := *o
		// A new node begins with the next whole second.
		o.must = s < b.sealed() && (e.sure || s > added+1)
		o.windows = true
		o.life, o.firm = b.life, e.sure
		o.held = append(slices.Clip(o.held), stretch{s, s})
		o.observed = slices.ContainsFunc(seen, func(x stretch) bool { return x.has(s) })
		o.unobserved = !o.observed || s >= loose
		o.priced, o.lo, o.hi = true, e.l.inForce(s+1, s+4), e.l.newest(s+4)
		if s >= loose {
			o.must = o.must && s > again
			o.held = append(slices.Clip(o.held), stretch{max(loose, added) - 1, b.end})
			o.held = append(o.held, e.kept...)
		}
		if s >= min(loose, b.end-unsealed) { // what came to the next by then did not come to this one
			o.lo = e.l.inForce(min(s, b.end-unsealed-2), b.end+young)
			o.hi = e.l.newest(math.MaxInt64)
		}
		o.or(&was)
	}
}

// or allows also for what an agent before made of the same second, by another clock:
// what it had sent is stored, whatever became of its disk.
func (o *outcome) or(was *outcome) {
	if !was.priced {
		return
	}
	o.observed, o.unobserved = o.observed || was.observed, o.unobserved || was.unobserved
	o.lo, o.hi = min(o.lo, was.lo), max(o.hi, was.hi)
	if was.life != o.life {
		o.life, o.firm = nil, false
	}
}

// loosen allows for what disks do to what is on them.
func (e *expectation) loosen(s attribution.Second, o *outcome) {
	for i, w := range e.l.weak {
		if w.has(s) {
			o.unobserved = true
			o.held = append(slices.Clip(o.held), e.full[i]...)
			o.hi = e.l.newest(math.MaxInt64)
			tooLate := s < w.to-weakAfter-attribution.Second(e.n.maxGap.Seconds())+3
			if e.diedIn(w) || tooLate {
				o.must, o.windows = false, false
			}
			o.firm = o.firm && !tooLate
		}
		if s >= w.from {
			o.lo = 0 // a card could not be kept
		}
	}
	for _, g := range e.l.gone {
		if g.has(s) {
			o.must, o.firm, o.windows, o.unobserved, o.anyone, o.lo = false, false, false, true, true, 0
			o.hi = e.l.newest(math.MaxInt64)
		}
	}
}

// diedIn reports whether an agent ended in a stretch: what it could not write is
// gone, also when it stopped gracefully.
func (e *expectation) diedIn(w stretch) bool {
	for _, m := range e.l.lives {
		for _, b := range m.agents {
			if b.how != running && b.end >= w.from && b.end <= w.to {
				return true
			}
		}
	}
	return false
}
