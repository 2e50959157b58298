package duckdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// Store is a ledger in a file. It implements [store.Store].
type Store struct {
	options Options
	log     *slog.Logger
	lock    *os.File

	// writing is held by whoever writes. It guards everything down to cover.
	writing sync.Mutex
	closed  bool
	loading bool
	state   state       // as of the last write
	dims    *dimensions // nil: to be read again
	mapping store.Mapping
	cover   coverage

	// open is held by views while they last, and for writing to open or close
	// the file. It guards db: only who holds writing too changes it.
	open sync.RWMutex
	db   *database // nil: to be opened again

	mapped   mappings
	journals plan.Journals
}

var _ store.Store = (*Store)(nil)

// Open opens the ledger in a directory, or makes an empty one. A ledger that
// is in use gives an error that wraps [store.ErrUnavailable], one that cannot
// be read [store.ErrCorrupt], unless [Options.SetAside] says otherwise.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	lock, err := lockFile(filepath.Join(o.Dir, FileName+lockSuffix))
	if err != nil {
		return nil, err
	}
	s := &Store{options: o, log: o.Logger, lock: lock}
	s.writing.Lock()
	defer s.writing.Unlock()
	err = s.ready(ctx)
	if broken := new(damaged); o.SetAside && errors.As(err, broken) {
		if err = errors.Join(s.closeDatabase(), s.setAside(err)); err == nil {
			err = s.ready(ctx)
		}
	}
	if err == nil && s.state.mapping != 0 {
		// Mappings end with their program.
		err = s.replaceMapping(ctx, nil, 0)
	}
	if err != nil {
		return nil, errors.Join(err, s.shut())
	}
	return s, nil
}

// Close closes the file, once all views have ended.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.shut()
}

func (s *Store) shut() error {
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.closeDatabase(), s.lock.Close())
}

func (s *Store) closeDatabase() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.db.close()
	s.db, s.dims = nil, nil
	return err
}

// ready opens the file and reads what the writer needs to know, if need be.
func (s *Store) ready(ctx context.Context) error {
	if s.closed {
		return errors.New("store: closed")
	}
	if s.db == nil {
		db, err := openDatabase(ctx, s.options)
		if err != nil {
			return err
		}
		s.open.Lock()
		s.db = db
		s.open.Unlock()
		s.dims = nil
	}
	if s.dims != nil {
		return nil
	}
	dims, err := s.db.dimensions(ctx)
	if err != nil {
		return unavailable("read the dimensions", err)
	}
	if s.cover, err = s.db.coverage(ctx, dims.lives); err != nil {
		return unavailable("read what is stored", err)
	}
	if s.state, err = readState(ctx, s.db.writer); err != nil {
		return unavailable("read the state", err)
	}
	s.dims = dims
	return nil
}

// write runs f in a transaction and reads the state that it leaves. After an
// error nothing was written; done tells from the state whether a transaction
// that failed in its last step was nevertheless.
func (s *Store) write(ctx context.Context, what string, f func() error, done func(state) bool) error {
	err := s.db.write(ctx, f)
	if err == nil {
		if s.state, err = readState(context.WithoutCancel(ctx), s.db.writer); err == nil {
			return nil
		}
		err = &unsure{err}
	}
	// Ids may have been given that nobody has.
	s.dims = nil
	var last *unsure
	if !errors.As(err, &last) && s.db.healthy(ctx) {
		return unavailable(what, err)
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "the ledger's file is closed and opened again", slog.String("after", what), slog.Any("error", err))
	if cerr := s.closeDatabase(); cerr != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "closing the ledger's file failed", slog.Any("error", cerr))
	}
	if rerr := s.ready(context.WithoutCancel(ctx)); rerr != nil {
		return unavailable(what, errors.Join(err, rerr))
	}
	if last != nil && done(s.state) {
		return nil
	}
	return unavailable(what, err)
}

