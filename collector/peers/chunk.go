package peers

import (
	"fmt"
	"sync/atomic"
	"weak"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// chunk is what a peer has open, a [store.Pending]: checked, and kept as it came.
type chunk struct {
	key    attribution.ChunkKey
	open   *pb.OpenChunk
	roster *roster
}

// newChunk checks a chunk, for which it decodes it into an arena.
func newChunk(o *pb.OpenChunk, r *roster, mem *wire.Arena) (*chunk, error) {
	c, err := wire.DecodeChunkIn(mem, o.GetChunk(), o.GetCluster(), o.GetNode(), r.content())
	if err != nil {
		return nil, err
	}
	return &chunk{c.Key, o, r}, nil
}

func (c *chunk) Key() *attribution.ChunkKey { return &c.key }

func (c *chunk) Seconds() int { return int(c.open.GetChunk().GetSeconds()) }

func (c *chunk) Roster() *attribution.Roster { return c.roster.content() }

func (c *chunk) Chunk(mem *wire.Arena) *attribution.Chunk {
	x, err := wire.DecodeChunkIn(mem, c.open.GetChunk(), c.key.Cluster, c.key.Node, c.roster.content())
	if err != nil {
		panic("BUG: a peer's chunk that was decoded is not decoded again: " + err.Error())
	}
	return x
}

func (c *chunk) end() attribution.Second { return c.key.Sequence + attribution.Second(c.Seconds()) }

// roster is what chunks refer to, as it came.
type roster struct {
	message *pb.Roster
	decoded atomic.Pointer[weak.Pointer[attribution.Roster]]
}

func newRoster(id attribution.Fingerprint, m *pb.Roster) (*roster, error) {
	x, err := wire.DecodeRoster(m)
	if err != nil {
		return nil, err
	}
	if x.Fingerprint() != id {
		return nil, fmt.Errorf("roster %v is another than its id says", id)
	}
	r := &roster{message: m}
	r.remember(x)
	return r, nil
}

// content is the roster decoded: the same as long as anything has it.
func (r *roster) content() *attribution.Roster {
	if p := r.decoded.Load(); p != nil {
		if x := p.Value(); x != nil {
			return x
		}
	}
	x, err := wire.DecodeRoster(r.message)
	if err != nil {
		panic("BUG: a peer's roster that was decoded is not decoded again: " + err.Error())
	}
	r.remember(x)
	return x
}

func (r *roster) remember(x *attribution.Roster) {
	p := weak.Make(x)
	r.decoded.Store(&p)
}
