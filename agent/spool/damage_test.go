package spool_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

func segmentContent(t *testing.T, fsys *memfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b[:n]
}

// flipRoster damages the newest copy of a roster in a segment.
func flipRoster(t *testing.T, fsys *memfs.FS, name string, of attribution.Second) {
	t.Helper()
	b := segmentContent(t, fsys, name)
	_, roster := rosterOf(of)
	at := bytes.LastIndex(b, roster)
	if at < 0 {
		t.Fatalf("%s holds no roster of second %d", name, of)
	}
	if err := fsys.Flip(filepath.Join(dir, name), int64(at)*8+3); err != nil {
		t.Fatal(err)
	}
}

// TestLaw3SecondsOfADamagedRosterAreSealedAgain: seconds are open that refer to
// two rosters, and the second roster rots. Next is where its seconds begin, and
// what is sealed from there on is what the next recovery finds.
func TestLaw3SecondsOfADamagedRosterAreSealedAgain(t *testing.T) {
	const change = attribution.Second(1_700_000_040) // of the roster
	second := func(s *spool.Spool, at attribution.Second, what string) {
		t.Helper()
		id, roster := rosterOf(at)
		if err := s.AppendSecond(spool.Chunk{Sequence: at, Seconds: 1, RosterID: id, Body: content(what, at, 2)}, roster); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	fsys := memfs.New()
	s := open(t, fsys, small())
	for at := change - 3; at < change+4; at++ {
		second(s, at, "seen")
	}
	flipRoster(t, fsys, "0000000001.seg", change)
	fsys = fsys.Crash(nil)

	s = open(t, fsys, small())
	if seconds, err := s.OpenSeconds(); !errors.Is(err, spool.ErrCorrupt) || len(seconds) != 3 || s.Next() != change {
		t.Fatalf("%d seconds, %v, next is %d: want 3, and %d", len(seconds), err, s.Next(), change)
	}
	for at := change; at < change+2; at++ {
		second(s, at, "again")
	}
	fsys = fsys.Crash(nil)
	s = open(t, fsys, small())
	seconds, err := s.OpenSeconds()
	if err != nil || len(seconds) != 5 || s.Next() != change+2 {
		t.Fatalf("%d seconds, %v, next is %d: want 5, and %d", len(seconds), err, s.Next(), change+2)
	}
	for i, want := range []string{"seen", "seen", "seen", "again", "again"} {
		if at := change - 3 + attribution.Second(i); !bytes.Equal(seconds[i].Body, content(want, at, 2)) {
			t.Errorf("second %d is %q", at, seconds[i].Body)
		}
	}
}

// TestDamagedRosterIsWrittenAgain: once a damaged roster has been met, nothing
// more refers to it.
func TestDamagedRosterIsWrittenAgain(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	first := attribution.Second(1_700_000_000)
	next := appendChunk(t, s, first)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	flipRoster(t, fsys, "0000000001.seg", first)
	if _, err := s.Roster(first); !errors.Is(err, spool.ErrCorrupt) {
		t.Fatalf("a flipped roster reads with %v", err)
	}
	appendChunk(t, s, next)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	_, want := rosterOf(next)
	for _, sequence := range []attribution.Second{first, next} { // the first, too, by the new copy
		if got, err := s.Roster(sequence); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the roster of %d is %q, %v", sequence, got, err)
		}
	}
}

