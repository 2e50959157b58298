package plan_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

func TestNothingIsStored(t *testing.T) {
	w := plan.Nothing()
	first, last := w.Extent()
	if !w.Empty() || first != 0 || last != 0 || w.Rolled(rollup.Hour) != 0 || w.Rolled(rollup.Day) != 0 || w.Rolled(rollup.Minute) != 0 || w.Kept(rollup.Day) != plan.Never {
		t.Errorf("%+v", w)
	}
	w.Retain(store.DefaultRetention, day)
	if want := rollup.Minute.Start(day - 7200); w.SecondKept != want || w.MinuteKept > 0 || w.HourKept > 0 || w.DayKept != plan.Never {
		t.Errorf("%+v", w)
	}
}

func TestExtent(t *testing.T) {
	w := plan.Nothing()
	w.Extend(day+10, day+20)
	w.Extend(day+5, day+6)
	if first, last := w.Extent(); first != day+5 || last != day+20 || w.Empty() {
		t.Error(first, last)
	}
	w.DayKept = day + 86400
	if first, last := w.Extent(); first != 0 || last != 0 || w.Empty() {
		t.Error("its days are dropped: ", first, last)
	}
}

func TestRetain(t *testing.T) {
	w := plan.Nothing()
	w.Extend(day, day+30*86400)
	w.HourRolled, w.DayRolled = day+30*86400, day+29*86400
	w.Retain(store.Retention{Second: 2 * time.Hour, Minute: 36 * time.Hour, Hour: 12 * time.Hour, Day: 20 * 24 * time.Hour}, day+30*86400+90)
	for _, c := range []struct {
		of        rollup.Resolution
		got, want attribution.Second
	}{
		{store.Seconds, w.Kept(store.Seconds), day + 30*86400 + 60 - 7200},
		{rollup.Minute, w.Kept(rollup.Minute), day + 28*86400 + 12*3600},
		{rollup.Hour, w.Kept(rollup.Hour), day + 29*86400}, // as far as days are
		{rollup.Day, w.Kept(rollup.Day), day + 10*86400},
	} {
		if c.got != c.want {
			t.Errorf("%ss are kept from %d on, want %d", plan.Name(c.of), c.got, c.want)
		}
	}
}

// TestLaw5RetentionDropsNothingThatIsNotFolded has retention never move back, and
// every second before what is kept be folded into the next coarser rows.
func TestLaw5RetentionDropsNothingThatIsNotFolded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawMarks(t)
		before := w
		keep := func(name string) time.Duration {
			return time.Duration(rapid.Int64Range(0, 1_000_000).Draw(t, name)) * time.Second
		}
		r := store.Retention{Second: keep("second"), Minute: keep("minute"), Hour: keep("hour"), Day: keep("day")}
		w.Retain(r, day+attribution.Second(rapid.IntRange(0, 1_000_000).Draw(t, "now")))
		for _, res := range []rollup.Resolution{store.Seconds, rollup.Minute, rollup.Hour, rollup.Day} {
			if w.Kept(res) < before.Kept(res) {
				t.Fatalf("%ss were kept from %d on and are from %d", plan.Name(res), before.Kept(res), w.Kept(res))
			}
		}
		if w.MinuteKept > w.Rolled(rollup.Hour) || w.HourKept > w.Rolled(rollup.Day) || w.DayKept > w.Rolled(rollup.Day) {
			t.Fatalf("what is dropped is nowhere else: %+v", w)
		}
		if kept := w.MinuteKept; kept != plan.Never && rollup.Hour.Start(kept) != kept {
			t.Fatalf("minutes are kept from within an hour: %d", kept)
		}
		if kept := w.HourKept; kept != plan.Never && rollup.Day.Start(kept) != kept {
			t.Fatalf("hours are kept from within a day: %d", kept)
		}
	})
}
