package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// ErrNoBase says that a live second is told by another that is not here. It is
// harmless: the second's chunk will be asked for in full.
var ErrNoBase = errors.New("the live second's base is not here")

// maxBase is how many windows and slices a second may have to be a base: what
// a stream keeps stays within 64 KiB, and is 2 KiB for 8 devices of 4 slices.
// The next second after a larger one stands alone; compression finds in it
// what the base would have told.
const maxBase = 1280

// tryZstd is the size from which on zstd of a live second may be smaller: its
// own tables take about 100 bytes.
const tryZstd = 256

// LiveEncoder puts the seconds of one stream into messages, in the order in
// which they are sent: each is told by the one before. Its roster grows with
// what occurs, so that it does not change with every owner that comes and
// goes. The zero value begins a stream. One goroutine uses it.
type LiveEncoder struct {
	roster   *attribution.Roster // that the messages refer to; nil: none yet
	rosterID attribution.Fingerprint

	own     attribution.Fingerprint // of the last second's own roster,
	numbers numbering               // whose entries have these numbers in roster

	last, next keptSecond
}

// Encode puts a sealed second, a chunk of one second that
// [attribution.Chunk.Check] passes, into the stream's next message. rosterID
// is its roster's fingerprint. The roster that the message refers to is
// [LiveEncoder.Roster]; the other side needs it first. The encoder keeps the
// chunk's roster and nothing else. It fails where the second exceeds what
// Decode takes, and goes on with the next.
func (e *LiveEncoder) Encode(c *attribution.Chunk, rosterID attribution.Fingerprint) (*pb.Live, error) {
	if c.Seconds != 1 {
		panic("BUG: wire: a live window is one second")
	}
	e.enroll(c.Roster, rosterID)
	e.next.keep(c.Windows, &e.numbers)
	one := attribution.Chunk{
		Key: c.Key, Seconds: 1, Roster: e.roster, Windows: e.next.windows, Tallies: e.numbers.tallies(c.Tallies),
	}
	b := base(e.last.windows)
	if len(b) > 0 && (b[0].Second == 0 || b[0].Second >= c.Key.Sequence || len(c.Windows) == 0) {
		b = nil
	}
	m, err := encodeLive(&one, b)
	if err != nil {
		e.Reset()
		return nil, err
	}
	if len(b) == 0 {
		id := e.rosterID
		m.RosterId = id[:]
	} else {
		m.Base = int64(b[0].Second)
	}
	e.last, e.next = e.next, e.last
	e.last.bound()
	e.next.bound()
	return m, nil
}

// Roster is what the last message refers to, and its fingerprint. It is
// canonical, does not change, and holds at least what occurs in the second.
func (e *LiveEncoder) Roster() (*attribution.Roster, attribution.Fingerprint) {
	return e.roster, e.rosterID
}

// Reset has the next second stand alone: the other side may have lost the
// last.
func (e *LiveEncoder) Reset() { e.last.windows = nil }

// encodeLive fills in the columns.
func encodeLive(c *attribution.Chunk, b base) (*pb.Live, error) {
	w := borrow()
	defer w.giveBack()
	if err := w.encode(c, b); err != nil {
		return nil, err
	}
	if len(w.plain) >= tryZstd {
		w.packed = compressor.EncodeAll(w.plain, w.packed[:0])
		if len(w.packed) > MaxBody {
			return nil, malformed(8, "live.zstd", "%d bytes: at most %d travel", len(w.packed), MaxBody)
		}
		if len(w.packed) < len(w.plain) {
			return &pb.Live{Zstd: append([]byte(nil), w.packed...)}, nil
		}
	}
	return &pb.Live{Plain: append([]byte(nil), w.plain...)}, nil
}

// LiveDecoder reads the live seconds of one stream, in two steps: every message
// is looked at when it comes ([LiveDecoder.Peek]), which is cheap, and read when
// it is wanted ([LiveDecoder.Decode]), in the same order. The zero value begins a
// stream. One goroutine at a time uses it.
type LiveDecoder struct {
	peeked LiveHead // of the newest message that Peek took

	last keptSecond // decoded last
	// Of last as well, to see that the roster, of which the id is the fingerprint,
	// need not be checked again.
	rosterID      attribution.Fingerprint
	cluster, node string
}

// LiveHead is what a live second is known by.
type LiveHead struct {
	Second   attribution.Second
	RosterID attribution.Fingerprint // of the roster that it refers to
	Bytes    int                     // of its columns; a few times as much once decoded
}

// Peek looks at the stream's next message. Where it is told by a base that did
// not come, Peek fails with ErrNoBase, and the message can't be read ever; the
// stream goes on. What Peek takes may still turn out to be unreadable.
func (d *LiveDecoder) Peek(m *pb.Live) (LiveHead, error) {
	var h LiveHead
	var err error
	switch {
	case m.GetBase() == 0:
		h.RosterID, err = RosterID(m.GetRosterId())
	case len(m.GetRosterId()) > 0:
		err = malformed(4, "live.roster_id", "is there, and so is a base: its is meant")
	case d.peeked.Second == 0 || int64(d.peeked.Second) != m.GetBase():
		err = fmt.Errorf("live second after %d: %w", m.GetBase(), ErrNoBase)
	default:
		h.RosterID, h.Second = d.peeked.RosterID, d.peeked.Second
	}
	if err != nil {
		return h, err
	}
	first, size, err := peekLive(m)
	if err != nil {
		return h, err
	}
	if m.GetBase() != 0 && (first < 1 || first > int64(attribution.MaxSecond)) {
		return h, malformed(4, "live.first_second", "%d after its base", first)
	}
	h.Second += attribution.Second(first)
	h.Bytes = size
	d.peeked = h
	return h, nil
}

