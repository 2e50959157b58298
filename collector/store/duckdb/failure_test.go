package duckdb_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

func open(t *testing.T, dir string) *duckdb.Store {
	t.Helper()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASecondOpenerIsToldWhoHasIt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("already in use by process %d", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), storetest.Batch(1)); err == nil {
		t.Error("a closed store commits")
	}
	if err := open(t, dir).Close(); err != nil {
		t.Error(err)
	}
}

func TestTooManyThreadsAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	_, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode, Threads: 99_999_999})
	if err == nil || !strings.Contains(err.Error(), "at most 1024") {
		t.Errorf("%v", err)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir)
	defer s.Close() //nolint:errcheck // a test of modes
	commit(t, s, storetest.Batch(1, storetest.Minute(0, storetest.Day)...))
	for name, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, duckdb.FileName): 0o600} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestADamagedFileIsRefusedAndLeftAlone(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"text":         func([]byte) []byte { return []byte(strings.Repeat("not a ledger\n", 1000)) },
		"a header":     func(b []byte) []byte { return append(bytes.Repeat([]byte{0xff}, 4096), b[4096:]...) },
		"truncated":    func(b []byte) []byte { return b[:len(b)/3] },
		"zeros within": func(b []byte) []byte { clear(b[3*4096:]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			commit(t, s, storetest.Batch(1, storetest.Minute(0, storetest.Day)...))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, duckdb.FileName)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := damage(whole)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode})
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "Move it and its .wal aside") {
				t.Errorf("got %v", err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, damaged) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

func TestAnotherProgramsFileAndANewerVersionAreRefused(t *testing.T) {
	for want, statements := range map[string][]string{
		"no ledger":                     {`CREATE TABLE recipes (name VARCHAR)`},
		"run the program that wrote it": {`CREATE TABLE state (version INTEGER)`, `INSERT INTO state VALUES (99)`},
	} {
		dir := t.TempDir()
		db, err := sql.Open("duckdb", filepath.Join(dir, duckdb.FileName))
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range statements {
			if _, err := db.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a word about %q", err, want)
		}
	}
}

// fullDisk names the ledger that a child process fills a disk with.
const fullDisk = "GPULEDGER_DUCKDB_FULL"

// TestLaw4AFullDiskLosesNothing runs in a process of its own, which may not
// write files beyond a size until it is allowed to again.
func TestLaw4AFullDiskLosesNothing(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), fullDisk+"="+t.TempDir())
	out, err := child.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "as it should be") {
		t.Errorf("%v\n%s", err, out)
	}
}

func limitFiles(bytes uint64) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
		return err
	}
	l.Cur = bytes
	return unix.Setrlimit(unix.RLIMIT_FSIZE, &l)
}

func fillDisk(dir string) error {
	signal.Ignore(unix.SIGXFSZ)
	ctx := context.Background()
	s, err := duckdb.Open(ctx, duckdb.Options{Dir: dir, Decode: storetest.Decode, CheckpointBytes: 1 << 20})
	if err != nil {
		return err
	}
	f := newFleet(20)
	var refused, refusals int
	for n := uint64(1); n <= 60; n++ {
		// Full from some point of the log on, and at others; then not.
		if n%12 == 5 {
			size := uint64(256 << 10)
			if info, err := os.Stat(filepath.Join(dir, duckdb.FileName)); err == nil {
				size = uint64(info.Size()) / (n/12%2 + 1)
			}
			if err := limitFiles(size); err != nil {
				return err
			}
		}
		batch := f.batch(n, storetest.Day+attribution.Second(n)*60, true)
		for tries := 0; ; tries++ {
			err := s.Commit(ctx, batch)
			if err == nil {
				break
			}
			if refused++; !errors.Is(err, store.ErrUnavailable) {
				return fmt.Errorf("commit %d: want ErrUnavailable, got %w", n, err)
			}
			if tries == 2 {
				refusals++
				if err := limitFiles(unix.RLIM_INFINITY); err != nil {
					return err
				}
			}
			if tries > 5 {
				return fmt.Errorf("commit %d with room again: %w", n, err)
			}
		}
		if err := s.View(ctx, func(r store.Reader) error {
			if r.Commits() != n {
				return fmt.Errorf("%d commits of %d", r.Commits(), n)
			}
			rows, chunks := 0, 0
			err := r.Chunks(ctx, 0, 2*storetest.Day, func(*store.Chunk, *store.Roster) error { chunks++; return nil })
			if err != nil {
				return err
			}
			sums, err := r.Query(ctx, &store.Query{From: 0, To: 2 * storetest.Day, Step: 60})
			for i := range sums {
				rows++
				_ = sums[i]
			}
			if want := int(n) * 120; chunks != want || rows != 2*int(n) {
				return fmt.Errorf("after %d commits: %d chunks of %d, %d rows of %d", n, chunks, want, rows, 2*n)
			}
			return err
		}); err != nil {
			return err
		}
	}
	if refusals == 0 {
		return errors.New("the disk was never full")
	}
	if err := s.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%d commits refused, all %d made up for, as it should be\n", refused, refusals)
	return err
}