// TestLaw3ASegmentWhoseFirstWriteIsDamagedStillSaysWhereTheLogStood: all before it
// was acknowledged and is gone, so nothing else does. Any bit of what follows the
// head rots, its first record's most of all.
func TestLaw3ASegmentWhoseFirstWriteIsDamagedStillSaysWhereTheLogStood(t *testing.T) {
	const first = attribution.Second(1_700_000_000)
	fill := func() (*memfs.FS, attribution.Second) {
		fsys := memfs.New()
		s := open(t, fsys, small())
		next := first
		for range 3 {
			at := next
			next = appendChunk(t, s, at)
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			s.Ack(at)
		}
		if err := s.AppendMeter([]byte("who held what")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, fsys, small())
		appendChunk(t, s, next)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		fsys.Unlock() // the process is killed
		return fsys, next
	}
	const segment = "0000000002.seg"
	fsys, next := fill()
	if names, err := fsys.ReadDir(dir); err != nil || slices.Contains(names, "0000000001.seg") {
		t.Fatalf("the first segment is still there: %v, %v", names, err)
	}
	batch := batchAt(t, fsys, segment)
	for bit := range 9 * 8 {
		fsys, _ := fill()
		if err := fsys.Flip(filepath.Join(dir, segment), int64(batch)*8+int64(bit)); err != nil {
			t.Fatal(err)
		}
		s := open(t, fsys, small())
		if s.Next() != next || string(s.Meter()) != "who held what" || !s.InDoubt(next) {
			t.Fatalf("bit %d: next is %d, the meter is %q, in doubt: %t; want %d, what was kept, and doubt", bit, s.Next(), s.Meter(), s.InDoubt(next), next)
		}
		at := next // it goes on, and is opened once more
		after := appendChunk(t, s, at)
		if err := errors.Join(s.Sync(), s.Close()); err != nil {
			t.Fatal(err)
		}
		s = open(t, fsys, small())
		if s.Next() != after {
			t.Fatalf("bit %d: after another chunk next is %d, want %d", bit, s.Next(), after)
		}
		if all := chunks(t, s); len(all) != 1 || all[0].Sequence != at {
			t.Fatalf("bit %d: %d chunks are there", bit, len(all))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// batchAt is where the first write of a segment begins, behind its head.
func batchAt(t *testing.T, fsys *memfs.FS, name string) int {
	t.Helper()
	b := segmentContent(t, fsys, name)
	at := 8 // the magic; then frames: length, checksum, type, payload
	for at+9 <= len(b) && b[at+8] != 2 {
		at += 9 + int(binary.LittleEndian.Uint32(b[at:]))
	}
	if at+9 > len(b) {
		t.Fatalf("%s holds no batch", name)
	}
	return at
}

// TestLaw3WhatAKilledProcessWroteIsSyncedByTheNext: a process is killed before its
// write is synced, the next one goes on behind it, and then the power fails.
func TestLaw3WhatAKilledProcessWroteIsSyncedByTheNext(t *testing.T) {
	const first = attribution.Second(1_700_000_000)
	second := func(s *spool.Spool, at attribution.Second) error {
		id, roster := rosterOf(at)
		if err := s.AppendSecond(spool.Chunk{Sequence: at, Seconds: 1, RosterID: id, Body: content("seen", at, 2)}, roster); err != nil {
			t.Fatal(err)
		}
		return s.Sync()
	}
	fsys := memfs.New()
	s := open(t, fsys, small())
	if err := second(s, first); err != nil {
		t.Fatal(err)
	}
	fsys.SetHook(func(op memfs.Op, _ string) error {
		if op == memfs.OpSync || op == memfs.OpTruncate {
			return io.ErrUnexpectedEOF // it does not get so far
		}
		return nil
	})
	if err := second(s, first+1); err == nil {
		t.Fatal("a write was synced")
	}
	fsys.Unlock() // the process is killed
	fsys.SetHook(nil)
	s = open(t, fsys, small())
	if s.Next() != first+2 {
		t.Fatalf("next is %d: want %d", s.Next()-first, 2)
	}
	if err := second(s, first+2); err != nil {
		t.Fatal(err)
	}
	s = open(t, fsys.Crash(nil), small())
	open, err := s.OpenSeconds()
	if err != nil || len(open) != 3 || s.Next() != first+3 {
		t.Errorf("%d seconds are there (%v), and next is %d: want 3", len(open), err, s.Next()-first)
	}
}
