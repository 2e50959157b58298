package ingest

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// live is a second that no chunk holds yet. It waits as it came, in some 500
// bytes of a node of 8 devices, and is decoded, five times as large, when
// something needs it: a question, another collector, or the chunk that closes,
// for which ten are decoded in one go.
type live struct {
	second  attribution.Second
	message *pb.Live           // nil once it is decoded
	chunk   *attribution.Chunk // of one second; nil while it waits
	roster  *roster
	bytes   int64                    // part of the pool of live seconds; 0: it is not kept
	shared  int64                    // of bytes, the roster's
	encoded atomic.Pointer[pb.Chunk] // for other collectors, once one has asked
}

func (l *live) end() attribution.Second { return l.second + 1 }

// liveMemory is about what a live second takes besides its columns while it
// waits.
const liveMemory = 256

// Bounds of what may wait on one stream: what is decoded for a question at a
// time.
const (
	mostWaiting    = 16       // seconds
	largestWaiting = 16 << 10 // bytes of a second's columns
)

// tail is what of a stream's live seconds waits to be decoded. Each is told by the
// one before, so they are decoded in the order in which they came, the ones that
// nobody wants included. One that stands alone, as a stream's first does, does not
// wait.
type tail struct {
	boot    attribution.Boot
	decoder wire.LiveDecoder
	waiting []*live
	err     error // a second can't be read: the stream must end
}

// addLive keeps a second for queries and for the chunk that will hold it. It
// returns false where it is of no use: it is not wanted, a chunk holds it, it is
// older than what is kept, or it can't be read. What goes is counted.
func (n *node) addLive(l *live, h wire.LiveHead, wanted bool) (kept bool) {
	n.tail.waiting = append(n.tail.waiting, l)
	at, there := n.liveAt(l.second)
	switch {
	case !wanted || n.has.has(l.second):
		l.bytes = 0 // it waits for those that are told by it alone
		n.count.liveDropped.Add(1)
		n.decodeLive(nil)
		return false
	case there:
		again := n.live[at]
		n.dropLive(func(o *live) bool { return o == again })
		at, _ = n.liveAt(l.second)
	}
	n.live = slices.Insert(n.live, at, l)
	n.lives.change(&n.liveLen, l.bytes)
	if l.message.GetBase() == 0 || len(n.tail.waiting) >= mostWaiting || h.Bytes > largestWaiting {
		n.decodeLive(nil)
	}
	n.trimLive()
	return slices.Contains(n.live, l)
}

func (n *node) liveAt(second attribution.Second) (at int, there bool) {
	return slices.BinarySearchFunc(n.live, second, func(o *live, s attribution.Second) int { return cmp.Compare(o.second, s) })
}

// decodeLive decodes what waits, and drops what can't be read. What is kept then
// may be more than may be, see trimLive. With a work the seconds are decoded into
// its memory: ownLive must follow before the node's mutex is let go of, which must
// be held.
func (n *node) decodeLive(w *work) {
	var mem *wire.Arena
	if w != nil {
		mem = &w.mem
	}
	for _, l := range n.tail.waiting {
		c, err := n.tail.decoder.DecodeIn(mem, l.message, n.id.cluster, n.id.node, n.tail.boot, n.rosterFor(l.roster, w))
		switch {
		case err == nil && c.Key.Sequence != l.second:
			panic("BUG: a live second is another than it looked like")
		case err == nil && l.bytes > 0:
			more := memory(c) + l.shared - l.bytes
			l.message, l.chunk, l.bytes = nil, c, l.bytes+more
			n.lives.change(&n.liveLen, more)
			if w != nil {
				w.lent = append(w.lent, l)
			}
		case err != nil:
			if !errors.Is(err, wire.ErrNoBase) {
				n.tail.err = status.Errorf(codes.InvalidArgument, "live second: %v", err)
			}
			if i := slices.Index(n.live, l); i >= 0 {
				n.dropLiveAt(i)
				n.count.liveDropped.Add(1) // its chunk will be asked for in full
			}
		}
	}
	clear(n.tail.waiting)
	n.tail.waiting = n.tail.waiting[:0]
}

// rosterFor is the roster to decode a live second with: the work's outline of one that
// has been checked.
func (n *node) rosterFor(r *roster, w *work) *attribution.Roster {
	if w != nil && n.tail.decoder.Checked(r.id, n.id.cluster, n.id.node) {
		return w.outlineOf(r)
	}
	return r.content()
}

// ownLive has the seconds that are still kept outlive the work that they were
// decoded for.
func (n *node) ownLive(w *work) {
	for _, l := range w.lent {
		if l.bytes > 0 {
			l.chunk = clone(l.chunk)
			l.chunk.Roster = l.roster.content()
		}
	}
	clear(w.lent)
	w.lent = w.lent[:0]
}

// trimLive drops the oldest live seconds while they are more than may be kept.
func (n *node) trimLive() {
	if !n.tooMuchLive() {
		return
	}
	n.decodeLive(nil) // others may be told by those that go
	for len(n.live) > n.limits.LiveSeconds || n.liveLen > n.limits.LiveBytes {
		n.dropLiveAt(0)
		n.count.liveDropped.Add(1)
	}
	for n.lives.over(n.liveLen) {
		n.dropLiveAt(0)
		n.count.liveDropped.Add(1)
		n.count.liveShed.Add(1)
	}
}

// tooMuchLive reports whether the node keeps more live seconds than it may, or
// all nodes do and this one more than its share.
func (n *node) tooMuchLive() bool {
	return len(n.live) > n.limits.LiveSeconds || n.liveLen > n.limits.LiveBytes || n.lives.over(n.liveLen)
}

// dropLive drops seconds. Those that wait are decoded before, since others may be
// told by them.
func (n *node) dropLive(drop func(*live) bool) {
	if len(n.tail.waiting) > 0 && slices.ContainsFunc(n.live, drop) {
		n.decodeLive(nil)
	}
	n.live = slices.DeleteFunc(n.live, func(l *live) bool {
		if drop(l) {
			n.uncount(l)
			return true
		}
		return false
	})
}

func (n *node) dropLiveAt(i int) {
	n.uncount(n.live[i])
	n.live = slices.Delete(n.live, i, i+1)
}

// uncount gives back the memory of a second that goes.
func (n *node) uncount(l *live) {
	n.lives.change(&n.liveLen, -l.bytes)
	l.bytes = 0
}

// seenLive is the node's live seconds decoded, in order, for somebody who asks.
func (n *node) seenLive() []*live {
	n.decodeLive(nil)
	n.trimLive()
	return n.live
}
