package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Digest identifies a chunk by its content, everything that determines it,
// under its roster's fingerprint. It is the same whoever computes it, and
// independent of compression. It fails where EncodeChunk does.
func Digest(c *attribution.Chunk, rosterID attribution.Fingerprint) ([sha256.Size]byte, error) {
	w := borrow()
	defer w.giveBack()
	if err := w.encode(c, nil); err != nil {
		return [sha256.Size]byte{}, err
	}
	return digest(c.Key, c.Seconds, rosterID, w.plain), nil
}

func digest(key attribution.ChunkKey, seconds int, rosterID attribution.Fingerprint, columns []byte) (d [sha256.Size]byte) {
	head := make([]byte, 0, 256)
	for _, s := range []string{"gpuledger chunk 1", key.Cluster, key.Node} {
		head = binary.LittleEndian.AppendUint64(head, uint64(len(s)))
		head = append(head, s...)
	}
	head = append(head, key.Boot[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(key.Sequence))
	head = binary.LittleEndian.AppendUint64(head, uint64(seconds))
	head = append(head, rosterID[:]...)
	h := sha256.New()
	h.Write(head)
	h.Write(columns)
	h.Sum(d[:0])
	return d
}

// EncodeChunk puts a chunk into its message, body and digest included. The
// chunk must be one that [attribution.Chunk.Check] passes, and rosterID its
// roster's fingerprint. It fails where the chunk exceeds what DecodeChunk
// takes.
func EncodeChunk(c *attribution.Chunk, rosterID attribution.Fingerprint) (*pb.Chunk, error) {
	return encodeChunk(c, rosterID, compressor)
}

// EncodeKept is EncodeChunk for a chunk that is kept for some hours where it is
// made: its body is a tenth or two larger, and compressed in a quarter of the time.
func EncodeKept(c *attribution.Chunk, rosterID attribution.Fingerprint) (*pb.Chunk, error) {
	return encodeChunk(c, rosterID, quick)
}

func encodeChunk(c *attribution.Chunk, rosterID attribution.Fingerprint, z *zstd.Encoder) (*pb.Chunk, error) {
	w := borrow()
	defer w.giveBack()
	if err := w.encode(c, nil); err != nil {
		return nil, err
	}
	d := digest(c.Key, c.Seconds, rosterID, w.plain)
	w.packed = z.EncodeAll(w.plain, w.packed[:0])
	if len(w.packed) > MaxBody {
		return nil, malformed(8, "chunk.body", "%d bytes: at most %d travel", len(w.packed), MaxBody)
	}
	boot := c.Key.Boot
	return &pb.Chunk{
		Boot:     boot[:],
		Sequence: int64(c.Key.Sequence),
		Seconds:  uint32(c.Seconds),
		RosterId: rosterID[:],
		Body:     append([]byte(nil), w.packed...),
		Digest:   d[:],
	}, nil
}

// DecodeChunk reads a chunk of a node. The roster must be the one that
// RosterID names. What it returns has passed Check, and has the digest that
// the message claims.
func DecodeChunk(m *pb.Chunk, cluster, node string, roster *attribution.Roster) (*attribution.Chunk, error) {
	return DecodeChunkIn(nil, m, cluster, node, roster)
}

// DecodeChunkIn is DecodeChunk into memory of an arena.
func DecodeChunkIn(mem *Arena, m *pb.Chunk, cluster, node string, roster *attribution.Roster) (*attribution.Chunk, error) {
	key, err := ChunkKey(m, cluster, node)
	if err != nil {
		return nil, err
	}
	rosterID, err := RosterID(m.GetRosterId())
	if err != nil {
		return nil, err
	}
	w := borrow()
	defer w.giveBack()
	if err := w.unpack("chunk.body", m.GetBody()); err != nil {
		return nil, err
	}
	if d := digest(key, int(m.GetSeconds()), rosterID, w.plain); string(d[:]) != string(m.GetDigest()) {
		return nil, malformed(4, "chunk.digest", "the content has another: it was damaged, or belongs to another node")
	}
	if err := w.decode(); err != nil {
		return nil, err
	}
	if w.columns.GetSeconds() != m.GetSeconds() {
		return nil, malformed(4, "columns.seconds", "%d in a chunk of %d", w.columns.GetSeconds(), m.GetSeconds())
	}
	return decodeColumns(&w.columns, nil, key, roster, (*attribution.Chunk).Derive, mem)
}

// ChunkKey is the key of a chunk that came on a node's stream.
func ChunkKey(m *pb.Chunk, cluster, node string) (attribution.ChunkKey, error) {
	boot, err := Boot(m.GetBoot())
	if err != nil {
		return attribution.ChunkKey{}, err
	}
	return chunkKey(cluster, node, boot, m.GetSequence(), m.GetSeconds())
}

// ClosedKey is the key of a chunk that was announced on a node's stream.
func ClosedKey(m *pb.ChunkClosed, cluster, node string, boot attribution.Boot) (attribution.ChunkKey, error) {
	return chunkKey(cluster, node, boot, m.GetSequence(), m.GetSeconds())
}

func chunkKey(cluster, node string, boot attribution.Boot, sequence int64, seconds uint32) (attribution.ChunkKey, error) {
	if seconds < 1 || seconds > attribution.ChunkSeconds {
		return attribution.ChunkKey{}, malformed(4, "chunk.seconds", "%d: want 1 to 10", seconds)
	}
	return attribution.ChunkKey{Cluster: cluster, Node: node, Boot: boot, Sequence: attribution.Second(sequence)}, nil
}

// CloseChunk announces a chunk whose seconds went live: of its message, what
// does not follow from them.
func CloseChunk(m *pb.Chunk) *pb.ChunkClosed {
	return &pb.ChunkClosed{Sequence: m.GetSequence(), Seconds: m.GetSeconds(), Digest: m.GetDigest(), Previous: m.GetPrevious()}
}

// AppendPrevious chains the encoding of a chunk that is not yet chained: what
// it returns is the encoding of the same chunk with that link before it.
func AppendPrevious(encoded, previous []byte) []byte {
	const field = 7 // Chunk.previous
	return protowire.AppendBytes(protowire.AppendTag(encoded, field, protowire.BytesType), previous)
}

// Previous checks the link before a chunk: 32 bytes, or none.
func Previous(b []byte) error {
	if len(b) != 0 && len(b) != attribution.LinkSize {
		return malformed(4, "previous", "%d bytes: want %d, or none", len(b), attribution.LinkSize)
	}
	return nil
}

// Boot reads a boot id.
func Boot(b []byte) (boot attribution.Boot, err error) {
	if len(b) != len(boot) {
		return boot, malformed(4, "boot", "%d bytes: want %d", len(b), len(boot))
	}
	return attribution.Boot(b), nil
}

// RosterID reads a roster's fingerprint.
func RosterID(b []byte) (id attribution.Fingerprint, err error) {
	if len(b) != len(id) {
		return id, malformed(4, "roster_id", "%d bytes: want %d", len(b), len(id))
	}
	return attribution.Fingerprint(b), nil
}

// workspace holds what encoding and decoding need besides their result. It is used
// by one goroutine at a time.
type workspace struct {
	columns pb.Columns
	plain   []byte // the columns' encoding
	packed  []byte // the same, compressed
}

// mostAtWork is how many goroutines compress at a time, and how many workspaces
// are kept; it is no more than there are processors.
const mostAtWork = 8

// workspaces are interchangeable and hold no state from use to use. They are kept
// whatever the garbage collector does.
var workspaces = make(chan *workspace, mostAtWork)

func borrow() *workspace {
	select {
	case w := <-workspaces:
		return w
	default:
		return &workspace{}
	}
}

// giveBack returns a workspace, unless one huge chunk made it huge.
func (w *workspace) giveBack() {
	if cap(w.plain)+cap(w.packed) > MaxBody || cap(w.columns.TimeNsDelta) > 1<<17 {
		return
	}
	select {
	case workspaces <- w:
	default:
	}
}

// Compressors and the decompressor hold no state from use to use either. The quick
// one finds what repeats, and leaves the rest as it is.
var (
	compressor   = newCompressor(zstd.WithNoEntropyCompression(false))
	quick        = newCompressor(zstd.WithNoEntropyCompression(true))
	decompressor = newDecompressor()
)

func newCompressor(o zstd.EOption) *zstd.Encoder {
	// Bodies are a few KiB: a small window costs no compression, and a
	// goroutine more costs more than it brings. The digest is the checksum.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(min(mostAtWork, runtime.GOMAXPROCS(0))),
		zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), o)
	if err != nil {
		panic(fmt.Sprintf("BUG: zstd encoder options: %v", err))
	}
	e.EncodeAll(nil, nil) // it makes its parts with its first use
	return e
}

