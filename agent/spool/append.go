package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// record is something appended and not yet durable.
type record struct {
	t      recordType
	chunk  Chunk  // of a chunk or second
	roster []byte // of a chunk or second
	meter  []byte
	bytes  int64 // that it is counted with
}

// retryAfter is how long Run and AwaitSpace wait before they try a failing
// disk again.
const retryAfter = time.Second

// AppendChunk takes a closed chunk and the roster that it refers to. Chunks
// come in order and begin at or after the last one's end. The spool keeps both
// slices, which must not change afterwards. An error that wraps ErrFull means
// that it was not taken, and may be later.
func (s *Spool) AppendChunk(c Chunk, roster []byte) error {
	return s.append(record{t: recordChunk, chunk: c, roster: roster})
}

// AppendSecond takes a sealed second that is not yet in a chunk, so that a
// crash loses no second that was synced; a later chunk replaces it. Seconds
// come in order from Next on. An error that wraps ErrFull means that it (and
// the seconds up to the next chunk) would be lost in a crash, no more.
func (s *Spool) AppendSecond(c Chunk, roster []byte) error {
	if c.Seconds != 1 {
		return fmt.Errorf("spool: a second of %d seconds", c.Seconds)
	}
	return s.append(record{t: recordSecond, chunk: c, roster: roster})
}

// AppendMeter takes the meter's state, which replaces the one before it. The
// spool keeps the slice.
func (s *Spool) AppendMeter(state []byte) error {
	return s.append(record{t: recordMeter, meter: state})
}

func (s *Spool) append(r record) error {
	s.mu.Lock()
	err := s.take(&r)
	over := err == nil && s.unwritten > s.o.PendingBytes && s.fault == nil
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case s.appended <- struct{}{}:
	default:
	}
	if over {
		_ = s.Sync() // a failure is kept as the fault, and refuses the next
	}
	return nil
}

// take checks a record against order and limits and appends it.
func (s *Spool) take(r *record) error {
	if s.closed {
		return ErrClosed
	}
	c := &r.chunk
	r.bytes = int64(len(c.Body)+len(r.meter)) + chunkHead + frameHead
	if r.t != recordMeter {
		if c.Seconds < 1 || c.Seconds > attribution.ChunkSeconds {
			return fmt.Errorf("spool: a chunk of %d seconds", c.Seconds)
		}
		if c.RosterID != s.lastID && (s.active == nil || s.active.rosters[c.RosterID].size == 0) {
			r.bytes += int64(len(r.roster)) + rosterHead + frameHead
		}
	}
	if r.bytes+int64(len(r.roster)) > s.o.MaxBytes/8 {
		return fmt.Errorf("spool: a record of %d bytes in a spool of %d: raise its limit", r.bytes, s.o.MaxBytes)
	}
	switch r.t {
	case recordSecond:
		if c.Sequence < s.next {
			return fmt.Errorf("spool: second %d again: the next is %d", c.Sequence, s.next)
		}
		if s.skipping = s.skipping || s.full(r.bytes, s.o.MaxBytes/8); s.skipping {
			s.stats.SecondsDropped++
			return s.errFull()
		}
	case recordChunk:
		if c.Sequence < s.chunked {
			return fmt.Errorf("spool: chunk %d begins before the last one's end, %d", c.Sequence, s.chunked)
		}
		if s.full(r.bytes, 0) {
			s.stats.ChunksRefused++
			return s.errFull()
		}
		s.skipping, s.chunked = false, c.End()
		s.chunks++
		s.bodyBytes += int64(len(c.Body))
	default: // the meter's state: only the newest counts
		if s.full(r.bytes, 0) {
			return s.errFull()
		}
		if i := slices.IndexFunc(s.pending, func(p record) bool { return p.t == recordMeter }); i >= 0 {
			s.unwritten -= s.pending[i].bytes
			s.pending = slices.Delete(s.pending, i, i+1)
		}
		s.meter = r.meter
	}
	if r.t != recordMeter {
		s.lastID, s.next = c.RosterID, max(s.next, c.End())
	}
	s.unwritten += r.bytes
	s.pending = append(s.pending, *r)
	return nil
}

