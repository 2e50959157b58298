package verify

import (
	"context"
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

// settleRerated compares the rerated rows of a resolution in [from, to) with
// what is on record as moved, and forgets them.
func (r *run) settleRerated(ctx context.Context, res rollup.Resolution, from, to attribution.Second) error {
	rows := r.rerated
	r.rerated = nil
	if from >= to {
		return nil
	}
	moved := rerated{}
	err := r.reader.Transfers(ctx, res, from, to, func(x *store.TransferRow) error {
		r.progress.Rows++
		k := r.key(&store.FactRow{Bucket: x.Bucket, Device: x.Device, Owner: x.Owner, Basis: x.Basis, Method: x.Method, Revision: x.To})
		if _, ok := r.journal.Entry(x.Entry); !ok || r.journal.Rater(x.Entry) == nil {
			return broken(6, r.rowName(k, res), "rerating %d is on record as having moved some of it, but is not in force", x.Entry)
		}
		if x.To != 0 && x.To != rerating.Revision(x.Entry) {
			return broken(6, r.rowName(k, res), "rerating %d is on record as having moved some of it to revision %d", x.Entry, x.To)
		}
		given := x.Sums
		given.Cost = x.CostAfter
		moved.row(k, &given)
		k.revision = x.Revision
		moved.row(k, &rollup.Sums{
			Time: -x.Sums.Time, SMActive: -x.Sums.SMActive, Memory: -x.Sums.Memory, Energy: -x.Sums.Energy, Cost: -x.Sums.Cost,
		})
		return nil
	})
	if err != nil {
		return err
	}
	maps.DeleteFunc(moved, func(_ rowKey, s rollup.Sums) bool { return s == rollup.Sums{} })
	for _, k := range slices.SortedFunc(maps.Keys(rows), compareRowKeys) {
		got := rows[k]
		id, _ := rerating.ID(k.revision)
		if want := moved[k]; got != want {
			return broken(6, r.rowName(k, res), "the row has %d ns for %d nano by rerating %d, which moved %d ns for %d nano there",
				got.Time, got.Cost, id, want.Time, want.Cost)
		}
		delete(moved, k)
	}
	if k, ok := least(moved, compareRowKeys); ok {
		id, _ := rerating.ID(k.revision)
		return broken(6, r.rowName(k, res), "rerating %d moved %d ns for %d nano there, but the row is missing", id, moved[k].Time, moved[k].Cost)
	}
	return nil
}
