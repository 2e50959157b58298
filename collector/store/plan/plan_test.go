package plan_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

const (
	day  = storetest.Day
	hour = attribution.Second(rollup.Hour)
)

// drawMarks draws watermarks that a ledger may come to by commits, rolls and
// retention.
func drawMarks(t *rapid.T) plan.Watermarks {
	w := plan.Nothing()
	if rapid.Bool().Draw(t, "stored") {
		first := day + attribution.Second(rapid.IntRange(0, 200_000).Draw(t, "first"))
		w.Extend(first, first+attribution.Second(rapid.IntRange(1, 400_000).Draw(t, "length")))
	}
	if !w.Empty() && rapid.Bool().Draw(t, "rolled") {
		w.HourRolled = rollup.Hour.Start(w.First + attribution.Second(rapid.Int64Range(0, int64(w.Last-w.First)).Draw(t, "hours")))
		w.DayRolled = rollup.Day.Start(w.HourRolled - attribution.Second(rapid.IntRange(0, 90_000).Draw(t, "days behind")))
	}
	if keep := rapid.IntRange(0, 200_000); rapid.Bool().Draw(t, "retained") {
		w.Retain(store.Retention{
			Second: time.Duration(keep.Draw(t, "seconds")) * time.Second, Minute: time.Duration(keep.Draw(t, "minutes")) * time.Second,
			Hour: time.Duration(2*keep.Draw(t, "hours")) * time.Second, Day: time.Duration(3*keep.Draw(t, "days")) * time.Second,
		}, max(w.Last, day))
	}
	return w
}

func drawQuery(t *rapid.T) *store.Query {
	at := func(name string) attribution.Second {
		s := day + attribution.Second(rapid.IntRange(-100_000, 700_000).Draw(t, name))
		return rapid.SampledFrom([]rollup.Resolution{store.Seconds, rollup.Minute, rollup.Hour, rollup.Day}).Draw(t, name+" of").Start(s)
	}
	q := &store.Query{From: at("from"), To: at("to"), Step: rapid.SampledFrom([]int64{0, 1, 7, 60, 90, 300, 3600, 5400, 86400, 172800}).Draw(t, "step")}
	if q.From >= q.To {
		q.To = q.From + 1
	}
	return q
}

// TestPiecesAreTheCoarsestThatFit holds plans against what they promise.
func TestPiecesAreTheCoarsestThatFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, q := drawMarks(t), drawQuery(t)
		p, err := plan.Of(q, &w)
		if errors.Is(err, store.ErrTooFine) {
			// It needs something that is gone, and only that is wrong.
			all := w
			all.SecondKept, all.MinuteKept, all.HourKept = plan.Never, plan.Never, plan.Never
			if p, err = plan.Of(q, &all); err != nil {
				t.Fatal(err)
			}
			first, _ := w.Extent()
			if !slices.ContainsFunc(inOrder(p), func(x plan.Piece) bool { return max(x.From, first) < w.Kept(x.Resolution) }) {
				t.Fatalf("%+v is refused, and has all it needs of %+v: %+v", q, w, p)
			}
			w = all
		} else if err != nil {
			t.Fatal(err)
		}
		checkTiles(t, q, &w, inOrder(p))
		for _, x := range inOrder(p) {
			checkPiece(t, q, &w, x)
		}
	})
}

func inOrder(p *plan.Plan) []plan.Piece {
	out := slices.Concat(p.Rows, p.Seconds)
	slices.SortFunc(out, func(a, b plan.Piece) int { return cmp.Compare(a.From, b.From) })
	return out
}

// checkTiles has pieces side by side, over all of the range that is stored and
// nothing else that is.
func checkTiles(t *rapid.T, q *store.Query, w *plan.Watermarks, pieces []plan.Piece) {
	first, last := w.Extent()
	from, to := max(q.From, first), min(q.To, last)
	if from >= to {
		if len(pieces) > 0 {
			t.Fatalf("nothing is stored of %+v: %+v", q, pieces)
		}
		return
	}
	for i, x := range pieces {
		if x.From >= x.To || i > 0 && pieces[i-1].To != x.From {
			t.Fatalf("pieces of %+v do not lie side by side: %+v", q, pieces)
		}
	}
	low, high := pieces[0].From, pieces[len(pieces)-1].To
	if low > from || low < from && from != first || high < to || high > to && to != last {
		t.Fatalf("pieces of %+v, of which [%d, %d) is stored, are of [%d, %d)", q, from, to, low, high)
	}
}

// checkPiece has a piece be whole buckets that are there and do not cross a step,
// and no coarser ones fit.
func checkPiece(t *rapid.T, q *store.Query, w *plan.Watermarks, x plan.Piece) {
	first, last := w.Extent()
	r, length := x.Resolution, attribution.Second(x.Resolution)
	if r.Start(x.From) != x.From || r.Start(x.To) != x.To {
		t.Fatalf("%+v is not of whole buckets", x)
	}
	if r > rollup.Minute && x.To > w.Rolled(r) {
		t.Fatalf("%+v goes beyond %d, where it is rolled", x, w.Rolled(r))
	}
	if max(x.From, first) < w.Kept(r) {
		t.Fatalf("%+v goes beyond %d, from where it is kept", x, w.Kept(r))
	}
	for at := x.From; at < x.To && length > 1; at += length {
		a, b := max(at, first, q.From), min(at+length, last, q.To)-1
		if a <= b && q.Bucket(a) != q.Bucket(b) {
			t.Fatalf("the bucket %d of %+v lies in two of the answer", at, x)
		}
	}
	for _, coarser := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		if coarser <= r || q.Step%int64(coarser) != 0 {
			continue
		}
		low := coarser.Start(x.From + attribution.Second(coarser) - 1)
		high := low + attribution.Second(coarser)
		if high <= x.To && (coarser == rollup.Minute || high <= w.Rolled(coarser)) {
			t.Fatalf("[%d, %d) of %+v is a whole %s", low, high, x, plan.Name(coarser))
		}
	}
}

