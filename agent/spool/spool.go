// Package spool keeps on disk what the collector has not acknowledged: the
// only write-ahead log of the system.
//
// # The model
//
// A spool belongs to one node. It is a directory:
//
//	boot              the boot id: one life of the spool
//	ratecard          the last rate card, opaque, replaced atomically
//	lock              held while the spool is open
//	NNNNNNNNNN.seg    segments of the log, in order
//	spare             room for the checkpoint of one more segment
//	damaged           there while it is not known what was sent already
//	*.corrupt         damaged files, set aside
//	rejected/         chunks that the collector refused for good, with reasons
//
// The log holds rosters, closed chunks, sealed seconds that are not yet in a
// chunk, the meter's state and the position of acknowledgement. Every record
// carries its CRC32C. Each segment is self-contained: it begins with a
// checkpoint of what must outlive its predecessors, and repeats a roster
// before the first chunk of its own that refers to it. A segment whose chunks
// are all acknowledged is removed.
//
// # Durability
//
// Append… takes a record into memory, Sync makes everything appended durable
// with one fsync, and only then does Read yield it: nothing is sent that a
// crash could still undo. After a crash the log is a prefix of what was
// appended that includes everything synced.
//
// Opening is recovery; there is no other path. A torn tail is cut off. A
// damaged record in the middle costs that record alone: the segment is kept as
// *.corrupt, and rewritten without the damage. What was in it may have been sent,
// and even stored: see [Spool.InDoubt]. It leaves a hole before Next: a
// live node can't tell what it held, and does not seal it again. Where the
// chunks can be made again (Options.Repeatable), the log ends at the damage
// instead, and they are. A record that is damaged later, while the spool is
// open, is set aside when it can't be read to be sent; the next Open of a
// repeatable spool goes back to it too, while its segment is there. A damaged
// roster costs the chunks of its segment that refer to it, unless another
// segment has it too; once that is met, a new segment is begun and repeats it.
// Of seconds that are not yet in a chunk those from the first damaged one on are
// given up, and can be sealed again.
//
// # Limits
//
// The log is bounded in bytes, what is not yet written in bytes too. As it
// fills, or the disk does, it gives up, in this order:
//
//  1. seconds that are not yet in a chunk, those on a full disk included (a
//     crash would then lose up to nine of them, and they become unobserved);
//  2. new chunks: AppendChunk returns ErrFull. A caller that can wait (a
//     replay) waits for space, one that can't drops the newest windows, and
//     once there is space again seals everything from Next on as unobserved.
//
// Chunks that were taken are never dropped to make room.
//
// A disk that takes no more is written in smaller pieces and smaller segments.
// As soon as all that is on it has been acknowledged, its space is free again,
// to the last segment, and writing goes on: the disk may be smaller than a
// segment.
package spool

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
)

// ErrFull says that the spool's limit is reached or its disk takes nothing
// more. What was refused is not in the spool; see [Spool.AwaitSpace].
var ErrFull = errors.New("spool is full")

// ErrCorrupt says that a record was damaged on disk after it was written.
var ErrCorrupt = errors.New("record is corrupt")

// ErrClosed says that the spool was closed.
var ErrClosed = errors.New("spool is closed")

// Start is the position before every chunk.
const Start attribution.Second = math.MinInt64

// Options configure a spool; zero values mean the defaults.
type Options struct {
	// Boot is the boot id that the spool must have. Zero takes what is there,
	// or a random one if the spool is new. Replays give a deterministic one.
	Boot attribution.Boot
	// Repeatable says that chunks which are lost to damage can be appended
	// again, as a replay does: Open then cuts the log where it is damaged, and
	// Next is there.
	Repeatable bool
	// MaxBytes bounds the log on disk. Default 256 MiB, at least 64 KiB.
	MaxBytes int64
	// SegmentBytes is the size at which a new segment is begun. Default (and
	// most) 1/16 of MaxBytes, but not above 4 MiB.
	SegmentBytes int64
	// PendingBytes bounds what is appended and not yet synced: beyond it
	// Append syncs by itself. Default (and most) SegmentBytes, but not above
	// 1 MiB.
	PendingBytes int64
	// AsideBytes bounds each of rejected chunks and corrupt files; the oldest
	// go first, and are counted. Default 16 MiB.
	AsideBytes int64
	// Rand yields the random boot id. Default crypto/rand.
	Rand io.Reader
	// Logger is told of damage, refusals and failing disks. Default: nobody.
	Logger *slog.Logger
}

