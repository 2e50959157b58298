package clickhouse_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// stored is the ranges of a ledger, as text.
func stored(t *testing.T, s store.Store) (out []string) {
	t.Helper()
	if err := s.View(t.Context(), func(r store.Reader) error {
		return r.Ranges(t.Context(), func(x store.Range) error {
			out = append(out, fmt.Sprintf("%s %s %x %d %d %x %x", x.Cluster, x.Node, x.Boot, x.From-day, x.To-day, x.Previous, x.Link))
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// coversAsRanges fails unless Covered finds, in windows all over, every second of
// them that Ranges has, and nothing that it has not.
func coversAsRanges(t *testing.T, s store.Store) {
	t.Helper()
	ctx := t.Context()
	type second struct {
		node string
		at   attribution.Second
	}
	if err := s.View(ctx, func(r store.Reader) error {
		all := make(map[second]bool)
		if err := r.Ranges(ctx, func(x store.Range) error {
			for at := x.From; at < x.To; at++ {
				all[second{x.Node, at}] = true
			}
			return nil
		}); err != nil {
			return err
		}
		for _, w := range [][2]attribution.Second{{day, day + 1}, {day + 19, day + 21}, {day + 59, day + 700}, {0, 2 * day}, {day + 5, day + 5}, {day + 70, day + 500}} {
			got := make(map[second]bool)
			if err := r.(store.Covering).Covered(ctx, w[0], w[1], func(x store.Range) error {
				for at := x.From; at < x.To; at++ {
					got[second{x.Node, at}] = true
				}
				return nil
			}); err != nil {
				return err
			}
			for k := range all {
				if k.at >= w[0] && k.at < w[1] && !got[k] {
					t.Errorf("[%d, %d): second %d of %s is stored and not covered", w[0]-day, w[1]-day, k.at-day, k.node)
				}
			}
			for k := range got {
				if !all[k] {
					t.Errorf("[%d, %d): second %d of %s is covered and not stored", w[0]-day, w[1]-day, k.at-day, k.node)
				}
			}
		}
		stop := errors.New("enough")
		if err := r.(store.Covering).Covered(ctx, 0, 2*day, func(store.Range) error { return stop }); len(all) > 0 && !errors.Is(err, stop) {
			t.Errorf("a callback's error comes back as it is, got %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestLaw4OldClaimsBecomeRanges makes ranges of claims, by two collectors, and
// drops the claims: what is stored stays the same, chain ends too.
func TestLaw4OldClaimsBecomeRanges(t *testing.T) {
	t.Parallel()
	oldClaims(t, single.place(t), "0", func(place string) (string, error) {
		return single.cluster.Nodes[0].Exec(t.Context(), "SELECT count() FROM "+options(place).Database+".span")
	})
}

func oldClaims(t *testing.T, place, left string, spans func(string) (string, error)) {
	t.Helper()
	ctx := t.Context()
	a, b := lane(t, place, "a"), lane(t, place, "b")
	var chunks []*attribution.Chunk
	for i := range attribution.Second(12) {
		chunks = append(chunks, storetest.Steady(0, day+10*i))
	}
	link := attribution.FirstLink(chunks[0].Key.Boot)
	numbers := make(map[*clickhouse.Store]uint64)
	chain := func(s *clickhouse.Store, cs ...*attribution.Chunk) {
		t.Helper()
		numbers[s]++
		batch := storetest.Batch(numbers[s], cs...)
		for i := range batch.Chunks {
			batch.Chunks[i].Previous = link
			link = batch.Chunks[i].Link()
		}
		if err := s.Commit(ctx, batch); err != nil {
			t.Fatal(err)
		}
	}
	chain(a, chunks[:3]...)
	chain(b, chunks[3:6]...)
	chain(a, chunks[7])
	link = attribution.FirstLink(chunks[0].Key.Boot)
	chain(b, chunks[8:10]...) // the chain breaks
	if err := rated(ctx, a, 3, storetest.Minute(3, day+600)...); err != nil {
		t.Fatal(err)
	}
	numbers[a] = 3
	want := stored(t, a)
	if len(want) != 4 {
		t.Fatalf("%d ranges: %q", len(want), want)
	}
	same := func(when string) {
		t.Helper()
		for _, s := range []*clickhouse.Store{a, b} {
			if got := stored(t, s); !slices.Equal(got, want) {
				t.Errorf("%s:\n got %q\nwant %q", when, got, want)
			}
			coversAsRanges(t, s)
		}
	}
	same("as chunks")
	// compacted has collectors compact until nothing is left as it was claimed.
	compacted := func(when string) {
		t.Helper()
		for _, s := range []*clickhouse.Store{a, b, a} {
			s.SetLimits(10, 150, 5, -1) // what was just now claimed, too
			if err := s.Retain(ctx, store.Retention{}, day+86400); err != nil {
				t.Fatal(err)
			}
			same(when)
		}
	}
	compacted("compacted")
	for i, s := range []*clickhouse.Store{a, b} {
		if err := s.Commit(ctx, storetest.Batch(numbers[s]+1, chunks[4])); !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("collector %d stores a second again: %v", i, err)
		}
	}
	// What comes now goes on where the ranges end, and is compacted in its turn.
	<-time.After(1100 * time.Millisecond) // the servers' clock counts seconds
	chain(b, chunks[10])
	if want = stored(t, a); len(want) != 4 || !strings.Contains(want[2], " 80 110 ") {
		t.Errorf("the chain goes on: %q", want)
	}
	same("gone on")
	compacted("compacted again")
	// A view from then may still look: claims are dropped a day later.
	if n, err := spans(place); err != nil || n != "16" {
		t.Errorf("%s claims are left, want all 16: %v", n, err)
	}
	<-time.After(1100 * time.Millisecond)
	chain(b, storetest.Steady(7, day))
	for range 2 {
		a.SetLimits(10, 150, 5, -3*86400)
		if err := a.Retain(ctx, store.Retention{}, day+86400); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := spans(place); err != nil || n != left {
		t.Errorf("%s claims are left, want %s: %v", n, left, err)
	}
	if err := a.Commit(ctx, storetest.Batch(numbers[a]+1, storetest.Steady(8, day))); err != nil {
		t.Errorf("after claims were dropped: %v", err)
	}
}
