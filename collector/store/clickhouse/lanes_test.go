package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

const day = storetest.Day

// grace is Options.Grace where there are several collectors.
const grace = 50 * time.Millisecond

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// lane opens a place as a collector of a name.
func lane(t *testing.T, place, name string) *clickhouse.Store {
	t.Helper()
	o := options(place)
	o.Name, o.Grace = name, grace
	s, err := clickhouse.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it may be closed already
	return s
}

// holds fails unless a ledger holds exactly so many steady minutes of nodes, by
// rows of every resolution and by chunks, each once.
func holds(t *testing.T, s store.Store, minutes int64) {
	t.Helper()
	want := big.NewInt(minutes * 2 * 60 * attribution.WindowNanos)
	err := s.View(t.Context(), func(r store.Reader) error {
		for _, step := range []int64{0, 60, 86400} {
			rows, err := r.Query(t.Context(), &store.Query{From: 0, To: 2 * day, Step: step, GroupBy: []store.Dimension{store.Pod}})
			if err != nil {
				return err
			}
			sum := new(big.Int)
			for i := range rows {
				sum.Add(sum, &rows[i].DeviceTime)
			}
			if sum.Cmp(want) != 0 {
				t.Errorf("in steps of %d: %s ns, want %s", step, sum, want)
			}
		}
		seen := make(map[string]bool)
		err := r.Chunks(t.Context(), 0, 2*day, func(c *store.Chunk, _ *store.Roster) error {
			k := fmt.Sprint(c.Key)
			if seen[k] {
				t.Errorf("chunk %s comes twice", k)
			}
			seen[k] = true
			return nil
		})
		if int64(len(seen)) != 6*minutes {
			t.Errorf("%d chunks, want %d", len(seen), 6*minutes)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLaw4AChunkThatAnotherCollectorStoredChangesNothing(t *testing.T) {
	place := single.place(t)
	a, b := lane(t, place, "a"), lane(t, place, "b")
	ctx := t.Context()
	if err := a.Commit(ctx, storetest.Batch(1, storetest.Minute(0, day)...)); err != nil {
		t.Fatal(err)
	}
	again := append(storetest.Minute(0, day), storetest.Minute(1, day)...)
	if err := b.Commit(ctx, storetest.Batch(1, again...)); err != nil {
		t.Fatal(err)
	}
	holds(t, a, 2)
	other := storetest.Steady(0, day+20)
	other.Key.Boot[7] = 9
	if err := b.Commit(ctx, storetest.Batch(2, other)); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("the same seconds otherwise: %v", err)
	}
	if err := a.Commit(ctx, storetest.Batch(2, storetest.Minute(0, day)...)); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("its own chunks again: %v", err)
	}
	ranges, err := b.NodeRanges(ctx, "steady", "node-0")
	if err != nil || len(ranges) != 1 || ranges[0].From != day || ranges[0].To != day+60 {
		t.Errorf("the node has %+v, %v", ranges, err)
	}
	for s, want := range map[*clickhouse.Store]uint64{a: 1, b: 1} {
		if err := s.View(ctx, func(r store.Reader) error {
			if r.Commits() != want {
				t.Errorf("%d commits, want its own %d", r.Commits(), want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func TestLaw4CollectorsThatStoreTheSameAtOnceStoreItOnce(t *testing.T) {
	place := single.place(t)
	raced(t, place, times(3, 12))
}

// raced has three collectors commit the same minutes at the same time, and some
// of their own, and fold meanwhile.
func raced(t *testing.T, place string, rounds int) {
	t.Helper()
	ctx := t.Context()
	names := []string{"a", "b", "c"}
	lanes := make([]*clickhouse.Store, len(names))
	for i, n := range names {
		lanes[i] = lane(t, place, n)
	}
	for round := range rounds {
		at := day + attribution.Second(round)*600
		var wg sync.WaitGroup
		for i, s := range lanes {
			wg.Go(func() {
				b := storetest.Batch(uint64(round+1), append(storetest.Minute(9, at), storetest.Minute(i, at)...)...)
				if err := persist(ctx, s, b); err != nil {
					t.Error(err)
				}
				if round%3 == 2 {
					if err := s.Roll(ctx, at); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	for _, s := range lanes {
		holds(t, s, int64(4*rounds))
	}
	for _, s := range lanes {
		if err := s.Roll(ctx, day+2*86400); err != nil {
			t.Error(err)
		}
	}
	holds(t, lane(t, place, "d"), int64(4*rounds))
}

// persist commits until it is done, as a collector does.
func persist(ctx context.Context, s store.Store, b *store.Batch) error {
	for {
		err := s.Commit(ctx, b)
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		var n uint64
		if verr := s.View(ctx, func(r store.Reader) error { n = r.Commits(); return nil }); verr == nil && n >= b.Number {
			return nil // it was there, and the answer was lost
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func TestDocumentsOfTwoCollectorsHaveRevisionsOfTheirOwn(t *testing.T) {
	place := single.place(t)
	a, b := lane(t, place, "a"), lane(t, place, "b")
	ctx := t.Context()
	if n, err := a.PutDocument(ctx, store.RateCards, []byte("one"), t0); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	for want, s := range map[bool]*clickhouse.Store{true: b} {
		if changed, err := s.Refresh(ctx); err != nil || changed != want {
			t.Errorf("changed %v, %v", changed, err)
		}
		if changed, err := s.Refresh(ctx); err != nil || changed {
			t.Errorf("changed again: %v, %v", changed, err)
		}
	}
	if n, err := b.PutDocument(ctx, store.RateCards, []byte("two"), t0); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if d, err := a.Document(ctx, store.RateCards, 0); err != nil || string(d.Body) != "two" {
		t.Errorf("%q, %v", d.Body, err)
	}
}

func TestANewerLedgerIsRefused(t *testing.T) {
	place := single.place(t)
	_ = lane(t, place, "a").Close() // it only made the tables
	o := options(place)
	if _, err := single.cluster.Nodes[0].Exec(t.Context(), "INSERT INTO "+o.Database+".meta VALUES (99, 'schema')"); err != nil {
		t.Fatal(err)
	}
	if _, err := clickhouse.Open(t.Context(), o); err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a newer ledger: %v", err)
	}
}

func TestAServerThatIsGoneIsUnavailable(t *testing.T) {
	c := clickhousetest.Start(t, 1, 1)
	place := c.Nodes[0].Address + "||ledger"
	s := lane(t, place, "a")
	ctx := t.Context()
	for n := uint64(1); n <= 4; n++ {
		b := storetest.Batch(n, storetest.Minute(0, day+attribution.Second(n)*600)...)
		c.Nodes[0].Kill()
		if err := s.Commit(ctx, b); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("without a server: %v", err)
		}
		if err := c.Nodes[0].Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := persist(ctx, s, b); err != nil {
			t.Fatal(err)
		}
		holds(t, s, int64(n))
	}
}

func TestWhatIsNoLongerKeptIsDroppedFromDisk(t *testing.T) {
	place := single.place(t)
	s := lane(t, place, "a")
	ctx := t.Context()
	for n := range attribution.Second(3) {
		if err := s.Commit(ctx, storetest.Batch(uint64(n+1), storetest.Minute(0, day+n*5*86400)...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Roll(ctx, day+20*86400); err != nil {
		t.Fatal(err)
	}
	keep := store.Retention{Second: time.Hour, Minute: 24 * time.Hour}
	for range 2 { // the first hides, the second drops
		if err := s.Retain(ctx, keep, day+10*86400); err != nil {
			t.Fatal(err)
		}
	}
	for table, want := range map[string]string{"minute": "4", "tally_minute": "1", "chunk": "6", "span": "18"} {
		if got, err := single.cluster.Nodes[0].Exec(ctx, "SELECT count() FROM "+options(place).Database+"."+table); err != nil || got != want {
			t.Errorf("%s has %s rows, want %s: %v", table, got, want, err)
		}
	}
	if err := s.View(ctx, func(r store.Reader) error {
		rows, err := r.Query(ctx, &store.Query{From: 0, To: 2 * day})
		sum := new(big.Int)
		for i := range rows {
			sum.Add(sum, &rows[i].DeviceTime)
		}
		if want := big.NewInt(3 * 2 * 60 * attribution.WindowNanos); sum.Cmp(want) != 0 {
			t.Errorf("%s ns, want %s", sum, want)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// times is how often a race is run: in the short run, and in the long one.
func times(short, many int) int {
	if long() {
		return many
	}
	return short
}
