package archive

import (
	"bytes"
	"context"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// moveKey is what transfers of one kind add up by.
type moveKey struct {
	entry  uint32
	bucket attribution.Second
	series rollup.Series
	to     uint32
}

// moved is a transfer with its facts.
type moved struct {
	store.Moved
	device *fact[attribution.Device]
	owner  *fact[attribution.Owner]
}

func (t *moved) key() moveKey { return moveKey{t.Entry, t.Bucket, t.Series, t.To} }

// add adds another of the same key, sign times.
func (t *moved) add(o *moved, sign int64) {
	t.Sums.Time += sign * o.Sums.Time
	t.Sums.SMActive += sign * o.Sums.SMActive
	t.Sums.Memory += sign * o.Sums.Memory
	t.Sums.Energy += sign * o.Sums.Energy
	t.Sums.Cost += sign * o.Sums.Cost
	t.CostAfter += sign * o.CostAfter
	t.Count += sign * o.Count
}

// transfers tells the summary what was moved at each resolution, and emits it
// at the resolution that it is kept at. A reader answers with finer transfers
// added up into coarser ones; those of minutes are as they are, of those of
// hours and days the finer ones are taken off again. They are only where finer
// rows are no longer kept, see [store.Rerating].
func (w *walker) transfers(ctx context.Context, r store.Reader) error {
	journal, err := r.Journal(ctx)
	if err != nil || len(journal.Entries()) == 0 {
		return err
	}
	for _, res := range rowsOf {
		if err := w.moved(ctx, r, res, begin, end, func(t *moved) error {
			w.summary.transfer(res, &t.Moved)
			if res != rollup.Minute || w.emit == nil {
				return nil
			}
			return w.transfer(t)
		}); err != nil {
			return err
		}
	}
	if w.emit == nil {
		return nil
	}
	first, last, err := r.Extent(ctx)
	if err != nil {
		return err
	}
	for _, x := range [...]struct{ res, finer rollup.Resolution }{{rollup.Hour, rollup.Minute}, {rollup.Day, rollup.Hour}} {
		for day := dayOf(first); day < min(last, r.Kept(x.finer)); day += attribution.Second(rollup.Day) {
			if !everCovered(journal, day) {
				continue
			}
			if err := w.coarse(ctx, r, x.res, x.finer, day); err != nil {
				return err
			}
		}
	}
	return nil
}

// everCovered reports whether any entry is about a day.
func everCovered(j *rerating.Journal, day attribution.Second) bool {
	return slices.ContainsFunc(j.Entries(), func(e rerating.Entry) bool {
		return e.Card != nil && e.From < day+attribution.Second(rollup.Day) && e.To > day
	})
}

// coarse emits a day's transfers of a resolution itself.
func (w *walker) coarse(ctx context.Context, r store.Reader, res, finer rollup.Resolution, day attribution.Second) error {
	to := day + attribution.Second(rollup.Day)
	fine := make(map[moveKey]*moved)
	err := w.moved(ctx, r, finer, day, to, func(t *moved) error {
		t.Bucket = res.Start(t.Bucket)
		if fine[t.key()] == nil {
			fine[t.key()] = new(moved)
		}
		fine[t.key()].add(t, 1)
		return nil
	})
	if err != nil {
		return err
	}
	return w.moved(ctx, r, res, day, to, func(t *moved) error {
		if f := fine[t.key()]; f != nil {
			if t.add(f, -1); t.Count <= 0 {
				return nil
			}
		}
		return w.transfer(t)
	})
}

// moved calls f with transfers of a resolution, those of one bucket and entry in
// an order of its own: the store promises none.
func (w *walker) moved(ctx context.Context, r store.Reader, res rollup.Resolution, from, to attribution.Second, f func(*moved) error) error {
	var group []moved
	flush := func() error {
		slices.SortFunc(group, compareMoved)
		for i := range group {
			if err := f(&group[i]); err != nil {
				return err
			}
		}
		group = group[:0]
		return nil
	}
	err := r.Transfers(ctx, res, from, to, func(x *store.TransferRow) error {
		device, owner := w.devices.of(x.Device), w.owners.of(x.Owner)
		t := moved{device: device, owner: owner, Moved: store.Moved{Count: x.Count, Transfer: rerating.Transfer{
			Entry: x.Entry, Resolution: res, Bucket: x.Bucket, To: x.To, Sums: x.Sums, CostAfter: x.CostAfter,
			Series: rollup.Series{Device: device.id, Owner: owner.id, Basis: x.Basis, Method: x.Method, Revision: x.Revision},
		}}}
		if n := len(group); n > 0 && (group[n-1].Bucket != t.Bucket || group[n-1].Entry != t.Entry) {
			if err := flush(); err != nil {
				return err
			}
		}
		group = append(group, t)
		return nil
	})
	if err == nil {
		err = flush()
	}
	return err
}

// transfer emits one.
func (w *walker) transfer(t *moved) error {
	w.part.Transfers = append(w.part.Transfers, t.Moved)
	return w.series(len(w.part.Transfers), t.device, t.owner, t.Series.Method)
}

func compareMoved(a, b moved) int {
	key := func(t *moved) []byte { return appendInts(appendSeries(nil, &t.Series), int64(t.To)) }
	return bytes.Compare(key(&a), key(&b))
}
