package clickhouse_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// TestLaw4AReplicaIsKilledWhileCollectorsCommit kills one server of two shards of
// two replicas after another, with kill -9, while two collectors commit the same
// and different minutes.
func TestLaw4AReplicaIsKilledWhileCollectorsCommit(t *testing.T) {
	if !long() {
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

// TestLaw4AReplicaThatLags stops a replica from fetching while collectors store
// the same: nothing is acknowledged that the other does not have, and what was in
// doubt is there once.
func TestLaw4AReplicaThatLags(t *testing.T) {
	if !long() {
		t.Skip("set " + clusterEnv + "=1 for a cluster whose replicas lag")
	}
	place := cluster.place(t)
	c, ctx := cluster.cluster, t.Context()
	a, b := lane(t, place, "a"), lane(t, place, "b")
	if err := persist(ctx, a, storetest.Batch(1, storetest.Minute(0, day)...)); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		at := day + attribution.Second(round+1)*600
		lagging := c.Nodes[round]
		tell := func(what string) {
			t.Helper()
			if _, err := lagging.Exec(ctx, "SYSTEM "+what+" FETCHES"); err != nil {
				t.Error(err)
			}
		}
		tell("STOP")
		var wg sync.WaitGroup
		for i, s := range []store.Store{a, b} {
			wg.Go(func() {
				n := uint64(round + 2 - i)
				if err := persist(ctx, s, storetest.Batch(n, append(storetest.Minute(9, at), storetest.Minute(i, at)...)...)); err != nil {
					t.Error(err)
				}
			})
		}
		timer := time.AfterFunc(3*time.Second, func() { tell("START") })
		wg.Wait()
		timer.Stop()
		tell("START")
	}
	holds(t, a, 7)
	if err := b.Roll(ctx, day+2*86400); err != nil {
		t.Error(err)
	}
	holds(t, lane(t, place, "c"), 7)
}

// TestLaw6CollectorsRerateAndCommitAtOnceOnACluster is its namesake.
func TestLaw6CollectorsRerateAndCommitAtOnceOnACluster(t *testing.T) {
	if !long() {
		t.Skip("set " + clusterEnv + "=1 for collectors that race on a cluster")
	}
	ratedAtOnce(t, cluster.place(t), 3)
}

// TestLaw4OldClaimsBecomeRangesOnACluster is its namesake.
func TestLaw4OldClaimsBecomeRangesOnACluster(t *testing.T) {
	if !long() {
		t.Skip("set " + clusterEnv + "=1 for claims that are compacted on a cluster")
	}
	// This version's replicas cannot forget a partition.
	oldClaims(t, cluster.place(t), "17", func(place string) (string, error) {
		return cluster.cluster.Nodes[0].Exec(t.Context(), "SELECT count() FROM "+options(place).Database+".span")
	})
}
