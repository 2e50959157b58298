package ingest

import (
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Open is a chunk that is in memory, or a live second as a chunk of its own, as
// it travels to another collector. It is shared and must not be changed.
type Open struct {
	Cluster, Node string
	Chunk         *pb.Chunk
	RosterID      attribution.Fingerprint
	Roster        *pb.Roster // of that id, packed
}

// Open calls f with everything that is accepted and may not be stored yet, until
// f returns an error. What is with the writer is among it, and what was
// committed a moment ago.
func (s *Server) Open(f func(*Open) error) error {
	for _, n := range s.allNodes() {
		chunks, lives := n.inHand()
		for _, c := range chunks {
			x := &c.stored
			m := &pb.Chunk{
				Boot: x.Key.Boot[:], Sequence: int64(x.Key.Sequence), Seconds: uint32(x.Seconds), RosterId: x.RosterID[:],
				Body: x.Body, Digest: x.Digest, Previous: x.Previous,
			}
			if err := f(&Open{n.id.cluster, n.id.node, m, c.roster.id, c.roster.packed}); err != nil {
				return err
			}
		}
		for _, l := range lives {
			m := l.encoded.Load()
			if m == nil {
				var err error
				if m, err = wire.EncodeChunk(l.chunk, l.roster.id); err != nil {
					continue // its chunk will be refused, too
				}
				l.encoded.Store(m)
			}
			if err := f(&Open{n.id.cluster, n.id.node, m, l.roster.id, l.roster.packed}); err != nil {
				return err
			}
		}
	}
	return nil
}

// inHand is what the node has in memory.
func (n *node) inHand() (chunks []*chunk, lives []*live) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inMemory(func(g *group) { chunks = append(chunks, g.chunks...) })
	return chunks, append(lives, n.seenLive()...)
}
