package duckdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gpuledger/gpuledger/collector/store"
)

// older says that a ledger has a version before this program's. It is not yet
// changed.
type older struct{ version int }

func (o *older) Error() string { return fmt.Sprintf("a ledger of version %d", o.version) }

// spare is how much of the disk a copy must leave free.
const spare = 256 << 20

// openDatabase opens the file. Before a ledger of an older version is changed, a
// copy is made of it, for which the file is closed once more.
func openDatabase(ctx context.Context, o Options) (*database, error) {
	db, err := connect(ctx, o, o.SkipCopy)
	old, ok := errors.AsType[*older](err)
	if !ok {
		return db, err
	}
	if err := keep(ctx, filepath.Join(o.Dir, FileName), old.version, o.Logger); err != nil {
		return nil, err
	}
	return connect(ctx, o, true)
}

// OldCopy is where the copy of a ledger is that was of a version before it was
// brought up: the way back.
func OldCopy(dir string, version int) string {
	return filepath.Join(dir, fmt.Sprintf("%s.v%d", FileName, version))
}

// keep copies a ledger that nobody has open. Where the disk has no room for it,
// it says so and makes none: the upgrade itself is all or nothing.
func keep(ctx context.Context, path string, version int, logger *slog.Logger) error {
	copied := OldCopy(filepath.Dir(path), version)
	size := int64(0)
	for _, suffix := range []string{"", walSuffix} {
		if st, err := os.Stat(path + suffix); err == nil {
			size += st.Size()
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &disk); err != nil {
		return fmt.Errorf("%w: copy the ledger before it is upgraded: %w", store.ErrUnavailable, err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < size+spare {
		logger.LogAttrs(ctx, slog.LevelWarn, "THE LEDGER IS UPGRADED WITHOUT A COPY of what it was: the disk has no room for one; there is no way back but a backup",
			slog.Int("version", version), slog.Int64("bytes", size), slog.Int64("free_bytes", free))
		return nil
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "the ledger is copied before it is upgraded; remove the copy once you do not want to go back",
		slog.String("copy", copied), slog.Int("version", version), slog.Int64("bytes", size))
	// The log first: what has a copy's name is whole.
	for _, suffix := range []string{walSuffix, ""} {
		err := copyFile(path+suffix, copied+suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			if err = os.Remove(copied + suffix); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("%w: copy the ledger before it is upgraded: %w", store.ErrUnavailable, err)
		}
	}
	return nil
}

// copyFile makes a copy that appears when it is whole and durable.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was only read
	out, err := os.OpenFile(to+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = out.Close()
			_ = os.Remove(out.Name())
		}
	}()
	// The kernel copies, and shares the blocks where the file system can.
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
