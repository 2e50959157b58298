package duckdb

import (
	"context"
	"database/sql"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// state is the one row of the table of that name.
type state struct {
	commits uint64
	mapping int64 // number of the mapping that owner_map holds; 0: none

	plan.Watermarks
}

const selectState = `SELECT commits, mapping, hour_rolled, day_rolled, second_kept, minute_kept, hour_kept, day_kept,
	first, last FROM state`

func readState(ctx context.Context, c *sql.Conn) (state, error) {
	s := state{Watermarks: plan.Nothing()}
	var commits int64
	var first, last sql.NullInt64 // none: nothing was ever stored
	err := c.QueryRowContext(ctx, selectState).Scan(&commits, &s.mapping, &s.HourRolled, &s.DayRolled,
		&s.SecondKept, &s.MinuteKept, &s.HourKept, &s.DayKept, &first, &last)
	s.commits = uint64(commits)
	if first.Valid {
		s.Extend(attribution.Second(first.Int64), attribution.Second(last.Int64))
	}
	return s, err
}

func (s *state) write(ctx context.Context, db *database) error {
	var first, last any
	if !s.Empty() {
		first, last = int64(s.First), int64(s.Last)
	}
	_, err := db.writer.ExecContext(ctx, `UPDATE state SET commits = ?, mapping = ?, hour_rolled = ?, day_rolled = ?,
		second_kept = ?, minute_kept = ?, hour_kept = ?, day_kept = ?, first = ?, last = ?`,
		int64(s.commits), s.mapping, int64(s.HourRolled), int64(s.DayRolled),
		int64(s.SecondKept), int64(s.MinuteKept), int64(s.HourKept), int64(s.DayKept), first, last)
	return err
}
