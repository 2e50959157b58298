package simulation

import (
	"math"
	"slices"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

// model is what is known of a run beside the scripts.
type model struct {
	mu    sync.Mutex
	cards map[uint32]*rating.Card
}

func (m *model) cardApplied(c *rating.Card) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cards == nil {
		m.cards = map[uint32]*rating.Card{}
	}
	m.cards[c.Revision] = c
}

// perHour is the price of a model of device by a card.
func perHour(c *rating.Card, device string) money.Amount {
	for _, p := range c.Prices {
		if p.Model == device {
			return p.PerDeviceHour
		}
	}
	return -1
}

// ending is how an agent's life ended.
type ending int

const (
	running ending = iota
	stopped
	killed
	poweredOff
)

// Margins around what may be lost, in seconds.
const (
	// A second is sealed two seconds after it began, and synced then.
	unsealed = 4
	// An agent may wait ten seconds for a rate card before it seals anything.
	young = 17
	// After a failing disk has healed, journaling goes on with the next chunk.
	weakBefore, weakAfter = 14, 16
)

// nodeLog is what the model knows of a node. Times are seconds of the node's
// timeline.
type nodeLog struct {
	mu    sync.Mutex
	lives []*machineLife
	gone  []stretch            // whose records were damaged
	loose attribution.Second   // from here on what is written may refer to a damaged roster; 0: it does not
	rot   []attribution.Second // when that was
	weak  []stretch            // in which the disk failed or was full
	fault attribution.Second   // when that began; 0: it works
	cards []delivery
	known []delivery // cards of a later time, when the timeline began anew
}

// machineLife is from a boot to a power cut.
type machineLife struct {
	boot   attribution.Second // 0: no agent has told yet
	agents []*begin
}

// begin is an agent's life.
type begin struct {
	log     *nodeLog
	life    *machineLife
	source  *source // nil: it never got so far
	opened0 attribution.Second
	end     attribution.Second
	how     ending
}

// delivery is a rate card that an agent was given.
type delivery struct {
	at       attribution.Second
	revision uint32
}

func (l *nodeLog) booted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives = append(l.lives, &machineLife{})
}

func (l *nodeLog) off() {
	l.heal() // the next life begins with a healthy disk
}

func (l *nodeLog) starts() *begin {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.lives[len(l.lives)-1]
	b := &begin{log: l, life: m}
	m.agents = append(m.agents, b)
	return b
}

func (b *begin) opened(s *source, now, uptime int64) {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	last := b.log.now()
	b.source, b.opened0 = s, attribution.SecondOf(now)
	if b.log.fault > b.opened0 { // the disk fails on, in a timeline that began anew
		b.log.weak = append(b.log.weak, stretch{b.log.fault - weakBefore, last + weakAfter})
		b.log.fault = b.opened0
	}
	for _, d := range b.log.cards {
		if d.at > b.opened0 {
			b.log.known = append(b.log.known, delivery{b.opened0, d.revision})
		}
	}
	if b.life.boot == 0 {
		b.life.boot = attribution.SecondOf(now - uptime)
	}
}

func (l *nodeLog) ends(life *agentLife, how ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := life.begun
	if b.source == nil || b.how != running {
		return
	}
	b.how, b.end = how, attribution.SecondOf(b.source.now())
	if l.loose != 0 { // the next begins a segment of its own
		l.gone, l.loose = append(l.gone, stretch{l.loose, b.end + 1}), 0
	}
}

// now is the node's timeline, as far as an agent tells.
func (l *nodeLog) now() attribution.Second {
	for _, m := range slices.Backward(l.lives) {
		for _, b := range slices.Backward(m.agents) {
			if b.source != nil {
				return attribution.SecondOf(b.source.now())
			}
		}
	}
	return 0
}

// fails notes that the disk fails from now on.
func (l *nodeLog) fails() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == 0 {
		l.fault = max(l.now(), 1)
	}
}

// heal notes that it works again.
func (l *nodeLog) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != 0 {
		l.weak = append(l.weak, stretch{l.fault - weakBefore, l.now() + weakAfter})
		l.fault = 0
	}
}

// failing reports whether it fails now.
func (l *nodeLog) failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault != 0
}

// damaged notes which seconds a flipped bit may have cost, and whether it hit a
// roster that what is written next may refer to.
func (l *nodeLog) damaged(gone []stretch, roster bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone, l.rot = append(l.gone, gone...), append(l.rot, l.now())
	if roster && l.loose == 0 {
		l.loose = l.now() - attribution.ChunkSeconds - unsealed
	}
}

