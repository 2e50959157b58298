package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// Run syncs what is appended as soon as the sync before it is done, until ctx
// ends: many appends then share an fsync. A failing disk is tried again when
// an acknowledgement may have made room, and at least every second. Without
// Run, the caller syncs.
func (s *Spool) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.appended:
		}
		for pause := retryFirst; ; pause = min(2*pause, retryMost) {
			changed := s.Changed()
			err := s.Sync()
			if err == nil || errors.Is(err, ErrClosed) {
				break
			}
			if wait(ctx, changed, pause) != nil {
				return nil //nolint:nilerr // being told to stop is no failure
			}
		}
	}
}

// Sync makes everything appended so far durable. After an error nothing of it
// is lost, but for seconds that are not in a chunk where the disk is full: it
// is kept in memory and written by the next Sync, to a new segment, since
// after a failed fsync the old one can't be trusted.
func (s *Spool) Sync() error { return s.sync(false) }

// sync writes until nothing waits: one write, unless the disk is full, which
// may still take smaller ones.
func (s *Spool) sync(closing bool) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	var lost error // why seconds were given up
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		p, ok := s.plan(closing)
		if !ok {
			s.recovered()
			s.mu.Unlock()
			return lost
		}
		s.mu.Unlock()
		w, err := s.write(&p)
		s.mu.Lock()
		again := true
		if err == nil {
			s.wrote(&p, w)
		} else {
			err = fmt.Errorf("spool: sync: %w", err)
			dropped := s.stats.SecondsDropped
			if again = s.failed(&p, err); dropped != s.stats.SecondsDropped {
				lost = err
			}
		}
		noted := closing && s.unwritten == 0 // all that failed is to note an acknowledgement
		s.mu.Unlock()
		switch {
		case again:
		case noted:
			s.o.Logger.Warn("spool: the last acknowledgement could not be noted; some chunks will be sent again", "dir", s.dir, "err", err)
			return nil
		default:
			return err
		}
	}
}

// plan is one write to the log.
type plan struct {
	checkpoint
	batch  []record
	rotate bool // to a new segment
	afresh bool // which is to replace all others, and to hold no more than the checkpoint
}

// plan takes what is to be written next from what is pending. ok is false
// where that is nothing. It is called with mu held.
func (s *Spool) plan(closing bool) (p plan, ok bool) {
	p.checkpoint = checkpoint{boot: s.boot, through: s.through, acked: s.acked, meter: s.keptMeter, chain: s.keptChain}
	if n := len(s.segments); n > 0 {
		p.prev, p.prevLength = s.segments[n-1].number, s.segments[n-1].size
	}
	if s.mayBeginAfresh() {
		p.rotate, p.afresh = true, true
		return p, true
	}
	p.rotate = s.active == nil || s.leave || s.active.size-s.active.head >= s.roll
	var bytes int64
	n := 0
	for ; n < len(s.pending) && (n == 0 || bytes+s.pending[n].bytes <= s.most); n++ {
		bytes += s.pending[n].bytes
	}
	p.batch = s.pending[:n:n]
	if s.pending = s.pending[n:]; len(s.pending) == 0 {
		s.pending = nil
	}
	return p, n > 0 || closing && s.acked != s.ackKept && s.active != nil
}

// wrote takes in what a write has made durable. It is called with mu held.
func (s *Spool) wrote(p *plan, w written) {
	s.stats.Syncs++
	s.ackKept = p.acked
	if p.rotate && !p.afresh {
		s.roll = min(2*s.roll, s.o.SegmentBytes)
	}
	if p.afresh {
		s.letGoOfOpen()
	} else {
		s.most = min(2*s.most, s.o.PendingBytes)
	}
	s.install(p.batch, w)
	s.trim()
	s.wake()
}

// failed puts back what could not be written, and reports whether to try again
// at once. It is called with mu held.
func (s *Spool) failed(p *plan, err error) (again bool) {
	s.pending = append(p.batch, s.pending...)
	if p.afresh && s.fault == nil {
		s.tight = false // it was for the sake of others
		return true
	}
	s.stats.SyncFailures++
	s.fault = err
	again = isFull(err) && s.shrink(p)
	if !again && !s.told {
		s.told = true
		s.o.Logger.Error("spool: can't write; trying again", "dir", s.dir, "err", err)
	}
	return again
}

// recovered notes that nothing is left to be written.
func (s *Spool) recovered() {
	if s.told {
		s.o.Logger.Info("spool: writing again", "dir", s.dir)
	}
	s.fault, s.told = nil, false
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
func (s *Spool) write(p *plan) (written, error) {
	w := written{seg: s.active, rosters: map[attribution.Fingerprint]location{}}
	if !p.afresh {
		if err := s.ensureSpare(p); err != nil {
			return w, err
		}
	}
	var buf []byte
	if p.rotate {
		s.number++
		w.seg = newSegment(s.dir, s.number)
		buf = p.frame(append(buf, magic...))
		w.seg.head = int64(len(buf)) + frameHead // with its first batch record
	}
	head := len(buf)
	base := w.seg.size
	buf = appendFrame(buf, recordBatch)
	frame := func(f func([]byte) []byte) location {
		start := len(buf)
		buf = f(buf)
		return location{uint32(base) + uint32(start), uint32(len(buf) - start)}
	}
	for i := range p.batch {
		r := &p.batch[i]
		if r.t == recordMeter {
			w.at = append(w.at, frame(func(b []byte) []byte { return appendFrame(b, recordMeter, r.meter) }))
			continue
		}
		id := r.chunk.RosterID
		if w.seg.rosters[id].size == 0 && w.rosters[id].size == 0 {
			w.rosters[id] = frame(func(b []byte) []byte { return appendFrame(b, recordRoster, id[:], r.roster) })
		}
		chain := link{r.chunk.End(), r.chunk.Link}
		buf = chain.frame(buf)
		w.at = append(w.at, frame(func(b []byte) []byte { return frameChunk(b, r.t, &r.chunk) }))
	}
	if !p.rotate && p.acked != s.ackKept {
		buf = frameAck(buf, p.acked)
	}
	w.size = base + int64(len(buf))
	switch {
	case p.afresh && s.spare >= int64(len(buf)):
		return w, s.useSpare(w.seg, buf)
	case p.rotate:
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
		s.active, s.leave = seg, false
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
			s.keptChain = link{r.chunk.End(), r.chunk.Link}
			s.mended(e.sequence)
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
