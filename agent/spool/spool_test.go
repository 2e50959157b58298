package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	dir   = "/spool"
	start = attribution.Second(1_700_000_003)
)

func small() spool.Options {
	return spool.Options{Boot: attribution.Boot{7}, MaxBytes: 64 << 10, SegmentBytes: 2 << 10, PendingBytes: 1 << 10}
}

func open(t testing.TB, fsys spool.FS, o spool.Options) *spool.Spool {
	t.Helper()
	s, err := spool.Open(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// content is a body that says what it is.
func content(what string, s attribution.Second, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%s %d.", what, s), n)
}

// rosterOf changes now and then.
func rosterOf(s attribution.Second) (attribution.Fingerprint, []byte) {
	n := byte(s / 40)
	return attribution.Fingerprint{1, n}, content("roster", attribution.Second(n), 3)
}

func chunkAt(first attribution.Second) spool.Chunk {
	id, _ := rosterOf(first)
	end := first.ChunkStart() + attribution.ChunkSeconds
	return spool.Chunk{Sequence: first, Seconds: int(end - first), RosterID: id, Body: content("chunk", first, 8), Link: linkAt(end)}
}

// linkAt is the link behind the chunk that ends at a second.
func linkAt(end attribution.Second) []byte { return attribution.Link(nil, end, nil) }

func end(first attribution.Second) attribution.Second {
	c := chunkAt(first)
	return c.End()
}

func appendChunk(t testing.TB, s *spool.Spool, first attribution.Second) attribution.Second {
	t.Helper()
	c := chunkAt(first)
	_, roster := rosterOf(first)
	if err := s.AppendChunk(c, roster); err != nil {
		t.Fatal(err)
	}
	return c.End()
}

// chunks reads everything that waits, and checks that it is what was appended.
func chunks(t testing.TB, s *spool.Spool) (all []spool.Chunk) {
	t.Helper()
	at := spool.Start
	for {
		c, ok, err := s.Read(at)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return all
		}
		want := chunkAt(c.Sequence)
		_, roster := rosterOf(c.Sequence)
		got, err := s.Roster(c.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.Body, want.Body) || c.Seconds != want.Seconds || !bytes.Equal(got, roster) {
			t.Fatalf("chunk %d came back as %+v with roster %q", c.Sequence, c, got)
		}
		all = append(all, c)
		at = c.Sequence
	}
}

// TestBitFlips flips every bit of a log in turn: what is lost is at most what
// the damaged record held, it is never wrong, and the damage is kept and told.
func TestBitFlips(t *testing.T) {
	build := func() (*memfs.FS, string) {
		fsys := memfs.New()
		s := open(t, fsys, small())
		next := start
		for range 12 {
			next = appendChunk(t, s, next)
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return fsys, filepath.Join(dir, "0000000001.seg")
	}
	fsys, name := build()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	for bit := int64(0); bit < size*8; bit += 5 {
		fsys, _ := build()
		if err := fsys.Flip(name, bit); err != nil {
			t.Fatal(err)
		}
		s := open(t, fsys, small())
		n := 0
		for at := spool.Start; ; n++ {
			c, ok, err := s.Read(at)
			if err != nil {
				t.Fatalf("bit %d: %v", bit, err)
			}
			if !ok {
				break
			}
			at = c.Sequence
			if want := chunkAt(c.Sequence); !bytes.Equal(c.Body, want.Body) {
				t.Fatalf("bit %d: chunk %d is wrong", bit, c.Sequence)
			}
			_, want := rosterOf(c.Sequence)
			if roster, err := s.Roster(c.Sequence); err == nil && !bytes.Equal(roster, want) {
				t.Fatalf("bit %d: the roster of chunk %d is wrong", bit, c.Sequence)
			} else if err != nil && !errors.Is(err, spool.ErrCorrupt) {
				t.Fatal(err)
			}
		}
		if l := s.Link(); l != nil && !bytes.Equal(l, linkAt(s.Next())) {
			t.Fatalf("bit %d: the link is that of another chunk than the newest", bit)
		}
		st := s.Stats()
		if n < 11 || st.CorruptFiles != 1 {
			t.Fatalf("bit %d: %d of 12 chunks left, stats %+v", bit, n, st)
		}
		if _, err := fsys.Open(name + ".corrupt"); err != nil {
			t.Fatal(err)
		}
		// The repaired log opens without complaint.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if st := open(t, fsys, small()).Stats(); st.CorruptFiles != 0 {
			t.Fatalf("bit %d: repaired, and corrupt again: %+v", bit, st)
		}
	}
}

func TestBitFlipUnderway(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	next := appendChunk(t, s, start)
	appendChunk(t, s, next)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Flip(filepath.Join(dir, "0000000001.seg"), 8*300); err != nil {
		t.Fatal(err)
	}
	c, ok, err := s.Read(spool.Start)
	if !ok || !errors.Is(err, spool.ErrCorrupt) || c.Sequence != start {
		t.Fatalf("read a flipped chunk: %+v %v %v", c, ok, err)
	}
	if err := s.SetAside(c.Sequence, "damaged"); err != nil {
		t.Fatal(err)
	}
	if all := chunks(t, s); len(all) != 1 || all[0].Sequence != next {
		t.Fatalf("%+v", all)
	}
}

func TestBoundedSizeWhileAcked(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	next, acked := start, spool.Start
	for i := range 2000 {
		next = appendChunk(t, s, next)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			all := chunks(t, s)
			acked = all[len(all)-1].Sequence
			s.Ack(acked)
		}
	}
	if fsys.Bytes() > 16<<10 {
		t.Fatalf("%d bytes are left of an acknowledged log", fsys.Bytes())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, fsys, small())
	if s.Next() != next || s.Stats().Acked != acked {
		t.Fatalf("after trimming next is %d and acked %d: want %d and %d", s.Next(), s.Stats().Acked, next, acked)
	}
}

