package ingest

import (
	"slices"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// nodeID names a node.
type nodeID struct{ cluster, node string }

// node is what is known of one node. Everything in it is guarded by mu.
type node struct {
	id       nodeID
	holder   *holder // of what is pending; several nodes of the collector's own share one
	budget   *budget // of what is pending
	lives    *pool   // of all nodes' live seconds
	limits   *Limits
	count    *counters
	decoded  *room // of all nodes' pending chunks that are kept decoded
	nextTurn int64 // of the next group that becomes ready; guarded by the queue

	mu      sync.Mutex
	has     seconds  // stored and accepted
	pending []*chunk // accepted and not stored, by sequence
	open    []*group // that take chunks
	groups  []*group // the others that are in memory: ready, or committed a moment ago
	live    []*live  // by second; none that a chunk holds
	liveLen int64    // bytes of live, part of lives
	tail    tail     // of live
	stream  *stream  // nil: not connected
	boot    attribution.Boot
	version string    // of the agent
	left    time.Time // when the last stream ended
	// storedThrough is the first second after the newest stored one.
	storedThrough attribution.Second
	storedAt      time.Time // when that was last moved
}

// memory is roughly what a decoded chunk takes.
func memory(c *attribution.Chunk) int64 {
	n := 256 + 64*int64(len(c.Windows)) + 24*int64(len(c.Tallies))
	for i := range c.Windows {
		n += 48 * int64(len(c.Windows[i].Slices))
	}
	return n
}

// group is what one node sent of one minute, to be committed together. batch
// is guarded by the node's mutex throughout, the rest while the group is open;
// from then on only the writer changes it, under that mutex.
type group struct {
	node   *node
	minute attribution.Second
	turn   int64  // in the queue, which guards it
	batch  uint64 // number of the commit that holds it; 0: not known yet
	since  time.Time
	chunks []*chunk
	extent span         // of the chunks, gaps included
	fold   *rollup.Fold // nil once it is stored
	// journal is what the sums are rated by, transfers are what it made of them.
	journal   *rerating.Journal
	transfers rerating.Transfers
	bytes     int64
}

// accept puts a fresh chunk into its group and returns the groups that it makes
// ready: those of minutes that it reaches the end of. An error leaves
// everything as it was.
func (n *node) accept(c *chunk, j *rerating.Journal, now time.Time) ([]*group, error) {
	minute := rollup.Minute.Start(c.from())
	g := n.openGroup(minute)
	added := g == nil
	if added {
		g = &group{node: n, minute: minute, since: now, fold: rollup.NewFold(), journal: j}
	}
	if g.journal.Covers(c.from(), c.end()) { // it may go by any fact
		c.inFull()
	}
	before := g.rows()
	if err := g.add(c, c.decoded); err != nil {
		return nil, err
	}
	if added {
		n.open = append(n.open, g)
	}
	spare := rollup.RowMemory * int64(c.mostRows-(g.rows()-before))
	c.bytes -= spare
	n.budget.give(charge{n.holder, 0, spare})
	c.fold(n.decoded, n.count.streams.Load())
	g.hold(c)
	g.bytes += c.bytes
	n.has.add(c.span())
	at, _ := slices.BinarySearchFunc(n.pending, c.from(), func(p *chunk, s attribution.Second) int {
		return int(p.from() - s)
	})
	n.pending = slices.Insert(n.pending, at, c)
	n.dropLive(func(l *live) bool { return l.second >= c.from() && l.second < c.end() })
	return n.makeReady(func(g *group) bool { return g.minute+attribution.Second(rollup.Minute) <= c.end() }), nil
}

// hold adds a chunk that has been folded.
func (g *group) hold(c *chunk) {
	if len(g.chunks) == 0 {
		g.extent = c.span()
	}
	g.extent.from, g.extent.to = min(g.extent.from, c.from()), max(g.extent.to, c.end())
	g.chunks = append(g.chunks, c)
}

func (n *node) openGroup(minute attribution.Second) *group {
	for _, g := range n.open {
		if g.minute == minute {
			return g
		}
	}
	return nil
}

// makeReady makes the open groups for which it is due ready, and returns them.
func (n *node) makeReady(due func(*group) bool) []*group {
	var gs []*group
	n.open = slices.DeleteFunc(n.open, func(g *group) bool {
		if due(g) {
			gs = append(gs, g)
			return true
		}
		return false
	})
	n.groups = append(n.groups, gs...)
	return gs
}

// durable reports whether everything that the node has of [from, to) is stored.
func (n *node) durable(from, to attribution.Second) bool {
	i, _ := slices.BinarySearchFunc(n.pending, from, func(p *chunk, s attribution.Second) int {
		if p.end() <= s {
			return -1
		}
		return 1
	})
	return i == len(n.pending) || n.pending[i].from() >= to
}

// stored notes that groups of the node have been committed. Few questions ask for
// their chunks from now on: those whose view of the store is older.
func (n *node) stored(gs []*group, now time.Time) {
	done := make(map[*chunk]bool)
	for _, g := range gs {
		for _, c := range g.chunks {
			done[c] = true
			c.release(n.decoded)
			if c.end() > n.storedThrough {
				n.storedThrough, n.storedAt = c.end(), now
			}
		}
		g.fold, g.transfers = nil, rerating.Transfers{}
	}
	n.pending = slices.DeleteFunc(n.pending, func(c *chunk) bool { return done[c] })
}

// forget drops groups that every query sees in the store.
func (n *node) forget(gs map[*group]bool) {
	n.groups = slices.DeleteFunc(n.groups, func(g *group) bool { return gs[g] })
}

// inMemory calls f with every group.
func (n *node) inMemory(f func(*group)) {
	for _, g := range n.groups {
		f(g)
	}
	for _, g := range n.open {
		f(g)
	}
}

// visibleThrough is the first second after the newest that queries see.
func (n *node) visibleThrough() attribution.Second {
	end := n.has.end()
	if k := len(n.live); k > 0 {
		end = max(end, n.live[k-1].end())
	}
	return end
}

// idle reports whether nothing would be lost if the node were forgotten.
func (n *node) idle() bool {
	return n.stream == nil && len(n.has.spans) == 0 && len(n.live) == 0 && len(n.open) == 0 && len(n.groups) == 0
}
