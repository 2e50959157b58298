package spool

import (
	"fmt"
	"slices"

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
	if len(c.Link) > 0 {
		r.bytes += linkBytes + frameHead
	}
	if len(c.Link) > 0 && (r.t != recordChunk || len(c.Link) != attribution.LinkSize) {
		return fmt.Errorf("spool: a link of %d bytes", len(c.Link))
	}
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
		s.skipping, s.chunked, s.chain = false, c.End(), link{c.End(), c.Link}
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
