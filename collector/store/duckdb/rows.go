package duckdb

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// factsAtOnce is how many owners and devices are held from one run of buckets to
// the next.
const factsAtOnce = 200_000

// facts are owners and devices by id, read as they are needed.
type facts struct {
	owners  map[int32]*attribution.Owner
	devices map[int32]*attribution.Device
}

// buckets calls f with runs [low, high) of a table's buckets within [from, to).
func (r *reader) buckets(ctx context.Context, name string, res rollup.Resolution, from, to attribution.Second, f func(low, high int64) error) error {
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
	return plan.Runs(res, buckets, func(low, high attribution.Second) error { return f(int64(low/n), int64(high/n)) })
}

// Rows implements [store.Reader].
func (r *reader) Rows(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.FactRow) error) error {
	var call error
	known := facts{make(map[int32]*attribution.Owner), make(map[int32]*attribution.Device)}
	name := plan.Name(res)
	err := r.buckets(ctx, name, res, from, to, func(low, high int64) error {
		of := fmt.Sprintf(`SELECT DISTINCT series FROM %s WHERE bucket >= %d AND bucket < %d`, name, low, high)
		if err := r.need(ctx, known.owners, known.devices, `SELECT owner FROM series WHERE id IN (`+of+`)`, `SELECT device FROM series WHERE id IN (`+of+`)`); err != nil {
			return err
		}
		var out []store.FactRow
		err := each(ctx, r.conn, fmt.Sprintf(`SELECT f.bucket, s.device, s.owner, s.basis, w.name, s.revision, f.time, f.gap, f.memory, f.energy, f.cost
			FROM (SELECT bucket, series, sum(time)::BIGINT AS time, sum(gap)::BIGINT AS gap, sum(memory)::BIGINT AS memory,
				sum(energy)::BIGINT AS energy, sum(cost)::BIGINT AS cost FROM %s WHERE bucket >= %d AND bucket < %d GROUP BY bucket, series) f
			JOIN series s ON s.id = f.series JOIN method w ON w.id = s.method`, name, low, high), nil, func(rows *sql.Rows) error {
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
			x.Device, x.Owner = known.devices[device], known.owners[owner]
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
	known := facts{owners: make(map[int32]*attribution.Owner)}
	name := "tally_" + plan.Name(res)
	err := r.buckets(ctx, name, res, from, to, func(low, high int64) error {
		of := fmt.Sprintf(`SELECT DISTINCT series FROM %s WHERE bucket >= %d AND bucket < %d`, name, low, high)
		if err := r.need(ctx, known.owners, nil, `SELECT owner FROM tally_series WHERE id IN (`+of+`)`, ""); err != nil {
			return err
		}
		var out []store.TallyFactRow
		err := each(ctx, r.conn, fmt.Sprintf(`SELECT f.bucket, s.owner, s.model, s.tenant, s.tier, s.measure, f.value
			FROM (SELECT bucket, series, sum(value)::BIGINT AS value FROM %s WHERE bucket >= %d AND bucket < %d GROUP BY bucket, series) f
			JOIN tally_series s ON s.id = f.series`, name, low, high), nil, func(rows *sql.Rows) error {
			var x store.TallyFactRow
			var owner int32
			if err := rows.Scan(&x.Bucket, &owner, &x.Model, &x.Tenant, &x.Tier, &x.Measure, &x.Value); err != nil {
				return err
			}
			x.Bucket *= attribution.Second(res)
			x.Owner = known.owners[owner]
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

// need reads the owners and devices that two subqueries name and that are not
// known yet.
func (r *reader) need(ctx context.Context, owners map[int32]*attribution.Owner, devices map[int32]*attribution.Device, ofOwners, ofDevices string) error {
	if len(owners) > factsAtOnce {
		clear(owners)
	}
	ids, err := r.unknown(ctx, ofOwners, func(id int32) bool { return owners[id] != nil })
	if err == nil && len(ids) > 0 {
		err = readOwners(ctx, r.conn, `id IN (`+idList(ids)+`)`, nil, owners)
	}
	if err != nil || ofDevices == "" {
		return err
	}
	if len(devices) > factsAtOnce {
		clear(devices)
	}
	ids, err = r.unknown(ctx, ofDevices, func(id int32) bool { return devices[id] != nil })
	if err == nil && len(ids) > 0 {
		err = readDevices(ctx, r.conn, `id IN (`+idList(ids)+`)`, nil, devices)
	}
	return err
}

func (r *reader) unknown(ctx context.Context, query string, known func(int32) bool) ([]int32, error) {
	var ids []int32
	err := each(ctx, r.conn, `SELECT DISTINCT * FROM (`+query+`)`, nil, func(rows *sql.Rows) error {
		var id int32
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if !known(id) {
			ids = append(ids, id)
		}
		return nil
	})
	return ids, err
}
