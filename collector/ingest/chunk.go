package ingest

import (
	"sync/atomic"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// chunk is an accepted chunk, as it will be stored: some 2 KiB of a node of 8
// devices. Decoded it is ten times as large, so that only what there is room for
// is kept so, for questions; the others are decoded again when one asks.
type chunk struct {
	stored   store.Chunk
	roster   *roster
	bytes    int64 // of memory, roughly, with its rows in the group's fold; taken from the budget
	mostRows int   // that it may add to the fold

	// decoded is guarded by its node's mutex. It is there until the chunk is
	// folded, and then until it is stored where there is room.
	decoded *attribution.Chunk
	lent    bool  // decoded is memory of somebody's work, and its roster may be an outline
	kept    int64 // bytes of decoded, part of the room
}

// chunkMemory is about what a chunk takes besides its body.
const chunkMemory = 512

// newChunk keeps the message's body and digest, which nobody else has. The chunk's
// content is its own.
// firstOfRoster counts the roster's memory with the chunk's.
func newChunk(c *attribution.Chunk, m *pb.Chunk, r *roster, firstOfRoster bool) *chunk {
	x := &chunk{
		roster: r, mostRows: mostRows(c), decoded: c,
		stored: store.Chunk{Key: c.Key, Seconds: c.Seconds, RosterID: r.id, Body: m.GetBody(), Digest: m.GetDigest(), Previous: m.GetPrevious()},
	}
	x.bytes = chunkMemory + int64(len(m.GetBody())) + rollup.RowMemory*int64(x.mostRows)
	if firstOfRoster {
		x.bytes += rosterMemory * int64(r.size)
	}
	return x
}

// mostRows bounds the rows that a chunk becomes: those of a window are mostly
// those of the one before.
func mostRows(c *attribution.Chunk) int {
	n := len(c.Tallies)
	for i := range c.Windows {
		if i == 0 || !sameSeries(&c.Windows[i-1], &c.Windows[i]) {
			n += len(c.Windows[i].Slices)
		}
	}
	return n
}

func sameSeries(a, b *attribution.DeviceWindow) bool {
	if a.Device != b.Device || a.Method != b.Method || a.Price.Revision != b.Price.Revision || len(a.Slices) != len(b.Slices) {
		return false
	}
	for i := range a.Slices {
		if a.Slices[i].Owner != b.Slices[i].Owner || a.Slices[i].Basis != b.Slices[i].Basis {
			return false
		}
	}
	return true
}

func (c *chunk) key() attribution.ChunkKey { return c.stored.Key }

func (c *chunk) from() attribution.Second { return c.stored.Key.Sequence }

func (c *chunk) end() attribution.Second {
	return c.stored.Key.Sequence + attribution.Second(c.stored.Seconds)
}

func (c *chunk) span() span { return span{c.from(), c.end(), c.stored.Key.Boot} }

// decode is the chunk decoded again, in the memory of an arena. Any goroutine may ask.
func (c *chunk) decode(mem *wire.Arena) *attribution.Chunk {
	k := &c.stored.Key
	x, err := wire.DecodeChunkIn(mem, &pb.Chunk{
		Boot: k.Boot[:], Sequence: int64(k.Sequence), Seconds: uint32(c.stored.Seconds),
		RosterId: c.stored.RosterID[:], Body: c.stored.Body, Digest: c.stored.Digest,
	}, k.Cluster, k.Node, c.roster.content())
	if err != nil {
		panic("BUG: a chunk that was decoded is not decoded again: " + err.Error())
	}
	return x
}

// fold notes that the chunk has been folded: it stays decoded where there is
// room for a minute of so many nodes like its own. Of a larger fleet nothing is
// kept decoded: a question would have to decode most of it all the same. The node's
// mutex must be held.
func (c *chunk) fold(r *room, nodes int64) {
	if bytes := memory(c.decoded); bytes*nodes*chunksPerMinute <= r.most && r.take(bytes) {
		c.kept = bytes
		c.own()
		return
	}
	c.decoded = nil
}

const chunksPerMinute = int64(rollup.Minute) / attribution.ChunkSeconds

// own has decoded outlive the work that it was made in.
func (c *chunk) own() {
	if c.lent {
		c.decoded, c.lent = clone(c.decoded), false
		c.decoded.Roster = c.roster.content()
	}
}

// inFull has the decoded chunk have more than an outline of its roster.
func (c *chunk) inFull() {
	if c.lent {
		c.decoded.Roster = c.roster.content()
	}
}

// release lets go of the decoded chunk. The node's mutex must be held.
func (c *chunk) release(r *room) {
	r.give(c.kept)
	c.decoded, c.kept = nil, 0
}

// room bounds what is kept for convenience alone: who comes first has it.
type room struct {
	most int64
	used atomic.Int64
}

func (r *room) take(bytes int64) bool {
	if r.used.Add(bytes) <= r.most {
		return true
	}
	r.used.Add(-bytes)
	return false
}

func (r *room) give(bytes int64) { r.used.Add(-bytes) }
