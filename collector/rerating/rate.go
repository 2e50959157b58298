package rerating

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// Rate is a chunk with the prices and costs that the journal says. It is the
// chunk itself where no entry in force covers any of it; otherwise a copy that
// shares the roster and the tallies, for chunks never change. Prices are those
// of the devices that have a window in the second.
func (j *Journal) Rate(c *attribution.Chunk) *attribution.Chunk {
	if j == nil {
		return c
	}
	return rate(j.rules, c)
}

// Steps is Rate, one entry after the other: f is called for each that covers
// some of the chunk, in order, with the chunk before and after it.
func (j *Journal) Steps(c *attribution.Chunk, f func(id uint32, before, after *attribution.Chunk)) {
	if j == nil {
		return
	}
	before := c
	for i := range j.rules {
		if !j.rules[i].covers(c.Key.Sequence, c.End()) {
			continue
		}
		after := rate(j.rules[:i+1], c)
		f(j.rules[i].id, before, after)
		before = after
	}
}

// Covers reports whether an entry in force covers any of [from, to).
func (j *Journal) Covers(from, to attribution.Second) bool {
	return j != nil && slices.ContainsFunc(j.rules, func(r rule) bool { return r.covers(from, to) })
}

func (r *rule) covers(from, to attribution.Second) bool { return r.from < to && r.to > from }

func rate(rules []rule, c *attribution.Chunk) *attribution.Chunk {
	if !slices.ContainsFunc(rules, func(r rule) bool { return r.covers(c.Key.Sequence, c.End()) }) {
		return c
	}
	out := *c
	out.Windows = slices.Clone(c.Windows)
	var p pricer
	for s := c.Key.Sequence; s < c.End(); s++ {
		for i := len(rules) - 1; i >= 0; i-- {
			if rules[i].covers(s, s+1) {
				p.second(&rules[i], &out, s)
				break
			}
		}
	}
	return &out
}

// pricer prices a chunk's windows second by second. Mostly a second has the
// devices and the rule of the one before.
type pricer struct {
	rule    *rule
	until   attribution.Second // the rule's prices hold before it
	devices []uint32           // of the roster, that prices are of
	prices  []attribution.Price

	at   []int // windows of the second
	now  []uint32
	list []attribution.Device
}

func (p *pricer) second(r *rule, c *attribution.Chunk, s attribution.Second) {
	p.at, p.now = p.at[:0], p.now[:0]
	for i := range c.Windows {
		if c.Windows[i].Second == s {
			p.at, p.now = append(p.at, i), append(p.now, c.Windows[i].Device)
		}
	}
	if p.rule != r || s >= p.until || !slices.Equal(p.now, p.devices) {
		p.rule, p.until = r, r.rater.NextChange(s)
		p.devices = append(p.devices[:0], p.now...)
		p.list = p.list[:0]
		for _, d := range p.now {
			p.list = append(p.list, c.Roster.Devices[d])
		}
		p.prices = slices.Grow(p.prices[:0], len(p.list))[:len(p.list)]
		r.rater.Prices(p.list, s, p.prices)
	}
	for k, i := range p.at {
		w := &c.Windows[i]
		w.Price = p.prices[k]
		w.Slices = slices.Clone(w.Slices)
		attribution.Rate(w)
	}
}
