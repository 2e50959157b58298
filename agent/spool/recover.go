package spool

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

const (
	bootFile      = "boot"
	cardFile      = "ratecard"
	lockFile      = "lock"
	spareFile     = "spare"
	damagedFile   = "damaged"
	rejectedDir   = "rejected"
	segmentSuffix = ".seg"
	corruptSuffix = ".corrupt"
	tmpSuffix     = ".tmp"
)

// recover repairs the segments, newest first, since a segment says how much of
// the one before it counts; then it loads them in order.
func (s *Spool) recover() error {
	names, err := s.fsys.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) {
			if err := s.fsys.Remove(filepath.Join(s.dir, name)); err != nil {
				return err
			}
		}
		if name == spareFile {
			if s.spare, err = fileSize(s.fsys, filepath.Join(s.dir, name)); err != nil {
				return err
			}
		}
		s.damaged = s.damaged || name == damagedFile
		if n, ok := segmentNumber(name); ok {
			numbers = append(numbers, n)
			s.number = max(s.number, n)
		}
	}
	slices.Sort(numbers)
	var kept []uint64
	var from *checkpoint
	for _, n := range slices.Backward(numbers) {
		g, err := s.inspect(n, len(kept) == 0, from)
		if err == nil && s.o.Repeatable && g.damaged() {
			err = s.cutAt(&g, kept)
			kept = nil
		}
		if err == nil && (g.damaged() || len(kept) == 0 && g.end < len(g.content)) {
			err = s.noteDamage()
		}
		if err == nil {
			err = s.repair(&g)
		}
		if err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
		if g.end > len(magic) {
			kept = append(kept, n)
			from = g.checkpoint
		}
	}
	if len(kept) > 0 {
		if err := s.makeDurable(kept[0]); err != nil {
			return fmt.Errorf("segment %d: %w", kept[0], err)
		}
	}
	for _, n := range slices.Backward(kept) {
		if err := s.load(n); err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
	}
	if err := s.recoverBoot(); err != nil {
		return err
	}
	s.settle()
	s.boundAside(s.dir, func(name string) bool { return strings.HasSuffix(name, corruptSuffix) })
	return nil
}

func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil && n > 0
}

// found is a segment as it is on disk.
type found struct {
	name       string
	content    []byte
	bad        []span
	end        int         // of what was ever durable
	checkpoint *checkpoint // nil where it is damaged
	cut        bool        // at its first damage
}

// damaged reports whether anything is damaged that was ever durable.
func (g *found) damaged() bool { return len(g.bad) > 0 && g.bad[0].from < g.end }

// inspect reads a segment and finds out how much of it counts. newer is the
// checkpoint of the next segment, nil where that is lost.
func (s *Spool) inspect(number uint64, newest bool, newer *checkpoint) (g found, err error) {
	g.name = newSegment(s.dir, number).name
	if g.content, err = readAll(s.fsys, g.name); err != nil {
		return g, err
	}
	d := scanSegment(g.content, func(_ int, t recordType, payload []byte) {
		if t == recordCheckpoint {
			x := parseCheckpoint(payload)
			g.checkpoint, s.boot = &x, x.boot
		}
	})
	g.bad, g.end = d.bad, len(g.content)
	switch {
	case newest:
		g.end = d.durableEnd(len(g.content))
	case newer == nil:
	case newer.prev == number:
		g.end = min(g.end, int(newer.prevLength))
	case newer.prev < number:
		g.end = 0 // begun, and given up for the newer one
	}
	return g, nil
}

// cutAt has the log end at the first damage of a segment: the newer ones are
// removed, newest first, so that a crash leaves a log that can be cut again.
func (s *Spool) cutAt(g *found, newer []uint64) error {
	g.end, g.cut = g.bad[0].from, true
	for _, n := range newer {
		if err := s.fsys.Remove(newSegment(s.dir, n).name); err != nil {
			return err
		}
	}
	s.o.Logger.Error("spool: the log ends at its damage; what followed will be made again", "segment", g.name, "segments_removed", len(newer))
	return s.fsys.SyncDir(s.dir)
}