// Chunk is a closed chunk, or a sealed second not yet in one, as it is kept.
type Chunk struct {
	Sequence attribution.Second // its first second
	Seconds  int                // 1 to 10
	RosterID attribution.Fingerprint
	Body     []byte // encoded
	// Link is the link of the node's chain behind it ([attribution.Link]), empty
	// where it is not chained. It is given to AppendChunk; readers have no use
	// for it, and get none.
	Link []byte
}

// End is the first second after the chunk.
func (c *Chunk) End() attribution.Second { return c.Sequence + attribution.Second(c.Seconds) }

// Second is a sealed second that is not yet in a chunk, with its roster.
type Second struct {
	Chunk
	Roster []byte
}

// Stats is a snapshot of the spool's figures. Counters count since Open.
type Stats struct {
	UnackedChunks int                // including those not yet synced
	UnackedBytes  int64              // bodies of those
	Bytes         int64              // of the log, with what is not yet written
	Acked         attribution.Second // Start: nothing yet
	Next          attribution.Second
	Fault         string // why the last Sync failed; "" where it did not

	Syncs, SyncFailures uint64
	SecondsDropped      uint64 // given up for want of space
	ChunksRefused       uint64 // times that AppendChunk returned ErrFull
	TornBytes           int64  // cut off at Open
	CorruptFiles        uint64 // set aside
	CorruptRecords      uint64 // unreadable when they were to be sent
	Rejected            uint64 // chunks set aside
	AsideRemoved        uint64 // set-aside files removed to keep AsideBytes
}

// Spool is one node's spool. All methods may be called by any goroutine;
// appending is meant for one, sending for another.
type Spool struct {
	fsys FS
	dir  string
	o    Options
	boot attribution.Boot
	lock io.Closer

	syncing sync.Mutex // held by Sync, around everything that writes the log

	mu        sync.Mutex
	closed    bool
	changed   chan struct{}      // closed and replaced when something durable or acked changes
	appended  chan struct{}      // holds an item when there is something to sync
	segments  []*segment         // in order; the last may be active
	active    *segment           // nil: begin a new one
	number    uint64             // of the newest segment ever begun
	pending   []record           // appended, not yet handed to a Sync
	unwritten int64              // bytes of those, and of those a Sync is writing
	index     []entry            // durable, unacknowledged chunks, by sequence
	open      []entry            // durable seconds that are not in a durable chunk
	through   attribution.Second // end of the newest durable chunk
	chunked   attribution.Second // end of the newest chunk, pending ones included
	next      attribution.Second // first second neither in a chunk nor sealed, pending ones included
	skipping  bool               // a second was dropped: drop the rest until the next chunk
	acked     attribution.Second
	ackKept   attribution.Second // as last written
	meter     []byte
	keptMeter []byte                  // as last made durable
	lastID    attribution.Fingerprint // roster of the newest pending chunk
	chain     link                    // behind the newest chunk, pending ones included
	keptChain link                    // behind the newest durable chunk
	bodyBytes int64                   // of index and pending chunks
	chunks    int                     // in index and pending
	fault     error                   // of the last write, nil where it succeeded
	told      bool                    // of the fault
	most      int64                   // that one write holds, in bytes, unless it is one record
	roll      int64                   // size at which a segment is left for the next
	spare     int64                   // size of the spare file, 0 where there is none
	tight     bool                    // others need the disk
	leave     bool                    // a roster of the active segment is damaged: begin the next, which repeats it
	damaged   bool                    // the log was, and no chunk from sound on is durable yet
	sound     attribution.Second      // first second that was never in the log; 0: not known
	stats     Stats
}

