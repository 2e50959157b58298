package ingest

import (
	"cmp"
	"errors"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// ErrStale says that a view of the store is so old that what was committed
// since is no longer in memory. Take a new view.
var ErrStale = errors.New("the view of the store is too old to be completed: take a new one")

// Since calls f with every accepted chunk that overlaps [from, to) and is not
// in the commits up to the given number, in order of (cluster, node, sequence):
// pending, being committed, or committed since. Seconds that were sealed and
// are in no chunk yet come as chunks of one second. With a store's view of that
// commit, every second of a node is there exactly once; the view must have been
// taken first. f may keep the chunks and must not change them.
//
// It returns ErrStale, before it calls f at all, where the commit is more than
// a few commits ago. It may be called by any number of goroutines.
func (s *Server) Since(commits uint64, from, to attribution.Second, f func(*attribution.Chunk)) error {
	var cs []*attribution.Chunk
	for _, n := range s.allNodes() {
		cs = n.since(cs, commits, from, to)
	}
	// A group leaves memory after its number is noted here, so that one which
	// was missed above is noticed now.
	if s.forgotten.Load() > commits {
		return ErrStale
	}
	slices.SortFunc(cs, func(a, b *attribution.Chunk) int {
		return cmp.Or(cmp.Compare(a.Key.Cluster, b.Key.Cluster), cmp.Compare(a.Key.Node, b.Key.Node), cmp.Compare(a.Key.Sequence, b.Key.Sequence))
	})
	for _, c := range cs {
		f(c)
	}
	return nil
}

func (n *node) since(cs []*attribution.Chunk, commits uint64, from, to attribution.Second) []*attribution.Chunk {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inMemory(func(g *group) {
		if g.batch != 0 && g.batch <= commits {
			return
		}
		for _, c := range g.chunks {
			if c.Key.Sequence < to && c.End() > from {
				cs = append(cs, c.Chunk)
			}
		}
	})
	for _, l := range n.live {
		if l.Key.Sequence < to && l.End() > from {
			cs = append(cs, l.Chunk)
		}
	}
	return cs
}

// Extent is the first second and the first after the last of all that Since may
// yield; 0, 0 where there is nothing.
func (s *Server) Extent() (from, to attribution.Second) {
	grow := func(c *attribution.Chunk) {
		if to == 0 || c.Key.Sequence < from {
			from = c.Key.Sequence
		}
		to = max(to, c.End())
	}
	for _, n := range s.allNodes() {
		n.mu.Lock()
		n.inMemory(func(g *group) {
			for _, c := range g.chunks {
				grow(c.Chunk)
			}
		})
		for _, l := range n.live {
			grow(l.Chunk)
		}
		n.mu.Unlock()
	}
	return from, to
}

// NodeStatus is how a node does.
type NodeStatus struct {
	Cluster, Node  string
	Connected      bool
	StoredThrough  attribution.Second // first second after the newest stored; 0: none
	VisibleThrough attribution.Second // first second after the newest that queries see
	AgentVersion   string             // "" where the agent has not connected since the start
}

// Nodes is the status of every node that has data or is connected, in order of
// (cluster, node).
func (s *Server) Nodes() []NodeStatus {
	nodes := s.allNodes()
	out := make([]NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		n.mu.Lock()
		out = append(out, NodeStatus{
			Cluster: n.id.cluster, Node: n.id.node, Connected: n.stream != nil,
			StoredThrough: n.storedThrough, VisibleThrough: n.visibleThrough(), AgentVersion: n.version,
		})
		n.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b NodeStatus) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Node, b.Node))
	})
	return out
}

// Pending is what is accepted and not stored: chunks, and bytes of memory.
func (s *Server) Pending() (chunks, bytes int64) { return s.budget.used() }
