package duckdb_test

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// openAside opens a ledger that may be set aside, and returns what was logged.
func openAside(t *testing.T, dir string) (s *duckdb.Store, logged string, err error) {
	t.Helper()
	var b bytes.Buffer
	s, err = duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode, SetAside: true, Logger: slog.New(slog.NewTextHandler(&b, nil))})
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, b.String(), err
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && !strings.HasSuffix(e.Name(), ".lock") {
			all[e.Name()] = string(b)
		}
	}
	return all
}

// damagedLedger is a folder with a damaged ledger and its write-ahead log.
func damagedLedger(t *testing.T, dir string) {
	t.Helper()
	s := open(t, dir)
	commit(t, s, storetest.Batch(1, storetest.Minute(0, storetest.Day)...))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, duckdb.FileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[3*4096:])
	if err := errors.Join(os.WriteFile(path, b, 0o600), os.WriteFile(path+".wal", []byte("what was committed last"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A damaged ledger is renamed, whole, as often as it happens; the new one is
// empty and works; nothing of it is silent.
func TestADamagedLedgerIsSetAsideWhereItMayBe(t *testing.T) {
	dir := t.TempDir()
	for round := 1; round <= 2; round++ {
		damagedLedger(t, dir)
		before := files(t, dir)
		s, logged, err := openAside(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, storetest.Batch(1, storetest.Minute(0, storetest.Day)...))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(logged, "level=ERROR") || !strings.Contains(logged, "SET ASIDE") {
			t.Errorf("the log says %q", logged)
		}
		aside, err := duckdb.SetAside(dir)
		if err != nil || len(aside) != round {
			t.Fatalf("round %d: set aside: %v, %v", round, aside, err)
		}
		now, found := files(t, dir), false
		for _, f := range aside {
			found = found || now[filepath.Base(f)] == before[duckdb.FileName] && now[filepath.Base(f)+".wal"] == before[duckdb.FileName+".wal"]
		}
		if !found {
			t.Errorf("round %d: the ledger is not as it was in any of %q", round, aside)
		}
		s, logged, err = openAside(t, dir)
		if err != nil || logged != "" {
			t.Fatalf("a whole ledger: %v, logged %q", err, logged)
		}
		if again, err := duckdb.SetAside(dir); err != nil || !slices.Equal(again, aside) {
			t.Errorf("a whole ledger was set aside: %q, %v", again, err)
		}
		if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, duckdb.FileName))); err != nil {
			t.Fatal(err)
		}
	}
}

// DuckDB would delete a write-ahead log whose file is gone, with what was
// committed and acknowledged.
func TestALogWithoutItsFileIsNoNewLedger(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, duckdb.FileName+".wal")
	if err := os.WriteFile(log, []byte("committed"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: storetest.Decode})
	if b, rerr := os.ReadFile(log); !errors.Is(err, store.ErrCorrupt) || rerr != nil || string(b) != "committed" {
		t.Errorf("got %v; the log: %q, %v", err, b, rerr)
	}
	if _, logged, err := openAside(t, dir); err != nil || !strings.Contains(logged, "SET ASIDE") {
		t.Errorf("%v, logged %q", err, logged)
	}
	aside, err := duckdb.SetAside(dir)
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %q, %v", aside, err)
	}
	if b, err := os.ReadFile(aside[0] + ".wal"); err != nil || string(b) != "committed" {
		t.Errorf("set aside: %q, %v", b, err)
	}
}

// What is no damage stays where it is.
func TestNothingButDamageIsSetAside(t *testing.T) {
	for name, statements := range map[string][]string{
		"another program's": {`CREATE TABLE recipes (name VARCHAR)`},
		"a newer version":   {`CREATE TABLE state (version INTEGER)`, `INSERT INTO state VALUES (99)`},
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
		if _, logged, err := openAside(t, dir); err == nil || logged != "" {
			t.Errorf("%s: %v, logged %q", name, err, logged)
		}
		if aside, err := duckdb.SetAside(dir); err != nil || len(aside) > 0 {
			t.Errorf("%s: set aside: %q, %v", name, aside, err)
		}
	}
}
