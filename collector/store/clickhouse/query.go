package clickhouse

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// foldedAtOnce is how many rows of an answer are held until the facts behind
// them are read.
const foldedAtOnce = 16_384

// Query implements [store.Reader].
func (r *reader) Query(ctx context.Context, q *store.Query) ([]store.Row, error) {
	p, err := r.state.plan(q)
	if err != nil {
		return nil, err
	}
	rows, err := p.Slices(ctx, r.edges(), r.queryRows)
	return rows, unavailable("query", err)
}

// QueryTallies implements [store.Reader].
func (r *reader) QueryTallies(ctx context.Context, q *store.Query) ([]store.TallyRow, error) {
	p, err := r.state.plan(q)
	if err != nil {
		return nil, err
	}
	rows, err := p.Tallies(ctx, r.edges(), r.queryTallies)
	return rows, unavailable("query tallies", err)
}

// timeOf is the time of a bucket in an answer, as SQL.
func timeOf(q *store.Query) string {
	if q.Step == 0 {
		return fmt.Sprintf("toInt64(%d)", q.From)
	}
	return fmt.Sprintf("greatest(toInt64(%d), bucket - ((bucket %% %d) + %d) %% %d)", q.From, q.Step, q.Step, q.Step)
}

const (
	factSums = `sum(toDecimal128(time, 0)) AS time, sum(toDecimal128(sm, 0)) AS sm, sum(toDecimal128(memory, 0)) AS memory,
		sum(toDecimal128(energy, 0)) AS energy, sum(toDecimal128(cost, 0)) AS cost`
	sumsOfSums = `sum(time), sum(sm), sum(memory), sum(energy), sum(cost)`
	// The row of a series that all was taken from is none.
	something = ` HAVING sum(time) != toDecimal128(0, 0) OR sum(sm) != toDecimal128(0, 0) OR sum(memory) != toDecimal128(0, 0)
		OR sum(energy) != toDecimal128(0, 0) OR sum(cost) != toDecimal128(0, 0)`
)

// factSelects are the rows of slices of a resolution in [from, to), with what
// reratings in force have moved, each with its time as t.
func (r *reader) factSelects(ctx context.Context, res rollup.Resolution, from, to attribution.Second, t string) ([]string, error) {
	var out []string
	for _, src := range r.state.sources(res, from, to) {
		out = append(out, `SELECT `+t+` AS t, `+seriesNames+`, `+factSums+` FROM `+src.table+
			` WHERE `+src.where+` AND `+r.state.counted()+` GROUP BY t, `+seriesNames)
	}
	moved, err := r.moved(ctx, res, from, to)
	if err != nil || moved == "" {
		return out, err
	}
	t = strings.ReplaceAll(t, "bucket", fmt.Sprintf("(bucket - ((bucket %% %d) + %d) %% %d)", res, res, res))
	const minus = `-sum(toDecimal128(time, 0)) AS time, -sum(toDecimal128(sm, 0)) AS sm, -sum(toDecimal128(memory, 0)) AS memory,
		-sum(toDecimal128(energy, 0)) AS energy, -sum(toDecimal128(cost_before, 0)) AS cost`
	return append(out,
		`SELECT `+t+` AS t, `+seriesNames+`, `+strings.ReplaceAll(minus, "-sum(", "0 - sum(")+` FROM transfer WHERE `+moved+` GROUP BY t, `+seriesNames,
		`SELECT `+t+` AS t, device, owner, basis, method, to AS revision, `+strings.Replace(factSums, "toDecimal128(cost, 0)", "toDecimal128(cost_after, 0)", 1)+
			` FROM transfer WHERE `+moved+` GROUP BY t, device, owner, basis, method, to`), nil
}

// moved is the condition on transfers that count in [from, to) at a resolution;
// "" where there are none.
func (r *reader) moved(ctx context.Context, res rollup.Resolution, from, to attribution.Second) (string, error) {
	j, err := r.Journal(ctx)
	if err != nil || !j.Covers(from, to) {
		return "", err
	}
	var force []uint32
	for _, e := range j.Entries() {
		if e.Card != nil && j.UndoneBy(e.ID) == 0 {
			force = append(force, e.ID)
		}
	}
	return fmt.Sprintf(`%s AND length <= %d AND entry IN (%s) AND %s`, within(from, to), res, list(force, number[uint32]), r.state.counted()), nil
}

// group numbers the keys of an answer's rows.
type group[R any] struct {
	at   map[string]int
	rows []R
	name []byte
}

