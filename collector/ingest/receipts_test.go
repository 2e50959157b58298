package ingest

import (
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

// What was accepted is not acknowledged before it is durable because something
// else of its sequence was rejected.
func TestLaw4ARejectDoesNotSettleWhatWasAccepted(t *testing.T) {
	var r receipts
	put := func(x receipt) {
		if err := r.put(x, 10); err != nil {
			t.Fatal(err)
		}
	}
	durable := false
	settle := func() (attribution.Second, bool) {
		return r.settle(func(_, _ attribution.Second) bool { return durable })
	}
	put(receipt{100, 110, awaiting})
	put(receipt{100, 100, settled})
	if s, ok := settle(); ok {
		t.Errorf("%d is acknowledged and not durable", s)
	}
	durable = true
	if s, ok := settle(); !ok || s != 100 {
		t.Errorf("acknowledged %d, %t: want 100", s, ok)
	}

	// One that was asked for and then rejected holds nothing up.
	durable = false
	put(receipt{110, 110, asked})
	if s, ok := settle(); ok {
		t.Errorf("%d is acknowledged and was asked for", s)
	}
	put(receipt{110, 110, settled})
	if s, ok := settle(); !ok || s != 110 {
		t.Errorf("acknowledged %d, %t: want 110", s, ok)
	}
}
