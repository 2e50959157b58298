package duckdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
)

// asideMark stands between a set-aside ledger's name and the time of that.
const asideMark = FileName + ".corrupt-"

// walSuffix is that of DuckDB's write-ahead log, beside its file.
const walSuffix = ".wal"

// damaged is an error that wraps [store.ErrCorrupt] of a ledger that is
// damaged, which a file of another program or version is not.
type damaged struct{ error }

func (d damaged) Unwrap() error { return d.error }

// SetAside lists the damaged ledgers of a data directory that were set aside
// ([Options.SetAside]) and are still there, the oldest first. Each may have a
// write-ahead log beside it, under its name and .wal.
func SetAside(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var names []string
	for _, e := range entries {
		if base := strings.TrimSuffix(e.Name(), walSuffix); strings.HasPrefix(base, asideMark) {
			names = append(names, filepath.Join(dir, base))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// whole refuses a write-ahead log without its file: DuckDB would delete it.
func whole(path string) error {
	_, ferr := os.Stat(path)
	_, werr := os.Stat(path + walSuffix)
	if errors.Is(ferr, fs.ErrNotExist) && werr == nil {
		return damaged{fmt.Errorf("%w: %s has what was committed to %s, which is not there: put it back, or move the log away, too",
			store.ErrCorrupt, path+walSuffix, path)}
	}
	return nil
}

// setAside renames a damaged ledger, so that a new one can begin in its place.
// The file goes first: after a crash in between the log that is left alone is
// not taken for a ledger's, and is set aside by the next Open.
func (s *Store) setAside(why error) error {
	path := filepath.Join(s.options.Dir, FileName)
	aside := filepath.Join(s.options.Dir, asideMark+time.Now().UTC().Format("20060102T150405Z"))
	for base, n := aside, 2; taken(aside) || taken(aside+walSuffix); n++ {
		aside = fmt.Sprintf("%s-%d", base, n)
	}
	for _, suffix := range []string{"", walSuffix} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store: set the damaged ledger aside: %w", err)
		}
	}
	dir, err := os.Open(s.options.Dir)
	if err != nil {
		return fmt.Errorf("store: set the damaged ledger aside: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("store: set the damaged ledger aside: %w", err)
	}
	s.log.LogAttrs(context.Background(), slog.LevelError,
		"THE LEDGER IS DAMAGED AND SET ASIDE; a new one begins: agents send what they still hold, a backup has the rest",
		slog.String("aside", aside), slog.Any("error", why))
	return nil
}

func taken(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
