package economics_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
)

// However a partly priced owner's cost is split, no part has more unpriced time
// than time, and figures can be worked out of it.
func TestLaw2UnpricedTimeIsTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTown()
		var ts []attribution.Tally
		for i := range rapid.IntRange(1, 6).Draw(t, "models") {
			n := rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(1, 1<<46)).Draw(t, "tokens")
			ts = append(ts, attribution.Tally{Second: querytest.Start, Subject: w.subject(llama0, string(rune('a'+i)), "", ""), Measure: 1, Value: n})
		}
		ws := []attribution.DeviceWindow{
			{Device: 0, Second: querytest.Start, Price: price, Slices: slicesOf(rapid.Int64Range(0, 40).Draw(t, "priced"))},
			{Device: 1, Second: querytest.Start, Slices: slicesOf(rapid.Int64Range(0, 40).Draw(t, "unpriced"))},
		}
		c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}, Sequence: querytest.Start}, 1, &w.World, ws, ts)
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		ans := ask(t, []*attribution.Chunk{c}, &economics.Request{})
		for i := range ans.Rows {
			r := &ans.Rows[i].Row
			r.Figures(nil)
			for _, x := range []*economics.Costs{&r.Used, &r.Reserved} {
				if x.Unpriced.Cmp(&x.Time) > 0 {
					t.Fatalf("%v: %v of %v ns are unpriced", r.Keys, &x.Unpriced, &x.Time)
				}
			}
		}
	})
}

// slicesOf are a second of which little was used.
func slicesOf(used int64) []attribution.Slice {
	out := []attribution.Slice{{Owner: llama0, Basis: attribution.Reserved, Time: attribution.WindowNanos - used}}
	if used > 0 {
		out = append([]attribution.Slice{{Owner: llama0, Basis: attribution.Used, Time: used}}, out...)
	}
	return out
}
