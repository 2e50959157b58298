package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
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
	return spool.Chunk{Sequence: first, Seconds: int(end - first), RosterID: id, Body: content("chunk", first, 8)}
}

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

// life is a spool's user, who knows what was promised to it.
type life struct {
	appended, synced   attribution.Second // Next after the last append, after the last good Sync
	meter, meterSynced int
	acked              attribution.Second
	chunked            attribution.Second
	chunksAppended     int
}

// live seals seconds from the spool's Next on, makes chunks of them, syncs and
// acknowledges at random, until an operation fails for good or steps are done.
func (l *life) live(s *spool.Spool, r *rand.Rand, steps int) {
	for range steps {
		switch next := s.Next(); {
		case next == 0:
			l.second(s, start)
		case r.IntN(8) == 0:
			l.meter++
			if s.AppendMeter(fmt.Appendf(nil, "%d", l.meter)) != nil {
				l.meter--
			}
		case r.IntN(3) == 0:
			appended, meter := l.appended, l.meter
			if s.Sync() == nil {
				l.synced, l.meterSynced = appended, meter
			}
		case r.IntN(6) == 0:
			if c, ok, err := s.Read(l.acked); ok && err == nil {
				l.acked = c.Sequence
				s.Ack(c.Sequence)
			}
		case next > l.chunked && next.ChunkStart() == next:
			first := max(next-attribution.ChunkSeconds, start)
			_, roster := rosterOf(first)
			if s.AppendChunk(chunkAt(first), roster) == nil {
				l.chunked = next
				l.chunksAppended++
			}
		default:
			l.second(s, next)
		}
	}
}

func (l *life) second(s *spool.Spool, at attribution.Second) {
	id, roster := rosterOf(at)
	if s.AppendSecond(spool.Chunk{Sequence: at, Seconds: 1, RosterID: id, Body: content("second", at, 2)}, roster) == nil {
		l.appended = at + 1
	}
}

// check compares a recovered spool with what its user was promised: a prefix
// of what was appended, with everything that was synced, and no hole.
func (l *life) check(t testing.TB, s *spool.Spool) {
	t.Helper()
	next := s.Next()
	if next < l.synced || next > l.appended {
		t.Fatalf("next is %d: synced was %d, appended %d", next, l.synced, l.appended)
	}
	expect := attribution.Second(0)
	for _, c := range chunks(t, s) {
		if expect != 0 && c.Sequence != expect {
			t.Fatalf("chunk %d follows a chunk that ended at %d", c.Sequence, expect)
		}
		if expect == 0 && c.Sequence > max(l.acked+attribution.ChunkSeconds, start) {
			t.Fatalf("chunk %d is the first, but only %d was acknowledged", c.Sequence, l.acked)
		}
		expect = c.End()
	}
	seconds, err := s.OpenSeconds()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range seconds {
		if expect != 0 && o.Sequence != expect {
			t.Fatalf("second %d follows %d", o.Sequence, expect)
		}
		if !bytes.Equal(o.Body, content("second", o.Sequence, 2)) || !bytes.HasPrefix(o.Roster, []byte("roster")) {
			t.Fatalf("second %d came back as %q", o.Sequence, o.Body)
		}
		expect = o.End()
	}
	if expect != 0 && expect != next {
		t.Fatalf("the log ends at %d, next is %d", expect, next)
	}
	var meter int
	if m := s.Meter(); m != nil {
		if _, err := fmt.Sscan(string(m), &meter); err != nil {
			t.Fatal(err)
		}
	}
	if meter < l.meterSynced || meter > l.meter {
		t.Fatalf("meter state %d: synced was %d, appended %d", meter, l.meterSynced, l.meter)
	}
}

var errCut = errors.New("power cut")

// TestLaw3Continuity crashes at every operation on the disk, twice in a row,
// with disks that keep random parts of what was not synced.
func TestLaw3ContinuityCrashAtEveryOperation(t *testing.T) {
	const steps = 500
	for seed := range uint64(8) {
		total := 0
		for cut := 1; cut <= total || total == 0; cut++ {
			var l life
			ops := 0
			fsys := memfs.New()
			fsys.SetHook(func(memfs.Op, string) error {
				if ops++; total > 0 && ops >= cut {
					return errCut
				}
				return nil
			})
			r := rand.New(rand.NewPCG(seed, 1))
			if s, err := spool.Open(fsys, dir, small()); err == nil {
				l.live(s, r, steps)
			}
			if total == 0 {
				total = ops
				cut = 0
				continue
			}
			crash := rand.New(rand.NewPCG(seed, uint64(cut)))
			for range 2 { // and once more in the middle of recovery and after
				after := fsys.Crash(crash)
				s := open(t, after, small())
				l.check(t, s)
				l.appended, l.synced = s.Next(), s.Next()
				l.meter = 0
				_, _ = fmt.Sscan(string(s.Meter()), &l.meter) // none: 0
				l.chunked = 0
				if cs := chunks(t, s); len(cs) > 0 {
					l.chunked = cs[len(cs)-1].End()
				}
				l.meterSynced = l.meter
				fsys = after
				left := crash.IntN(60)
				fsys.SetHook(func(memfs.Op, string) error {
					if left--; left < 0 {
						return errCut
					}
					return nil
				})
				l.chunked = max(l.chunked, l.acked)
				l.live(s, crash, 40)
			}
			if t.Failed() {
				t.Fatalf("seed %d, cut at operation %d", seed, cut)
			}
		}
		if total < 100 {
			t.Fatalf("only %d operations: this tests nothing", total)
		}
	}
}

