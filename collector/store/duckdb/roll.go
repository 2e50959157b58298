package duckdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// factSums and tallySums add up the rows of one bucket and series.
const (
	factSums  = `sum(time)::BIGINT AS time, sum(gap)::BIGINT AS gap, sum(memory)::BIGINT AS memory, sum(energy)::BIGINT AS energy, sum(cost)::BIGINT AS cost`
	tallySums = `sum(value)::BIGINT AS value`
)

// Roll implements [store.Store]. It never goes beyond what is stored, so that
// a ledger that catches up is not all late.
func (s *Store) Roll(ctx context.Context, through attribution.Second) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ready(ctx); err != nil {
		return err
	}
	if s.state.Empty() {
		return nil
	}
	through = min(through, s.state.Last)
	if err := s.foldAll(ctx, rollup.Hour, rollup.Minute, rollup.Hour.Start(through)); err != nil {
		return err
	}
	if err := s.foldAll(ctx, rollup.Day, rollup.Hour, rollup.Day.Start(min(through, s.state.HourRolled))); err != nil {
		return err
	}
	return s.foldLate(ctx)
}

// foldAll folds finer rows into those of a resolution, bucket by bucket, each
// in its own transaction.
func (s *Store) foldAll(ctx context.Context, to, from rollup.Resolution, through attribution.Second) error {
	for {
		done := s.state.Rolled(to)
		if done >= through {
			return nil
		}
		var first sql.NullInt64
		err := s.db.writer.QueryRowContext(ctx, fmt.Sprintf(`SELECT least((SELECT min(bucket) FROM %[1]s WHERE bucket >= %[2]d),
			(SELECT min(bucket) FROM tally_%[1]s WHERE bucket >= %[2]d))`, plan.Name(from), int64(done)/int64(from))).Scan(&first)
		if err != nil {
			return unavailable("roll", err)
		}
		next := through
		if at := attribution.Second(first.Int64) * attribution.Second(from); first.Valid && at < through {
			done = to.Start(at)
			next = done + attribution.Second(to)
		}
		if err := s.fold(ctx, to, from, done, next); err != nil {
			return err
		}
		if to == rollup.Hour && first.Valid {
			if err := s.sortMinutes(ctx, done, next); err != nil {
				return err
			}
		}
	}
}

// fold folds [low, high) and moves the watermark to high.
func (s *Store) fold(ctx context.Context, to, from rollup.Resolution, low, high attribution.Second) error {
	began := time.Now()
	err := s.write(ctx, "roll", func() error {
		for _, t := range [...]struct{ prefix, sums string }{{"", factSums}, {"tally_", tallySums}} {
			_, err := s.db.writer.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %[1]s%[2]s
				SELECT bucket // %[4]d, series, %[5]s FROM %[1]s%[3]s WHERE bucket >= %[6]d AND bucket < %[7]d GROUP BY ALL ORDER BY ALL`,
				t.prefix, plan.Name(to), plan.Name(from), int64(to)/int64(from), t.sums, int64(low)/int64(from), int64(high)/int64(from)))
			if err != nil {
				return err
			}
		}
		st := s.state
		if to == rollup.Hour {
			st.HourRolled = high
		} else {
			st.DayRolled = high
		}
		return st.write(ctx, s.db)
	}, func(now state) bool { return now.Rolled(to) >= high })
	s.log.DebugContext(ctx, "rolled", "resolution", plan.Name(to), "through", time.Unix(int64(high), 0).UTC(), "took", time.Since(began))
	return err
}

// sortedAtOnce bounds how many rows one transaction sorts.
const sortedAtOnce = 4 << 20

// sortMinutes puts the minute rows of [low, high) in order of their series:
// what one series has minute after minute compresses a sixth better than what
// all have in one. It changes no sum; an hour that a crash leaves unsorted
// stays so.
func (s *Store) sortMinutes(ctx context.Context, low, high attribution.Second) error {
	var rows int64
	if err := s.db.writer.QueryRowContext(ctx, `SELECT count(*) FROM minute WHERE bucket >= ? AND bucket < ?`,
		int64(low)/60, int64(high)/60).Scan(&rows); err != nil {
		return unavailable("sort", err)
	}
	part := max(attribution.Second(60), (high-low)/attribution.Second(rows/sortedAtOnce+1)/60*60)
	for ; low < high; low += part {
		within := fmt.Sprintf(`bucket >= %d AND bucket < %d`, int64(low)/60, int64(min(low+part, high))/60)
		// Nothing tells whether it was done, and it does not matter.
		if err := s.write(ctx, "sort", func() error { return s.sort(ctx, within) }, func(state) bool { return false }); err != nil {
			return err
		}
	}
	return nil
}

