package duckdb_test

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
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
	const pods = plan.RowsAtOnce*3/2 + 7
	const minute = storetest.Day + 60
	s := opened(t, t.TempDir())
	defer s.Close() //nolint:errcheck // nothing is written
	fill(t, s, pods, 2)
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

// A large minute of which the ledger does not know whose some of it is, is no answer.
func TestALargeMinuteWithoutFactsIsCorrupt(t *testing.T) {
	const minute = storetest.Day + 60
	dir := t.TempDir()
	s := opened(t, dir)
	fill(t, s, plan.RowsAtOnce/2+1, 1) // of two rows and two tallies each
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tallies := func(r store.Reader) error {
		return r.TallyRows(t.Context(), rollup.Minute, minute, minute+60, func(*store.TallyFactRow) error { return nil })
	}
	rows := func(r store.Reader) error {
		return r.Rows(t.Context(), rollup.Minute, minute, minute+60, func(*store.FactRow) error { return nil })
	}
	for _, c := range []struct {
		statement string
		read      func(store.Reader) error
		want      error
	}{
		{`SELECT 1`, rows, nil},
		{`SELECT 1`, tallies, nil},
		{`DELETE FROM device WHERE id = (SELECT max(id) FROM device)`, rows, store.ErrCorrupt}, // the order of rows is of devices
		{`DELETE FROM owner WHERE id = (SELECT max(id) FROM owner)`, tallies, store.ErrCorrupt},
	} {
		tamper(t, dir, c.statement)
		s := opened(t, dir)
		if err := s.View(t.Context(), c.read); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.statement, err, c.want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func opened(t *testing.T, dir string) *duckdb.Store {
	t.Helper()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode, MemoryBytes: 128 << 20, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill commits minutes of so many pods each, with two rows and two tallies a pod.
func fill(t *testing.T, s *duckdb.Store, pods int, minutes uint64) {
	t.Helper()
	next := 0
	for number := range minutes {
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
}

func tamper(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sql.Open("duckdb", filepath.Join(dir, duckdb.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
