package ingest

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// handle takes in one message. An error ends the stream; a chunk that can never
// be stored is rejected and the stream goes on.
func (st *stream) handle(ctx context.Context, m *pb.FromAgent) error {
	switch m := m.GetMessage().(type) {
	case *pb.FromAgent_Roster:
		return apart(func() error { return st.takeRoster(m.Roster) })
	case *pb.FromAgent_Live:
		st.turn.caughtUp()
		return st.takeLive(m.Live)
	case *pb.FromAgent_Lives:
		st.turn.caughtUp()
		return st.takeLive(m.Lives.GetSeconds()...)
	case *pb.FromAgent_Chunk:
		st.paceChunk(attribution.Second(m.Chunk.GetSequence()))
		return st.makeChunk(ctx, func(room *charge) error { return st.takeChunk(ctx, m.Chunk, room) })
	case *pb.FromAgent_Closed:
		st.turn.caughtUp()
		return st.makeChunk(ctx, func(room *charge) error { return st.takeClosed(ctx, m.Closed, room) })
	case *pb.FromAgent_Flush:
		st.s.flush(st.node)
		return nil
	case *pb.FromAgent_Hello:
		return status.Error(codes.InvalidArgument, "hello comes once")
	default:
		return status.Error(codes.InvalidArgument, "a message is of no kind that this version knows")
	}
}

func (st *stream) takeRoster(m *pb.Roster) error {
	r, err := decodeRoster(m)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "roster: %v", err)
	}
	return st.rosters.put(r)
}

func (st *stream) roster(id attribution.Fingerprint) (*roster, error) {
	r := st.rosters.get(id)
	if r == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "roster %v is not here (any more): connect again and send it before what refers to it", id)
	}
	return r, nil
}

// takeLive keeps live seconds as they came, see tail. The last of those that
// travelled together tells how long they took.
func (st *stream) takeLive(ms ...*pb.Live) error {
	if len(ms) > attribution.ChunkSeconds {
		return status.Errorf(codes.InvalidArgument, "%d live seconds together: at most %d are taken", len(ms), attribution.ChunkSeconds)
	}
	n := st.node
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stream != st {
		return errSuperseded
	}
	for i, m := range ms {
		if err := st.keepLive(m, i == len(ms)-1); err != nil {
			return err
		}
	}
	return nil
}

// keepLive keeps one live second. The node's mutex must be held.
func (st *stream) keepLive(m *pb.Live, last bool) error {
	n := st.node
	if n.tail.err != nil {
		return n.tail.err
	}
	h, err := n.tail.decoder.Peek(m)
	if errors.Is(err, wire.ErrNoBase) {
		st.s.count.liveDropped.Add(1) // its chunk will be asked for in full
		return nil
	}
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "live second: %v", err)
	}
	r, err := st.roster(h.RosterID)
	if err != nil {
		return err
	}
	if last {
		st.paceLive(h.Second + 1)
	}
	shared := st.firstLive(r)
	l := &live{second: h.Second, message: m, roster: r, shared: shared, bytes: liveMemory + int64(len(m.GetPlain())+len(m.GetZstd())) + shared}
	if n.addLive(l, h, st.s.tooEarlyOrLate(l.second, l.end()) == "") {
		st.s.count.live.Add(1)
	}
	return n.tail.err
}

// key reads what identifies a chunk, on which an answer can be given.
func (st *stream) key(m *pb.Chunk) (attribution.ChunkKey, error) {
	key, err := wire.ChunkKey(m, st.node.id.cluster, st.node.id.node)
	if err != nil {
		return key, status.Error(codes.InvalidArgument, err.Error())
	}
	if key.Boot != st.boot {
		return key, status.Error(codes.InvalidArgument, "a chunk is of another boot than the hello")
	}
	return key, nil
}

