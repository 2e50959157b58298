package spool_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// sink is a collector's side of a spool: it notes what it reads, insists that
// it comes in order and is what was appended, and acknowledges when it is told
// to.
type sink struct {
	t   testing.TB
	s   *spool.Spool
	at  attribution.Second // newest read
	end attribution.Second // of that
}

func newSink(t testing.TB, s *spool.Spool) *sink {
	return &sink{t, s, spool.Start, start}
}

// ack reads what is there and acknowledges it.
func (k *sink) ack() {
	k.t.Helper()
	for {
		c, ok, err := k.s.Read(k.at)
		if err != nil {
			k.t.Error(err)
			return
		}
		if !ok {
			break
		}
		if c.Sequence != k.end || string(c.Body) != string(chunkAt(c.Sequence).Body) {
			k.t.Errorf("chunk %d is read where %d should be", c.Sequence, k.end)
		}
		k.at, k.end = c.Sequence, c.End()
	}
	k.s.Ack(k.at)
}

// appendWaiting appends a chunk as a replay does: it waits for space.
func appendWaiting(ctx context.Context, t testing.TB, s *spool.Spool, first attribution.Second, ask func(error)) {
	t.Helper()
	_, roster := rosterOf(first)
	for {
		err := s.AppendChunk(chunkAt(first), roster)
		if err == nil {
			return
		}
		if !errors.Is(err, spool.ErrFull) {
			t.Fatal(err)
		}
		if err := s.AwaitSpace(ctx, ask); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that holds far less than one segment of the default size: everything
// goes through, though nothing is acknowledged before the disk is full.
func TestLaw8DiskSmallerThanASegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		fsys := memfs.New()
		fsys.SetCapacity(24 << 10)
		s := open(t, fsys, spool.Options{})
		k := newSink(t, s)
		asked := 0
		next := start
		for range 30_000 {
			appendWaiting(t.Context(), t, s, next, func(fault error) {
				if !errors.Is(fault, syscall.ENOSPC) {
					t.Fatalf("waiting for %v", fault)
				}
				asked++
				k.ack()
			})
			next = end(next)
		}
		if err := s.AwaitSpace(t.Context(), func(error) { k.ack() }); err != nil {
			t.Fatal(err)
		}
		k.ack()
		if k.end != next || asked < 10 {
			t.Fatalf("read through %d, want %d; asked %d times", k.end, next, asked)
		}
		if took := time.Since(began); took > time.Minute {
			t.Fatalf("it took %v", took)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, fsys, spool.Options{})
		if st := s.Stats(); s.Next() != next || st.Acked != k.at || st.UnackedChunks != 0 {
			t.Fatalf("opened again: next %d want %d, %+v", s.Next(), next, st)
		}
	})
}

// Crashes at every operation on a disk that is full most of the time.
func TestLaw3FullDiskCrashAtEveryOperation(t *testing.T) {
	const capacity = 14 << 10
	run := func(s *spool.Spool, l *life, acked attribution.Second) {
		for range 200 {
			next := max(s.Next(), start)
			_, roster := rosterOf(next)
			if s.AppendChunk(chunkAt(next), roster) == nil {
				l.appended = end(next)
			}
			if l.appended%3 != 0 && s.Stats().Fault == "" {
				continue
			}
			appended := l.appended
			if s.Sync() == nil {
				l.synced = appended
				continue
			}
			for {
				c, ok, err := s.Read(acked)
				if !ok || err != nil {
					break
				}
				acked = c.Sequence
			}
			l.acked = max(l.acked, acked)
			s.Ack(acked)
		}
	}
	total := 0
	for cut := 0; cut <= total; cut++ {
		l := life{acked: spool.Start}
		ops := 0
		fsys := memfs.New()
		fsys.SetCapacity(capacity)
		fsys.SetHook(func(memfs.Op, string) error {
			if ops++; cut > 0 && ops >= cut {
				return errCut
			}
			return nil
		})
		if s, err := spool.Open(fsys, dir, small()); err == nil {
			run(s, &l, spool.Start)
		}
		if cut == 0 {
			total = ops
			if l.appended < start+1900 {
				t.Fatalf("only up to %d: the disk is stuck", l.appended)
			}
			continue
		}
		after := fsys.Crash(rand.New(rand.NewPCG(3, uint64(cut))))
		s := open(t, after, small())
		l.check(t, s)
		// It goes on, on a disk that is as small as before.
		after.SetCapacity(capacity)
		k := newSink(t, s)
		next := max(s.Next(), start)
		k.end = next
		if cs := chunks(t, s); len(cs) > 0 {
			k.end = cs[0].Sequence
		}
		for range 60 {
			appendWaiting(t.Context(), t, s, next, func(error) { k.ack() })
			next = end(next)
		}
		if t.Failed() {
			t.Fatalf("cut at operation %d", cut)
		}
	}
	if total < 300 {
		t.Fatalf("only %d operations: this tests nothing", total)
	}
}

