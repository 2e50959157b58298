package duckdb_test

import (
	"errors"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

var _ store.Knower = (*duckdb.Store)(nil)

// left is how much of a batch a store says it lacks.
func left(s *duckdb.Store, b *store.Batch) (owners, devices, rosters int) {
	storetest.LeaveOut(b, s)
	return len(b.Owners), len(b.Devices), len(b.Rosters)
}

// What was committed need not be brought along again; what was not, what the store
// has dropped since, and all after an attempt that failed or a start, must be.
func TestWhatAStoreSaysItHas(t *testing.T) {
	const day = storetest.Day
	dir := t.TempDir()
	s := open(t, dir)
	commit := func(b *store.Batch) {
		t.Helper()
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	first := func(number uint64) *store.Batch { return storetest.Batch(number, storetest.Minute(0, day)...) }
	later := func(number uint64) *store.Batch { return storetest.Batch(number, storetest.Minute(0, day+7200)...) }
	wants := func(when string, all bool) {
		t.Helper()
		b := later(9)
		owners, devices, rosters := len(b.Owners), len(b.Devices), len(b.Rosters)
		if !all {
			owners, devices, rosters = 0, 0, 0
		}
		if o, d, r := left(s, b); o != owners || d != devices || r != rosters {
			t.Errorf("%s: it lacks %d owners, %d devices and %d rosters; want %d, %d and %d", when, o, d, r, owners, devices, rosters)
		}
	}
	wants("empty", true)
	commit(first(1))
	wants("committed", false)
	b := later(2)
	left(s, b)
	commit(b)

	bad := later(3)
	if err := s.Commit(t.Context(), bad); !errors.Is(err, store.ErrDuplicate) {
		t.Fatal(err)
	}
	wants("after a batch that was refused before anything was written", false)
	bad = storetest.Batch(3, storetest.Minute(1, day+7200)...)
	bad.Owners = nil
	if err := s.Commit(t.Context(), bad); !errors.Is(err, store.ErrBadBatch) {
		t.Fatal(err)
	}
	wants("after an attempt that failed", true)

	commit(storetest.Batch(3, storetest.Minute(2, day+14400)...))
	if err := s.Roll(t.Context(), day+86400); err != nil {
		t.Fatal(err)
	}
	if err := s.Retain(t.Context(), store.Retention{Second: time.Second}, day+86400); err != nil {
		t.Fatal(err)
	}
	b = storetest.Batch(4, storetest.Minute(2, day+21600)...)
	n := len(b.Rosters)
	if _, _, rosters := left(s, b); rosters != n {
		t.Errorf("after all chunks were dropped it lacks %d of %d rosters", rosters, n)
	}
	commit(b)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wants("closed", true)
	s = open(t, dir)
	defer s.Close()
	wants("opened again", true)
	commit(storetest.Batch(5, storetest.Minute(2, day+28800)...))
}