// TestLaw8FailingDisk has any operation fail now and then. As long as the
// process lives nothing that was taken is lost, and a crash in the middle of it
// leaves a prefix with all that was synced.
func TestLaw8FailingDisk(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 2))
		fsys := memfs.New()
		o := small()
		o.MaxBytes = 1 << 20 // it is the disk that fails here
		s := open(t, fsys, o)
		fsys.SetHook(func(op memfs.Op, _ string) error {
			switch {
			case op == memfs.OpRead || op == memfs.OpOpen || r.IntN(3) != 0:
				return nil // reading is tested elsewhere
			case op == memfs.OpWrite && r.IntN(2) == 0:
				return memfs.ErrShort
			}
			return syscall.EIO
		})
		next := start
		for range 60 {
			_, roster := rosterOf(next)
			switch err := s.AppendChunk(chunkAt(next), roster); {
			case err == nil:
				next = end(next)
			case !errors.Is(err, spool.ErrFull):
				t.Fatal(err)
			}
			if r.IntN(2) == 0 {
				_ = s.Sync()
			}
			l := life{appended: next}
			for _, c := range chunks(t, s) {
				l.synced = c.End()
			}
			l.check(t, open(t, fsys.Crash(r), o))
		}
		fsys.SetHook(nil)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		l := life{synced: next, appended: next}
		l.check(t, s)
		l.check(t, open(t, fsys.Crash(nil), o))
	}
}

func TestLaw8FullSpoolRefusesInOrder(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	next := start
	droppedAt, refusedAt := int64(0), int64(0)
	for refusedAt == 0 {
		id, roster := rosterOf(next)
		if s.AppendSecond(spool.Chunk{Sequence: next, Seconds: 1, RosterID: id, Body: []byte("s")}, roster) != nil && droppedAt == 0 {
			droppedAt = s.Stats().Bytes
		}
		switch err := s.AppendChunk(chunkAt(next), roster); {
		case err == nil:
			next = end(next)
		case errors.Is(err, spool.ErrFull):
			refusedAt = s.Stats().Bytes
		default:
			t.Fatal(err)
		}
	}
	limit := small().MaxBytes
	if droppedAt == 0 || droppedAt >= refusedAt || refusedAt > limit || fsys.Bytes() > limit+4096 {
		t.Fatalf("seconds dropped at %d bytes, chunks refused at %d of %d, on disk %d", droppedAt, refusedAt, limit, fsys.Bytes())
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	all := chunks(t, s)
	if s.Next() != next || all[0].Sequence != start || all[len(all)-1].End() != next {
		t.Fatalf("taken chunks are gone: %d to %d, next %d", all[0].Sequence, all[len(all)-1].End(), s.Next())
	}
	// An acknowledgement makes room.
	s.Ack(all[len(all)/2].Sequence)
	if err := s.AwaitSpace(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendChunk(t, s, next)
	if st := s.Stats(); st.ChunksRefused != 1 || st.SecondsDropped == 0 {
		t.Fatalf("%+v", st)
	}
}

func TestLaw8DiskFull(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	fsys.SetCapacity(8 << 10)
	next := start
	for {
		_, roster := rosterOf(next)
		err := s.AppendChunk(chunkAt(next), roster)
		if errors.Is(err, spool.ErrFull) && errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		next = end(next)
	}
	if fault := s.Stats().Fault; fault == "" {
		t.Fatal("no fault is shown")
	}
	synced := chunks(t, s)
	l := life{appended: next, synced: synced[len(synced)-1].End()}
	l.check(t, open(t, fsys.Crash(nil), small()))

	fsys.SetCapacity(0)
	if err := s.AwaitSpace(t.Context()); err != nil {
		t.Fatal(err)
	}
	next = appendChunk(t, s, next)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l = life{appended: next, synced: next}
	l.check(t, open(t, fsys, small()))
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
				if err := s.AwaitSpace(t.Context()); err != nil {
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
