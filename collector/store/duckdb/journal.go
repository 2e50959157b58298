package duckdb

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// journals remembers the journal of reratings that was read last, so that
// states that hold no other need not read it again.
type journals struct {
	mu     sync.Mutex
	newest *rerating.Journal
}

// at is the journal that a connection's state holds.
func (j *journals) at(ctx context.Context, c *sql.Conn) (*rerating.Journal, error) {
	var n uint32
	err := c.QueryRowContext(ctx, `SELECT coalesce(max(revision), 0) FROM document WHERE kind = ?`, string(store.Reratings)).Scan(&n)
	if err != nil {
		return nil, unavailable("read the journal of reratings", err)
	}
	j.mu.Lock()
	have := j.newest
	j.mu.Unlock()
	if have.Next() > n+1 {
		have = nil // of a later state, or of what was not committed
	}
	if have.Next() == n+1 {
		return have, nil
	}
	var bad error
	err = each(ctx, c, `SELECT applied, body FROM document WHERE kind = ? AND revision >= ? ORDER BY revision`,
		[]any{string(store.Reratings), have.Next()}, func(rows *sql.Rows) error {
			var applied int64
			var body []byte
			if err := rows.Scan(&applied, &body); err != nil {
				return err
			}
			have, bad = have.Append(time.Unix(0, applied).UTC(), body)
			return bad
		})
	switch {
	case bad != nil:
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, bad)
	case err != nil:
		return nil, unavailable("read the journal of reratings", err)
	case have.Next() != n+1:
		return nil, fmt.Errorf("%w: the journal of reratings has %d entries, and the last has number %d", store.ErrCorrupt, have.Next()-1, n)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.newest.Next() < have.Next() {
		j.newest = have
	}
	return have, nil
}

// Journal implements [store.Reader].
func (r *reader) Journal(ctx context.Context) (*rerating.Journal, error) {
	if r.asked {
		return r.journal, nil
	}
	var err error
	r.journal, err = r.journals.at(ctx, r.conn)
	r.asked = err == nil
	return r.journal, err
}
