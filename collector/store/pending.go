package store

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Pending is a chunk that a collector has accepted, or a live second as a chunk of
// its own, and that may not be stored yet. It waits as it came: a large fleet's
// pending chunks, all of them decoded, are more than a collector's memory. So who
// reads them decodes one after another. Any goroutine may ask; it never changes.
type Pending interface {
	Key() *attribution.ChunkKey
	Seconds() int
	// Roster is what it refers to: the same for several chunks that share it, as
	// long as anything has it.
	Roster() *attribution.Roster
	// Chunk is all of it, good until the arena's next reset.
	Chunk(mem *wire.Arena) *attribution.Chunk
}

// Decoded is a pending chunk of which there is nothing to decode.
func Decoded(c *attribution.Chunk) Pending { return decoded{c} }

type decoded struct{ chunk *attribution.Chunk }

func (d decoded) Key() *attribution.ChunkKey           { return &d.chunk.Key }
func (d decoded) Seconds() int                         { return d.chunk.Seconds }
func (d decoded) Roster() *attribution.Roster          { return d.chunk.Roster }
func (d decoded) Chunk(*wire.Arena) *attribution.Chunk { return d.chunk }
