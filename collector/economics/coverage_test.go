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
