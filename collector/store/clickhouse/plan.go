package clickhouse

import (
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// piece is a part of a query's range with the resolution that answers for it.
type piece struct {
	from, to   attribution.Second
	resolution rollup.Resolution
}

// plan cuts a query's range into pieces: of the coarsest rows that never cross a
// step, with finer ones at the edges.
func (st *state) plan(q *store.Query) ([]piece, error) {
	first, last := st.extent()
	if first >= last || q.To <= first || q.From >= last {
		return nil, nil
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
	pieces := cut(nil, from, to, coarsest)
	for _, p := range pieces {
		if kept := st.kept(p.resolution); max(p.from, first) < kept {
			return nil, fmt.Errorf("%w: [%d, %d) needs %s, kept from %s on: choose a coarser step, or begin and end on whole hours or days",
				store.ErrTooFine, p.from, p.to, table(p.resolution)+"s", utc(kept))
		}
	}
	return pieces, nil
}

// cut covers [from, to) with rows of at most a resolution.
func cut(pieces []piece, from, to attribution.Second, r rollup.Resolution) []piece {
	if from >= to {
		return pieces
	}
	if r == store.Seconds {
		return append(pieces, piece{from, to, r})
	}
	low, high := r.Start(from+attribution.Second(r)-1), r.Start(to)
	if low >= high {
		return cut(pieces, from, to, finer(r))
	}
	pieces = cut(pieces, from, low, finer(r))
	pieces = append(pieces, piece{low, high, r})
	return cut(pieces, high, to, finer(r))
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

func utc(s attribution.Second) string { return time.Unix(int64(s), 0).UTC().Format(time.RFC3339) }
