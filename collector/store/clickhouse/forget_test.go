package clickhouse_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// TestLaw4ContestsAreForgottenWithTheirClaims has a collector die after its claim,
// two store the same at once, and one fail: of what is noted of that, only the
// contest of the two stays, and what is stored stays the same.
func TestLaw4ContestsAreForgottenWithTheirClaims(t *testing.T) {
	t.Parallel()
	place := single.place(t)
	ctx := t.Context()
	count := func(table string) string {
		t.Helper()
		n, err := single.cluster.Nodes[0].Exec(ctx, "SELECT count() FROM "+options(place).Database+"."+table)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	dead, pd := through(t, place, "dead")
	slow, ps := through(t, place, "slow")
	b := lane(t, place, "b")
	var gone atomic.Bool
	pd.set(func(s string) bool {
		if strings.HasPrefix(s, logEntry) {
			gone.Store(true)
		}
		return gone.Load()
	})
	batch := storetest.Batch(1, storetest.Minute(0, day)...)
	if err := dead.Commit(ctx, batch); err == nil {
		t.Fatal("the dead one has stored something")
	}
	if err := b.Commit(ctx, batch); err != nil {
		t.Fatal(err)
	}
	// The slow one claims, and b claims and stores the same before it comes to the log.
	came, release := ps.held(logEntry)
	same := storetest.Minute(1, day)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := persist(ctx, slow, storetest.Batch(1, same...)); err != nil {
			t.Error(err)
		}
	})
	<-came
	if err := b.Commit(ctx, storetest.Batch(2, same...)); err != nil {
		t.Fatal(err)
	}
	close(release)
	wg.Wait()
	var once atomic.Bool
	ps.set(func(s string) bool {
		return strings.HasPrefix(s, "INSERT INTO minute") && once.CompareAndSwap(false, true)
	})
	if err := slow.Commit(ctx, storetest.Batch(2, storetest.Minute(2, day)...)); err == nil {
		t.Fatal("a write that lost its rows is stored")
	}
	ps.set(nil)
	if got, want := fmt.Sprint(count("contested"), " ", count("ended")), "12 1"; got != want {
		t.Fatalf("%s rows are in contested and ended, want %s", got, want)
	}
	holds(t, b, 2)
	// Claims are old a second later, and dropped by the round after; servers delete in
	// their own time.
	rounds := 0
	for left := ""; left != "6 0"; {
		select {
		case <-time.After(1100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s rows are left", left)
		}
		rounds++
		if err := b.Commit(ctx, storetest.Batch(uint64(2+rounds), storetest.Minute(3, day+600*attribution.Second(rounds))...)); err != nil {
			t.Fatal(err)
		}
		b.SetLimits(10, 150, 5, -3*86400)
		if err := b.Retain(ctx, store.Retention{}, day+86400); err != nil {
			t.Fatal(err)
		}
		left = fmt.Sprint(count("contested"), " ", count("ended"))
		t.Logf("after round %d: %s rows are in contested and ended", rounds, left)
	}
	minutes := int64(2 + rounds)
	holds(t, b, minutes)
	holds(t, lane(t, place, "c"), minutes)
	if err := b.Roll(ctx, day+2*86400); err != nil {
		t.Fatal(err)
	}
	if err := slow.Roll(ctx, day+2*86400); err != nil {
		t.Fatal(err)
	}
	holds(t, lane(t, place, "d"), minutes)
}
