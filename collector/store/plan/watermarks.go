package plan

import (
	"math"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Never is a watermark before all seconds: nothing was dropped, nothing folded.
const Never attribution.Second = -1 << 62

// Watermarks are how far a ledger reaches at each resolution.
type Watermarks struct {
	// Hours and days are folded before these.
	HourRolled, DayRolled attribution.Second
	// What is older may be gone.
	SecondKept, MinuteKept, HourKept, DayKept attribution.Second
	// First and Last, exclusive, bound what was ever stored; where nothing was,
	// First is after Last.
	First, Last attribution.Second
}

// Nothing is the watermarks of an empty ledger.
func Nothing() Watermarks {
	return Watermarks{
		HourRolled: Never, DayRolled: Never, SecondKept: Never, MinuteKept: Never, HourKept: Never, DayKept: Never,
		First: math.MaxInt64, Last: math.MinInt64,
	}
}

// Empty reports whether nothing was ever stored.
func (w *Watermarks) Empty() bool { return w.First >= w.Last }

// Extend notes that [first, last) is stored.
func (w *Watermarks) Extend(first, last attribution.Second) {
	w.First, w.Last = min(w.First, first), max(w.Last, last)
}

// Extent is what is stored and was not dropped with its days; 0, 0 if nothing.
func (w *Watermarks) Extent() (first, last attribution.Second) {
	if first = max(w.First, w.DayKept); first >= w.Last {
		return 0, 0
	}
	return first, w.Last
}

// Rolled is [store.Reader].Rolled. Nothing before 1970 is folded.
func (w *Watermarks) Rolled(r rollup.Resolution) attribution.Second {
	switch r {
	case rollup.Hour:
		return max(w.HourRolled, 0)
	case rollup.Day:
		return max(w.DayRolled, 0)
	default:
		_, last := w.Extent()
		return last
	}
}

// Kept is [store.Reader].Kept.
func (w *Watermarks) Kept(r rollup.Resolution) attribution.Second {
	switch r {
	case rollup.Day:
		return w.DayKept
	case rollup.Hour:
		return w.HourKept
	case rollup.Minute:
		return w.MinuteKept
	default:
		return w.SecondKept
	}
}

// Retain moves what is kept to what a retention asks for now, whole buckets of the
// next coarser resolution, and as far as they are folded into it. It never moves
// back.
func (w *Watermarks) Retain(r store.Retention, now attribution.Second) {
	cut := func(kept *attribution.Second, keep time.Duration, at rollup.Resolution, rolled attribution.Second) {
		if keep > 0 {
			*kept = max(*kept, min(at.Start(now-attribution.Second(keep/time.Second)), rolled))
		}
	}
	cut(&w.SecondKept, r.Second, rollup.Minute, now)
	cut(&w.MinuteKept, r.Minute, rollup.Hour, w.Rolled(rollup.Hour))
	cut(&w.HourKept, r.Hour, rollup.Day, w.Rolled(rollup.Day))
	cut(&w.DayKept, r.Day, rollup.Day, w.Rolled(rollup.Day))
}
