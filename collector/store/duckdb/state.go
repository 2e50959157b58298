package duckdb

import (
	"context"
	"database/sql"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// state is the one row of the table of that name.
type state struct {
	commits uint64
	mapping int64 // number of the mapping that owner_map holds; 0: none

	// Rows of hours and days are complete before these.
	hourRolled, dayRolled attribution.Second
	// What is older may be gone.
	secondKept, minuteKept, hourKept, dayKept attribution.Second

	// first and last bound what was ever stored; empty: nothing was.
	first, last attribution.Second
	empty       bool
}

const selectState = `SELECT commits, mapping, hour_rolled, day_rolled, second_kept, minute_kept, hour_kept, day_kept,
	coalesce(first, 0), coalesce(last, 0), first IS NULL FROM state`

func readState(ctx context.Context, c *sql.Conn) (state, error) {
	var s state
	var commits int64
	err := c.QueryRowContext(ctx, selectState).Scan(&commits, &s.mapping, &s.hourRolled, &s.dayRolled,
		&s.secondKept, &s.minuteKept, &s.hourKept, &s.dayKept, &s.first, &s.last, &s.empty)
	s.commits = uint64(commits)
	return s, err
}

func (s *state) write(ctx context.Context, db *database) error {
	var first, last any
	if !s.empty {
		first, last = int64(s.first), int64(s.last)
	}
	_, err := db.writer.ExecContext(ctx, `UPDATE state SET commits = ?, mapping = ?, hour_rolled = ?, day_rolled = ?,
		second_kept = ?, minute_kept = ?, hour_kept = ?, day_kept = ?, first = ?, last = ?`,
		int64(s.commits), s.mapping, int64(s.hourRolled), int64(s.dayRolled),
		int64(s.secondKept), int64(s.minuteKept), int64(s.hourKept), int64(s.dayKept), first, last)
	return err
}

// extend notes that [first, last) is stored.
func (s *state) extend(first, last attribution.Second) {
	if s.empty {
		s.first, s.last, s.empty = first, last, false
		return
	}
	s.first, s.last = min(s.first, first), max(s.last, last)
}

// extent is what is stored and was not dropped with its days; 0, 0 if nothing.
func (s *state) extent() (first, last attribution.Second) {
	if first = max(s.first, s.dayKept); s.empty || first >= s.last {
		return 0, 0
	}
	return first, s.last
}

func (s *state) rolled(r rollup.Resolution) attribution.Second {
	switch r {
	case rollup.Hour:
		return s.hourRolled
	case rollup.Day:
		return s.dayRolled
	default:
		_, last := s.extent()
		return last
	}
}
