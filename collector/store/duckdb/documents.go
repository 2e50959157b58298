package duckdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
)

// PutDocument implements [store.Store].
func (s *Store) PutDocument(ctx context.Context, kind store.DocumentKind, body []byte, at time.Time) (uint32, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	var revision uint32
	err := s.db.writer.QueryRowContext(ctx, `SELECT coalesce(max(revision), 0) + 1 FROM document WHERE kind = ?`, string(kind)).Scan(&revision)
	if err != nil {
		return 0, unavailable("put a document", err)
	}
	err = s.write(ctx, "put a document", func() error {
		_, err := s.db.writer.ExecContext(ctx, `INSERT INTO document VALUES (?, ?, ?, ?)`, string(kind), revision, at.UnixNano(), nonNil(body))
		return err
	}, func(state) bool {
		var n int
		err := s.db.writer.QueryRowContext(ctx, `SELECT count(*) FROM document WHERE kind = ? AND revision = ?`, string(kind), revision).Scan(&n)
		return err == nil && n == 1
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// Document implements [store.Store].
func (s *Store) Document(ctx context.Context, kind store.DocumentKind, revision uint32) (store.Document, error) {
	s.open.RLock()
	defer s.open.RUnlock()
	if s.db == nil {
		return store.Document{}, fmt.Errorf("%w: its file is not open", store.ErrUnavailable)
	}
	d := store.Document{Kind: kind}
	var applied int64
	err := s.db.pool.QueryRowContext(ctx, `SELECT revision, applied, body FROM document
		WHERE kind = ? AND (revision = ? OR ? = 0) ORDER BY revision DESC LIMIT 1`, string(kind), revision, revision).
		Scan(&d.Revision, &applied, &d.Body)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return store.Document{}, fmt.Errorf("%w: %s revision %d", store.ErrNotFound, kind, revision)
	case err != nil:
		return store.Document{}, unavailable("read a document", err)
	}
	d.Applied = time.Unix(0, applied).UTC()
	return d, nil
}
