package ingest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/collector/store"
)

// Where several collectors write to one store, a node may have streamed to
// another of them before, and may still have a stream there that nobody has
// noticed the end of. What each knows of a node's seconds is therefore read
// anew with every hello, and what was accepted and is not with the writer yet is
// let go of when the stream ends: nothing of it was acknowledged, and the agent
// sends it to whomever it goes to next. What is with the writer is committed; to
// a store that has it by then it makes no difference (law 4).

// reloadTimeout bounds the wait for what the store has of a node.
const reloadTimeout = 5 * time.Second

// reload is what the store has of a node by now, where others write to it too.
// It must be called before the node's stream takes anything in.
func (s *Server) reload(ctx context.Context, id nodeID) (*seconds, error) {
	if s.shared == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	stored, err := s.nodeRanges(ctx, id)
	if err != nil {
		s.o.Log.Warn("a stream is refused, since the store does not tell what it has of the node", "cluster", id.cluster, "node", id.node, "error", err)
		return nil, status.Error(codes.Unavailable, "the store does not answer: try again, or another collector")
	}
	return stored, nil
}

func (s *Server) nodeRanges(ctx context.Context, id nodeID) (*seconds, error) {
	rs, err := s.shared.NodeRanges(ctx, id.cluster, id.node)
	if err != nil {
		return nil, fmt.Errorf("read what is stored of %q: %w", id.node, err)
	}
	have := &seconds{spans: make([]span, 0, len(rs))}
	for _, r := range rs {
		have.spans = append(have.spans, span{r.From, r.To, r.Boot})
	}
	have.sort()
	return have, nil
}

// learn takes in what the store has of the node. The node's mutex must be held.
func (n *node) learn(stored *seconds) {
	if stored == nil {
		return
	}
	n.has.learn(stored.spans)
	n.storedThrough = max(n.storedThrough, stored.end())
	n.dropLive(func(l *live) bool { return n.has.has(l.second) })
}

// letGo drops what the node has that is neither stored nor with the writer, and
// tells how many chunks that were. Both mutexes, the server's and the node's,
// must be held, and the node has no stream.
func (s *Server) letGo(n *node) {
	if s.shared == nil {
		return
	}
	select {
	case <-s.draining:
		return // it is being committed
	default:
	}
	gone := make(map[*group]bool)
	dropped := make(map[*chunk]bool)
	back := charge{by: n.holder}
	for _, g := range append(slices.Clone(n.open), s.queue.drop(n)...) {
		gone[g] = true
		back.chunks += int64(len(g.chunks))
		back.bytes += g.bytes
		for _, c := range g.chunks {
			dropped[c] = true
			c.release(n.decoded)
			n.has.remove(c.span())
		}
	}
	n.open = nil
	n.pending = slices.DeleteFunc(n.pending, func(c *chunk) bool { return dropped[c] })
	n.forget(gone)
	s.budget.give(back)
	s.count.letGo.Add(back.chunks)
}

// drop takes the groups of a node off the queue.
func (q *queue) drop(n *node) (gs []*group) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.groups = slices.DeleteFunc(q.groups, func(g *group) bool {
		if g.node != n {
			return false
		}
		gs = append(gs, g)
		q.rows -= g.rows()
		return true
	})
	return gs
}

// storedNow is what the store has of nodes.
func (s *Server) storedNow(ctx context.Context, of map[nodeID]*seconds) error {
	const fewNodes = 32 // are asked for one by one
	return s.store.View(ctx, func(r store.Reader) error {
		s.writer.commits = r.Commits()
		if s.shared != nil && len(of) <= fewNodes {
			for id := range of {
				have, err := s.nodeRanges(ctx, id)
				if err != nil {
					return err
				}
				of[id] = have
			}
			return nil
		}
		return r.Ranges(ctx, func(x store.Range) error {
			if have := of[nodeID{x.Cluster, x.Node}]; have != nil {
				have.spans = append(have.spans, span{x.From, x.To, x.Boot})
			}
			return nil
		})
	})
}

// refuted is an error about a store that contradicts itself. One that others
// write to may only not show everything yet.
func (s *Server) refuted(err error) error {
	if s.shared != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

// refreshed learns of the journal what others have added to it.
func (s *Server) refreshed(ctx context.Context) error {
	if s.shared == nil {
		return nil
	}
	if _, err := s.shared.Refresh(ctx); err != nil {
		return fmt.Errorf("learn what other collectors have changed: %w", err)
	}
	return nil
}

// cleanAgain is how long after now rows are rolled and dropped next. Of
// collectors that share a store each does it, at a time of its own: what one has
// done already costs the next nothing.
func (s *Server) cleanAgain() time.Duration {
	d := s.o.Timing.Housekeeping
	if s.shared == nil {
		return d
	}
	return d/2 + time.Duration(s.o.Rand()*float64(d))
}

// learn makes the set hold what is stored, and of what it held the rest.
func (r *seconds) learn(stored []span) {
	out := append(make([]span, 0, len(stored)+4), stored...)
	s := seconds{stored}
	for _, x := range r.spans {
		for i := s.after(x.from); x.from < x.to; i++ {
			if i == len(stored) || stored[i].from >= x.to {
				out = append(out, x)
				break
			}
			if stored[i].from > x.from {
				out = append(out, span{x.from, stored[i].from, x.boot})
			}
			x.from = stored[i].to
		}
	}
	r.spans = out
	r.sort()
	joined := r.spans[:0]
	for _, x := range r.spans {
		if k := len(joined) - 1; k >= 0 && joined[k].to == x.from && joined[k].boot == x.boot {
			joined[k].to = x.to
			continue
		}
		joined = append(joined, x)
	}
	r.spans = joined
}

// remove takes a span out that was added.
func (r *seconds) remove(s span) {
	i := r.after(s.from)
	if i == len(r.spans) || r.spans[i].boot != s.boot || r.spans[i].from > s.from || r.spans[i].to < s.to {
		// The store has turned out to hold other data there: see learn.
		return
	}
	x := r.spans[i]
	var rest []span
	if x.from < s.from {
		rest = append(rest, span{x.from, s.from, x.boot})
	}
	if s.to < x.to {
		rest = append(rest, span{s.to, x.to, x.boot})
	}
	r.spans = slices.Replace(r.spans, i, i+1, rest...)
}
