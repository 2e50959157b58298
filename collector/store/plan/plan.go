package plan

import (
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Piece is a part of a query's range, [From, To), with the resolution that answers
// for it. Those of rows are whole buckets.
type Piece struct {
	From, To   attribution.Second
	Resolution rollup.Resolution
}

// Plan is a query with its range cut into pieces, in order of time. A query of
// which nothing is stored has none.
type Plan struct {
	Query   *store.Query
	Rows    []Piece // of minutes, hours and days
	Seconds []Piece
}

// Of plans the answer to a query, which it keeps. One that [store.Query.Check]
// refuses is refused, and one that needs what is no longer kept is
// [store.ErrTooFine]. Where rows are there before they are folded, as a store may
// find them elsewhere, HourRolled and DayRolled are after all time.
func Of(q *store.Query, w *Watermarks) (*Plan, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	p := &Plan{Query: q}
	first, last := w.Extent()
	if first >= last || q.To <= first || q.From >= last {
		return p, nil
	}
	from, to := max(q.From, first), min(q.To, last)
	coarsest := rollup.Day
	for coarsest > store.Seconds && q.Step%int64(coarsest) != 0 {
		coarsest = finer(coarsest)
	}
	if coarsest > store.Seconds {
		// Where the range has everything, it may as well have whole days.
		if q.From <= first {
			from = rollup.Day.Start(first)
		}
		if q.To >= last {
			to = rollup.Day.Start(last-1) + attribution.Second(rollup.Day)
		}
	}
	p.cut(w, from, to, coarsest)
	for _, pieces := range [...][]Piece{p.Rows, p.Seconds} {
		for _, x := range pieces {
			if kept := w.Kept(x.Resolution); max(x.From, first) < kept {
				return nil, fmt.Errorf("%w: [%d, %d) needs %ss, kept from %s on: choose a coarser step, or begin and end on whole hours or days",
					store.ErrTooFine, x.From, x.To, Name(x.Resolution), time.Unix(int64(kept), 0).UTC().Format(time.RFC3339))
			}
		}
	}
	return p, nil
}

// cut covers [from, to) with rows of at most a resolution.
func (p *Plan) cut(w *Watermarks, from, to attribution.Second, r rollup.Resolution) {
	switch {
	case from >= to:
		return
	case r == store.Seconds:
		p.Seconds = append(p.Seconds, Piece{from, to, r})
		return
	}
	low, high := r.Start(from+attribution.Second(r)-1), r.Start(to)
	if r != rollup.Minute {
		high = min(high, w.Rolled(r))
	}
	if low >= high {
		p.cut(w, from, to, finer(r))
		return
	}
	p.cut(w, from, low, finer(r))
	p.Rows = append(p.Rows, Piece{low, high, r})
	p.cut(w, high, to, finer(r))
}

func finer(r rollup.Resolution) rollup.Resolution {
	switch r {
	case rollup.Day:
		return rollup.Hour
	case rollup.Hour:
		return rollup.Minute
	default:
		return store.Seconds
	}
}

// Name is what a resolution, and a table of its rows, is called: minute, hour,
// day; all else is seconds.
func Name(r rollup.Resolution) string {
	switch r {
	case rollup.Day:
		return "day"
	case rollup.Hour:
		return "hour"
	case rollup.Minute:
		return "minute"
	default:
		return "second"
	}
}

// Devices checks what [store.Reader].Devices is asked, and narrows its range to
// what is stored; low is not before high where nothing is.
func Devices(w *Watermarks, from, to attribution.Second, fs []store.Filter) (low, high attribution.Second, err error) {
	q := store.Query{From: from, To: to, Filters: fs}
	if err := q.Check(); err != nil {
		return 0, 0, err
	}
	for _, f := range fs {
		if !f.Dimension.OfDevice() {
			return 0, 0, fmt.Errorf("%w: devices have no %q", store.ErrBadQuery, string(f.Dimension))
		}
	}
	first, last := w.Extent()
	return max(from, first), min(to, last), nil
}