func (st *stream) takeChunk(ctx context.Context, m *pb.Chunk, room *charge) error {
	key, err := st.key(m)
	if err != nil {
		return err
	}
	id, err := wire.RosterID(m.GetRosterId())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := wire.Previous(m.GetPrevious()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	r, err := st.roster(id)
	if err != nil {
		return err
	}
	w := st.s.benches.take()
	c, err := wire.DecodeChunkIn(&w.mem, m, key.Cluster, key.Node, r.content())
	if err != nil {
		st.s.benches.give(w)
		st.s.count.rejected.Add(1)
		return st.reject(key, err.Error())
	}
	x := st.newChunk(c, m, r)
	x.lent = true
	return st.admit(ctx, x, w, room)
}

// newChunk counts a roster with the first of the chunks that share it.
func (st *stream) newChunk(c *attribution.Chunk, m *pb.Chunk, r *roster) *chunk {
	first := r != st.counted
	st.counted = r
	return newChunk(c, m, r, first)
}

// firstLive is the memory of a roster with the first of the live seconds that
// share it, 0 with the others.
func (st *stream) firstLive(r *roster) int64 {
	if r == st.lived {
		return 0
	}
	st.lived = r
	return rosterMemory * int64(r.size)
}

// rosterMemory is about how many bytes of memory a byte of a roster's encoding
// becomes, packed and with its fingerprints.
const rosterMemory = 1

// noteDuplicate acknowledges what is there already as soon as it is durable.
func (st *stream) noteDuplicate(from, to attribution.Second) error {
	st.s.count.duplicate.Add(1)
	return st.note(receipt{from, to, awaiting})
}

// note keeps a receipt and sends the ack that is due. The node's mutex must be
// held.
func (st *stream) note(r receipt) error {
	err := st.receipts.put(r, int(2*st.s.o.Limits.PendingChunks))
	st.acknowledge()
	return err
}

func (st *stream) reject(key attribution.ChunkKey, why string) error {
	st.node.mu.Lock()
	defer st.node.mu.Unlock()
	return st.rejectLocked(key, why)
}

// rejectLogEvery keeps one stream from filling the log; the counter has all.
const rejectLogEvery = time.Second

// rejectLocked is reject with the node's mutex held. The chunk will never be
// stored, so queries no longer see its live seconds either.
func (st *stream) rejectLocked(key attribution.ChunkKey, why string) error {
	end := key.Sequence - key.Sequence%attribution.ChunkSeconds + attribution.ChunkSeconds
	st.node.dropLive(func(l *live) bool { return l.second >= key.Sequence && l.second < end })
	if now := st.s.o.Clock(); st.rejectLogged.IsZero() || now.Sub(st.rejectLogged) >= rejectLogEvery {
		st.rejectLogged = now
		st.s.o.Log.Warn("chunk rejected", "cluster", key.Cluster, "node", key.Node, "sequence", key.Sequence, "reason", why)
	}
	err := st.outbox.answer(&pb.ToAgent{Message: &pb.ToAgent_Reject{Reject: &pb.Reject{
		Boot: key.Boot[:], Sequence: int64(key.Sequence), Reason: why,
	}}})
	return errors.Join(err, st.note(receipt{key.Sequence, key.Sequence, settled}))
}

// resendLocked asks for a chunk in full. Nothing after it is acknowledged until
// then. The node's mutex must be held.
func (st *stream) resendLocked(key attribution.ChunkKey) error {
	st.s.count.resend.Add(1)
	err := st.outbox.answer(&pb.ToAgent{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{
		Boot: key.Boot[:], Sequence: int64(key.Sequence),
	}}})
	return errors.Join(err, st.note(receipt{key.Sequence, key.Sequence, asked}))
}

// flush has everything of a node committed now.
func (s *Server) flush(n *node) {
	n.mu.Lock()
	gs := n.makeReady(func(*group) bool { return true })
	n.mu.Unlock()
	s.queue.add(gs, s.o.Clock())
	s.queue.rush()
}

// tooEarlyOrLate says why the time of what lies in [from, to) can't be taken, ""
// where it can.
func (s *Server) tooEarlyOrLate(from, to attribution.Second) string {
	switch {
	case from < 0:
		return "it lies before 1970"
	case !s.o.AllowFuture && to > attribution.Second(s.o.Clock().Add(MaxAhead).Unix()):
		return "it lies more than an hour after the collector's clock: check the node's clock"
	}
	return ""
}

func sliceCount(c *attribution.Chunk) (n int64) {
	for i := range c.Windows {
		n += int64(len(c.Windows[i].Slices))
	}
	return n
}
