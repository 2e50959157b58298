package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store/archive"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// The commands of docs/operations.md for whole ledgers, and what they refuse.
func TestCarrying(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: at("old"), Decode: storetest.Decode})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), storetest.Batch(1, storetest.Minute(0, storetest.Day)...)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"old.yaml": "data_dir: " + at("old") + "\n", "new.yaml": "data_dir: " + at("new") + "\n", "typo.yaml": "data_dirr: x\n",
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const holds = "6 chunks, 4 rows, 1 tallies, 1 ranges, 0 documents"
	file := at("ledger.gpuledger")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"backup", "--config", at("old.yaml"), "--out", file}, 0, holds},
		{[]string{"backup", "--config", at("old.yaml"), "--out", file}, 2, "is there already"},
		{[]string{"backup", "--config", at("old.yaml")}, 2, "--out is missing"},
		{[]string{"backup", "--data-dir", at("none"), "--out", at("x")}, 1, "there is no ledger"},
		{[]string{"restore", file, "--data-dir", at("restored")}, 0, "Restored and verified: the ledger of 20"},
		{[]string{"restore", file, "--data-dir", at("restored")}, 1, "has been used already\nhint: choose a new data directory"},
		{[]string{"restore", at("old.yaml"), "--data-dir", at("x")}, 1, "this is no backup that this program can read"},
		{[]string{"restore", at("none"), "--data-dir", at("x")}, 1, "no such file"},
		{[]string{"restore", "--data-dir", at("x")}, 2, "wants one file, got 0"},
		{[]string{"migrate", "--from", at("old.yaml"), "--to", at("new.yaml")}, 0, "Migrated and verified: both ledgers hold " + holds},
		{[]string{"migrate", "--from", at("old.yaml"), "--to", at("new.yaml")}, 1, "hint: choose a new data directory"},
		{[]string{"migrate", "--from", at("old.yaml"), "--to", at("old.yaml")}, 1, "already in use"},
		{[]string{"migrate", "--from", at("old.yaml"), "--to", at("typo.yaml")}, 2, "data_dirr"},
		{[]string{"migrate", "--from", at("old.yaml")}, 2, "--from and --to are both wanted"},
	} {
		code, stdout, stderr := do(context.Background(), c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%s: exit code %d, want %d saying %q:\n%s%s", strings.Join(c.args, " "), code, c.code, c.says, stdout, stderr)
		}
	}
	if _, err := os.Stat(at("x")); !os.IsNotExist(err) {
		t.Errorf("something was made for what was refused: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", info, err)
	}
	open := func(name string) *duckdb.Store {
		s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: at(name), Decode: storetest.Decode})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	old := open("old")
	for _, name := range []string{"restored", "new"} {
		s := open(name)
		if err := archive.Compare(t.Context(), old, s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
}
