package duckdb

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// transferTable holds what reratings in force have moved, in double entry: from
// source to target. length is the resolution of the bucket in seconds, the
// finest of which rows are kept.
const transferTable = `CREATE TABLE transfer (
		entry UINTEGER NOT NULL, length INTEGER NOT NULL, bucket INTEGER NOT NULL, source INTEGER NOT NULL, target INTEGER NOT NULL,
		time BIGINT NOT NULL, gap BIGINT NOT NULL, memory BIGINT NOT NULL, energy BIGINT NOT NULL,
		cost_before BIGINT NOT NULL, cost_after BIGINT NOT NULL)`

// transferSums adds up transfers of one bucket, entry, source and target.
const transferSums = `sum(time)::BIGINT AS time, sum(gap)::BIGINT AS gap, sum(memory)::BIGINT AS memory, sum(energy)::BIGINT AS energy,
	sum(cost_before)::BIGINT AS cost_before, sum(cost_after)::BIGINT AS cost_after`

// writeTransfers keeps transfers and makes the series that they give to. Their
// facts are those of the commit's batch.
func (c *commit) writeTransfers(ctx context.Context, ts []rerating.Transfer) error {
	n := len(ts)
	if n == 0 {
		return nil
	}
	if err := admit.Transfers(ts); err != nil {
		return err
	}
	owners, err := c.owners(ctx, n, func(i int) rollup.Fingerprint { return ts[i].Series.Owner })
	if err != nil {
		return err
	}
	devices, err := c.devices(ctx, n, func(i int) rollup.Fingerprint { return ts[i].Series.Device })
	if err != nil {
		return err
	}
	methods, err := c.methods(ctx, n, func(i int) string { return ts[i].Series.Method })
	if err != nil {
		return err
	}
	var sides [2][]int32
	for k := range sides {
		sides[k], err = c.series(ctx, n, func(i int) seriesKey {
			revision := ts[i].Series.Revision
			if k == 1 {
				revision = ts[i].To
			}
			return seriesKey{devices[i], owners[i], methods[i], revision, ts[i].Series.Basis}
		})
		if err != nil {
			return err
		}
	}
	return c.append("", "transfer", func(row appendRow) error {
		for i := range ts {
			t := &ts[i]
			if err := row(t.Entry, int32(t.Resolution), int32(int64(t.Bucket)/int64(t.Resolution)), sides[0][i], sides[1][i],
				t.Sums.Time, gapOf(t.Series.Basis, &t.Sums), t.Sums.Memory, t.Sums.Energy, t.Sums.Cost, t.CostAfter); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkJournal refuses a batch that is rated by another journal than this
// ledger's: an error of Rerate may hide that it was done.
func (s *Store) checkJournal(ctx context.Context, b *store.Batch) error {
	journal, err := journalOf(ctx, &s.journals, s.db.writer)
	if err != nil {
		return err
	}
	return admit.Rated(b, journal.Next()-1)
}

// writeMoved keeps what reratings in force made of the batch's chunks.
func (c *commit) writeMoved(ctx context.Context) error {
	return c.writeTransfers(ctx, c.batch.Transfers)
}

// Rerate implements [store.Store].
func (s *Store) Rerate(ctx context.Context, r *store.Rerating) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ready(ctx); err != nil {
		return err
	}
	body, err := s.checkRerating(ctx, r)
	if err != nil {
		return err
	}
	id := r.Entry.ID
	moved, back := id, false
	if r.Entry.Undoes != 0 {
		moved, back = r.Entry.Undoes, true
	}
	return s.write(ctx, "rerate", func() error {
		c := &commit{db: s.db, dims: s.dims, state: s.state, mapping: s.mapping, batch: &store.Batch{Owners: r.Owners, Devices: r.Devices}}
		if err := c.writeTransfers(ctx, r.Transfers); err != nil {
			return err
		}
		if err := c.move(ctx, moved, back); err != nil {
			return err
		}
		if back {
			if err := c.exec(ctx, fmt.Sprintf(`DELETE FROM transfer WHERE entry = %d`, moved)); err != nil {
				return err
			}
		}
		_, err := s.db.writer.ExecContext(ctx, `INSERT INTO document VALUES (?, ?, ?, ?)`, string(store.Reratings), id, r.Entry.Applied.UnixNano(), body)
		return err
	}, func(state) bool {
		var n int
		err := s.db.writer.QueryRowContext(context.WithoutCancel(ctx), `SELECT count(*) FROM document WHERE kind = ? AND revision = ?`, string(store.Reratings), id).Scan(&n)
		return err == nil && n == 1
	})
}

// checkRerating refuses an entry that is not the next of the journal, and what
// is not the entry's; it returns the entry's document.
func (s *Store) checkRerating(ctx context.Context, r *store.Rerating) ([]byte, error) {
	journal, err := journalOf(ctx, &s.journals, s.db.writer)
	if err != nil {
		return nil, err
	}
	return admit.Rerating(r, journal)
}

// move makes the transfers of an entry, or takes them back, in every table that
// keeps rows of their time: seconds may be kept for longer than minutes.
func (c *commit) move(ctx context.Context, entry uint32, back bool) error {
	from, to, before, after := "source", "target", "cost_before", "cost_after"
	if back {
		from, to, before, after = to, from, after, before
	}
	for _, res := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		// Finer transfers are in coarser rows too, as far as they are rolled.
		const rolled = `SELECT bucket * (length::BIGINT) // %[1]d AS bucket, * EXCLUDE (bucket) FROM transfer
			WHERE entry = %[2]d AND bucket * (length::BIGINT) >= %[4]d
				AND (length = %[1]d OR length < %[1]d AND bucket * (length::BIGINT) < %[3]d)`
		part := fmt.Sprintf(rolled, res, entry, c.state.Rolled(res), c.state.Kept(res))
		if err := c.exec(ctx,
			`CREATE OR REPLACE TEMP TABLE delta AS
				SELECT bucket::INTEGER AS bucket, series, `+factSums+`, bool_or(taken) AS taken FROM (
					SELECT bucket, `+from+` AS series, -time AS time, -gap AS gap, -memory AS memory, -energy AS energy, -`+before+` AS cost, true AS taken FROM (`+part+`)
					UNION ALL
					SELECT bucket, `+to+`, time, gap, memory, energy, `+after+`, false FROM (`+part+`))
				GROUP BY bucket, series`); err != nil {
			return err
		}
		if err := c.apply(ctx, plan.Name(res)); err != nil {
			return err
		}
	}
	return c.exec(ctx, `DROP TABLE temp.delta`)
}

// apply adds what is in the table delta to the rows of a table. A row that was
// taken from and has nothing left is gone.
func (c *commit) apply(ctx context.Context, table string) error {
	if err := c.exec(ctx,
		`CREATE OR REPLACE TEMP TABLE moved AS
			SELECT bucket, series, `+factSums+`, bool_or(taken) AS taken FROM (
				SELECT f.*, false AS taken FROM `+table+` f SEMI JOIN temp.delta d ON d.bucket = f.bucket AND d.series = f.series
				UNION ALL
				SELECT * FROM temp.delta)
			GROUP BY bucket, series`); err != nil {
		return err
	}
	var short int64
	err := c.db.writer.QueryRowContext(ctx, `SELECT count(*) FROM temp.moved WHERE time < 0 OR memory < 0 OR energy < 0 OR cost < 0`).Scan(&short)
	switch {
	case err != nil:
		return err
	case short > 0:
		return fmt.Errorf("%w: %d rows of %ss do not have what a rerating takes from them", store.ErrBadBatch, short, table)
	}
	return c.exec(ctx,
		`DELETE FROM `+table+` USING temp.delta d WHERE `+table+`.bucket = d.bucket AND `+table+`.series = d.series`,
		`INSERT INTO `+table+` SELECT bucket, series, time, gap, memory, energy, cost FROM temp.moved
			WHERE NOT (taken AND time = 0 AND gap = 0 AND memory = 0 AND energy = 0 AND cost = 0) ORDER BY series, bucket`,
		`DROP TABLE temp.moved`)
}

// coarsenTransfers keeps transfers as finely as rows are, and those of dropped
// days no more.
func (s *Store) coarsenTransfers(ctx context.Context, st *state) error {
	var n int64
	if err := s.db.writer.QueryRowContext(ctx, `SELECT count(*) FROM transfer`).Scan(&n); err != nil || n == 0 {
		return err
	}
	for _, x := range []struct {
		res, to rollup.Resolution // to 0: dropped
	}{{rollup.Minute, rollup.Hour}, {rollup.Hour, rollup.Day}, {rollup.Day, 0}} {
		kept := int64(st.Kept(x.res))
		if kept == int64(plan.Never) {
			continue
		}
		old := fmt.Sprintf(`FROM transfer WHERE length = %d AND bucket < %d`, x.res, kept/int64(x.res))
		if x.to != 0 {
			_, err := s.db.writer.ExecContext(ctx, fmt.Sprintf(`INSERT INTO transfer
				SELECT entry, %d, bucket // %d, source, target, %s %s GROUP BY ALL ORDER BY ALL`, x.to, x.to/x.res, transferSums, old))
			if err != nil {
				return err
			}
		}
		if _, err := s.db.writer.ExecContext(ctx, `DELETE `+old); err != nil {
			return err
		}
	}
	return nil
}

// Transfers implements [store.Reader].
func (r *reader) Transfers(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TransferRow) error) error {
	part := fmt.Sprintf(`SELECT entry, bucket * (length::BIGINT) // %[1]d AS bucket, source, target, %[2]s, count(*) AS n FROM transfer
		WHERE length <= %[1]d AND bucket * (length::BIGINT) >= %[3]d AND bucket * (length::BIGINT) < %[4]d GROUP BY ALL`,
		res, transferSums, from, to)
	owners, devices := make(map[int32]*attribution.Owner), make(map[int32]*attribution.Device)
	of := ` IN (SELECT source FROM (` + part + `))`
	var call error
	err := readOwners(ctx, r.conn, `id IN (SELECT owner FROM series WHERE id`+of+`)`, nil, owners)
	if err == nil {
		err = readDevices(ctx, r.conn, `id IN (SELECT device FROM series WHERE id`+of+`)`, nil, devices)
	}
	if err == nil {
		err = each(ctx, r.conn, `SELECT x.entry, x.bucket, s.device, s.owner, s.basis, w.name, s.revision, t.revision,
			x.time, x.gap, x.memory, x.energy, x.cost_before, x.cost_after, x.n,
			s.device = t.device AND s.owner = t.owner AND s.basis = t.basis AND s.method = t.method
			FROM (`+part+`) x JOIN series s ON s.id = x.source JOIN series t ON t.id = x.target JOIN method w ON w.id = s.method
			ORDER BY x.bucket, x.entry`, nil, func(rows *sql.Rows) error {
			var x store.TransferRow
			var device, owner int32
			var alike bool
			if err := rows.Scan(&x.Entry, &x.Bucket, &device, &owner, &x.Basis, &x.Method, &x.Revision, &x.To,
				&x.Sums.Time, &x.Sums.SMActive, &x.Sums.Memory, &x.Sums.Energy, &x.Sums.Cost, &x.CostAfter, &x.Count, &alike); err != nil {
				return err
			}
			if !alike {
				call = fmt.Errorf("%w: rerating %d is on record as having moved what one owner or device has to another", store.ErrCorrupt, x.Entry)
				return call
			}
			x.Bucket *= attribution.Second(res)
			if x.Basis == attribution.Used {
				x.Sums.SMActive = x.Sums.Time - x.Sums.SMActive
			}
			if x.Device, x.Owner = devices[device], owners[owner]; x.Device == nil || x.Owner == nil {
				call = fmt.Errorf("%w: rerating %d moved something of device %d or owner %d, which has no facts", store.ErrCorrupt, x.Entry, device, owner)
				return call
			}
			call = f(&x)
			return call
		})
	}
	return mine(call, "read what reratings moved", err)
}