// sort replaces minute rows by themselves in another order.
func (s *Store) sort(ctx context.Context, within string) error {
	var last int64
	if err := s.db.writer.QueryRowContext(ctx, `SELECT coalesce(max(rowid), -1) FROM minute WHERE `+within).Scan(&last); err != nil {
		return err
	}
	added, err := s.db.writer.ExecContext(ctx, `INSERT INTO minute SELECT * FROM minute WHERE `+within+` ORDER BY series, bucket`)
	if err != nil {
		return err
	}
	// The copies come after all that was there.
	dropped, err := s.db.writer.ExecContext(ctx, `DELETE FROM minute WHERE `+within+` AND rowid <= ?`, last)
	if err != nil {
		return err
	}
	n, err := added.RowsAffected()
	m, derr := dropped.RowsAffected()
	if err := errors.Join(err, derr); err != nil {
		return err
	}
	if n != m {
		return fmt.Errorf("sorting would make %d rows of %d", n, m)
	}
	return nil
}

// foldLate adds up the rows of rolled hours and days that got more rows since.
func (s *Store) foldLate(ctx context.Context) error {
	var buckets int
	if err := s.db.writer.QueryRowContext(ctx, `SELECT count(*) FROM late`).Scan(&buckets); err != nil {
		return unavailable("roll", err)
	}
	if buckets == 0 {
		return nil
	}
	return s.write(ctx, "roll", func() error {
		for _, t := range [...]struct {
			table, sums string
			day         bool
		}{{"hour", factSums, false}, {"tally_hour", tallySums, false}, {"day", factSums, true}, {"tally_day", tallySums, true}} {
			for _, q := range []string{
				`CREATE OR REPLACE TEMP TABLE folded AS SELECT bucket, series, ` + t.sums + ` FROM ` + t.table +
					fmt.Sprintf(` WHERE bucket IN (SELECT bucket FROM late WHERE day = %t) GROUP BY ALL HAVING count(*) > 1`, t.day),
				`DELETE FROM ` + t.table + ` USING temp.folded WHERE ` + t.table + `.bucket = folded.bucket AND ` + t.table + `.series = folded.series`,
				`INSERT INTO ` + t.table + ` SELECT * FROM temp.folded ORDER BY bucket, series`,
				`DROP TABLE temp.folded`,
			} {
				if _, err := s.db.writer.ExecContext(ctx, q); err != nil {
					return err
				}
			}
		}
		_, err := s.db.writer.ExecContext(ctx, `DELETE FROM late`)
		return err
	}, func(state) bool { return false }) // nothing tells: it will be tried again
}

// Retain implements [store.Store].
func (s *Store) Retain(ctx context.Context, r store.Retention, now attribution.Second) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := admit.Retention(r); err != nil {
		return err
	}
	st := s.state
	st.Retain(r, now)
	return s.write(ctx, "retain", func() error {
		if err := s.dropChunks(ctx, st.SecondKept); err != nil {
			return err
		}
		if err := s.coarsenTransfers(ctx, &st); err != nil {
			return err
		}
		for _, t := range []struct {
			table string
			kept  attribution.Second
			r     rollup.Resolution
		}{{"minute", st.MinuteKept, rollup.Minute}, {"hour", st.HourKept, rollup.Hour}, {"day", st.DayKept, rollup.Day}} {
			if t.kept == plan.Never {
				continue
			}
			for _, prefix := range []string{"", "tally_"} {
				if _, err := s.db.writer.ExecContext(ctx, fmt.Sprintf(`DELETE FROM %s%s WHERE bucket < %d`, prefix, t.table, int64(t.kept)/int64(t.r))); err != nil {
					return err
				}
			}
		}
		return st.write(ctx, s.db)
	}, func(now state) bool {
		return now.Watermarks == st.Watermarks
	})
}

// dropChunks drops the chunks before a second. That they were stored stays.
func (s *Store) dropChunks(ctx context.Context, kept attribution.Second) error {
	if kept == plan.Never {
		return nil
	}
	dropped, err := s.db.writer.ExecContext(ctx, `DELETE FROM chunk WHERE sequence < ?`, int64(kept))
	if err != nil {
		return err
	}
	if n, err := dropped.RowsAffected(); err != nil || n == 0 {
		return err
	}
	for _, q := range []string{`DELETE FROM roster WHERE id NOT IN (SELECT roster FROM chunk)`, `DELETE FROM covered`} {
		if _, err := s.db.writer.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	s.dims.rosters = ids[rollup.Fingerprint]{next: s.dims.rosters.next}
	return appendTo(s.db, "", "covered", func(row appendRow) error {
		for _, spans := range s.cover {
			for _, x := range spans {
				if err := row(x.life, int64(x.first), int64(x.last), []byte(x.previous), []byte(x.link)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