func newDecompressor() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(min(mostAtWork, runtime.GOMAXPROCS(0))), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxColumns), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(fmt.Sprintf("BUG: zstd decoder options: %v", err))
	}
	return d
}

// encode fills plain.
func (w *workspace) encode(c *attribution.Chunk, b base) error {
	emptyColumns(&w.columns)
	encodeColumns(c, b, &w.columns)
	if len(b) > 0 {
		w.columns.FirstSecond -= int64(b[0].Second)
	}
	w.plain = appendColumns(w.plain[:0], &w.columns)
	if len(w.plain) > MaxColumns {
		return malformed(8, "columns", "%d bytes: at most %d travel", len(w.plain), MaxColumns)
	}
	return nil
}

// unpack fills plain from a field of a message.
func (w *workspace) unpack(field string, body []byte) error {
	if len(body) > MaxBody {
		return malformed(8, field, "%d bytes: at most %d are taken", len(body), MaxBody)
	}
	return w.decompress(field, body)
}

// decompress is unpack of what did not travel.
func (w *workspace) decompress(field string, body []byte) error {
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return malformed(4, field, "is not zstd: %v", err)
	}
	if !h.HasFCS || h.FrameContentSize > MaxColumns {
		return malformed(8, field, "says no size within %d bytes", MaxColumns)
	}
	if n := int(h.FrameContentSize); cap(w.plain) < n {
		w.plain = make([]byte, 0, n)
	}
	var err error
	if w.plain, err = decompressor.DecodeAll(body, w.plain[:0:h.FrameContentSize]); err != nil {
		return malformed(4, field, "can't be decompressed: %v", err)
	}
	return nil
}

// decode fills columns from plain.
func (w *workspace) decode() error {
	emptyColumns(&w.columns)
	return readColumns(w.plain, &w.columns)
}
