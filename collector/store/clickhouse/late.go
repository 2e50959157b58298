package clickhouse

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// lateRows is what of minutes lies before a second, which is folded already, in
// coarser buckets: a write has each row once.
func lateRows(rows []rollup.Row, r rollup.Resolution, before attribution.Second) []rollup.Row {
	type key struct {
		bucket attribution.Second
		series rollup.Series
	}
	var out []rollup.Row
	at := make(map[key]int)
	for i := range rows {
		x := rows[i]
		if x.Bucket >= before {
			continue
		}
		x.Bucket = r.Start(x.Bucket)
		k := key{x.Bucket, x.Series}
		if n, ok := at[k]; ok {
			s := &out[n].Sums
			s.Time, s.SMActive, s.Memory, s.Energy, s.Cost = s.Time+x.Time, s.SMActive+x.SMActive, s.Memory+x.Memory, s.Energy+x.Energy, s.Cost+x.Cost
			continue
		}
		at[k] = len(out)
		out = append(out, x)
	}
	return out
}

// lateTallies is lateRows for tallies.
func lateTallies(rows []rollup.TallyRow, r rollup.Resolution, before attribution.Second) []rollup.TallyRow {
	type key struct {
		bucket attribution.Second
		series rollup.TallySeries
	}
	var out []rollup.TallyRow
	at := make(map[key]int)
	for i := range rows {
		x := rows[i]
		if x.Bucket >= before {
			continue
		}
		x.Bucket = r.Start(x.Bucket)
		k := key{x.Bucket, x.Series}
		if n, ok := at[k]; ok {
			out[n].Value += x.Value
			continue
		}
		at[k] = len(out)
		out = append(out, x)
	}
	return out
}
