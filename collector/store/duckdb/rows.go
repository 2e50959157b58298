package duckdb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// ordered is what a kind of rows is put in order by within its buckets: the first of
// it, as one text, of what its series are joined with.
type ordered struct{ series, key string }

var (
	slicesOrdered  = ordered{`series s JOIN device d ON d.id = s.device`, `uuid`}
	talliesOrdered = ordered{`tally_series s JOIN owner o ON o.id = s.owner`, `concat_ws(chr(1), kind, cluster, node)`}
)

// part is a condition on the rows of a table.
type part struct {
	where string
	args  []any
}

// parts calls f with the parts of a table's rows within [from, to), in the order in
// which they are read: DuckDB hands out whole results, and does not count them in
// its limit. A part has [plan.RowsAtOnce] rows at most, unless they are of one
// bucket and cannot be told apart by what they are ordered by first.
func (r *reader) parts(ctx context.Context, name string, o *ordered, res rollup.Resolution, from, to attribution.Second, f func(part) error) error {
	var buckets []plan.Bucket
	n := attribution.Second(res)
	err := each(ctx, r.conn, `SELECT bucket, count(*) FROM `+name+` WHERE bucket::BIGINT * ? >= ? AND bucket::BIGINT * ? < ? GROUP BY bucket ORDER BY bucket`,
		[]any{n, from, n, to}, func(rows *sql.Rows) error {
			var b plan.Bucket
			if err := rows.Scan(&b.Start, &b.Rows); err != nil {
				return err
			}
			b.Start *= n
			buckets = append(buckets, b)
			return nil
		})
	if err != nil {
		return err
	}
	return plan.Runs(res, buckets, func(low, high attribution.Second, rows uint64) error {
		run := part{where: fmt.Sprintf(`bucket >= %d AND bucket < %d`, int64(low/n), int64(high/n))}
		if rows <= plan.RowsAtOnce {
			return f(run)
		}
		parts, err := r.split(ctx, name, o, run, rows)
		if err != nil {
			return err
		}
		for _, p := range parts {
			if err := f(p); err != nil {
				return err
			}
		}
		return nil
	})
}

// split is the parts of one bucket, which has so many rows.
func (r *reader) split(ctx context.Context, name string, o *ordered, bucket part, all uint64) ([]part, error) {
	type span struct{ first, last string }
	var spans []span
	var held, found uint64 // rows of the last span, and of all
	err := each(ctx, r.conn, `SELECT key, sum(f.n)::UBIGINT FROM (SELECT series, count(*) AS n FROM `+name+` WHERE `+bucket.where+` GROUP BY series) f
		JOIN (SELECT s.id, `+o.key+` AS key FROM `+o.series+`) ON id = f.series GROUP BY key ORDER BY key`, bucket.args, func(rows *sql.Rows) error {
		var key string
		var n uint64
		if err := rows.Scan(&key, &n); err != nil {
			return err
		}
		if len(spans) == 0 || held+n > plan.RowsAtOnce {
			spans, held = append(spans, span{first: key}), 0
		}
		spans[len(spans)-1].last = key
		held, found = held+n, found+n
		return nil
	})
	if err == nil && found != all {
		err = fmt.Errorf("%w: %d of the %d rows of table %s with %s have facts", store.ErrCorrupt, found, all, name, bucket.where)
	}
	out := make([]part, len(spans))
	for i, x := range spans {
		out[i] = part{
			where: bucket.where + ` AND series IN (SELECT s.id FROM ` + o.series + ` WHERE ` + o.key + ` BETWEEN ? AND ?)`,
			args:  slices.Concat(bucket.args, []any{x.first, x.last}),
		}
	}
	return out, err
}

// Rows implements [store.Reader].
func (r *reader) Rows(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.FactRow) error) error {
	var call error
	name := plan.Name(res)
	err := r.parts(ctx, name, &slicesOrdered, res, from, to, func(p part) error {
		owners, devices := make(map[int32]*attribution.Owner), make(map[int32]*attribution.Device)
		of := ` IN (SELECT series FROM ` + name + ` WHERE ` + p.where + `)`
		if err := readOwners(ctx, r.conn, `id IN (SELECT owner FROM series WHERE id`+of+`)`, p.args, owners); err != nil {
			return err
		}
		if err := readDevices(ctx, r.conn, `id IN (SELECT device FROM series WHERE id`+of+`)`, p.args, devices); err != nil {
			return err
		}
		var out []store.FactRow
		err := each(ctx, r.conn, `SELECT f.bucket, s.device, s.owner, s.basis, w.name, s.revision, f.time, f.gap, f.memory, f.energy, f.cost
			FROM (SELECT bucket, series, sum(time)::BIGINT AS time, sum(gap)::BIGINT AS gap, sum(memory)::BIGINT AS memory,
				sum(energy)::BIGINT AS energy, sum(cost)::BIGINT AS cost FROM `+name+` WHERE `+p.where+` GROUP BY bucket, series) f
			JOIN series s ON s.id = f.series JOIN method w ON w.id = s.method`, p.args, func(rows *sql.Rows) error {
			var x store.FactRow
			var device, owner int32
			if err := rows.Scan(&x.Bucket, &device, &owner, &x.Basis, &x.Method, &x.Revision,
				&x.Sums.Time, &x.Sums.SMActive, &x.Sums.Memory, &x.Sums.Energy, &x.Sums.Cost); err != nil {
				return err
			}
			x.Bucket *= attribution.Second(res)
			if x.Basis == attribution.Used {
				x.Sums.SMActive = x.Sums.Time - x.Sums.SMActive
			}
			if x.Device, x.Owner = devices[device], owners[owner]; x.Device == nil || x.Owner == nil {
				return fmt.Errorf("%w: device %d or owner %d has no facts", store.ErrCorrupt, device, owner)
			}
			out = append(out, x)
			return nil
		})
		if err != nil {
			return err
		}
		call = plan.FactRows(out, f)
		return call
	})
	return mine(call, "read rows", err)
}

// TallyRows implements [store.Reader].
func (r *reader) TallyRows(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TallyFactRow) error) error {
	var call error
	name := "tally_" + plan.Name(res)
	err := r.parts(ctx, name, &talliesOrdered, res, from, to, func(p part) error {
		owners := make(map[int32]*attribution.Owner)
		if err := readOwners(ctx, r.conn, `id IN (SELECT owner FROM tally_series WHERE id IN (SELECT series FROM `+name+` WHERE `+p.where+`))`, p.args, owners); err != nil {
			return err
		}
		var out []store.TallyFactRow
		err := each(ctx, r.conn, `SELECT f.bucket, s.owner, s.model, s.tenant, s.tier, s.measure, f.value
			FROM (SELECT bucket, series, sum(value)::BIGINT AS value FROM `+name+` WHERE `+p.where+` GROUP BY bucket, series) f
			JOIN tally_series s ON s.id = f.series`, p.args, func(rows *sql.Rows) error {
			var x store.TallyFactRow
			var owner int32
			if err := rows.Scan(&x.Bucket, &owner, &x.Model, &x.Tenant, &x.Tier, &x.Measure, &x.Value); err != nil {
				return err
			}
			x.Bucket *= attribution.Second(res)
			if x.Owner = owners[owner]; x.Owner == nil {
				return fmt.Errorf("%w: owner %d has no facts", store.ErrCorrupt, owner)
			}
			out = append(out, x)
			return nil
		})
		if err != nil {
			return err
		}
		call = plan.TallyFactRows(out, f)
		return call
	})
	return mine(call, "read tally rows", err)
}
