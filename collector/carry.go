package collector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/archive"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
)

// The work on whole ledgers that needs the collector stopped. Configurations
// must be valid; of them, only what says where the ledger is counts.

// Backup writes the ledger of a configuration as a file: package archive.
func Backup(ctx context.Context, c *Config, version string, out io.Writer, log *slog.Logger) (*archive.Summary, error) {
	s, err := c.openFilled(ctx, log)
	if err != nil {
		return nil, err
	}
	sum, err := archive.Write(ctx, s, out, version, reported(log))
	return sum, errors.Join(err, s.Close())
}

// Restore makes the empty ledger of a configuration one as a file holds it, and
// verifies it.
func Restore(ctx context.Context, c *Config, in io.ReadSeeker, log *slog.Logger) (*archive.Info, error) {
	// Nothing is made for a file that is none.
	if _, err := archive.Check(ctx, in, reported(log)); err != nil {
		return nil, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the backup again: %w", err)
	}
	s, err := c.openLoader(ctx, log)
	if err != nil {
		return nil, err
	}
	info, err := archive.Restore(ctx, in, s, reported(log))
	return info, errors.Join(err, s.Close())
}

// Migrate makes the empty ledger of a configuration the same as that of
// another, of whatever kinds both are, and verifies it. The old one stays as it
// is.
func Migrate(ctx context.Context, from, to *Config, log *slog.Logger) (*archive.Summary, error) {
	old, err := from.openFilled(ctx, log)
	if err != nil {
		return nil, fmt.Errorf("the old ledger: %w", err)
	}
	s, err := to.openLoader(ctx, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the new ledger: %w", err), old.Close())
	}
	sum, err := archive.Migrate(ctx, old, s, reported(log))
	return sum, errors.Join(err, s.Close(), old.Close())
}

// openFilled opens a ledger that is there already.
func (c *Config) openFilled(ctx context.Context, log *slog.Logger) (store.Store, error) {
	if c.Store == storeDuckDB {
		file := filepath.Join(c.DataDir, duckdb.FileName)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no ledger %s\nhint: data_dir names the folder that a collector wrote to", file)
		}
	}
	return c.openAsIs(ctx, log)
}

// openLoader opens a ledger that is to be filled.
func (c *Config) openLoader(ctx context.Context, log *slog.Logger) (store.Loader, error) {
	s, err := c.openAsIs(ctx, log)
	if err != nil {
		return nil, err
	}
	l, ok := s.(store.Loader)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a store of the kind %s cannot be filled from another", c.Store), s.Close())
	}
	return l, nil
}

// openAsIs opens a ledger. A damaged one is not set aside: nobody would notice.
func (c *Config) openAsIs(ctx context.Context, log *slog.Logger) (store.Store, error) {
	as := *c
	as.DuckDB.OnCorrupt = onCorruptRefuse
	return as.openStore(ctx, log)
}

// reported tells the log now and then how far something has come.
func reported(logger *slog.Logger) func(archive.Progress) error {
	last := time.Now()
	return func(p archive.Progress) error {
		if now := time.Now(); now.Sub(last) >= 5*time.Second {
			last = now
			logger.Info("a ledger is carried", "what", p.What, "parts", p.Parts, "megabytes", p.Bytes>>20)
		}
		return nil
	}
}