func (l *nodeLog) given(revision uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cards = append(l.cards, delivery{l.now(), revision})
}

// inForce is the oldest card that may have been in force from a time to another:
// of several collectors one may still give the one before.
func (l *nodeLog) inForce(from, to attribution.Second) (revision uint32) {
	for _, d := range l.cards {
		switch {
		case d.at <= from:
			revision = d.revision
		case d.at <= to:
			revision = min(revision, d.revision)
		}
	}
	return revision
}

// newest is the newest card that was given by a time.
func (l *nodeLog) newest(by attribution.Second) (revision uint32) {
	for _, d := range slices.Concat(l.cards, l.known) {
		if d.at <= by {
			revision = max(revision, d.revision)
		}
	}
	return revision
}

// outcome is what may be stored of a second of a node.
type outcome struct {
	must     bool // be there
	windows  bool // have windows, if it is there
	observed bool // may be as the script says
	// May be unobserved, and held as in a second of one of these, ends included.
	unobserved bool
	held       []stretch
	anyone     bool // held by anyone whom the script knows, or nobody
	// By a card from lo to hi; 0: unpriced.
	lo, hi uint32
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
		if i+1 < len(agents) {
			again = agents[i+1].opened0 - attribution.Second(e.n.maxGap.Seconds()) + 3
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
	switch {
	case e.prev == nil || !b.young():
		e.resume = b.end - unsealed
	case b.opened0 < e.resume: // all was lost, and the timeline has begun anew
		e.resume = b.opened0
	}
	e.prev = b
}

// young reports whether an agent died before it kept all that it sealed.
func (b *begin) young() bool { return b.how != stopped && b.end-b.opened0 < young }

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
	oldest := b.opened0 - attribution.Second(e.n.maxGap.Seconds())
	for s := max(e.resume, m.boot-1, oldest-3); s < end; s++ {
		o := e.at(s)
		o.unobserved = true
		o.held = append(slices.Clip(o.held), e.kept...)
		o.anyone = o.anyone || e.torn || !e.sure
		if o.observed { // of the tail of the life before
			continue
		}
		o.windows = e.sure && !e.torn && s > p.end
		// The edges are to the second. Where the timeline of another life of the
		// machine came as far, it may be sealed up to there.
		o.must = e.sure && (p.life == b.life || s > p.end) && s > oldest+3 && s < b.end-unsealed && s > m.boot+2 && (!b.young() || s > again)
		lo := e.l.inForce(min(p.end-unsealed, b.opened0)-2, b.opened0+30)
		if !e.sure {
			lo = 0
		}
		if again := o.hi > 0; !again || lo < o.lo { // else an agent that died young may have sealed it
			o.lo = lo
		}
		o.hi = e.l.newest(b.opened0 + 30)
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
	loose := b.end - unsealed
	if b.young() {
		loose = b.opened0 - young
	}
	for s := added; s < b.end-1; s++ {
		o := e.at(s)
		// A new node begins with the next whole second.
		o.must = s < b.end-unsealed && (e.sure || s > added+1)
		o.windows = true
		o.held = append(slices.Clip(o.held), stretch{s, s})
		o.observed = slices.ContainsFunc(seen, func(x stretch) bool { return x.has(s) })
		o.unobserved = !o.observed || s >= loose
		o.lo, o.hi = e.l.inForce(s+1, s+4), e.l.newest(s+4)
		if s >= loose {
			o.must = o.must && s > again
			o.held = append(slices.Clip(o.held), stretch{max(loose, added) - 1, b.end})
			o.held = append(o.held, e.kept...)
			o.lo = e.l.inForce(min(s, b.end-unsealed-2), b.end+young)
			o.hi = e.l.newest(math.MaxInt64)
		}
	}
}

// loosen allows for what disks do to what is on them.
func (e *expectation) loosen(s attribution.Second, o *outcome) {
	for i, w := range e.l.weak {
		if w.has(s) {
			o.unobserved = true
			o.held = append(slices.Clip(o.held), e.full[i]...)
			o.hi = e.l.newest(math.MaxInt64)
			if e.diedIn(w) || s < w.to-weakAfter-attribution.Second(e.n.maxGap.Seconds())+3 {
				o.must, o.windows = false, false
			}
		}
		if s >= w.from {
			o.lo = 0 // a card could not be kept
		}
	}
	for _, g := range e.l.gone {
		if g.has(s) {
			o.must, o.windows, o.unobserved, o.anyone, o.lo = false, false, true, true, 0
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