// durableEnd is how much of the newest segment counts. Damage before the last
// batch is in what was once durable; from there on the first damage is where a
// write was torn, and what follows it may lack what came before. Where that is the
// first batch, the segment's head counts: it says what the log came to before.
func (d *damage) durableEnd(size int) int {
	for _, b := range d.bad {
		if b.from > d.lastBatch {
			return b.from
		}
	}
	return size
}

// repair cuts a segment at its end, and cuts out the damage before: it holds
// nothing but whole records afterwards, and of those all that were ever
// durable. If more than a torn tail goes, the original is kept aside.
func (s *Spool) repair(g *found) error {
	name, b, bad, end := g.name, g.content, g.bad, g.end
	var whole []byte
	from, damaged := 0, false
	for _, d := range bad {
		if d.from < end {
			damaged = true
			whole = append(whole, b[from:d.from]...)
			from = min(d.to, end)
		}
	}
	lost := !damaged && end < len(b) && (g.cut || s.holdsRecords(b[end:]))
	if damaged || lost {
		if err := s.keepCorrupt(name, b, bad); err != nil {
			return err
		}
	}
	switch {
	case end <= len(magic):
		s.stats.TornBytes += int64(len(b))
		return errors.Join(s.fsys.Remove(name), s.fsys.SyncDir(s.dir))
	case damaged:
		whole = append(whole, b[from:end]...)
		if !strings.HasPrefix(string(whole), magic) {
			whole = append([]byte(magic), whole...)
		}
		return replace(s.fsys, name, whole)
	case end < len(b):
		s.stats.TornBytes += int64(len(b) - end)
		f, err := s.fsys.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Truncate(int64(end)), f.Sync(), f.Close())
	}
	return nil
}

// holdsRecords reports whether a tail that is cut off holds whole chunks or
// seconds after its damage, which a plain torn write does not.
func (s *Spool) holdsRecords(tail []byte) bool {
	found := false
	d := scanSegment(append([]byte(magic), tail...), func(_ int, t recordType, _ []byte) {
		found = found || t == recordChunk || t == recordSecond
	})
	return found && len(d.bad) > 0
}

func (s *Spool) keepCorrupt(name string, b []byte, bad []span) error {
	s.stats.CorruptFiles++
	s.o.Logger.Error("spool: damaged segment; its readable records are used, the original is kept aside",
		"segment", name, "aside", name+corruptSuffix, "damage", len(bad), "bytes", len(b))
	return replace(s.fsys, name+corruptSuffix, b)
}

// makeDurable syncs the newest segment. Its last batch is there, but a process that
// was killed may never have synced it; what follows it must not outlive it.
func (s *Spool) makeDurable(number uint64) error {
	f, err := s.fsys.Open(newSegment(s.dir, number).name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), s.fsys.SyncDir(s.dir))
}

// load takes a repaired segment's records into the index.
func (s *Spool) load(number uint64) error {
	seg := newSegment(s.dir, number)
	b, err := readAll(s.fsys, seg.name)
	if err != nil {
		return err
	}
	seg.size = int64(len(b))
	var chain link // of the chunk that follows
	scanSegment(b, func(off int, t recordType, payload []byte) {
		at := location{uint32(off), uint32(frameHead + len(payload))}
		switch t {
		case recordCheckpoint:
			c := parseCheckpoint(payload)
			s.through, s.acked = max(s.through, c.through), max(s.acked, c.acked)
			s.meter = append([]byte(nil), c.meter...) // nil where it is empty
		case recordRoster:
			seg.rosters[attribution.Fingerprint(payload[:rosterHead])] = at
		case recordMeter:
			s.meter = slices.Clone(payload)
		case recordAck:
			s.acked = max(s.acked, parseAck(payload))
		case recordChunk, recordSecond:
			c := parseChunk(payload)
			s.loadChunk(t, entry{sequence: c.Sequence, seg: seg, at: at, body: uint32(len(c.Body)), seconds: uint8(c.Seconds)})
			if t == recordChunk && c.End() == s.through {
				if s.chain = (link{end: c.End()}); chain.end == c.End() {
					s.chain = chain
				}
			}
		case recordLink:
			if chain = parseLink(payload); chain.end == s.through {
				s.chain = chain // of chunks that may be gone by now
			}
		default:
		}
	})
	s.segments = append(s.segments, seg)
	return nil
}

