package collector

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// maxRosters is how many decoded rosters are kept at hand.
const maxRosters = 1024

// decoder decodes stored chunks for the store. Most chunks share their roster
// with others, so those decoded last are kept.
type decoder struct {
	mu       sync.Mutex
	young    map[attribution.Fingerprint]*attribution.Roster
	old      map[attribution.Fingerprint]*attribution.Roster
	capacity int
}

func newDecoder() *decoder {
	return &decoder{young: make(map[attribution.Fingerprint]*attribution.Roster), capacity: maxRosters / 2}
}

// decode may be called by several goroutines at a time.
func (d *decoder) decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	roster, err := d.roster(r)
	if err != nil {
		return nil, fmt.Errorf("stored chunk %d of node %q: %w", c.Key.Sequence, c.Key.Node, err)
	}
	m := &pb.Chunk{
		Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds),
		RosterId: c.RosterID[:], Body: c.Body, Digest: c.Digest,
	}
	out, err := wire.DecodeChunk(m, c.Key.Cluster, c.Key.Node, roster)
	if err != nil {
		return nil, fmt.Errorf("stored chunk %d of node %q: %w", c.Key.Sequence, c.Key.Node, err)
	}
	return out, nil
}

// roster looks a roster up among two generations. When the young one is full it
// becomes the old one, so that what is in use stays at little cost.
func (d *decoder) roster(r *store.Roster) (*attribution.Roster, error) {
	d.mu.Lock()
	x := d.young[r.ID]
	if x == nil {
		if x = d.old[r.ID]; x != nil {
			d.keep(r.ID, x)
		}
	}
	d.mu.Unlock()
	if x != nil {
		return x, nil
	}
	var m pb.Roster
	if err := proto.Unmarshal(r.Body, &m); err != nil {
		return nil, fmt.Errorf("roster %v: %w", r.ID, err)
	}
	x, err := wire.DecodeRoster(&m)
	if err != nil {
		return nil, fmt.Errorf("roster %v: %w", r.ID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep(r.ID, x)
	return x, nil
}

func (d *decoder) keep(id attribution.Fingerprint, x *attribution.Roster) {
	if len(d.young) >= d.capacity {
		d.old, d.young = d.young, make(map[attribution.Fingerprint]*attribution.Roster)
	}
	d.young[id] = x
}
