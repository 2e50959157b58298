package duckdb_test

import (
	"cmp"
	"fmt"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/plan"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// A large fleet's minute is read in parts: each row once, in the order of all, with
// its own facts, and another minute's are not among them.
func TestALargeMinuteIsReadInParts(t *testing.T) {
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Decode: storetest.Decode, MemoryBytes: 128 << 20, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // nothing is written
	const pods = plan.RowsAtOnce*3/2 + 7
	next := 0
	for number := range uint64(2) {
		b := newcomers(number+1, &next, pods)
		b.Chunks, b.Rosters = nil, nil
		for i := range b.Rows {
			r := &b.Rows[i]
			b.Tallies = append(b.Tallies, rollup.TallyRow{
				Bucket: r.Bucket,
				Series: rollup.TallySeries{Owner: r.Series.Owner, Model: fmt.Sprint("m", i%2), Measure: "success"},
				Value:  r.Time,
			})
		}
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	const minute = storetest.Day + 60
	if err := s.View(t.Context(), func(r store.Reader) error {
		var last store.FactRow
		rows, sum := 0, int64(0)
		if err := r.Rows(t.Context(), rollup.Minute, minute, minute+60, func(x *store.FactRow) error {
			if rows++; rows > 1 && cmp.Or(attribution.CompareDevices(last.Device, x.Device), attribution.CompareOwners(last.Owner, x.Owner), cmp.Compare(last.Basis, x.Basis)) >= 0 {
				t.Fatalf("row %d: %v of %v came after %v of %v", rows, x.Owner, x.Device, last.Owner, last.Device)
			}
			if pod := x.Owner.Pod; pod != fmt.Sprintf("inference-server-%08x-%05d", x.Sums.Time, x.Sums.Time%99999) || len(x.Owner.Labels) != 3 || x.Device.Node != x.Owner.Node {
				t.Fatalf("the row of %d ns is said to be %v's", x.Sums.Time, x.Owner)
			}
			last = *x
			sum += x.Sums.Time
			return nil
		}); err != nil {
			return err
		}
		if want := int64(pods) * (pods - 1); rows != 2*pods || sum != want {
			t.Errorf("%d rows of %d ns, want %d of %d", rows, sum, 2*pods, want)
		}
		var before store.TallyFactRow
		tallies, counted := 0, int64(0)
		if err := r.TallyRows(t.Context(), rollup.Minute, minute, minute+60, func(x *store.TallyFactRow) error {
			if tallies++; tallies > 1 && cmp.Or(attribution.CompareOwners(before.Owner, x.Owner), cmp.Compare(before.Model, x.Model)) >= 0 {
				t.Fatalf("tally %d: %v came after %v", tallies, x.Owner, before.Owner)
			}
			before = *x
			counted += x.Value
			return nil
		}); err != nil {
			return err
		}
		if tallies != 2*pods || counted != sum {
			t.Errorf("%d tallies of %d, want %d of %d", tallies, counted, 2*pods, sum)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
