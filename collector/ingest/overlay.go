package ingest

import (
	"cmp"
	"errors"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// ErrStale says that a view of the store is so old that what was committed
// since is no longer in memory. Take a new view.
var ErrStale = errors.New("the view of the store is too old to be completed: take a new one")

// Since calls f with every accepted chunk that overlaps [from, to) and is not
// in the commits up to the given number, in order of (cluster, node, sequence):
// pending, being committed, or committed since. Seconds that were sealed and
// are in no chunk yet come as chunks of one second. With a store's view of that
// commit, every second of a node is there exactly once; the view must have been
// taken first. f may keep what it is given, which is as small as it came: it is
// decoded when somebody reads it, unless it is kept decoded ([Limits]).
//
// It returns ErrStale, before it calls f at all, where the commit is more than
// a few commits ago. It may be called by any number of goroutines.
func (s *Server) Since(commits uint64, from, to attribution.Second, f func(store.Pending)) error {
	var cs []*visible
	for _, n := range s.allNodes() {
		cs = n.since(cs, commits, from, to)
	}
	// A group leaves memory after its number is noted here, so that one which
	// was missed above is noticed now.
	if s.forgotten.Load() > commits {
		return ErrStale
	}
	slices.SortFunc(cs, func(a, b *visible) int {
		x, y := a.Key(), b.Key()
		return cmp.Or(cmp.Compare(x.Cluster, y.Cluster), cmp.Compare(x.Node, y.Node), cmp.Compare(x.Sequence, y.Sequence))
	})
	for _, c := range cs {
		f(c)
	}
	return nil
}

// visible is what a question sees, a [store.Pending]: a live second, or a chunk that
// may have to be decoded.
type visible struct {
	decoded *attribution.Chunk // nil: not kept
	chunk   *chunk             // nil: a live second
}

func (x *visible) Key() *attribution.ChunkKey {
	if x.chunk != nil {
		return &x.chunk.stored.Key
	}
	return &x.decoded.Key
}

func (x *visible) Seconds() int {
	if x.chunk != nil {
		return x.chunk.stored.Seconds
	}
	return x.decoded.Seconds
}

func (x *visible) Roster() *attribution.Roster {
	if x.chunk != nil {
		return x.chunk.roster.content()
	}
	return x.decoded.Roster
}

func (x *visible) Chunk(mem *wire.Arena) *attribution.Chunk {
	if x.decoded != nil {
		return x.decoded
	}
	return x.chunk.decode(mem)
}

func (n *node) since(cs []*visible, commits uint64, from, to attribution.Second) []*visible {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inMemory(func(g *group) {
		if g.batch != 0 && g.batch <= commits {
			return
		}
		for _, c := range g.chunks {
			if c.from() < to && c.end() > from {
				cs = append(cs, &visible{c.decoded, c})
			}
		}
	})
	if len(n.live) == 0 || n.live[0].second >= to || n.live[len(n.live)-1].second < from {
		return cs
	}
	for _, l := range n.seenLive() {
		if l.second < to && l.second >= from {
			cs = append(cs, &visible{decoded: l.chunk})
		}
	}
	return cs
}

// Extent is the first second and the first after the last of all that Since may
// yield; 0, 0 where there is nothing.
func (s *Server) Extent() (from, to attribution.Second) {
	grow := func(first, end attribution.Second) {
		if to == 0 || first < from {
			from = first
		}
		to = max(to, end)
	}
	for _, n := range s.allNodes() {
		n.mu.Lock()
		n.inMemory(func(g *group) {
			if len(g.chunks) > 0 {
				grow(g.extent.from, g.extent.to)
			}
		})
		if k := len(n.live); k > 0 {
			grow(n.live[0].second, n.live[k-1].end())
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
	return out
}

// Pending is what is accepted and not stored: chunks, and bytes of memory.
func (s *Server) Pending() (chunks, bytes int64) { return s.budget.used() }
