package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// OwnPrefix is what the names of nodes begin with whose chunks the collector
// makes itself, and gives to [Server.Accept]. No agent may call itself so.
const OwnPrefix = "gateway/"

// ErrRejected is wrapped by errors of Accept which say that the chunk will
// never be stored: it breaks a law or limit, or its seconds are there with
// other content.
var ErrRejected = errors.New("the chunk is rejected")

// Accept takes in a chunk that the collector itself has made. Like one that a
// stream sends it is seen by queries from now on, is a duplicate where it is
// there already, and is made durable with the others of its minute;
// [Server.Stored] tells when. Until then the caller keeps it, and gives
// it to the next collector after a crash.
//
// It waits for memory as long as ctx lasts. An error that does not wrap
// ErrRejected may be cured by trying again. The chunk must not change any more.
func (s *Server) Accept(ctx context.Context, c *attribution.Chunk) error {
	x, err := s.ownChunk(c)
	if err != nil {
		s.count.rejected.Add(1)
		return err
	}
	if why := s.tooEarlyOrLate(c.Key.Sequence, c.End()); why != "" {
		return fmt.Errorf("chunk %d of %q: %s", c.Key.Sequence, c.Key.Node, why)
	}
	select {
	case <-s.draining:
		return errDraining
	case <-s.dead:
		return errStopped
	default:
	}
	if err := s.budget.take(ctx, &s.own, x.bytes, func() {}); err != nil {
		return err
	}
	n, gs, v, err := s.placeOwn(x)
	if err != nil || v != fresh {
		s.budget.give(charge{&s.own, 1, x.bytes})
	}
	switch {
	case err != nil:
		s.count.rejected.Add(1)
		return err
	case v == duplicate:
		s.count.duplicate.Add(1)
		return nil
	case v == conflict:
		s.count.conflict.Add(1)
		return fmt.Errorf("%w: chunk %d of %q: the ledger has other data in these seconds", ErrRejected, c.Key.Sequence, c.Key.Node)
	}
	s.queue.add(gs, s.o.Clock())
	select {
	case <-s.draining: // perhaps after Drain made everything ready
		s.flush(n)
	default:
	}
	s.count.accepted.Add(1)
	s.count.slices.Add(sliceCount(c))
	s.count.unpriced.Add(s.unpriced.note(c, func() *attribution.Roster { return c.Roster }, s.o.Clock()))
	return nil
}

// ownChunk encodes a chunk as it will be stored.
func (s *Server) ownChunk(c *attribution.Chunk) (*chunk, error) {
	if !strings.HasPrefix(c.Key.Node, OwnPrefix) {
		panic(fmt.Sprintf("BUG: ingest: %q is no node of the collector's own", c.Key.Node))
	}
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	r, err := decodeRoster(wire.EncodeRoster(c.Roster))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	own := *c
	own.Roster = r.content() // equal
	m, err := wire.EncodeChunk(&own, r.id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return newChunk(&own, m, r, true), nil
}

// placeOwn puts a chunk among its node's, unless its seconds are there.
func (s *Server) placeOwn(c *chunk) (n *node, gs []*group, v verdict, err error) {
	id := nodeID{c.key().Cluster, c.key().Node}
	s.mu.Lock()
	if n = s.nodes[id]; n == nil {
		n = s.addNode(id)
	}
	n.mu.Lock() // before the node could be forgotten for being empty
	s.mu.Unlock()
	defer n.mu.Unlock()
	if v = n.has.judge(c.span()); v != fresh {
		return n, nil, v, nil
	}
	if len(n.has.spans) >= s.o.Limits.Ranges && n.has.opens(c.span()) {
		return n, nil, v, fmt.Errorf("%w: the seconds of %q have too many gaps: raise limits.ranges", ErrRejected, c.key().Node)
	}
	if gs, err = n.accept(c, s.journal.Load(), s.o.Clock()); err != nil {
		return n, nil, v, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return n, gs, v, nil
}

// Stored reports whether all seconds of a chunk are durable, as they came from
// its boot.
func (s *Server) Stored(c *attribution.Chunk) bool {
	n := s.nodeOf(c.Key.Cluster, c.Key.Node)
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x := span{c.Key.Sequence, c.End(), c.Key.Boot}
	return n.has.judge(x) == duplicate && n.durable(x.from, x.to)
}

// Has reports whether a second of a node is accepted or stored.
func (s *Server) Has(cluster, node string, second attribution.Second) bool {
	n := s.nodeOf(cluster, node)
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.has.has(second)
}

// nodeOf is the node of a name, nil where none is known.
func (s *Server) nodeOf(cluster, node string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[nodeID{cluster, node}]
}

// StoredThrough is the first second after the newest of a node that is durable,
// 0 where there is none.
func (s *Server) StoredThrough(cluster, node string) attribution.Second {
	n := s.nodeOf(cluster, node)
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.storedThrough
}
