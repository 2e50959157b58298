package clickhouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// Roll implements [store.Store]. A collector folds its own rows only, so that
// none waits for another; it never goes beyond what is stored.
func (s *Store) Roll(ctx context.Context, through attribution.Second) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.foldAll(ctx, rollup.Hour, "minute", through); err != nil {
		return err
	}
	return s.foldAll(ctx, rollup.Day, "hour", through)
}

var errDone = errors.New("nothing to do")

// foldAll folds this lane's finer rows into a resolution. Each write folds a
// bucket or a run of empty ones.
func (s *Store) foldAll(ctx context.Context, to rollup.Resolution, from string, through attribution.Second) error {
	for {
		err := s.write(ctx, "roll", func(w *writing) error {
			done, limit := w.HourRolled, min(through, w.state.Last)
			if to == rollup.Day {
				done, limit = w.DayRolled, min(limit, w.HourRolled)
			}
			high := to.Start(limit)
			if w.state.Empty() || done >= high {
				return refused{errDone}
			}
			first, found, err := s.firstBucket(ctx, w, from, done)
			if err != nil {
				return refused{err}
			}
			if found && first < high {
				done = to.Start(first)
				high = done + attribution.Second(to)
				err = w.fold(ctx, to, from, done, high)
			}
			if to == rollup.Hour {
				w.HourRolled = high
			} else {
				w.DayRolled = high
			}
			return err
		})
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// firstBucket is this lane's first bucket at or after a second.
func (s *Store) firstBucket(ctx context.Context, w *writing, name string, after attribution.Second) (first attribution.Second, found bool, err error) {
	for _, prefix := range []string{"", "tally_"} {
		err := s.client.query(ctx, fmt.Sprintf(`SELECT min(bucket), count() FROM %s%s WHERE lane = %s AND bucket >= %d AND %s`,
			prefix, name, quote(w.lane), after, w.state.visible()), func(d *decoder) error {
			x, n := attribution.Second(d.i64()), d.u64()
			if n > 0 && (!found || x < first) {
				first, found = x, true
			}
			return d.err
		})
		if err != nil {
			return 0, false, err
		}
	}
	return first, found, nil
}

// fold folds [low, high), which is one bucket. What is contested stays apart.
func (w *writing) fold(ctx context.Context, to rollup.Resolution, from string, low, high attribution.Second) error {
	for _, t := range []struct{ prefix, names, series, sums string }{
		{"", factNames, seriesNames, `toInt64(sum(toDecimal128(time, 0))), toInt64(sum(toDecimal128(sm, 0))), toInt64(sum(toDecimal128(memory, 0))),
			toInt64(sum(toDecimal128(energy, 0))), toInt64(sum(toDecimal128(cost, 0)))`},
		{"tally_", tallyNames, tallySeriesNames, `toInt64(sum(toDecimal128(value, 0)))`},
	} {
		again, err := w.store.client.write(ctx, fmt.Sprintf(`INSERT INTO %[1]s%[2]s (%[3]s) SELECT %[4]s, toInt64(%[5]d), toInt64(%[6]d), %[7]s, source, toUInt64(%[8]d), toUInt32(%[9]d), %[10]s
			FROM %[1]s%[11]s WHERE lane = %[4]s AND bucket >= %[5]d AND bucket < %[12]d AND %[13]s GROUP BY %[7]s, source`,
			t.prefix, plan.Name(to), t.names, quote(w.lane), low, coarser(to).Start(low), t.series, w.session, w.seq, t.sums, from, high, w.state.visible()), nil)
		if err == nil && again {
			w.low = low
			err = w.once(ctx, t.prefix+plan.Name(to), t.names)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Retain implements [store.Store].
func (s *Store) Retain(ctx context.Context, r store.Retention, now attribution.Second) error {
	if err := admit.Retention(r); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	var before *state
	err := s.write(ctx, "retain", func(w *writing) error {
		before = w.state
		asked := w.state.Watermarks
		asked.Retain(r, now)
		if asked == w.state.Watermarks {
			return refused{errDone}
		}
		w.SecondKept, w.MinuteKept, w.HourKept, w.DayKept = asked.SecondKept, asked.MinuteKept, asked.HourKept, asked.DayKept
		return nil
	})
	if errors.Is(err, errDone) {
		err = nil
	}
	if err == nil {
		err = s.compact(ctx)
	}
	if err == nil {
		err = unavailable("drop what is no longer kept", s.drop(ctx, before))
	}
	return err
}
