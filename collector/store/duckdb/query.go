package duckdb

import (
	"context"
	"database/sql"
	"math/big"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// Query implements [store.Reader].
func (r *reader) Query(ctx context.Context, q *store.Query) ([]store.Row, error) {
	p, err := plan.Of(q, &r.state.Watermarks)
	if err != nil {
		return nil, err
	}
	rows, err := p.Slices(ctx, r.edges(), r.queryRows)
	if err != nil {
		return nil, unavailable("query", err)
	}
	return rows, nil
}

// edges is where seconds are read from.
func (r *reader) edges() *plan.Edges {
	return &plan.Edges{Reader: r, Mapping: r.mapping, Decode: r.decode}
}

// QueryTallies implements [store.Reader].
func (r *reader) QueryTallies(ctx context.Context, q *store.Query) ([]store.TallyRow, error) {
	p, err := plan.Of(q, &r.state.Watermarks)
	if err != nil {
		return nil, err
	}
	rows, err := p.Tallies(ctx, r.edges(), r.queryTallies)
	if err != nil {
		return nil, unavailable("query tallies", err)
	}
	return rows, nil
}

var sliceForm = form{
	columns: "time, gap, memory, energy, cost",
	series:  "series",
	facts:   "s.basis AS basis, s.revision AS revision, d.sensors AS sensors",
	by:      "k.basis",
	answer: `sum(f.time), sum(f.gap), sum(f.memory), sum(f.energy),
		coalesce(sum(f.cost) FILTER (WHERE k.revision <> 0), 0), coalesce(sum(f.time) FILTER (WHERE k.revision = 0), 0),
		bit_or(k.sensors)`,
	key: (*joins).sliceKey,
}

var tallyForm = form{
	prefix:   "tally_",
	columns:  "value",
	series:   "tally_series",
	facts:    "s.measure AS measure",
	by:       "k.measure",
	answer:   "sum(f.value)",
	measured: true,
	key:      (*joins).tallyKey,
}

func (r *reader) queryRows(ctx context.Context, p *plan.Plan) ([]store.Row, error) {
	s := build(p, &sliceForm, &joins{device: true})
	var out []store.Row
	var sums [6]*big.Int
	keys := newKeys(len(p.Query.GroupBy))
	err := each(ctx, r.conn, s.text.String(), s.args, func(rows *sql.Rows) error {
		var row store.Row
		var sensors attribution.Sensors
		dst := []any{&row.Time, &row.Basis, &sums[0], &sums[1], &sums[2], &sums[3], &sums[4], &sums[5], &sensors}
		if err := rows.Scan(append(dst, keys.targets...)...); err != nil {
			return err
		}
		row.Keys = keys.take()
		row.DeviceTime.Set(sums[0])
		if row.SMActive.Set(sums[1]); row.Basis == attribution.Used {
			row.SMActive.Sub(sums[0], sums[1])
		}
		row.Memory.Set(sums[2])
		row.Energy.Set(sums[3])
		row.Cost.Set(sums[4])
		row.Unpriced.Set(sums[5])
		row.HasMemory = sensors&attribution.SensorMemory != 0
		row.HasEnergy = sensors&attribution.SensorEnergy != 0
		if out = append(out, row); len(out) > p.Query.Most() {
			return store.ErrTooMany
		}
		return nil
	})
	return out, err
}

func (r *reader) queryTallies(ctx context.Context, p *plan.Plan) ([]store.TallyRow, error) {
	s := build(p, &tallyForm, &joins{})
	var out []store.TallyRow
	var sum *big.Int
	keys := newKeys(len(p.Query.GroupBy))
	err := each(ctx, r.conn, s.text.String(), s.args, func(rows *sql.Rows) error {
		var row store.TallyRow
		if err := rows.Scan(append([]any{&row.Time, &row.Measure, &sum}, keys.targets...)...); err != nil {
			return err
		}
		row.Keys = keys.take()
		row.Value.Set(sum)
		if out = append(out, row); len(out) > p.Query.Most() {
			return store.ErrTooMany
		}
		return nil
	})
	return out, err
}

// scannedKeys are the keys of one row after another.
type scannedKeys struct {
	values  []sql.NullString
	targets []any
}

func newKeys(n int) *scannedKeys {
	k := &scannedKeys{values: make([]sql.NullString, n), targets: make([]any, n)}
	for i := range k.values {
		k.targets[i] = &k.values[i]
	}
	return k
}

func (k *scannedKeys) take() []store.Key {
	out := make([]store.Key, len(k.values))
	for i, v := range k.values {
		out[i] = store.Key{Value: v.String, Missing: !v.Valid}
	}
	return out
}