// row is the row of keys at a time; fresh says that it is new.
func (g *group[R]) row(t attribution.Second, by string, keys []store.Key) (row *R, fresh bool) {
	g.name = binary.AppendVarint(g.name[:0], int64(t))
	g.name = append(binary.AppendUvarint(g.name, uint64(len(by))), by...)
	for _, k := range keys {
		if k.Missing {
			g.name = append(g.name, 0)
			continue
		}
		g.name = append(binary.AppendUvarint(g.name, 1+uint64(len(k.Value))), k.Value...)
	}
	i, ok := g.at[string(g.name)]
	if !ok {
		if g.at == nil {
			g.at = make(map[string]int)
		}
		i = len(g.rows)
		g.at[string(g.name)] = i
		g.rows = append(g.rows, *new(R))
	}
	return &g.rows[i], !ok
}

// summed is a row of sums as the servers give it.
type summed struct {
	time                        attribution.Second
	series                      rollup.Series
	t, sm, memory, energy, cost big.Int
}

func (r *reader) queryRows(ctx context.Context, p *plan.Plan) ([]store.Row, error) {
	var selects []string
	for _, x := range p.Rows {
		s, err := r.factSelects(ctx, x.Resolution, x.From, x.To, timeOf(p.Query))
		if err != nil {
			return nil, err
		}
		selects = append(selects, s...)
	}
	k := newKeys(r, p.Query)
	var g group[store.Row]
	var held []summed
	flush := func() error {
		if err := k.learnRows(ctx, held); err != nil {
			return err
		}
		for i := range held {
			if err := k.addRow(&g, &held[i]); err != nil {
				return err
			}
		}
		held = held[:0]
		return nil
	}
	err := r.client.query(ctx, `SELECT t, `+seriesNames+`, `+sumsOfSums+` FROM (`+strings.Join(selects, ` UNION ALL `)+`) GROUP BY t, `+seriesNames+something, func(d *decoder) error {
		if len(held) < cap(held) { // whose numbers have memory
			held = held[:len(held)+1]
		} else {
			held = append(held, summed{})
		}
		x := &held[len(held)-1]
		x.time = attribution.Second(d.i64())
		x.series = d.series()
		for _, z := range []*big.Int{&x.t, &x.sm, &x.memory, &x.energy, &x.cost} {
			d.wide(z)
		}
		if d.err != nil || len(held) < foldedAtOnce {
			return d.err
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return g.rows, err
}

func (d *decoder) series() rollup.Series {
	return rollup.Series{Device: d.fixed(), Owner: d.fixed(), Basis: attribution.Basis(d.u8()), Method: d.name(), Revision: d.u32()}
}

// countedTally is a tally row as the servers give it.
type countedTally struct {
	time   attribution.Second
	series rollup.TallySeries
	value  big.Int
}

func (r *reader) queryTallies(ctx context.Context, p *plan.Plan) ([]store.TallyRow, error) {
	var selects []string
	for _, x := range p.Rows {
		for _, src := range r.state.sources(x.Resolution, x.From, x.To) {
			selects = append(selects, `SELECT `+timeOf(p.Query)+` AS t, `+tallySeriesNames+`, sum(toDecimal128(value, 0)) AS value FROM tally_`+src.table+
				` WHERE `+src.where+` AND `+r.state.counted()+measured(p.Query)+` GROUP BY t, `+tallySeriesNames)
		}
	}
	k := newKeys(r, p.Query)
	var g group[store.TallyRow]
	var held []countedTally
	flush := func() error {
		if err := k.learnTallies(ctx, held); err != nil {
			return err
		}
		for i := range held {
			if err := k.addTally(&g, &held[i]); err != nil {
				return err
			}
		}
		held = held[:0]
		return nil
	}
	err := r.client.query(ctx, `SELECT t, `+tallySeriesNames+`, sum(value) FROM (`+strings.Join(selects, ` UNION ALL `)+`) GROUP BY t, `+tallySeriesNames, func(d *decoder) error {
		held = append(held, countedTally{})
		x := &held[len(held)-1]
		x.time = attribution.Second(d.i64())
		x.series = d.tallySeries()
		d.wide(&x.value)
		if d.err != nil || len(held) < foldedAtOnce {
			return d.err
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return g.rows, err
}

func (d *decoder) tallySeries() rollup.TallySeries {
	return rollup.TallySeries{Owner: d.fixed(), Model: d.str(), Tenant: d.str(), Tier: d.str(), Measure: attribution.Measure(d.str())}
}

// measured is the condition on measures that are asked for.
func measured(q *store.Query) string {
	if len(q.Measures) == 0 {
		return ""
	}
	var any []string
	for _, m := range q.Measures {
		any = append(any, `measure = `+quote(string(m)))
		if n := len(m); strings.HasSuffix(string(m), "/") {
			any[len(any)-1] = fmt.Sprintf(`substring(measure, 1, %d) = %s`, n, quote(string(m)))
		}
	}
	return ` AND (` + strings.Join(any, ` OR `) + `)`
}