// unavailable says that an operation failed and may be tried again, unless the
// batch was bad, the answer too large, or the caller gave up.
func unavailable(what string, err error) error {
	for _, e := range []error{store.ErrBadBatch, store.ErrTooMany, store.ErrUnavailable, store.ErrCorrupt, store.ErrOutdated, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return fmt.Errorf("store: %s: %w", what, err)
		}
	}
	for _, short := range []string{"failed to pin block", "failed to allocate", "Out of Memory"} {
		if strings.Contains(err.Error(), short) {
			return fmt.Errorf("%w: %s: %w\nhint: DuckDB needs more memory than duckdb.memory_bytes lets it have", store.ErrUnavailable, what, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, what, err)
}

// dimensions reads which ids are taken, and the lives.
func (db *database) dimensions(ctx context.Context) (*dimensions, error) {
	d := &dimensions{lives: make(map[lifeKey]int32)}
	err := db.writer.QueryRowContext(ctx, `SELECT
		(SELECT coalesce(max(id) + 1, 0) FROM owner), (SELECT coalesce(max(id) + 1, 0) FROM device),
		(SELECT coalesce(max(id) + 1, 0) FROM roster), (SELECT coalesce(max(id) + 1, 0) FROM method),
		(SELECT coalesce(max(id) + 1, 0) FROM series), (SELECT coalesce(max(id) + 1, 0) FROM tally_series)`).
		Scan(&d.owners.next, &d.devices.next, &d.rosters.next, &d.methods.next, &d.series.next, &d.tallies.next)
	if err != nil {
		return nil, err
	}
	return d, each(ctx, db.writer, `SELECT id, cluster, node, boot FROM life`, nil, func(rows *sql.Rows) error {
		var id int32
		var k lifeKey
		var boot []byte
		if err := rows.Scan(&id, &k.node.cluster, &k.node.name, &boot); err != nil {
			return err
		}
		copy(k.boot[:], boot)
		d.lives[k] = id
		return nil
	})
}

// runs are the spans of covered and chunk together, merged where they overlap,
// and where they touch and are one chain.
const runs = `
	SELECT life, min(first) AS first, max(last) AS last, arg_min(previous, first) AS previous, arg_max(link, last) AS link FROM (
		SELECT *, sum(new) OVER (PARTITION BY life ORDER BY first, last ROWS UNBOUNDED PRECEDING) AS run FROM (
			SELECT *, CASE WHEN first < max(last) OVER before OR (first = max(last) OVER before AND previous = arg_max(link, last) OVER before)
				THEN 0 ELSE 1 END AS new
			FROM (SELECT * FROM covered UNION ALL SELECT life, sequence, sequence + seconds, previous, link FROM chunk)
			WINDOW before AS (PARTITION BY life ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)))
	GROUP BY life, run`

func (db *database) coverage(ctx context.Context, lives map[lifeKey]int32) (coverage, error) {
	names := make(map[int32]node, len(lives))
	for k, id := range lives {
		names[id] = k.node
	}
	c := make(coverage)
	err := each(ctx, db.writer, runs+` ORDER BY 2`, nil, func(rows *sql.Rows) error {
		var s span
		if err := rows.Scan(&s.life, &s.first, &s.last, &s.previous, &s.link); err != nil {
			return err
		}
		c.add(names[s.life], s)
		return nil
	})
	return c, err
}

// each calls f for every row of a query.
func each(ctx context.Context, c *sql.Conn, query string, args []any, f func(*sql.Rows) error) error {
	rows, err := c.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := f(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// View implements [store.Store]. A view that waits for another inside itself
// may wait for ever.
func (s *Store) View(ctx context.Context, f func(store.Reader) error) error {
	s.open.RLock()
	defer s.open.RUnlock()
	if s.db == nil {
		return fmt.Errorf("%w: its file is not open", store.ErrUnavailable)
	}
	conn, err := s.db.pool.Conn(ctx)
	if err != nil {
		return unavailable("read", err)
	}
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	if _, err := conn.ExecContext(ctx, "BEGIN TRANSACTION"); err != nil {
		return unavailable("read", err)
	}
	defer conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") //nolint:errcheck // it has only read
	// The first statement makes the snapshot.
	st, err := readState(ctx, conn)
	if err != nil {
		return unavailable("read", err)
	}
	m, err := s.mapped.get(st.mapping)
	if err != nil {
		return err
	}
	return f(&reader{conn: conn, state: st, mapping: m, decode: s.options.Decode, journals: &s.journals})
}