// segment is a file of the log.
type segment struct {
	number    uint64
	name      string
	file      File  // nil where it is not open
	head      int64 // size when it was begun; 0 where that was in an earlier life
	size      int64
	live      int // unacknowledged chunks in it
	maxSecond attribution.Second
	rosters   map[attribution.Fingerprint]location
}

// location is where a record's frame lies in a segment.
type location struct{ off, size uint32 }

// entry is a chunk or second in the log.
type entry struct {
	sequence attribution.Second
	seg      *segment
	at       location
	body     uint32
	seconds  uint8
}

func (e *entry) end() attribution.Second { return e.sequence + attribution.Second(e.seconds) }

func (o *Options) setDefaults() error {
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.MaxBytes < 64<<10 {
		return fmt.Errorf("spool: a limit of %d bytes is too small: want at least 64 KiB", o.MaxBytes)
	}
	most := o.MaxBytes / 16
	if o.SegmentBytes <= 0 || o.SegmentBytes > most {
		o.SegmentBytes = min(most, 4<<20)
	}
	if o.PendingBytes <= 0 || o.PendingBytes > o.SegmentBytes {
		o.PendingBytes = min(o.SegmentBytes, 1<<20)
	}
	if o.AsideBytes <= 0 {
		o.AsideBytes = 16 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Open opens the spool in dir, recovers it, and creates it if it is not there.
// One process has it open at a time.
func Open(fsys FS, dir string, o Options) (*Spool, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if err := fsys.MkdirAll(filepath.Join(dir, rejectedDir)); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	lock, err := fsys.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("spool: %w (is another agent running with this data directory?)", err)
	}
	s := &Spool{
		fsys: fsys, dir: dir, o: o, lock: lock,
		changed: make(chan struct{}), appended: make(chan struct{}, 1),
		acked: Start, ackKept: Start, most: o.PendingBytes, roll: o.SegmentBytes,
	}
	if err := s.recover(); err != nil {
		s.closeFiles()
		return nil, errors.Join(fmt.Errorf("spool %s: %w", dir, err), lock.Close())
	}
	return s, nil
}

// Close syncs and closes. What could not be synced is lost, and said so.
func (s *Spool) Close() error {
	err := s.sync(true)
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.closeFiles()
	s.wake()
	return errors.Join(err, s.lock.Close())
}

func (s *Spool) closeFiles() {
	for _, seg := range s.segments {
		seg.closeFile()
	}
}

func (g *segment) closeFile() {
	if g.file != nil {
		_ = g.file.Close() // everything in it that counts has been synced
		g.file = nil
	}
}

// Boot is the spool's boot id.
func (s *Spool) Boot() attribution.Boot { return s.boot }

// Next is the first second that is neither in a chunk nor sealed; 0 in a new
// spool. It survives trimming.
func (s *Spool) Next() attribution.Second {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// Durable is the first second that a crash now would undo: it is neither in a
// durable chunk, nor kept as a durable second.
func (s *Spool) Durable() attribution.Second {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.open); n > 0 {
		return max(s.through, s.open[n-1].end())
	}
	return s.through
}

// Link is the link behind the newest chunk, pending ones included; nil where
// there is none, or it is not known.
func (s *Spool) Link() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chain.link
}

// Meter is the newest state given to AppendMeter, nil where there is none. The
// caller must not change it.
func (s *Spool) Meter() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meter
}

// Changed is closed at the next change that a reader may wait for: chunks
// became readable, were acknowledged, or the spool was closed.
func (s *Spool) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// wake tells all waiters. It is called with mu held.
func (s *Spool) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Stats is a snapshot of the spool's figures.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.UnackedChunks, st.UnackedBytes, st.Bytes = s.chunks, s.bodyBytes, s.bytes()
	st.Acked, st.Next = s.acked, s.next
	if s.fault != nil {
		st.Fault = s.fault.Error()
	}
	return st
}

// bytes is the log's size with what is still to be written.
func (s *Spool) bytes() int64 {
	n := s.unwritten + s.spare
	for _, seg := range s.segments {
		n += seg.size
	}
	return n
}
