package duckdb

import (
	"context"
	"database/sql"
	"time"

	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// journalOf is the journal that a connection's state holds.
func journalOf(ctx context.Context, known *plan.Journals, c *sql.Conn) (*rerating.Journal, error) {
	var n uint32
	err := c.QueryRowContext(ctx, `SELECT coalesce(max(revision), 0) FROM document WHERE kind = ?`, string(store.Reratings)).Scan(&n)
	if err != nil {
		return nil, unavailable("read the journal of reratings", err)
	}
	journal, err := known.At(n, func(from uint32, add func(time.Time, []byte) error) error {
		return each(ctx, c, `SELECT applied, body FROM document WHERE kind = ? AND revision >= ? ORDER BY revision`,
			[]any{string(store.Reratings), from}, func(rows *sql.Rows) error {
				var applied int64
				var body []byte
				if err := rows.Scan(&applied, &body); err != nil {
					return err
				}
				return add(time.Unix(0, applied).UTC(), body)
			})
	})
	if err != nil {
		return nil, unavailable("read the journal of reratings", err)
	}
	return journal, nil
}

// Journal implements [store.Reader].
func (r *reader) Journal(ctx context.Context) (*rerating.Journal, error) {
	if r.asked {
		return r.journal, nil
	}
	var err error
	r.journal, err = journalOf(ctx, r.journals, r.conn)
	r.asked = err == nil
	return r.journal, err
}
