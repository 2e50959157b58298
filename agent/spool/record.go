package spool

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/gpuledger/gpuledger/attribution"
)

// A segment is the magic and then records, each framed as
//
//	length of the payload, uint32 | CRC32C of type and payload, uint32 | type, uint8 | payload
//
// with all integers little-endian.
const (
	magic     = "GLSPOOL\x01"
	frameHead = 4 + 4 + 1
)

type recordType uint8

const (
	// checkpoint is the first record of a segment: what must be known of all
	// earlier ones, so that they can be removed.
	recordCheckpoint recordType = iota + 1
	// batch begins what one Sync writes. It is written after the Sync before
	// it succeeded, so everything that precedes a batch was once durable:
	// damage there is corruption, damage after the last one a torn write.
	recordBatch
	recordRoster // id, encoding
	recordSecond // as a chunk, of one second that is not yet in one
	recordChunk  // sequence, seconds, roster id, encoding
	recordMeter  // opaque
	recordAck    // sequence
	recordLink   // end of a chunk, the link of the node's chain behind it; before that chunk
)

const (
	checkpointHead = 16 + 8 + 8 + 8 + 8
	chunkHead      = 8 + 1 + 16
	rosterHead     = 16
	linkBytes      = 8 + attribution.LinkSize
)

// plausible reports whether a payload of n bytes fits the type at all.
func (t recordType) plausible(n int) bool {
	switch t {
	case recordCheckpoint:
		return n >= checkpointHead
	case recordBatch:
		return n == 0
	case recordRoster:
		return n >= rosterHead
	case recordSecond, recordChunk:
		return n >= chunkHead
	case recordMeter:
		return true
	case recordAck:
		return n == 8
	case recordLink:
		return n == linkBytes
	default:
		return false
	}
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // cached by hash/crc32

// appendFrame appends a record whose payload is the parts in a row.
func appendFrame(dst []byte, t recordType, parts ...[]byte) []byte {
	start, n := len(dst), 0
	for _, p := range parts {
		n += len(p)
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	dst = append(dst, 0, 0, 0, 0, byte(t))
	for _, p := range parts {
		dst = append(dst, p...)
	}
	binary.LittleEndian.PutUint32(dst[start+4:], crc32.Checksum(dst[start+8:], castagnoli()))
	return dst
}

// parseFrame reads the record at the start of b. size is 0 where there is
// none, or a damaged one.
func parseFrame(b []byte) (t recordType, payload []byte, size int) {
	if len(b) < frameHead {
		return 0, nil, 0
	}
	n := int64(binary.LittleEndian.Uint32(b))
	t = recordType(b[8])
	if n > int64(len(b)-frameHead) || !t.plausible(int(n)) {
		return 0, nil, 0
	}
	end := frameHead + int(n)
	if crc32.Checksum(b[8:end], castagnoli()) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, nil, 0
	}
	return t, b[frameHead:end], end
}

// span is a stretch of a segment's bytes.
type span struct{ from, to int }

// damage is what a scan of a segment found wrong with it.
type damage struct {
	bad       []span // in order; the last may reach to the end
	lastBatch int    // offset of the last whole batch record, −1 without one
}

// scanSegment calls f (which may be nil) with every whole record of a segment
// in order, and finds what lies between them. After damage it goes on at the
// next offset at which a whole record begins.
func scanSegment(b []byte, f func(off int, t recordType, payload []byte)) damage {
	d := damage{lastBatch: -1}
	var off int
	if len(b) >= len(magic) && string(b[:len(magic)]) == magic {
		off = len(magic)
	} else {
		off = d.skip(b, 0)
	}
	for off < len(b) {
		t, payload, size := parseFrame(b[off:])
		if size == 0 {
			off = d.skip(b, off)
			continue
		}
		if t == recordBatch {
			d.lastBatch = off
		}
		if f != nil {
			f(off, t, payload)
		}
		off += size
	}
	return d
}

// skip notes the damage from off on and returns where it ends.
func (d *damage) skip(b []byte, off int) int {
	next := off
	for next < len(b) {
		if _, _, size := parseFrame(b[next:]); size > 0 {
			break
		}
		next++
	}
	if next > off || len(b) == 0 {
		d.bad = append(d.bad, span{off, next})
	}
	return next
}

// checkpoint is the state that outlives trimmed segments.
type checkpoint struct {
	boot       attribution.Boot
	through    attribution.Second // first second after the newest durable chunk
	acked      attribution.Second
	prev       uint64 // the segment before this one with anything durable in it
	prevLength int64  // of which this much is durable
	meter      []byte
	chain      link // behind the newest durable chunk
}

// frame is a checkpoint's record, and its chain's.
func (c *checkpoint) frame(dst []byte) []byte {
	head := make([]byte, 0, checkpointHead)
	head = append(head, c.boot[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(c.through))
	head = binary.LittleEndian.AppendUint64(head, uint64(c.acked))
	head = binary.LittleEndian.AppendUint64(head, c.prev)
	head = binary.LittleEndian.AppendUint64(head, uint64(c.prevLength))
	return c.chain.frame(appendFrame(dst, recordCheckpoint, head, c.meter))
}

func parseCheckpoint(p []byte) (c checkpoint) {
	copy(c.boot[:], p)
	c.through = attribution.Second(binary.LittleEndian.Uint64(p[16:]))
	c.acked = attribution.Second(binary.LittleEndian.Uint64(p[24:]))
	c.prev = binary.LittleEndian.Uint64(p[32:])
	c.prevLength = int64(binary.LittleEndian.Uint64(p[40:]))
	c.meter = p[checkpointHead:]
	return c
}

func frameChunk(dst []byte, t recordType, c *Chunk) []byte {
	head := make([]byte, 0, chunkHead)
	head = binary.LittleEndian.AppendUint64(head, uint64(c.Sequence))
	head = append(head, byte(c.Seconds))
	head = append(head, c.RosterID[:]...)
	return appendFrame(dst, t, head, c.Body)
}

func parseChunk(p []byte) (c Chunk) {
	c.Sequence = attribution.Second(binary.LittleEndian.Uint64(p))
	c.Seconds = int(p[8])
	copy(c.RosterID[:], p[9:])
	c.Body = p[chunkHead:]
	return c
}

// link is the chain's link behind the chunk that ends at a second.
type link struct {
	end  attribution.Second
	link []byte // empty: not known
}

// frame appends nothing where the link is not known.
func (l *link) frame(dst []byte) []byte {
	if len(l.link) == 0 {
		return dst
	}
	return appendFrame(dst, recordLink, binary.LittleEndian.AppendUint64(nil, uint64(l.end)), l.link)
}

func parseLink(p []byte) link {
	return link{attribution.Second(binary.LittleEndian.Uint64(p)), append([]byte(nil), p[8:]...)}
}

func frameAck(dst []byte, sequence attribution.Second) []byte {
	return appendFrame(dst, recordAck, binary.LittleEndian.AppendUint64(nil, uint64(sequence)))
}

func parseAck(p []byte) attribution.Second {
	return attribution.Second(binary.LittleEndian.Uint64(p))
}
