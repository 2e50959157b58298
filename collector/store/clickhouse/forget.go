package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// The tables contested and ended get a row for what went wrong: chunks that two
// collectors claimed, writes that failed. What two have stored stays contested for
// ever, for its rows in days do. The rest is deleted when its claims are dropped,
// three days later, for by then each write is in the log or never will be:
//
//   - ended is looked into for writes behind claims alone, of which there are none
//     any more. Without its row, a write that is not in the log counts as undecided
//     until its lifetime is over, and no longer.
//   - A row of contested counts where its write is in the log, and says two things:
//     that its source is contested, which matters where another row has that as its
//     rival; and that it yields to its rival, where that is in the log. See losers.
//
// That is done on one server alone: replicas, asked for all that was acknowledged,
// may miss a part of which no row is left.
//
// A claim that is no more is found by nobody, so that no row with it as its rival
// is added. Rows of a write go together, to keep the statement short.

// forgetAtOnce bounds the writes in one statement.
const forgetAtOnce = 5000

// forget deletes the rows of contested and ended that nothing depends on.
func (s *Store) forget(ctx context.Context) error {
	// First what there is, then what of it is claimed, then what was logged: each
	// row that is added is of a claim.
	contests, err := s.readContests(ctx, `1`)
	if err != nil {
		return err
	}
	over, err := s.readOver(ctx)
	if err != nil {
		return err
	}
	sessions := make(map[uint64]bool)
	for _, x := range contests {
		sessions[x.by.session], sessions[x.against.session] = true, true
	}
	for _, w := range over {
		sessions[w.session] = true
	}
	open, err := s.claimedBy(ctx, slices.Sorted(maps.Keys(sessions)))
	if err != nil {
		return err
	}
	st, err := s.readState(ctx)
	if err != nil {
		return err
	}
	if err := s.deleteOf(ctx, "contested", decided(contests, open, st.has)); err != nil {
		return err
	}
	return s.deleteOf(ctx, "ended", slices.DeleteFunc(over, func(w write) bool { return open[w] }))
}

// decided are the writes whose contests change no loser, in this state and in all
// that come after it.
func decided(contests []contest, claimed map[write]bool, holds func(write) bool) []write {
	rivals := make(map[uint64]bool)
	for _, x := range contests {
		rivals[x.rival] = true
	}
	needed := make(map[write]bool)
	for _, x := range contests {
		counts := holds(x.by) && (holds(x.against) || rivals[x.source])
		needed[x.by] = needed[x.by] || counts || claimed[x.by] || claimed[x.against]
	}
	var out []write
	for w, n := range needed {
		if !n {
			out = append(out, w)
		}
	}
	return out
}

// readOver reads all writes in the table ended.
func (s *Store) readOver(ctx context.Context) ([]write, error) {
	var out []write
	err := s.client.query(ctx, `SELECT DISTINCT session, seq FROM ended`, func(d *decoder) error {
		out = append(out, write{d.u64(), d.u32()})
		return d.err
	})
	return out, err
}

// claimedBy are the writes of sessions that have a claim: of chunks, or of a
// document's revision.
func (s *Store) claimedBy(ctx context.Context, sessions []uint64) (map[write]bool, error) {
	out := make(map[write]bool)
	for part := range slices.Chunk(sessions, forgetAtOnce) {
		for _, table := range [...]string{"span", "document"} {
			if err := s.client.query(ctx, `SELECT DISTINCT session, seq FROM `+table+` WHERE session IN (`+list(part, number[uint64])+`)`, func(d *decoder) error {
				out[write{d.u64(), d.u32()}] = true
				return d.err
			}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// deleteOf deletes a table's rows of writes. Servers do it in their own time.
func (s *Store) deleteOf(ctx context.Context, table string, ws []write) error {
	for part := range slices.Chunk(ws, forgetAtOnce) {
		if err := s.alter(ctx, table, `DELETE WHERE (session, seq) IN (`+list(part, func(w write) string {
			return fmt.Sprintf(`(toUInt64(%d), toUInt32(%d))`, w.session, w.seq)
		})+`)`); err != nil {
			return err
		}
	}
	return nil
}
