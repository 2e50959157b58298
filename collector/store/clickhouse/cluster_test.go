package clickhouse_test

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// TestLaw4AReplicaIsKilledWhileCollectorsCommit kills one server of two shards of
// two replicas after another, with kill -9, while two collectors commit the same
// and different minutes.
func TestLaw4AReplicaIsKilledWhileCollectorsCommit(t *testing.T) {
	if os.Getenv(clusterEnv) == "" {
		t.Skip("set " + clusterEnv + "=1 for a cluster whose servers are killed")
	}
	c := clickhousetest.Start(t, 2, 2)
	ctx := t.Context()
	place := strings.Join(c.Addresses(), ",") + "|" + c.Name + "|ledger"
	a, b := lane(t, place, "a"), lane(t, place, "b")
	const rounds = 6
	for round := range rounds {
		at := day + attribution.Second(round)*600
		var wg sync.WaitGroup
		for i, s := range []store.Store{a, b} {
			wg.Go(func() {
				batch := storetest.Batch(uint64(round+1), append(storetest.Minute(9, at), storetest.Minute(i, at)...)...)
				if err := persist(ctx, s, batch); err != nil {
					t.Error(err)
				}
			})
		}
		victim := c.Nodes[round%len(c.Nodes)]
		victim.Kill()
		if err := victim.Start(ctx); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	holds(t, a, 3*rounds)
	if err := b.Roll(ctx, day+2*86400); err != nil {
		t.Error(err)
	}
	holds(t, lane(t, place, "c"), 3*rounds)
}