func TestRejectedAreKeptAndBounded(t *testing.T) {
	fsys := memfs.New()
	o := small()
	o.AsideBytes = 3000
	s := open(t, fsys, o)
	next := start
	for range 40 {
		first := next
		next = appendChunk(t, s, next)
		if err := errors.Join(s.Sync(), s.SetAside(first, "overlaps")); err != nil {
			t.Fatal(err)
		}
	}
	names, err := fsys.ReadDir(filepath.Join(dir, "rejected"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	newest := fmt.Sprint(int64(next) - attribution.ChunkSeconds)
	if !strings.HasPrefix(names[len(names)-1], newest) || s.Stats().AsideRemoved == 0 || s.Stats().Rejected != 40 {
		t.Fatalf("%v; %+v", names, s.Stats())
	}
	if st := s.Stats(); st.UnackedChunks != 0 || fsys.Bytes() > 3000+8<<10 {
		t.Fatalf("%d bytes, %+v", fsys.Bytes(), st)
	}
}

func TestBootAndLock(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, spool.Options{Rand: bytes.NewReader(bytes.Repeat([]byte{9}, 16))})
	if s.Boot() != (attribution.Boot{9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}) {
		t.Fatalf("boot %x", s.Boot())
	}
	if _, err := spool.Open(fsys, dir, spool.Options{}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Fatalf("opened twice: %v", err)
	}
	boot := s.Boot()
	appendChunk(t, s, start)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(fsys, dir, spool.Options{Boot: attribution.Boot{1}}); err == nil || !strings.Contains(err.Error(), "belongs to boot") {
		t.Fatalf("opened under another boot: %v", err)
	}
	s = open(t, fsys, spool.Options{})
	if s.Boot() != boot {
		t.Fatalf("boot %x became %x", boot, s.Boot())
	}
	if err := errors.Join(s.Close(), fsys.Flip(filepath.Join(dir, "boot"), 3)); err != nil {
		t.Fatal(err)
	}
	if s = open(t, fsys, spool.Options{}); s.Boot() != boot {
		t.Fatalf("the log does not tell the boot: %x", s.Boot())
	}
}

func TestRateCard(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	if b, err := s.RateCard(); b != nil || err != nil {
		t.Fatal(b, err)
	}
	for _, card := range []string{"first", "second"} {
		if err := s.SetRateCard([]byte(card)); err != nil {
			t.Fatal(err)
		}
		if b, err := open(t, fsys.Crash(nil), small()).RateCard(); string(b) != card || err != nil {
			t.Fatal(b, err)
		}
	}
	if err := fsys.Flip(filepath.Join(dir, "ratecard"), 50); err != nil {
		t.Fatal(err)
	}
	if b, err := s.RateCard(); b != nil || err != nil || s.Stats().CorruptFiles != 1 {
		t.Fatal(b, err)
	}
}

func TestOrderIsChecked(t *testing.T) {
	s := open(t, memfs.New(), small())
	next := appendChunk(t, s, start)
	id, roster := rosterOf(next)
	for name, err := range map[string]error{
		"chunk again":  s.AppendChunk(chunkAt(start), roster),
		"second again": s.AppendSecond(spool.Chunk{Sequence: next - 1, Seconds: 1, RosterID: id}, roster),
		"eleven":       s.AppendChunk(spool.Chunk{Sequence: next, Seconds: 11}, nil),
		"huge":         s.AppendChunk(spool.Chunk{Sequence: next, Seconds: 1, Body: make([]byte, 16<<10)}, nil),
	} {
		if err == nil || errors.Is(err, spool.ErrFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendChunk(chunkAt(next), roster); !errors.Is(err, spool.ErrClosed) {
		t.Fatal(err)
	}
}

func TestOnDisk(t *testing.T) {
	tmp := t.TempDir()
	s, err := spool.Open(spool.OS, tmp, small())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(spool.OS, tmp, small()); err == nil {
		t.Fatal("opened twice")
	}
	next := start
	for range 50 {
		next = appendChunk(t, s, next)
	}
	if err := errors.Join(s.SetRateCard([]byte("card")), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = spool.Open(spool.OS, tmp, small()); err != nil {
		t.Fatal(err)
	}
	if all := chunks(t, s); len(all) != 50 || s.Next() != next {
		t.Fatalf("%d chunks, next %d", len(all), s.Next())
	}
	s.Ack(next)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.OS.Open(filepath.Join(tmp, "0000000001.seg")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an acknowledged segment stays: %v", err)
	}
}

// TestRunSyncs appends from one goroutine and reads from another.
func TestRunSyncs(t *testing.T) {
	s := open(t, memfs.New(), small())
	done := make(chan error, 2)
	go func() { done <- s.Run(t.Context()) }()
	go func() {
		next := start
		for range 300 {
			_, roster := rosterOf(next)
			for {
				err := s.AppendChunk(chunkAt(next), roster)
				if err == nil {
					break
				}
				if err := s.AwaitSpace(t.Context(), nil); err != nil {
					done <- err
					return
				}
			}
			next = end(next)
		}
		done <- nil
	}()
	for at, n := spool.Start, 0; n < 300; {
		changed := s.Changed()
		c, ok, err := s.Read(at)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatalf("stuck after %d chunks: %+v", n, s.Stats())
			}
			continue
		}
		at = c.Sequence
		n++
		s.Ack(at)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Run ends with the test's context; wait for it there.
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
