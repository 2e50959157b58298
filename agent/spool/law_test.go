package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

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
	through := next // end of the newest chunk
	if len(seconds) > 0 {
		through = seconds[0].Sequence
	}
	if want := linkAt(through); through > start && !bytes.Equal(s.Link(), want) {
		t.Fatalf("the link behind the chunk that ends at %d is %x, want %x", through, s.Link(), want)
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
	if err := s.AwaitSpace(t.Context(), nil); err != nil {
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
	if err := s.AwaitSpace(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	next = appendChunk(t, s, next)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l = life{appended: next, synced: next}
	l.check(t, open(t, fsys, small()))
}
