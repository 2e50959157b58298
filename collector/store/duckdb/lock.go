package duckdb

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gpuledger/gpuledger/collector/store"
)

// lockFile takes the ledger for this store alone, and writes down who has it.
// DuckDB locks its file too, but not against the same process, and lets go of
// it for a moment when the file is opened again.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: lock the ledger: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		who, _ := io.ReadAll(io.LimitReader(f, 64))
		return nil, errors.Join(fmt.Errorf("%w: %s is already in use by process %s: stop it first, or choose another data directory",
			store.ErrUnavailable, strings.TrimSuffix(path, lockSuffix), strings.TrimSpace(string(who))), f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("store: lock the ledger: %w", err), f.Close())
	}
	if err = f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store: lock the ledger: %w", err), f.Close())
	}
	return f, nil
}

const lockSuffix = ".lock"
