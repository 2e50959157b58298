package verify

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// rerated is the sums of the rows that are rated by reratings. Whatever such a
// row holds was moved there: nothing else gives its revision anything.
type rerated map[rowKey]rollup.Sums

func (m *rerated) row(k rowKey, s *rollup.Sums) {
	if _, ok := rerating.ID(k.revision); !ok {
		return
	}
	if *m == nil {
		*m = rerated{}
	}
	addSums(*m, k, s)
}

// move is a transfer's place: from a row to another revision of it.
type move struct {
	entry uint32
	row   rowKey
	to    uint32
}

// moved is what a transfer takes, and its cost where it gives it to.
type moved struct {
	rollup.Sums
	costAfter int64
}

func (m moved) plus(o moved) moved {
	m.Time += o.Time
	m.SMActive += o.SMActive
	m.Memory += o.Memory
	m.Energy += o.Energy
	m.Cost += o.Cost
	m.costAfter += o.costAfter
	return m
}

func compareMoves(a, b move) int {
	return cmp.Or(compareRowKeys(a.row, b.row), cmp.Compare(a.entry, b.entry), cmp.Compare(a.to, b.to))
}

// step adds what an entry of the journal makes of a chunk.
func (f *fold) step(id uint32, before, after *attribution.Chunk, ids *rosterIDs) {
	k := move{entry: id, row: rowKey{bucket: rollup.Minute.Start(before.Key.Sequence)}}
	for i := range before.Windows {
		b, a := &before.Windows[i], &after.Windows[i]
		if b.Price.Revision == a.Price.Revision {
			continue
		}
		k.row.device, k.row.method, k.row.revision, k.to = ids.devices[b.Device], ids.methods[b.Method], b.Price.Revision, a.Price.Revision
		for s := range b.Slices {
			x := &b.Slices[s]
			sums := rollup.Sums{Time: x.Time, SMActive: x.SMActive, Memory: x.Memory, Energy: x.Energy, Cost: int64(x.Cost)}
			if sums == (rollup.Sums{}) {
				continue // nothing is no row
			}
			k.row.owner, k.row.basis = ids.owners[x.Owner], x.Basis
			f.moves[k] = f.moves[k].plus(moved{sums, int64(a.Slices[s].Cost)})
		}
	}
}

// settleRerated compares the rerated rows of a resolution in [from, to) with
// what is on record as moved, and forgets them. each, which may be nil, is
// called with every move on record.
func (r *run) settleRerated(ctx context.Context, res rollup.Resolution, from, to attribution.Second, each func(move, moved) error) error {
	rows := r.rerated
	r.rerated = nil
	if from >= to {
		return nil
	}
	parts := rerated{}
	err := r.reader.Transfers(ctx, res, from, to, func(x *store.TransferRow) error {
		r.progress.Rows++
		k := r.key(&store.FactRow{Bucket: x.Bucket, Device: x.Device, Owner: x.Owner, Basis: x.Basis, Method: x.Method, Revision: x.To})
		if _, ok := r.journal.Entry(x.Entry); !ok || r.journal.Rater(x.Entry) == nil {
			return broken(6, r.rowName(k, res), "rerating %d is on record as having moved some of it, but is not in force", x.Entry)
		}
		if x.To != 0 && x.To != rerating.Revision(x.Entry) {
			return broken(6, r.rowName(k, res), "rerating %d is on record as having moved some of it to revision %d", x.Entry, x.To)
		}
		if each != nil {
			from := k
			from.revision = x.Revision
			if err := each(move{x.Entry, from, x.To}, moved{x.Sums, x.CostAfter}); err != nil {
				return err
			}
		}
		given := x.Sums
		given.Cost = x.CostAfter
		parts.row(k, &given)
		k.revision = x.Revision
		parts.row(k, &rollup.Sums{
			Time: -x.Sums.Time, SMActive: -x.Sums.SMActive, Memory: -x.Sums.Memory, Energy: -x.Sums.Energy, Cost: -x.Sums.Cost,
		})
		return nil
	})
	if errors.Is(err, store.ErrCorrupt) {
		return broken(6, "reratings from "+clock(from)+" to "+clock(to), "%v", err)
	}
	if err != nil {
		return err
	}
	maps.DeleteFunc(parts, func(_ rowKey, s rollup.Sums) bool { return s == rollup.Sums{} })
	for _, k := range slices.SortedFunc(maps.Keys(rows), compareRowKeys) {
		got := rows[k]
		id, _ := rerating.ID(k.revision)
		if want := parts[k]; got != want {
			return broken(6, r.rowName(k, res), "the row has %d ns for %d nano by rerating %d, which moved %d ns for %d nano there",
				got.Time, got.Cost, id, want.Time, want.Cost)
		}
		delete(parts, k)
	}
	if k, ok := least(parts, compareRowKeys); ok {
		id, _ := rerating.ID(k.revision)
		return broken(6, r.rowName(k, res), "rerating %d moved %d ns for %d nano there, but the row is missing", id, parts[k].Time, parts[k].Cost)
	}
	return nil
}
