package simulation

import (
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
	booted  attribution.Second // the machine, as this agent has it: a clock that was kept nowhere begins anew
	end     attribution.Second
	how     ending
	shown   attribution.Second // up to here it has sent live what it sealed, which is durable before; 0: nothing
	again   attribution.Second // from here on the next may have to seal again what this one had; 0: nothing
}

// delivery is a rate card that an agent was given.
type delivery struct {
	at       attribution.Second
	revision uint32
	by       *begin // who was given it
}

// late reports whether who was given it ended in that moment, and may not have
// kept it for the next.
func (d *delivery) late() bool { return d.by != nil && d.by.how != running && d.by.end <= d.at+1 }

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
	b.source, b.opened0, b.booted = s, attribution.SecondOf(now), attribution.SecondOf(now-uptime)
	if b.log.fault > b.opened0 { // the disk fails on, in a timeline that began anew
		b.log.weak = append(b.log.weak, stretch{b.log.fault - weakBefore, last + weakAfter})
		b.log.fault = b.opened0
	}
	for _, d := range b.log.cards {
		if d.at > b.opened0 {
			b.log.known = append(b.log.known, delivery{b.opened0, d.revision, b})
		}
	}
	if b.life.boot == 0 {
		b.life.boot = b.booted
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
	if b := l.newestBegin(); b != nil {
		return attribution.SecondOf(b.source.now())
	}
	return 0
}

// newestBegin is the newest agent that opened its source, nil where there is none.
func (l *nodeLog) newestBegin() *begin {
	for _, m := range slices.Backward(l.lives) {
		for _, b := range slices.Backward(m.agents) {
			if b.source != nil {
				return b
			}
		}
	}
	return nil
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

// failed notes that the disk has taken nothing for so many seconds.
func (l *nodeLog) failed(seconds attribution.Second) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.weak = append(l.weak, stretch{now - seconds - weakBefore, now + weakAfter})
}

// failing reports whether it fails now.
func (l *nodeLog) failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault != 0
}

// damaged notes what a flipped bit may cost, and whether an agent runs, which may
// write on before anybody notices.
func (l *nodeLog) damaged(d damage, runs bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = append(l.gone, d.gone...)
	if d.again != 0 {
		if b := l.newestBegin(); b.again == 0 || d.again < b.again {
			b.again = d.again
		}
		return // it costs no more: who held what is kept elsewhere
	}
	l.rot = append(l.rot, l.now())
	if d.roster && runs && l.loose == 0 {
		l.loose = l.now() - attribution.ChunkSeconds - unsealed
	}
}

// shown notes that the node's agent sends a second live.
func (l *nodeLog) shown(s attribution.Second) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.newestBegin(); b != nil {
		b.shown = max(b.shown, s)
	}
}

// sealed is the second before which all is sealed for sure that an agent which has
// ended had to seal.
func (b *begin) sealed() attribution.Second { return max(b.end-unsealed, b.shown+1) }

func (l *nodeLog) given(revision uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cards = append(l.cards, delivery{l.now(), revision, l.newestBegin()})
}

// inForce is the oldest card that may have been in force from a time to another:
// of several collectors one may still give the one before, and what came as an
// agent ended is not kept.
func (l *nodeLog) inForce(from, to attribution.Second) (revision uint32) {
	for _, d := range l.cards {
		switch {
		case d.at <= from && !d.late():
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