// peekLive reads the first second of a message's columns, and their size.
func peekLive(m *pb.Live) (first int64, size int, err error) {
	if len(m.GetZstd()) == 0 {
		if len(m.GetPlain()) > MaxColumns {
			return 0, 0, malformed(8, "live.plain", "%d bytes: at most %d are taken", len(m.GetPlain()), MaxColumns)
		}
		first, err = firstSecond(m.GetPlain())
		return first, len(m.GetPlain()), err
	}
	w := borrow()
	defer w.giveBack()
	if err := w.unpack("live.zstd", m.GetZstd()); err != nil {
		return 0, 0, err
	}
	first, err = firstSecond(w.plain)
	return first, len(w.plain), err
}

// firstSecond is Columns.first_second of an encoding, the last where it is there
// more than once.
func firstSecond(b []byte) (first int64, err error) {
	const columnsFirstSecond = 1
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, malformed(4, "columns", "can't be read: %v", protowire.ParseError(n))
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(field, kind, b)
		if size < 0 {
			return 0, malformed(4, "columns", "can't be read: %v", protowire.ParseError(size))
		}
		if field == columnsFirstSecond && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			first = int64(v)
		}
		b = b[size:]
	}
	return first, nil
}

// Checked reports whether the roster of an id has been checked for a node's seconds,
// by the one that was decoded last. Of such a roster DecodeIn needs no more than how
// many facts of each kind there are, devices' IDs, owners' kinds and subjects' owners.
func (d *LiveDecoder) Checked(id attribution.Fingerprint, cluster, node string) bool {
	return id == d.rosterID && cluster == d.cluster && node == d.node
}

// Decode reads the next of the messages that Peek took, a live second of a node,
// as a chunk of one second, checked like any. The roster must be the one that
// Peek named, and never change. A message whose base could not be read fails
// with ErrNoBase; the stream goes on.
func (d *LiveDecoder) Decode(m *pb.Live, cluster, node string, boot attribution.Boot, roster *attribution.Roster) (*attribution.Chunk, error) {
	return d.DecodeIn(nil, m, cluster, node, boot, roster)
}

// DecodeIn is Decode into memory of an arena.
func (d *LiveDecoder) DecodeIn(
	mem *Arena, m *pb.Live, cluster, node string, boot attribution.Boot, roster *attribution.Roster,
) (*attribution.Chunk, error) {
	var b base
	id := d.rosterID
	if m.GetBase() != 0 {
		if b = d.last.windows; len(b) == 0 || int64(b[0].Second) != m.GetBase() {
			return nil, fmt.Errorf("live second after %d: %w", m.GetBase(), ErrNoBase)
		}
	} else {
		var err error
		if id, err = RosterID(m.GetRosterId()); err != nil {
			return nil, err
		}
	}
	derive := (*attribution.Chunk).Derive
	if d.Checked(id, cluster, node) {
		derive = (*attribution.Chunk).DeriveOnCheckedRoster
	}
	c, err := decodeLive(m, b, attribution.ChunkKey{Cluster: cluster, Node: node, Boot: boot}, roster, derive, mem)
	if err != nil {
		d.last.windows = nil
		return nil, err
	}
	d.rosterID, d.cluster, d.node = id, cluster, node
	d.last.keep(c.Windows, nil)
	d.last.bound()
	return c, nil
}

// decodeLive reads the columns, and the key's sequence from them.
func decodeLive(
	m *pb.Live, b base, key attribution.ChunkKey, roster *attribution.Roster, derive func(*attribution.Chunk) error, mem *Arena,
) (*attribution.Chunk, error) {
	w := borrow()
	defer w.giveBack()
	if len(m.GetZstd()) == 0 {
		if len(m.GetPlain()) > MaxColumns {
			return nil, malformed(8, "live.plain", "%d bytes: at most %d are taken", len(m.GetPlain()), MaxColumns)
		}
		w.plain = append(w.plain[:0], m.GetPlain()...)
	} else if err := w.unpack("live.zstd", m.GetZstd()); err != nil {
		return nil, err
	}
	if err := w.decode(); err != nil {
		return nil, err
	}
	if s := w.columns.GetSeconds(); s != 1 {
		return nil, malformed(4, "live.seconds", "%d: want 1", s)
	}
	if len(b) > 0 {
		step := w.columns.GetFirstSecond()
		if step < 1 || step > int64(attribution.MaxSecond) {
			return nil, malformed(4, "live.first_second", "%d after its base", step)
		}
		w.columns.FirstSecond += int64(b[0].Second)
	}
	key.Sequence = attribution.Second(w.columns.GetFirstSecond())
	return decodeColumns(&w.columns, b, key, roster, derive, mem)
}

// keptSecond is the windows of a live second, in memory of its own.
type keptSecond struct {
	windows []attribution.DeviceWindow
	slices  []attribution.Slice // the windows'
}

// keep copies windows, in new numbers unless n is nil.
func (k *keptSecond) keep(ws []attribution.DeviceWindow, n *numbering) {
	total := 0
	for i := range ws {
		total += len(ws[i].Slices)
	}
	if cap(k.slices) < total {
		k.slices = make([]attribution.Slice, 0, total)
	}
	k.windows, k.slices = append(k.windows[:0], ws...), k.slices[:0]
	for i := range k.windows {
		w, at := &k.windows[i], len(k.slices)
		k.slices = append(k.slices, w.Slices...)
		w.Slices = k.slices[at:len(k.slices):len(k.slices)]
	}
	if n != nil && !n.same {
		n.windows(k.windows)
	}
}

// bound lets go of a second that is too large to be a base.
func (k *keptSecond) bound() {
	if len(k.windows)+len(k.slices) > maxBase {
		*k = keptSecond{}
	}
}