// full reports whether n more bytes leave less than reserve free, or the disk
// has failed and the memory in front of it is used up.
func (s *Spool) full(n, reserve int64) bool {
	if s.fault != nil && (reserve > 0 || s.unwritten+n > s.o.PendingBytes) {
		return true
	}
	return s.bytes()+n > s.o.MaxBytes-reserve
}

func (s *Spool) errFull() error {
	if s.fault != nil {
		return fmt.Errorf("%w: %w", ErrFull, s.fault)
	}
	return fmt.Errorf("%w: %d of %d bytes wait for acknowledgement (is the collector reachable?)", ErrFull, s.bytes(), s.o.MaxBytes)
}

// AwaitSpace returns when an append that was refused with ErrFull may succeed,
// or with the error of ctx. It syncs meanwhile, since only what is durable is
// sent, and only what is sent is acknowledged.
func (s *Spool) AwaitSpace(ctx context.Context) error {
	for {
		changed := s.Changed()
		err := s.Sync()
		s.mu.Lock()
		// No record is larger than an eighth.
		free := s.fault == nil && s.bytes() <= s.o.MaxBytes-s.o.MaxBytes/8
		closed := s.closed
		s.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case free:
			return nil
		}
		if err := wait(ctx, changed, err != nil); err != nil {
			return err
		}
	}
}

// wait waits for a change, or where the disk fails for a while.
func wait(ctx context.Context, changed <-chan struct{}, failing bool) error {
	var again <-chan time.Time
	if failing {
		t := time.NewTimer(retryAfter)
		defer t.Stop()
		again, changed = t.C, nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-again:
	}
	return nil
}

// Run syncs what is appended as soon as the sync before it is done, until ctx
// ends: many appends then share an fsync. A failing disk is tried again every
// second. Without Run, the caller syncs.
func (s *Spool) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.appended:
		}
		for {
			err := s.Sync()
			if err == nil || errors.Is(err, ErrClosed) {
				break
			}
			if wait(ctx, nil, true) != nil {
				return nil //nolint:nilerr // being told to stop is no failure
			}
		}
	}
}

// Sync makes everything appended so far durable. After an error nothing of it
// is lost: it is kept in memory and written by the next Sync, to a new
// segment, since after a failed fsync the old one can't be trusted.
func (s *Spool) Sync() error { return s.sync(false) }

func (s *Spool) sync(closing bool) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	batch := s.pending
	if len(batch) == 0 && (!closing || s.acked == s.ackKept || s.active == nil) {
		s.fault = nil
		s.mu.Unlock()
		return nil
	}
	s.pending = nil
	rotate := s.active == nil || s.active.size >= s.o.SegmentBytes
	c := checkpoint{boot: s.boot, through: s.through, acked: s.acked, meter: s.keptMeter}
	if n := len(s.segments); n > 0 {
		c.prev, c.prevLength = s.segments[n-1].number, s.segments[n-1].size
	}
	s.mu.Unlock()

	w, err := s.write(batch, &c, rotate)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.stats.SyncFailures++
		if s.fault == nil {
			s.o.Logger.Error("spool: can't write; trying again", "dir", s.dir, "err", err)
		}
		s.fault = err
		s.pending = append(batch, s.pending...)
		return fmt.Errorf("spool: sync: %w", err)
	}
	if s.fault != nil {
		s.o.Logger.Info("spool: writing again", "dir", s.dir)
	}
	s.fault, s.ackKept = nil, c.acked
	s.stats.Syncs++
	s.install(batch, w)
	s.trim()
	s.wake()
	return nil
}

// written says where a batch went.
type written struct {
	seg     *segment
	size    int64 // of the segment with it
	at      []location
	rosters map[attribution.Fingerprint]location
}