// Several spools share a full disk. The collector acknowledges only what it is
// asked for; a spool that waits asks for all, and all give their space back,
// those too that have nothing more to write.
func TestLaw8SeveralSpoolsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		const spools, rounds = 5, 40
		fsys := memfs.New()
		fsys.SetCapacity(spools*(2*4096) + 24<<10)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var sinks []*sink
		var next [spools]attribution.Second
		for i := range spools {
			s, err := spool.Open(fsys, fmt.Sprintf("/spool%d", i), spool.Options{Boot: attribution.Boot{byte(i + 1)}})
			if err != nil {
				t.Fatal(err)
			}
			sinks = append(sinks, newSink(t, s))
			next[i] = start
			running.Go(func() {
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		relieve := func(error) {
			for _, k := range sinks {
				k.s.MakeRoom()
				k.ack()
			}
		}
		// They write one after the other, more than the disk holds each: those
		// before have gone quiet and hold what they have.
		for range rounds {
			for i := range spools {
				for range 40 {
					appendWaiting(ctx, t, sinks[i].s, next[i], relieve)
					next[i] = end(next[i])
				}
				if err := sinks[i].s.AwaitSpace(ctx, relieve); err != nil {
					t.Fatal(err)
				}
			}
		}
		relieve(nil)
		synctest.Wait()
		for i, k := range sinks {
			if k.end != next[i] || k.s.Stats().UnackedChunks != 0 {
				t.Errorf("spool %d: read through %d, want %d; %+v", i, k.end, next[i], k.s.Stats())
			}
		}
		cancel()
		running.Wait()
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		if left := fsys.Bytes(); left > spools*(2*4096) {
			t.Errorf("%d bytes are left of acknowledged logs", left)
		}
		for _, k := range sinks {
			if err := k.s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// On a full disk the seconds that are not in a chunk are given up first: those
// in memory, and those on the disk, so that the chunk finds room.
func TestLaw8FullDiskGivesUpSecondsFirst(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	k := newSink(t, s)
	next := appendChunk(t, s, start)
	if err := s.AppendMeter([]byte("holders")); err != nil {
		t.Fatal(err)
	}
	second := func(at attribution.Second) error {
		id, roster := rosterOf(at)
		return s.AppendSecond(spool.Chunk{Sequence: at, Seconds: 1, RosterID: id, Body: content("second", at, 20)}, roster)
	}
	for i := range attribution.Second(7) {
		if err := errors.Join(second(next+i), s.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	k.ack()
	fsys.SetCapacity(fsys.Bytes()) // others take what is left
	if err := second(next + 7); err != nil {
		t.Fatal(err)
	}
	// What can't be made durable is said not to be.
	if err := s.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a second that is not durable: %v", err)
	}
	if err := second(next + 8); !errors.Is(err, spool.ErrFull) {
		t.Fatalf("a second after one that is lost: %v", err)
	}
	after := appendChunk(t, s, next)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.SecondsDropped == 0 || st.Fault != "" {
		t.Fatalf("%+v", st)
	}
	crashed := open(t, fsys.Crash(nil), small())
	all := chunks(t, crashed)
	if len(all) != 1 || all[0].Sequence != next || crashed.Next() != after || string(crashed.Meter()) != "holders" {
		t.Fatalf("%+v, next %d, meter %q", all, crashed.Next(), crashed.Meter())
	}
	if open, err := crashed.OpenSeconds(); err != nil || len(open) != 0 {
		t.Fatalf("%v %v", open, err)
	}
	if err := second(after); err != nil {
		t.Fatalf("seconds are journaled again: %v", err)
	}
}

// A spool that an earlier life left on a full disk opens, gives back what is
// acknowledged, and goes on; with nothing to write, it closes.
func TestLaw8OpenAndCloseOnAFullDisk(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, spool.Options{})
	next := start
	for range 50 {
		next = appendChunk(t, s, next)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fsys.SetCapacity(fsys.Bytes())
	s = open(t, fsys, spool.Options{})
	k := newSink(t, s)
	next = appendChunk(t, s, next)
	if err := s.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write to a full disk: %v", err)
	}
	k.ack()
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	k.ack()
	fsys.SetCapacity(fsys.Bytes())
	if err := s.Close(); err != nil {
		t.Fatalf("nothing is lost, but: %v", err)
	}
	if s = open(t, fsys, spool.Options{}); s.Next() != next {
		t.Fatalf("next is %d, want %d", s.Next(), next)
	}
}

// A quota is a full disk. The spare is within it.
func TestLaw8Quota(t *testing.T) {
	fsys := memfs.New()
	s := open(t, fsys, small())
	k := newSink(t, s)
	next := appendChunk(t, s, start)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	spent := true
	fsys.SetHook(func(op memfs.Op, name string) error {
		switch {
		case op == memfs.OpRemove && filepath.Base(name) == "0000000001.seg":
			spent = false
		case op == memfs.OpWrite && spent && filepath.Base(name) != "spare":
			return syscall.EDQUOT
		}
		return nil
	})
	appendChunk(t, s, next)
	if err := s.Sync(); !errors.Is(err, syscall.EDQUOT) {
		t.Fatal(err)
	}
	k.ack()
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if all := chunks(t, s); len(all) != 1 || all[0].Sequence != next || spent {
		t.Fatalf("%+v", all)
	}
}

// The log of a spool whose chunks can be made again ends where it is damaged,
// and is whole when they have been.
func TestRepeatableLogEndsAtItsDamage(t *testing.T) {
	o := small()
	o.Repeatable = true
	for bit := int64(0); ; bit += 977 {
		fsys := memfs.New()
		s := open(t, fsys, o)
		next := start
		for range 60 {
			next = appendChunk(t, s, next)
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if fsys.Flip(filepath.Join(dir, "0000000002.seg"), bit) != nil {
			if bit < 10*977 {
				t.Fatal("the second segment is too short: this tests nothing")
			}
			return // past its end
		}
		fsys = fsys.Crash(nil)
		s = open(t, fsys, o)
		got := s.Next()
		l := life{synced: start, appended: next}
		l.check(t, s)
		if got >= next || got <= start || s.Stats().CorruptFiles != 1 {
			t.Fatalf("bit %d: next is %d after damage before %d: %+v", bit, got, next, s.Stats())
		}
		for at := got; at < next; {
			at = appendChunk(t, s, at)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		l.synced = next
		l.check(t, open(t, fsys.Crash(nil), o))
	}
}
