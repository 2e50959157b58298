package duckdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	driver "github.com/duckdb/duckdb-go/v2"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// database is the open file with the one connection that writes.
type database struct {
	pool   *sql.DB
	writer *sql.Conn
}

// connect opens the file. A ledger of an older version is brought up if it may
// be; otherwise the error is an *older.
func connect(ctx context.Context, o Options, upgrade bool) (*database, error) {
	path := filepath.Join(o.Dir, FileName)
	if err := whole(path); err != nil {
		return nil, err
	}
	set := url.Values{
		"memory_limit":                 {strconv.FormatInt(o.MemoryBytes, 10) + "B"},
		"threads":                      {strconv.Itoa(o.Threads)},
		"temp_directory":               {o.TempDir},
		"max_temp_directory_size":      {strconv.FormatInt(o.TempBytes, 10) + "B"},
		"checkpoint_threshold":         {strconv.FormatInt(o.CheckpointBytes, 10) + "B"},
		"preserve_insertion_order":     {"false"},
		"autoinstall_known_extensions": {"false"},
		"autoload_known_extensions":    {"false"},
		"allow_community_extensions":   {"false"},
		"enable_external_file_cache":   {"false"},
		"allow_persistent_secrets":     {"false"},
		"lock_configuration":           {"true"},
	}
	connector, err := driver.NewConnector(path+"?"+set.Encode(), nil)
	if err != nil {
		return nil, cannotOpen(path, err)
	}
	db := &database{pool: sql.OpenDB(connector)}
	db.pool.SetMaxOpenConns(o.Readers + 1)
	db.pool.SetMaxIdleConns(o.Readers + 1)
	if err := db.prepare(ctx, path, upgrade); err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

// prepare makes the tables where there are none, brings those of an older
// version up to this one if it may, and refuses what is no ledger or a newer version's.
func (db *database) prepare(ctx context.Context, path string, upgrade bool) error {
	for _, p := range []string{path, path + ".wal"} {
		if err := os.Chmod(p, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("store: %w", err)
		}
	}
	var err error
	if db.writer, err = db.pool.Conn(ctx); err != nil {
		return cannotOpen(path, err)
	}
	var tables, states, loading int
	err = db.writer.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE table_name = 'state'), count(*) FILTER (WHERE table_name = '`+loadingTable+`')
		FROM duckdb_tables() WHERE NOT internal`).Scan(&tables, &states, &loading)
	switch {
	case err != nil:
		return cannotOpen(path, err)
	case tables == 0:
		err = db.write(ctx, func() error { return db.create(ctx) })
		if err != nil {
			return fmt.Errorf("%w: make the ledger %s: %w", store.ErrUnavailable, path, err)
		}
	case states == 0:
		return fmt.Errorf("%w: %s is a DuckDB file, but no ledger: move it away, or choose another data directory", store.ErrCorrupt, path)
	case loading > 0:
		return unfinished(path)
	}
	var version int
	if err := db.writer.QueryRowContext(ctx, `SELECT version FROM state`).Scan(&version); err != nil {
		return cannotOpen(path, err)
	}
	if version < 1 || version > schemaVersion {
		return fmt.Errorf("store: the ledger %s has version %d and this program knows %d: run the program that wrote it, or a newer one",
			path, version, schemaVersion)
	}
	if version < schemaVersion {
		if !upgrade {
			return &older{version}
		}
		if err := db.write(ctx, func() error { return db.migrate(ctx, version) }); err != nil {
			return fmt.Errorf("%w: bring the ledger %s from version %d to %d: %w", store.ErrUnavailable, path, version, schemaVersion, err)
		}
	}
	for _, t := range probes {
		if _, err := db.writer.ExecContext(ctx, t); err != nil {
			return cannotOpen(path, err)
		}
	}
	return nil
}

func (db *database) create(ctx context.Context) error {
	for _, t := range schema {
		if _, err := db.writer.ExecContext(ctx, t); err != nil {
			return err
		}
	}
	_, err := db.writer.ExecContext(ctx, `INSERT INTO state VALUES (?, 0, 0, 0, ?, ?, ?, ?, 0, NULL, NULL)`,
		schemaVersion, plan.Never, plan.Never, plan.Never, plan.Never)
	return err
}

// migrate makes a ledger of a version one of this program's.
func (db *database) migrate(ctx context.Context, version int) error {
	for _, step := range migrations[version-1:] {
		for _, s := range step {
			if _, err := db.writer.ExecContext(ctx, s); err != nil {
				return err
			}
		}
	}
	_, err := db.writer.ExecContext(ctx, `UPDATE state SET version = ?`, schemaVersion)
	return err
}

// write runs f in a transaction of the writer. The error of a failed COMMIT is
// an *unsure: the transaction may be durable nevertheless.
func (db *database) write(ctx context.Context, f func() error) error {
	// Only f may be interrupted: a transaction begun is always ended.
	whole := context.WithoutCancel(ctx)
	if _, err := db.writer.ExecContext(whole, "BEGIN TRANSACTION"); err != nil {
		return err
	}
	err := f()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if _, rerr := db.writer.ExecContext(whole, "ROLLBACK"); rerr != nil {
			err = errors.Join(err, rerr)
		}
		return err
	}
	if _, err := db.writer.ExecContext(whole, "COMMIT"); err != nil {
		return &unsure{err}
	}
	return nil
}

// healthy reports whether the writer still works and is in no transaction.
func (db *database) healthy(ctx context.Context) bool {
	ctx = context.WithoutCancel(ctx)
	if _, err := db.writer.ExecContext(ctx, "BEGIN TRANSACTION"); err != nil {
		return false
	}
	_, err := db.writer.ExecContext(ctx, "UPDATE state SET version = version")
	_, rerr := db.writer.ExecContext(ctx, "ROLLBACK")
	return err == nil && rerr == nil
}

func (db *database) close() error {
	var err error
	if db.writer != nil {
		err = db.writer.Close()
	}
	return errors.Join(err, db.pool.Close())
}

// unsure is the error of a transaction's last step.
type unsure struct{ error }

func (u *unsure) Unwrap() error { return u.error }

// cannotOpen tells a file that is damaged, or of another program, from one that
// is out of reach.
func cannotOpen(path string, err error) error {
	text := err.Error()
	says := func(signs ...string) bool {
		return slices.ContainsFunc(signs, func(sign string) bool { return strings.Contains(text, sign) })
	}
	switch {
	case says("older version", "newer version", "storage version"):
		return fmt.Errorf("%w: %s: %w: it was left as it is. Run the program that wrote it, or move it and its .wal aside", store.ErrCorrupt, path, err)
	case says("not a valid DuckDB database", "Corrupt", "corrupt", "checksum", "Serialization Error", "INTERNAL Error",
		"Failure while replaying WAL", "Could not read enough bytes", "deserialize"):
		return damaged{fmt.Errorf("%w: %s: %w: it was left as it is. Move it and its .wal aside and start again: "+
			"agents send again what they still hold, a backup has the rest", store.ErrCorrupt, path, err)}
	}
	return fmt.Errorf("%w: open %s: %w", store.ErrUnavailable, path, err)
}
