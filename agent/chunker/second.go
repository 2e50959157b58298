package chunker

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// sealed makes the newest second, the one behind the mark, a chunk of its own:
// for who listens, for the journal, or, if that is too large, for good.
func (c *Chunker) sealed(s attribution.Second, from mark, tooLarge bool) {
	c.single.reset()
	c.single.add(c.open.windows[from.windows:], c.open.tallies[from.tallies:], numbers{})
	chunk := c.build(s, 1, &c.single)
	if c.o.Sealed != nil {
		c.o.Sealed(chunk)
	}
	if !c.o.Journal && !tooLarge {
		return
	}
	one, err := c.pack(chunk)
	switch {
	case err != nil:
		c.alone(chunk, from)
	case c.o.Journal:
		c.journal(one)
	}
}

// alone closes the seconds before the newest, and the newest by itself. It goes
// into the spool as a chunk at once, so that a restart finds it whole in that
// or not at all, and goes on from the same place.
func (c *Chunker) alone(chunk *attribution.Chunk, from mark) {
	c.open.windows, c.open.tallies = c.open.windows[:from.windows], c.open.tallies[:from.tallies]
	c.seconds--
	c.close()
	c.await(c.fit(chunk))
	if c.o.Journal && c.retry() != nil {
		c.stats.notJournaled.Add(1)
	}
}

// journal keeps a second in the spool, and sends it.
func (c *Chunker) journal(one *closed) {
	err := c.o.Spool.AppendSecond(one.chunk, one.roster.encoding)
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
	weight := weigh(chunk.Windows, chunk.Tallies)
	if c.seconds > 0 && (s.Sequence != c.next || c.weight+weight > maxWeight) {
		c.close()
	}
	if err := c.retry(); err != nil {
		return err
	}
	c.open.add(chunk.Windows, chunk.Tallies, c.parts.recovered(s.RosterID, r))
	c.opened(s.Sequence, weight)
	c.stats.recovered.Add(1)
	return c.closeIfFull()
}