// write appends a batch to the active segment, or to a new one, and syncs it.
// It is called with syncing held and mu not: readers go on meanwhile.
func (s *Spool) write(batch []record, c *checkpoint, rotate bool) (written, error) {
	w := written{seg: s.active, rosters: map[attribution.Fingerprint]location{}}
	var buf []byte
	if rotate {
		s.number++
		w.seg = newSegment(s.dir, s.number)
		buf = c.frame(append(buf, magic...))
	}
	head := len(buf)
	base := w.seg.size
	buf = appendFrame(buf, recordBatch)
	frame := func(f func([]byte) []byte) location {
		start := len(buf)
		buf = f(buf)
		return location{uint32(base) + uint32(start), uint32(len(buf) - start)}
	}
	for i := range batch {
		r := &batch[i]
		if r.t == recordMeter {
			w.at = append(w.at, frame(func(b []byte) []byte { return appendFrame(b, recordMeter, r.meter) }))
			continue
		}
		id := r.chunk.RosterID
		if w.seg.rosters[id].size == 0 && w.rosters[id].size == 0 {
			w.rosters[id] = frame(func(b []byte) []byte { return appendFrame(b, recordRoster, id[:], r.roster) })
		}
		w.at = append(w.at, frame(func(b []byte) []byte { return frameChunk(b, r.t, &r.chunk) }))
	}
	if !rotate && c.acked != s.ackKept {
		buf = frameAck(buf, c.acked)
	}
	w.size = base + int64(len(buf))
	if rotate {
		return w, s.begin(w.seg, buf, head)
	}
	err := writeSync(w.seg.file, buf, base)
	if err != nil {
		s.abandon(w.seg)
	}
	return w, err
}

func newSegment(dir string, number uint64) *segment {
	name := filepath.Join(dir, fmt.Sprintf("%010d%s", number, segmentSuffix))
	return &segment{number: number, name: name, maxSecond: Start, rosters: map[attribution.Fingerprint]location{}}
}

func writeSync(f File, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return err
	}
	return f.Sync()
}

// begin creates a segment with its first content. The head, which says how
// much of the segment before counts, is durable before a batch follows it.
func (s *Spool) begin(seg *segment, b []byte, head int) (err error) {
	if seg.file, err = s.fsys.Create(seg.name); err != nil {
		return err
	}
	if err = writeSync(seg.file, b[:head], 0); err == nil {
		err = writeSync(seg.file, b[head:], int64(head))
	}
	if err == nil {
		err = s.fsys.SyncDir(s.dir)
	}
	if err != nil {
		seg.closeFile()
		_ = s.fsys.Remove(seg.name) // if it stays, recovery knows it for what it is
	}
	return err
}

// abandon ends writing to a segment after a failure and cuts off, if the disk
// lets it, what may or may not have been written.
func (s *Spool) abandon(seg *segment) {
	if seg.file.Truncate(seg.size) == nil {
		_ = seg.file.Sync() // the next segment says how much of this one counts
	}
	s.mu.Lock()
	s.active = nil
	s.mu.Unlock()
}

// install makes a written batch readable. It is called with mu held.
func (s *Spool) install(batch []record, w written) {
	seg := w.seg
	if s.active != seg {
		s.segments = append(s.segments, seg)
		s.active = seg
	}
	seg.size = w.size
	maps.Copy(seg.rosters, w.rosters)
	for i := range batch {
		r := &batch[i]
		s.unwritten -= r.bytes
		e := entry{sequence: r.chunk.Sequence, seg: seg, at: w.at[i], body: uint32(len(r.chunk.Body)), seconds: uint8(r.chunk.Seconds)}
		switch r.t {
		case recordChunk:
			s.installChunk(e)
		case recordSecond:
			s.installSecond(e)
		default:
			s.keptMeter = r.meter
		}
	}
}

func (s *Spool) installChunk(e entry) {
	e.seg.live++
	s.index = append(s.index, e)
	s.through = max(s.through, e.end())
	s.open = slices.DeleteFunc(s.open, func(o entry) bool { return o.sequence < s.through })
}

func (s *Spool) installSecond(e entry) {
	e.seg.maxSecond = max(e.seg.maxSecond, e.sequence)
	if e.sequence >= s.through {
		s.open = append(s.open, e)
	}
}