func TestPlans(t *testing.T) {
	w := plan.Nothing()
	w.Extend(day, day+10*86400)
	w.HourRolled, w.DayRolled = day+10*86400, day+9*86400
	for name, c := range map[string]struct {
		from, to attribution.Second
		step     int64
		want     string
	}{
		"as in the package": {
			day + 9*hour + 1800, day + 2*86400 + 14*hour + 1800, 0,
			"minute 34200-36000, hour 36000-86400, day 86400-172800, hour 172800-223200, minute 223200-225000",
		},
		"seconds at the ends":   {day + 59, day + 121, 0, "second 59-60, minute 60-120, second 120-121"},
		"a step of seconds":     {day, day + 86400, 90, "second 0-86400"},
		"a step of minutes":     {day, day + 86400, 300, "minute 0-86400"},
		"no day is rolled":      {day + 9*86400, day + 10*86400, 0, "hour 777600-864000"},
		"more than is stored":   {day - 5, day + 20*86400, 86400, "day 0-777600, hour 777600-864000"},
		"before what is stored": {day - 5, day, 0, ""},
		"after what is stored":  {day + 10*86400, day + 11*86400, 0, ""},
	} {
		p, err := plan.Of(&store.Query{From: c.from, To: c.to, Step: c.step}, &w)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range inOrder(p) {
			got = append(got, fmt.Sprintf("%s %d-%d", plan.Name(x.Resolution), x.From-day, x.To-day))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %s, want %s", name, strings.Join(got, ", "), c.want)
		}
	}
}

// TestTheEndsOfALedgerAreWholeDays has a query of all there is take what began and
// ended within a day as whole days: nothing is stored around it, or kept.
func TestTheEndsOfALedgerAreWholeDays(t *testing.T) {
	w := plan.Nothing()
	w.Extend(day+6*hour+7, day+30*hour+7)
	w.HourRolled, w.DayRolled, w.MinuteKept = math.MaxInt64, math.MaxInt64, day+6*hour
	for step, want := range map[int64]plan.Piece{
		0:   {From: day, To: day + 48*hour, Resolution: rollup.Day},
		300: {From: day, To: day + 48*hour, Resolution: rollup.Minute},
	} {
		p, err := plan.Of(&store.Query{From: w.First, To: w.Last, Step: step}, &w)
		if err != nil || !slices.Equal(inOrder(p), []plan.Piece{want}) {
			t.Errorf("%+v, %v, want %+v", p, err, want)
		}
	}
}

func TestPlansThatAreRefused(t *testing.T) {
	w := plan.Nothing()
	w.Extend(day, day+10*86400)
	w.MinuteKept = day + 5*86400
	if _, err := plan.Of(&store.Query{From: day + 1, To: day}, &w); !errors.Is(err, store.ErrBadQuery) {
		t.Error(err)
	}
	_, err := plan.Of(&store.Query{From: day, To: day + 10*86400, Step: 300}, &w)
	if !errors.Is(err, store.ErrTooFine) || !strings.Contains(err.Error(), "needs minutes, kept from 2026-01-06T00:00:00Z on") {
		t.Error(err)
	}
	// Elsewhere, hours are there before they are folded.
	w.HourRolled, w.DayRolled = math.MaxInt64, math.MaxInt64
	if p, err := plan.Of(&store.Query{From: day, To: day + 10*86400}, &w); err != nil || len(p.Rows) != 1 || p.Rows[0].Resolution != rollup.Day {
		t.Error(p, err)
	}
}

func TestDevices(t *testing.T) {
	w := plan.Nothing()
	w.Extend(day, day+100)
	for name, c := range map[string]struct {
		from, to  attribution.Second
		by        store.Dimension
		low, high attribution.Second
		err       error
	}{
		"within":        {day + 10, day + 20, store.Node, day + 10, day + 20, nil},
		"more":          {day - 10, day + 200, store.Node, day, day + 100, nil},
		"of owners":     {day, day + 1, store.Pod, 0, 0, store.ErrBadQuery},
		"the wrong way": {day, day, store.Node, 0, 0, store.ErrBadQuery},
	} {
		low, high, err := plan.Devices(&w, c.from, c.to, []store.Filter{{Dimension: c.by, Values: []string{"x"}}})
		if low != c.low || high != c.high || !errors.Is(err, c.err) {
			t.Errorf("%s: [%d, %d), %v", name, low, high, err)
		}
	}
	if low, high, err := plan.Devices(&w, day+100, day+200, nil); err != nil || low < high {
		t.Errorf("[%d, %d) is stored after all, %v", low, high, err)
	}
}
