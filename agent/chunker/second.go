package chunker

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// journal makes the newest second, the one behind the mark, a chunk of its
// own, for the spool and for sending.
func (c *Chunker) journal(s attribution.Second, from mark) {
	c.single.reset()
	c.single.add(c.open.windows[from.windows:], c.open.tallies[from.tallies:], numbers{})
	one, err := c.encode(s, 1, &c.single)
	if err == nil {
		err = c.o.Spool.AppendSecond(one.chunk, one.roster.encoding)
	}
	if err == nil && c.o.Live != nil {
		err = c.o.Spool.Sync()
	}
	if err != nil {
		// The second is in memory and will be in its chunk: only a crash in
		// the next few seconds loses it.
		c.stats.notJournaled.Add(1)
		return
	}
	if c.o.Live != nil {
		one.facts.Roster = one.roster.facts
		c.o.Live(one.facts, one.roster.id)
	}
}

// recoverSecond takes back a second that an earlier life journaled. Its prices
// are those that it was sealed with.
func (c *Chunker) recoverSecond(s *spool.Second) error {
	var m pb.Chunk
	if err := proto.Unmarshal(s.Body, &m); err != nil {
		return err
	}
	var mr pb.Roster
	if err := proto.Unmarshal(s.Roster, &mr); err != nil {
		return err
	}
	r, err := wire.DecodeRoster(&mr)
	if err != nil {
		return err
	}
	chunk, err := wire.DecodeChunk(&m, c.o.Cluster, c.o.Node, r)
	if err != nil {
		return fmt.Errorf("%w (has the node or cluster been renamed?)", err)
	}
	if c.seconds > 0 && s.Sequence != c.next {
		c.close()
	}
	if err := c.retry(); err != nil {
		return err
	}
	if c.seconds == 0 {
		c.first = s.Sequence
	}
	c.open.add(chunk.Windows, chunk.Tallies, c.parts.recovered(s.RosterID, r))
	c.seconds++
	c.next = s.End()
	c.stats.recovered.Add(1)
	return c.closeIfFull()
}
