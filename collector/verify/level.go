package verify

import (
	"context"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// level is the sums of finer rows by the buckets of a coarser resolution, to
// be compared with its stored rows.
type level struct {
	res rollup.Resolution
	// Buckets in [first, rolled) can be compared: all their parts are kept and
	// were read, and they have been rolled.
	first, rolled attribution.Second
	closed        attribution.Second // buckets before it are done
	rows          map[rowKey]rollup.Sums
	tallies       map[tallyKey]int64
}

// newLevel is for a run that begins at from. Finer rows are kept from kept on.
func newLevel(res rollup.Resolution, from, kept, rolled attribution.Second) level {
	up := func(s attribution.Second) attribution.Second { return res.Start(s + attribution.Second(res) - 1) }
	return level{
		res: res, first: up(max(from, kept)), rolled: rolled, closed: up(from),
		rows: map[rowKey]rollup.Sums{}, tallies: map[tallyKey]int64{},
	}
}

func (l *level) comparable(bucket attribution.Second) bool {
	return bucket >= l.first && bucket+attribution.Second(l.res) <= l.rolled
}

func (l *level) add(k rowKey, s *rollup.Sums) {
	if k.bucket = l.res.Start(k.bucket); l.comparable(k.bucket) {
		addSums(l.rows, k, s)
	}
}

func (l *level) addTally(k tallyKey, v int64) {
	if k.bucket = l.res.Start(k.bucket); l.comparable(k.bucket) {
		l.tallies[k] += v
	}
}

// closeLevel compares the buckets that end by t with the stored rows, and adds
// those to the next level, nil for none.
func (r *run) closeLevel(ctx context.Context, l *level, t attribution.Second, next *level) error {
	end := l.res.Start(t)
	if end <= l.closed {
		return nil
	}
	from := l.closed
	l.closed = end
	err := r.reader.Rows(ctx, l.res, from, end, func(x *store.FactRow) error {
		r.progress.Rows++
		k := r.key(x)
		if x.Bucket >= l.rolled {
			return broken(4, r.rowName(k, l.res), "there is a row, but its time has not been rolled yet, so it would count twice")
		}
		if l.comparable(x.Bucket) {
			if err := strike(r, l.rows, k, &x.Sums, l.res); err != nil {
				return err
			}
		}
		r.rerated.row(k, &x.Sums)
		if next != nil {
			next.add(k, &x.Sums)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.settleRerated(ctx, l.res, from, min(end, l.rolled), nil); err != nil {
		return err
	}
	err = r.reader.TallyRows(ctx, l.res, from, end, func(x *store.TallyFactRow) error {
		r.progress.Rows++
		k := r.tallyKey(x)
		if x.Bucket >= l.rolled {
			return broken(4, r.tallyName(k, l.res), "there is a row, but its time has not been rolled yet, so it would count twice")
		}
		if l.comparable(x.Bucket) {
			if err := strikeTally(r, l.tallies, k, x.Value, l.res); err != nil {
				return err
			}
		}
		if next != nil {
			next.addTally(k, x.Value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.missing(l)
}

// missing finds what a closed level should have and has not.
func (r *run) missing(l *level) error {
	if k, ok := least(l.rows, compareRowKeys); ok {
		return broken(2, r.rowName(k, l.res), "its parts sum to %d ns, but the row is missing", l.rows[k].Time)
	}
	if k, ok := least(l.tallies, compareTallyKeys); ok {
		return broken(2, r.tallyName(k, l.res), "its parts count %d, but the row is missing", l.tallies[k])
	}
	return nil
}
