package duckdb

import (
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// piece is a part of a query's range with the table that answers for it.
type piece struct {
	from, to   attribution.Second
	resolution rollup.Resolution // 1: seconds
}

const second rollup.Resolution = 1

// plan cuts a query's range into pieces: from the coarsest rows that never
// cross a step, with finer ones at the edges and where nothing is rolled yet.
func (s *state) plan(q *store.Query) ([]piece, error) {
	first, last := s.extent()
	if first >= last || q.To <= first || q.From >= last {
		return nil, nil
	}
	from, to := max(q.From, first), min(q.To, last)
	coarsest := rollup.Day
	for coarsest > second && q.Step%int64(coarsest) != 0 {
		coarsest = finer(coarsest)
	}
	if coarsest > second {
		// Where the range has everything, it may as well have whole days.
		if q.From <= first {
			from = rollup.Day.Start(first)
		}
		if q.To >= last {
			to = rollup.Day.Start(last-1) + attribution.Second(rollup.Day)
		}
	}
	pieces := s.cut(nil, from, to, coarsest)
	for _, p := range pieces {
		if kept := s.kept(p.resolution); max(p.from, first) < kept {
			return nil, fmt.Errorf("%w: [%d, %d) needs %s, kept from %s on: choose a coarser step, or begin and end on whole hours or days",
				store.ErrTooFine, p.from, p.to, table(p.resolution)+"s", utc(kept))
		}
	}
	return pieces, nil
}

// cut covers [from, to) with rows of at most a resolution.
func (s *state) cut(pieces []piece, from, to attribution.Second, r rollup.Resolution) []piece {
	if from >= to {
		return pieces
	}
	if r == second {
		return append(pieces, piece{from, to, second})
	}
	low := r.Start(from + attribution.Second(r) - 1)
	high := r.Start(to)
	if r != rollup.Minute {
		high = min(high, s.rolled(r))
	}
	if low >= high {
		return s.cut(pieces, from, to, finer(r))
	}
	pieces = s.cut(pieces, from, low, finer(r))
	pieces = append(pieces, piece{low, high, r})
	return s.cut(pieces, high, to, finer(r))
}

func finer(r rollup.Resolution) rollup.Resolution {
	switch r {
	case rollup.Day:
		return rollup.Hour
	case rollup.Hour:
		return rollup.Minute
	default:
		return second
	}
}

func (s *state) kept(r rollup.Resolution) attribution.Second {
	switch r {
	case rollup.Day:
		return s.dayKept
	case rollup.Hour:
		return s.hourKept
	case rollup.Minute:
		return s.minuteKept
	default:
		return s.secondKept
	}
}

func table(r rollup.Resolution) string {
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

func utc(s attribution.Second) string { return time.Unix(int64(s), 0).UTC().Format(time.RFC3339) }
