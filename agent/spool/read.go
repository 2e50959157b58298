package spool

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// Read is the first durable, unacknowledged chunk after a position (the
// sequence of a chunk, or Start). ok is false where there is none yet: wait
// for Changed, fetched before. An error that wraps ErrCorrupt names a chunk
// that can't be read any more: its Sequence is set, and SetAside gives it up.
func (s *Spool) Read(after attribution.Second) (c Chunk, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == math.MaxInt64 {
		return Chunk{}, false, nil
	}
	i, _ := s.find(after + 1)
	if i == len(s.index) {
		return Chunk{}, false, nil
	}
	c, err = s.readEntry(&s.index[i], recordChunk)
	return c, true, err
}

// Waiting is the number of durable, unacknowledged chunks after a position.
func (s *Spool) Waiting(after attribution.Second) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == math.MaxInt64 {
		return 0
	}
	i, _ := s.find(after + 1)
	return len(s.index) - i
}

// Roster is the encoding of the roster that an unacknowledged chunk refers to.
func (s *Spool) Roster(sequence attribution.Second) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(sequence)
	if !ok {
		return nil, fmt.Errorf("spool: chunk %d is not here any more", sequence)
	}
	c, err := s.readEntry(&s.index[i], recordChunk)
	if err != nil {
		return nil, err
	}
	return s.readRoster(s.index[i].seg, c.RosterID)
}

// OpenSeconds lists the durable seconds that are not in a chunk, nor in one
// that is still to be written, in order: what a restarted agent goes on with.
// Where one of them, or its roster, can't be read any more, it is given up with
// those behind it: Next is there then, so that they can be sealed again, and
// the error says why. What is before it is in the list.
func (s *Spool) OpenSeconds() ([]Second, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Second
	for i := range s.open {
		e := &s.open[i]
		if e.sequence < s.chunked {
			continue
		}
		x, err := s.readSecond(e)
		if err != nil {
			if !s.closed {
				s.open, s.next = s.open[:i:i], e.sequence
			}
			return out, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (s *Spool) readSecond(e *entry) (Second, error) {
	c, err := s.readEntry(e, recordSecond)
	if err != nil {
		return Second{}, err
	}
	roster, err := s.readRoster(e.seg, c.RosterID)
	return Second{c, roster}, err
}

// Ack says that every chunk with a sequence up to and including this one is
// durable elsewhere: they are forgotten, and segments without others removed.
func (s *Spool) Ack(sequence attribution.Second) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || sequence <= s.acked {
		return
	}
	s.acked = sequence
	n := 0
	for n < len(s.index) && s.index[n].sequence <= sequence {
		s.forget(&s.index[n])
		n++
	}
	s.index = s.index[n:]
	s.trim()
	s.signalRoom()
	s.wake()
}

// SetAside takes a chunk out of the log that the collector will never store,
// or that can't be read, and keeps it with the reason in the folder rejected.
func (s *Spool) SetAside(sequence attribution.Second, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(sequence)
	if s.closed || !ok {
		return nil
	}
	err := s.keepRejected(&s.index[i], reason)
	s.forget(&s.index[i])
	s.index = slices.Delete(s.index, i, i+1)
	s.trim()
	s.signalRoom()
	s.wake()
	return err
}

// keepRejected writes a chunk and its roster in a segment of their own, so
// that what can read the log can read it, and the reason beside it.
func (s *Spool) keepRejected(e *entry, reason string) error {
	s.stats.Rejected++
	name := filepath.Join(s.dir, rejectedDir, fmt.Sprint(int64(e.sequence)))
	buf := []byte(magic)
	c, err := s.readEntry(e, recordChunk)
	if err == nil {
		roster, err := s.readRoster(e.seg, c.RosterID)
		if err == nil {
			buf = appendFrame(buf, recordRoster, c.RosterID[:], roster)
		}
		buf = frameChunk(buf, recordChunk, &c)
	}
	err = errors.Join(
		replace(s.fsys, name+segmentSuffix, buf),
		replace(s.fsys, name+".reason", []byte(reason+"\n")))
	s.boundAside(filepath.Join(s.dir, rejectedDir), func(string) bool { return true })
	if err != nil {
		return fmt.Errorf("spool: set chunk %d aside: %w", e.sequence, err)
	}
	return nil
}

// forget takes a chunk out of the figures.
func (s *Spool) forget(e *entry) {
	e.seg.live--
	s.chunks--
	s.bodyBytes -= int64(e.body)
}

// find is the place of a sequence in the index.
func (s *Spool) find(sequence attribution.Second) (int, bool) {
	return slices.BinarySearchFunc(s.index, sequence, func(e entry, q attribution.Second) int { return cmp.Compare(e.sequence, q) })
}

func (s *Spool) readEntry(e *entry, want recordType) (Chunk, error) {
	payload, err := s.readRecord(e.seg, e.at, want)
	if err != nil {
		s.stats.CorruptRecords++
		return Chunk{Sequence: e.sequence, Seconds: int(e.seconds)}, fmt.Errorf("spool: chunk %d: %w", e.sequence, err)
	}
	return parseChunk(payload), nil
}

func (s *Spool) readRoster(seg *segment, id attribution.Fingerprint) ([]byte, error) {
	err := ErrCorrupt
	for _, g := range append([]*segment{seg}, s.segments...) { // where its own is damaged, any will do
		at, ok := g.rosters[id]
		if !ok {
			continue
		}
		var payload []byte
		if payload, err = s.readRecord(g, at, recordRoster); err == nil {
			return payload[rosterHead:], nil
		}
		s.leave = s.leave || g == s.active // nothing more is to refer to it
	}
	s.stats.CorruptRecords++
	return nil, fmt.Errorf("spool: roster %v of segment %d: %w", id, seg.number, err)
}

// readRecord reads one record's payload, and checks it: disks rot.
func (s *Spool) readRecord(seg *segment, at location, want recordType) ([]byte, error) {
	if s.closed {
		return nil, ErrClosed
	}
	if seg.file == nil {
		f, err := s.fsys.Open(seg.name)
		if err != nil {
			return nil, err
		}
		s.closeIdle()
		seg.file = f
	}
	b := make([]byte, at.size)
	if n, err := seg.file.ReadAt(b, int64(at.off)); n < len(b) {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	t, payload, size := parseFrame(b)
	if size != len(b) || t != want {
		return nil, fmt.Errorf("%w: %s at %d", ErrCorrupt, seg.name, at.off)
	}
	return payload, nil
}

// closeIdle closes the segments that are neither written nor being read.
func (s *Spool) closeIdle() {
	for _, g := range s.segments {
		if g != s.active {
			g.closeFile()
		}
	}
}

// trim removes the segments that nothing depends on any more. The newest stays:
// its checkpoint is the memory of the others.
func (s *Spool) trim() {
	if len(s.segments) == 0 {
		return
	}
	last := s.segments[len(s.segments)-1]
	s.segments = slices.DeleteFunc(s.segments, func(g *segment) bool {
		if g == last || g.live > 0 || g.maxSecond >= s.through {
			return false
		}
		g.closeFile()
		if err := s.fsys.Remove(g.name); err != nil {
			s.o.Logger.Warn("spool: can't remove a segment; the next start tries again", "segment", g.name, "err", err)
		}
		return true
	})
}
