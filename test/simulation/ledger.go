package simulation

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
	"github.com/gpuledger/gpuledger/test/simulation/memory"
)

type trouble = memory.Trouble

// ledgerStore is a store that a crash ends.
type ledgerStore interface {
	store.Store
	// Kill has nothing of it happen any more.
	Kill()
}

// ledger is what outlasts collectors.
type ledger interface {
	open(ask func(what string) trouble) (ledgerStore, error)
	// decode is what a stored chunk says.
	decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error)
}

// decoder decodes chunks; rosters mostly come again. One goroutine uses it.
type decoder struct {
	rosters map[attribution.Fingerprint]*attribution.Roster
}

func (d *decoder) decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	x := d.rosters[r.ID]
	if x == nil {
		var m pb.Roster
		if err := proto.Unmarshal(r.Body, &m); err != nil {
			return nil, err
		}
		var err error
		if x, err = wire.DecodeRoster(&m); err != nil {
			return nil, err
		}
		if d.rosters == nil {
			d.rosters = map[attribution.Fingerprint]*attribution.Roster{}
		}
		d.rosters[r.ID] = x
	}
	return memory.Decode(c, x)
}

// inMemory is the ledger of most seeds.
type inMemory struct {
	decoder
	*memory.Ledger
	shared bool
}

func (l *inMemory) open(ask func(what string) trouble) (ledgerStore, error) {
	st := l.Open(l.shared, ask)
	if !l.shared {
		return struct { // the only collector's: no [store.Shared]
			ledgerStore
			store.Knower
		}{st, st}, nil
	}
	return st, nil
}

// everything calls f with all that a ledger holds, in order.
func everything(st store.Store, decode func(*store.Chunk, *store.Roster) (*attribution.Chunk, error), f func(*attribution.Chunk)) error {
	return st.View(context.Background(), func(r store.Reader) error {
		from, to, err := r.Extent(context.Background())
		if err != nil {
			return err
		}
		return r.Chunks(context.Background(), from, to, func(c *store.Chunk, x *store.Roster) error {
			out, err := decode(c, x)
			if err == nil {
				f(out)
			}
			return err
		})
	})
}
