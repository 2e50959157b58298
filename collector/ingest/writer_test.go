package ingest

import (
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// A batch brings along what the store does not say it has, and nothing else.
func TestAStoreIsToldWhatItLacks(t *testing.T) {
	st := newMemStore()
	type told struct{ owners, devices, rosters int }
	var mu sync.Mutex
	var got []told
	st.fault = func(b *store.Batch) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, told{len(b.Owners), len(b.Devices), len(b.Rosters)})
		return nil
	}
	r := start(t, st, quick())
	a := r.connect(someNode, itsBoot)
	var sent []*attribution.Chunk
	commit := func(a *agent, from attribution.Second) {
		cs := chunksOf(a.id, a.boot, from, 6)
		for _, c := range cs {
			a.chunk(c)
		}
		a.awaitAck(cs[5])
		sent = append(sent, cs...)
	}
	commit(a, base)
	commit(a, base+60)
	commit(r.connect(nodeID{"c", "another"}, itsBoot), base)
	r.drain()
	st.wantExactly(t, sent)
	var sum []told
	for _, x := range got {
		if x != (told{}) || len(sum) == 0 {
			sum = append(sum, x)
		}
	}
	each := told{owners: 2, devices: 2, rosters: 1}
	if len(sum) != 2 || sum[0] != each || sum[1] != each {
		t.Errorf("told %+v; want %+v of either node, once", got, each)
	}
}
