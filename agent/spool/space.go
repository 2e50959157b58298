package spool

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// A full disk (or one that is small) must not come to a standstill: what is on
// it can be acknowledged, and then makes room. But the newest segment can only
// be removed when another holds its checkpoint, and a disk may be full to the
// last block. So a spool holds a spare file of that size ready before it writes
// anything else. When the disk takes nothing more and all that is on it has
// been acknowledged, the checkpoint is written over the spare, the spare is
// renamed to be the next segment, and all others are removed.

const (
	// spareBytes is the unit of the spare file's size, a block of most disks.
	spareBytes = 4 << 10
	// rollLeast is how small segments get on a full disk. Smaller ones are
	// free sooner, but each repeats checkpoint and rosters.
	rollLeast = 16 << 10
	// retryFirst and retryMost are how long Run and AwaitSpace wait before
	// they try a failing disk again: twice as long each time.
	retryFirst = 20 * time.Millisecond
	retryMost  = time.Second
)

// AwaitSpace returns when an append that was refused with ErrFull may succeed,
// or with the error of ctx. It syncs meanwhile, since only what is durable is
// sent, and only what is sent is acknowledged. Each time before it waits it
// calls ask, unless that is nil, which should see to it that what is durable is
// acknowledged soon. fault is why the disk takes nothing, nil where it is the
// spool's own limit.
func (s *Spool) AwaitSpace(ctx context.Context, ask func(fault error)) error {
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		changed := s.Changed()
		_ = s.Sync() // a failure is the fault
		s.mu.Lock()
		fault, closed := s.fault, s.closed
		// No record is larger than an eighth.
		free := fault == nil && s.bytes() <= s.o.MaxBytes-s.o.MaxBytes/8
		s.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case free:
			return nil
		}
		if ask != nil {
			ask(fault)
		}
		again := pause
		if fault == nil {
			again = 0 // only an acknowledgement helps
		}
		if err := wait(ctx, changed, again); err != nil {
			return err
		}
	}
}

// wait waits for a change, or, unless that is 0, for a pause to pass.
func wait(ctx context.Context, changed <-chan struct{}, pause time.Duration) error {
	var again <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		again = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-again:
	}
	return nil
}

// MakeRoom has the spool give back, as soon as all its chunks are acknowledged,
// the disk space that they took, for the sake of others on the same disk. Run
// must be running.
func (s *Spool) MakeRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tight = true
	s.signalRoom()
}

// signalRoom wakes Run where there is space to be given back. It is called
// with mu held.
func (s *Spool) signalRoom() {
	if s.mayBeginAfresh() {
		select {
		case s.appended <- struct{}{}:
		default:
		}
	}
}

// mayBeginAfresh reports whether a new segment should replace all there are:
// space is short, and nothing in them is needed any more. Seconds that are not
// in a chunk are the first to be given up on a full disk. It is called with mu
// held.
func (s *Spool) mayBeginAfresh() bool {
	full := isFull(s.fault)
	switch {
	case !full && !s.tight, len(s.index) > 0, len(s.open) > 0 && !full:
		return false
	case len(s.segments) == 1:
		return s.segments[0].size > s.segments[0].head
	}
	return len(s.segments) > 1
}

// letGoOfOpen gives up everything in the log so far: chunks that were
// acknowledged, and seconds, if any. It is called with mu held.
func (s *Spool) letGoOfOpen() {
	s.tight = false
	if n := len(s.open); n > 0 {
		s.skipping = s.skipping || s.open[n-1].sequence >= s.chunked
		s.stats.SecondsDropped += uint64(n)
		s.open = nil
	}
	for _, g := range s.segments {
		g.maxSecond = Start
	}
}

// shrink adapts to a full disk: smaller writes, which may still fit, smaller
// segments, which are free sooner, and no seconds that are not in a chunk. It
// reports whether what is left to write has become less, or may find more
// room. It is called with mu held, and with what could not be written put back.
func (s *Spool) shrink(p *plan) (again bool) {
	var logged, bytes int64
	for _, g := range s.segments {
		logged += g.size
	}
	s.roll = max(min(rollLeast, s.o.SegmentBytes), min(s.roll, logged/8))
	for i := range p.batch {
		bytes += p.batch[i].bytes
	}
	if len(p.batch) > 0 {
		s.most = bytes / 2
	}
	before := len(s.pending)
	s.pending = slices.DeleteFunc(s.pending, func(r record) bool {
		if r.t != recordSecond {
			return false
		}
		s.unwritten -= r.bytes
		s.skipping = s.skipping || r.chunk.Sequence >= s.chunked
		s.stats.SecondsDropped++
		return true
	})
	return !p.afresh && (len(p.batch) > 1 || len(s.pending) < before || s.mayBeginAfresh())
}

// isFull reports whether an error is a full disk's.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ensureSpare sees to it that the spare can hold the checkpoint that follows a
// write. It is called with syncing held.
func (s *Spool) ensureSpare(p *plan) error {
	meter := len(p.meter)
	for i := range p.batch {
		meter = max(meter, len(p.batch[i].meter))
	}
	need := int64(len(magic) + 3*frameHead + checkpointHead + meter + linkBytes)
	if s.spare >= need {
		return nil
	}
	size := (need + need/4 + spareBytes - 1) / spareBytes * spareBytes
	if err := stage(s.fsys, filepath.Join(s.dir, spareFile), make([]byte, size)); err != nil {
		return err
	}
	s.setSpare(size)
	return nil
}

func (s *Spool) setSpare(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = size
}

// useSpare makes the spare a segment: nothing of it is new to the disk. Where
// that fails it is removed, so that a disk that can't overwrite in place has
// the room for a new file. It is called with syncing held.
func (s *Spool) useSpare(seg *segment, b []byte) (err error) {
	s.setSpare(0)
	name := filepath.Join(s.dir, spareFile)
	if seg.file, err = s.fsys.Open(name); err != nil {
		return err
	}
	if err = seg.file.Truncate(int64(len(b))); err == nil {
		err = writeSync(seg.file, b, 0)
	}
	if err == nil {
		err = s.fsys.Rename(name, seg.name)
	}
	if err == nil {
		err = s.fsys.SyncDir(s.dir)
	}
	if err != nil {
		seg.closeFile()
		_ = s.fsys.Remove(name)
		_ = s.fsys.Remove(seg.name) // if it stays, recovery knows it for what it is
	}
	return err
}
