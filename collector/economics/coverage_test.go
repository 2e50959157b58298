package economics_test

import (
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
)

// A training process that reports its checkpoints is measured, but serves
// nothing: its cost is not covered by inference counters.
func TestLaw9CheckpointsCoverNothing(t *testing.T) {
	w := querytest.NewWorld()
	w.Measures[querytest.Success] = attribution.Checkpoint
	w.Measures[querytest.Input], w.Measures[querytest.Output], w.Measures[querytest.Timeout] = attribution.Queue, attribution.Running, attribution.KVCache
	ans, err := economics.UnitCosts(t.Context(), engine(w.Chunks(0, 60)), &economics.Request{GroupBy: []string{"pod"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := ans.Total.Covered.Cost.String(); got != "0" || ans.Total.Allocation().Cost.Sign() == 0 {
		t.Errorf("%s nano units are covered by checkpoints and gauges, of %v", got, &ans.Total.Allocation().Cost)
	}
}

// The same behind a gateway: what it saw is covered, what it did not see is not.
func TestLaw9CheckpointsCoverNothingUnseen(t *testing.T) {
	const start = querytest.Start
	w := newTown()
	w.Measures = append(w.Measures, attribution.Checkpoint)
	w.Owners[trainer].Labels = attribution.MakeLabels(map[string]string{"model": "llama"})
	w.hold(start, llama0, llama1, trainer)
	w.count(start, w.subject(llama0, "llama", "", ""), 4*one, 400, 0)
	w.count(start, w.subject(llama1, "llama", "", ""), -1, -1, -1, -1, one)
	w.count(start, w.subject(trainer, "", "", ""), -1, -1, -1, -1, one)
	w.count(start, w.subject(byService, "llama", "acme", ""), 1*one, 100, 0)
	w.count(start, w.subject(untold, "llama", "zeta", ""), 1*one, 100, 0)
	ans := ask(t, w.chunks(t), &economics.Request{GroupBy: []string{"pod"}, Filters: []string{"tenant!=nobody"}})
	for i, want := range []string{"1000000000", "500000000", "0"} {
		if r := &ans.Rows[i]; r.Covered.Cost.String() != want || r.Allocation().Cost.String() != "1000000000" {
			t.Errorf("%s: %v of %v is covered, want %s", r.Keys[0].Value, &r.Covered.Cost, &r.Allocation().Cost, want)
		}
	}
}
