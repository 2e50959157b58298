package plan_test

import (
	"cmp"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

func TestRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var buckets []plan.Bucket
		at := day
		for range rapid.IntRange(0, 30).Draw(t, "buckets") {
			at += 60 * attribution.Second(rapid.IntRange(1, 3).Draw(t, "gap"))
			buckets = append(buckets, plan.Bucket{Start: at, Rows: rapid.SampledFrom([]uint64{1, plan.RowsAtOnce / 4, plan.RowsAtOnce / 2, plan.RowsAtOnce, 2 * plan.RowsAtOnce}).Draw(t, "rows")})
		}
		left := buckets
		if err := plan.Runs(rollup.Minute, buckets, func(low, high attribution.Second, told uint64) error {
			n, rows := 0, uint64(0)
			for n < len(left) && left[n].Start < high {
				rows += left[n].Rows
				n++
			}
			if n == 0 || left[0].Start != low || left[n-1].Start+60 != high {
				t.Fatalf("the run [%d, %d) is not the next of %v", low, high, left)
			}
			if rows != told {
				t.Fatalf("a run of %d rows is said to have %d", rows, told)
			}
			if rows > plan.RowsAtOnce && n > 1 {
				t.Fatalf("a run of %d buckets has %d rows", n, rows)
			}
			if n < len(left) && rows+left[n].Rows <= plan.RowsAtOnce {
				t.Fatalf("a run of %d rows leaves out the next %d", rows, left[n].Rows)
			}
			left = left[n:]
			return nil
		}); err != nil || len(left) > 0 {
			t.Fatalf("%v; left are %v", err, left)
		}
	})
	boom := errors.New("boom")
	calls := 0
	err := plan.Runs(rollup.Minute, []plan.Bucket{{day, plan.RowsAtOnce}, {day + 60, 1}}, func(_, _ attribution.Second, _ uint64) error {
		calls++
		return boom
	})
	if !errors.Is(err, boom) || calls != 1 {
		t.Error(calls, err)
	}
}

func TestRowsComeInOrder(t *testing.T) {
	few := rapid.IntRange(0, 2)
	rapid.Check(t, func(t *rapid.T) {
		devices := []*attribution.Device{{ID: "b"}, {ID: "a", Node: "z"}, {ID: "a"}}
		owners := []*attribution.Owner{{Pod: "b"}, {Pod: "a"}, {Kind: attribution.Container, Pod: "a"}}
		var rows []store.FactRow
		var tallies []store.TallyFactRow
		for range rapid.IntRange(0, 20).Draw(t, "rows") {
			rows = append(rows, store.FactRow{
				Bucket: attribution.Second(few.Draw(t, "bucket")), Device: devices[few.Draw(t, "device")], Owner: owners[few.Draw(t, "owner")],
				Basis: attribution.Basis(few.Draw(t, "basis")), Method: []string{"", "a", "b"}[few.Draw(t, "method")], Revision: uint32(few.Draw(t, "revision")),
			})
			name := func(what string) string { return []string{"", "a", "b"}[few.Draw(t, what)] }
			tallies = append(tallies, store.TallyFactRow{
				Bucket: attribution.Second(few.Draw(t, "bucket")), Owner: owners[few.Draw(t, "owner")],
				Model: name("model"), Tenant: name("tenant"), Tier: name("tier"), Measure: attribution.Measure(name("measure")),
			})
		}
		want, wantTallies := slices.Clone(rows), slices.Clone(tallies)
		slices.SortStableFunc(want, func(a, b store.FactRow) int {
			return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareDevices(a.Device, b.Device), attribution.CompareOwners(a.Owner, b.Owner),
				cmp.Compare(a.Basis, b.Basis), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Revision, b.Revision))
		})
		slices.SortStableFunc(wantTallies, func(a, b store.TallyFactRow) int {
			return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareOwners(a.Owner, b.Owner), cmp.Compare(a.Model, b.Model),
				cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Measure, b.Measure))
		})
		var got []store.FactRow
		var gotTallies []store.TallyFactRow
		err := plan.FactRows(rows, func(r *store.FactRow) error {
			got = append(got, *r)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%v: %v, want %v", err, got, want)
		}
		err = plan.TallyFactRows(tallies, func(r *store.TallyFactRow) error {
			gotTallies = append(gotTallies, *r)
			return nil
		})
		if err != nil || !slices.Equal(gotTallies, wantTallies) {
			t.Fatalf("%v: %v, want %v", err, gotTallies, wantTallies)
		}
	})
}

func TestWhoIsCalledEndsTheRows(t *testing.T) {
	boom := errors.New("boom")
	d, o := new(attribution.Device), new(attribution.Owner)
	calls := 0
	err := plan.FactRows([]store.FactRow{{Device: d, Owner: o}, {Device: d, Owner: o}}, func(*store.FactRow) error {
		calls++
		return boom
	})
	if !errors.Is(err, boom) || calls != 1 {
		t.Error(calls, err)
	}
}

// documents is entries of a journal as they are stored.
func documents(t *testing.T, n int) (bodies [][]byte) {
	t.Helper()
	for i := range n {
		card := &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: money.Amount(i + 1)}}}
		e := rerating.Entry{ID: uint32(i + 1), From: day, To: day + 10, Card: card}
		body, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	return bodies
}

func TestJournals(t *testing.T) {
	bodies := documents(t, 3)
	var known plan.Journals
	read := 0
	at := func(n uint32, bodies [][]byte) (*rerating.Journal, error) {
		read = 0
		return known.At(n, func(from uint32, add func(time.Time, []byte) error) error {
			for _, b := range bodies[from-1:] {
				read++
				if err := add(time.Unix(int64(read), 0), b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, c := range []struct {
		n    uint32
		read int
	}{{0, 0}, {2, 2}, {2, 0}, {3, 1}, {1, 1}, {3, 0}, {0, 0}} {
		j, err := at(c.n, bodies[:c.n])
		if err != nil || j.Next() != c.n+1 || read != c.read {
			t.Errorf("of %d entries there are %d, and %d were read, want %d: %v", c.n, j.Next()-1, read, c.read, err)
		}
	}
	known = plan.Journals{}
	if _, err := at(3, bodies[:2]); !errors.Is(err, store.ErrCorrupt) {
		t.Error("one is missing: ", err)
	}
	if _, err := at(1, [][]byte{[]byte("no entry")}); !errors.Is(err, store.ErrCorrupt) {
		t.Error("one cannot be read: ", err)
	}
	boom := errors.New("boom")
	if _, err := known.At(1, func(uint32, func(time.Time, []byte) error) error { return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if j, err := at(3, bodies); err != nil || j.Next() != 4 {
		t.Error("what failed is remembered: ", err)
	}
}