// loadChunk takes a chunk, unless it is there from an earlier segment already:
// a write that failed is repeated in the next one. Of seconds the newer counts:
// one that could not be read any more was sealed again, and those behind it.
func (s *Spool) loadChunk(t recordType, e entry) {
	if t == recordSecond {
		s.open = slices.DeleteFunc(s.open, func(o entry) bool { return o.sequence >= e.sequence })
		s.installSecond(e)
		return
	}
	if i, there := s.find(e.sequence); !there {
		e.seg.live++
		s.index = slices.Insert(s.index, i, e)
		s.through = max(s.through, e.end())
	}
}

// settle works out the rest of the state once everything is loaded.
func (s *Spool) settle() {
	n, at := s.find(s.acked)
	if at {
		n++
	}
	for i := range s.index[:n] {
		s.index[i].seg.live--
	}
	s.index = slices.Clone(s.index[n:])
	for i := range s.index {
		s.chunks++
		s.bodyBytes += int64(s.index[i].body)
	}
	s.open = slices.DeleteFunc(s.open, func(e entry) bool { return e.sequence < s.through })
	s.chunked, s.next, s.keptMeter = s.through, s.through, s.meter
	if s.chain.end != s.through {
		s.chain = link{}
	}
	s.keptChain = s.chain
	if n := len(s.open); n > 0 {
		s.next = s.open[n-1].end()
	}
	s.ackKept = s.acked
	s.trim()
}

// recoverBoot reads the boot id, or makes one in a new spool.
func (s *Spool) recoverBoot() error {
	name := filepath.Join(s.dir, bootFile)
	b, err := readAll(s.fsys, name)
	switch {
	case err == nil:
		boot, ok := parseBoot(b)
		if ok {
			s.boot = boot
			return s.checkBoot()
		}
		s.stats.CorruptFiles++
		s.o.Logger.Error("spool: the boot id is damaged; taking it from the log", "file", name)
		if err := s.fsys.Rename(name, name+corruptSuffix); err != nil {
			return err
		}
		if s.boot == (attribution.Boot{}) && s.o.Boot == (attribution.Boot{}) {
			return fmt.Errorf("the boot id is damaged, and no segment tells it: move %s away to begin a new spool", s.dir)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if s.boot == (attribution.Boot{}) {
		s.boot = s.o.Boot
	}
	if s.boot == (attribution.Boot{}) {
		r := s.o.Rand
		if r == nil {
			r = rand.Reader
		}
		if _, err := io.ReadFull(r, s.boot[:]); err != nil {
			return fmt.Errorf("boot id: %w", err)
		}
	}
	if err := s.checkBoot(); err != nil {
		return err
	}
	return replace(s.fsys, name, formatBoot(s.boot))
}

func (s *Spool) checkBoot() error {
	if s.o.Boot != (attribution.Boot{}) && s.o.Boot != s.boot {
		return fmt.Errorf("it belongs to boot %x, not %x: it was made for another recording or for live use; give this one a directory of its own",
			s.boot, s.o.Boot)
	}
	return nil
}

func formatBoot(b attribution.Boot) []byte {
	return fmt.Appendf(nil, "%x %08x\n", b, crc32.Checksum(b[:], castagnoli()))
}

func parseBoot(text []byte) (boot attribution.Boot, ok bool) {
	if len(text) != 2*len(boot)+1+8+1 {
		return boot, false
	}
	if _, err := hex.Decode(boot[:], text[:2*len(boot)]); err != nil {
		return boot, false
	}
	return boot, string(formatBoot(boot)) == string(text)
}
