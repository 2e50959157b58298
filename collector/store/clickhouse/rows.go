package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// rowsOf is the range in which there may be rows of a resolution.
func (st *state) rowsOf(res rollup.Resolution, from, to attribution.Second) (low, high attribution.Second) {
	low = max(from, st.Kept(res), -maxSecond)
	if res != rollup.Minute {
		return low, min(to, st.Rolled(res))
	}
	return low, min(to, maxSecond)
}

// buckets calls f with runs [low, high) of buckets.
func (r *reader) buckets(ctx context.Context, prefix string, res rollup.Resolution, from, to attribution.Second, f func(low, high attribution.Second) error) error {
	from, to = r.state.rowsOf(res, from, to)
	if from >= to {
		return nil
	}
	counts := make(map[attribution.Second]uint64)
	for _, src := range r.state.sources(res, from, to) {
		err := r.client.query(ctx, fmt.Sprintf(`SELECT bucket - ((bucket %% %[1]d) + %[1]d) %% %[1]d AS b, count() FROM %[2]s%[3]s WHERE %[4]s AND %[5]s GROUP BY b`,
			res, prefix, src.table, src.where, r.state.counted()), func(d *decoder) error {
			b := attribution.Second(d.i64())
			counts[b] += d.u64()
			return d.err
		})
		if err != nil {
			return err
		}
	}
	order := make([]plan.Bucket, 0, len(counts))
	for b, n := range counts {
		order = append(order, plan.Bucket{Start: b, Rows: n})
	}
	slices.SortFunc(order, func(a, b plan.Bucket) int { return cmp.Compare(a.Start, b.Start) })
	return plan.Runs(res, order, func(low, high attribution.Second, _ uint64) error { return f(low, high) })
}

// Rows implements [store.Reader].
func (r *reader) Rows(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.FactRow) error) error {
	var call error
	t := fmt.Sprintf("bucket - ((bucket %% %[1]d) + %[1]d) %% %[1]d", res)
	err := r.buckets(ctx, "", res, from, to, func(low, high attribution.Second) error {
		selects, err := r.factSelects(ctx, res, low, high, t)
		if err != nil {
			return err
		}
		var rows []summed
		err = r.client.query(ctx, `SELECT t, `+seriesNames+`, `+sumsOfSums+` FROM (`+strings.Join(selects, ` UNION ALL `)+`) GROUP BY t, `+seriesNames+something, func(d *decoder) error {
			rows = append(rows, summed{})
			x := &rows[len(rows)-1]
			x.time, x.series = attribution.Second(d.i64()), d.series()
			for _, z := range []*big.Int{&x.t, &x.sm, &x.memory, &x.energy, &x.cost} {
				d.wide(z)
			}
			return d.err
		})
		if err != nil {
			return err
		}
		out, err := r.factRows(ctx, rows)
		if err != nil {
			return err
		}
		call = plan.FactRows(out, f)
		return call
	})
	return mine(call, "read rows", err)
}

// factRows puts rows and their facts together.
func (r *reader) factRows(ctx context.Context, rows []summed) ([]store.FactRow, error) {
	owners := make(map[rollup.Fingerprint]*attribution.Owner)
	devices := make(map[rollup.Fingerprint]*attribution.Device)
	for i := range rows {
		owners[rows[i].series.Owner], devices[rows[i].series.Device] = nil, nil
	}
	if err := r.store.owners(ctx, owners); err != nil {
		return nil, err
	}
	if err := r.store.devices(ctx, devices); err != nil {
		return nil, err
	}
	out := make([]store.FactRow, len(rows))
	for i := range rows {
		x, o := &rows[i], &out[i]
		*o = store.FactRow{
			Bucket: x.time, Device: devices[x.series.Device], Owner: owners[x.series.Owner],
			Basis: x.series.Basis, Method: x.series.Method, Revision: x.series.Revision,
		}
		if o.Device == nil || o.Owner == nil {
			return nil, fmt.Errorf("%w: device %s or owner %s has no facts", store.ErrCorrupt, x.series.Device, x.series.Owner)
		}
		for _, z := range [...]struct {
			to   *int64
			from *big.Int
		}{{&o.Sums.Time, &x.t}, {&o.Sums.SMActive, &x.sm}, {&o.Sums.Memory, &x.memory}, {&o.Sums.Energy, &x.energy}, {&o.Sums.Cost, &x.cost}} {
			if !z.from.IsInt64() {
				return nil, fmt.Errorf("%w: a row of device %s at %d exceeds 64 bits", store.ErrCorrupt, o.Device.ID, o.Bucket)
			}
			*z.to = z.from.Int64()
		}
	}
	return out, nil
}

// TallyRows implements [store.Reader].
func (r *reader) TallyRows(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TallyFactRow) error) error {
	var call error
	err := r.buckets(ctx, "tally_", res, from, to, func(low, high attribution.Second) error {
		var selects []string
		for _, src := range r.state.sources(res, low, high) {
			selects = append(selects, fmt.Sprintf(`SELECT bucket - ((bucket %% %[1]d) + %[1]d) %% %[1]d AS t, %[2]s, sum(toDecimal128(value, 0)) AS value
				FROM tally_%[3]s WHERE %[4]s AND %[5]s GROUP BY t, %[2]s`, res, tallySeriesNames, src.table, src.where, r.state.counted()))
		}
		var rows []countedTally
		err := r.client.query(ctx, `SELECT t, `+tallySeriesNames+`, sum(value) FROM (`+strings.Join(selects, ` UNION ALL `)+`) GROUP BY t, `+tallySeriesNames, func(d *decoder) error {
			rows = append(rows, countedTally{})
			x := &rows[len(rows)-1]
			x.time, x.series = attribution.Second(d.i64()), d.tallySeries()
			d.wide(&x.value)
			return d.err
		})
		if err != nil {
			return err
		}
		out, err := r.tallyFactRows(ctx, rows)
		if err != nil {
			return err
		}
		call = plan.TallyFactRows(out, f)
		return call
	})
	return mine(call, "read tally rows", err)
}

func (r *reader) tallyFactRows(ctx context.Context, rows []countedTally) ([]store.TallyFactRow, error) {
	owners := make(map[rollup.Fingerprint]*attribution.Owner)
	for i := range rows {
		owners[rows[i].series.Owner] = nil
	}
	if err := r.store.owners(ctx, owners); err != nil {
		return nil, err
	}
	out := make([]store.TallyFactRow, len(rows))
	for i := range rows {
		x := &rows[i]
		o := owners[x.series.Owner]
		if o == nil || !x.value.IsInt64() {
			return nil, fmt.Errorf("%w: the tally %s of owner %s at %d has no facts or exceeds 64 bits", store.ErrCorrupt, x.series.Measure, x.series.Owner, x.time)
		}
		out[i] = store.TallyFactRow{
			Bucket: x.time, Owner: o, Model: x.series.Model, Tenant: x.series.Tenant, Tier: x.series.Tier,
			Measure: x.series.Measure, Value: x.value.Int64(),
		}
	}
	return out, nil
}
