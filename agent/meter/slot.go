package meter

import (
	"cmp"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// slot is a device as the sealer knows it: what it is and who holds it at the
// first unsealed instant, and what is known of the time after that.
type slot struct {
	id       string
	exists   bool
	restored bool // known from State alone, and so are its holdings
	touched  attribution.Second
	device   *deviceEntry // its description
	holdings []holding    // by owner, in canonical order
	numbered []attribution.Holding
	changes  []change // in the order they take effect
	activity queue
	uses     queue
}

type holding struct {
	owner    *ownerEntry
	replicas int64
}

// change is a change of existence or of a holding.
type change struct {
	kind      kind
	at        int64
	lane, seq uint32
	device    *deviceEntry
	owner     *ownerEntry
	replicas  int64
}

func (c *change) holding() bool { return c.kind.holding() }

// compare is the order of effect: by time; at one instant, by kind. What is
// left is decided by facts, so that the order of arrival does not matter.
func (c *change) compare(x *change) int {
	if n := cmp.Or(cmp.Compare(c.at, x.at), cmp.Compare(c.kind, x.kind)); n != 0 {
		return n
	}
	if c.kind == added && c.device != x.device {
		return attribution.CompareDevices(&c.device.value, &x.device.value)
	}
	return cmp.Compare(c.replicas, x.replicas)
}

// supersedes reports whether of two changes that one lane made at one instant
// the later one undoes the earlier.
func (c *change) supersedes(x *change) bool {
	if c.holding() && x.holding() {
		return c.owner == x.owner
	}
	return c.kind == x.kind || c.kind == removed
}

// insert puts a change in its place. Beyond limit it takes the place of one
// about the same holding or existence, if there is one: then it returns true.
func (s *slot) insert(c change, limit int) (merged bool) {
	i := len(s.changes) - 1
	for ; i >= 0 && s.changes[i].at >= c.at; i-- {
		x := &s.changes[i]
		if x.at != c.at || x.lane != c.lane {
			continue
		}
		later := int32(c.seq-x.seq) > 0
		switch {
		case later && c.supersedes(x):
			s.changes = slices.Delete(s.changes, i, i+1)
		case !later && x.supersedes(&c):
			return false
		}
	}
	if len(s.changes) >= limit {
		for i := len(s.changes) - 1; i >= 0 && !merged; i-- {
			x := &s.changes[i]
			if (x.holding() && c.holding() && x.owner == c.owner) || x.kind == c.kind && !c.holding() {
				if x.at > c.at {
					return true
				}
				s.changes = slices.Delete(s.changes, i, i+1)
				merged = true
			}
		}
	}
	at, _ := slices.BinarySearchFunc(s.changes, &c, func(x change, c *change) int { return x.compare(c) })
	s.changes = slices.Insert(s.changes, at, c)
	return merged
}

// applyUntil lets every change up to and including time t take effect.
func (s *slot) applyUntil(t int64) {
	n := 0
	for ; n < len(s.changes) && s.changes[n].at <= t; n++ {
		s.apply(&s.changes[n])
		s.touched = max(s.touched, attribution.SecondOf(s.changes[n].at))
	}
	if n > 0 {
		s.changes = slices.Delete(s.changes, 0, n)
	}
}

func (s *slot) apply(c *change) {
	switch c.kind {
	case added:
		if s.restored {
			s.holdings, s.numbered = s.holdings[:0], nil
		}
		s.exists, s.restored, s.device = true, false, c.device
	case removed:
		s.exists, s.restored = false, false
		s.holdings, s.numbered = s.holdings[:0], nil
	case held, released:
		s.hold(c.owner, c.replicas) // 0 for a release
	default:
		panic("BUG: meter: a change of no kind")
	}
}

// hold sets how many replicas an owner holds; 0 ends the holding.
func (s *slot) hold(o *ownerEntry, replicas int64) {
	i, found := slices.BinarySearchFunc(s.holdings, o, func(h holding, o *ownerEntry) int { return compareOwners(h.owner, o) })
	switch {
	case found && replicas > 0:
		s.holdings[i].replicas = replicas
	case found:
		s.holdings = slices.Delete(s.holdings, i, i+1)
	case replicas > 0:
		s.holdings = slices.Insert(s.holdings, i, holding{o, replicas})
	}
	s.numbered = nil
}

// held is the holdings by owner number. The result is never changed: segments
// of a window keep it while the holdings go on changing.
func (s *slot) held() []attribution.Holding {
	if s.numbered == nil && len(s.holdings) > 0 {
		s.numbered = make([]attribution.Holding, len(s.holdings))
		for i, h := range s.holdings {
			s.numbered[i] = attribution.Holding{Owner: h.owner.number, Replicas: h.replicas}
		}
	}
	return s.numbered
}

// skip lets time pass up to t without windows: what is left is as if they had
// been cut.
func (s *slot) skip(t int64) {
	s.applyUntil(t - 1)
	s.activity.skip(t)
	s.uses.skip(t)
}

// idle reports whether nothing is known of the device any more.
func (s *slot) idle() bool {
	return !s.exists && len(s.changes) == 0 && len(s.activity.all()) == 0 && len(s.uses.all()) == 0
}
