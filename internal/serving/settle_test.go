package serving

import (
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

// What lasts is not undone any more; what came after it still is.
func TestSettle(t *testing.T) {
	tracker := NewTracker(0, DefaultLimits())
	for i := int64(1); i <= 9; i++ {
		r := &Reading{Counts: []Count{{Measure: attribution.Success, Series: 1, Value: 10 * i}}}
		tracker.Observe(Target{Name: "a", Started: 1}, i*1e9, r)
	}
	before := len(tracker.State())
	tracker.Settle(6e9)
	state := tracker.State()
	if len(state) >= before {
		t.Errorf("%d bytes have become %d", before, len(state))
	}
	for through, want := range map[int64]int64{3e9: 60, 6e9: 60, 8e9: 80, 9e9: 90} {
		restored, err := RestoreTracker(state, through, DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		if got := restored.targets["a"].series[1]; got != want {
			t.Errorf("through %d: %d, want %d", through, got, want)
		}
	}
}
