package uplink

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// liveSecond is a live second that waits to be sent.
type liveSecond struct {
	chunk    *attribution.Chunk
	rosterID attribution.Fingerprint
	bytes    int
}

// liveQueue is a short queue of live seconds.
type liveQueue struct {
	seconds []liveSecond
	bytes   int
}

// push adds a copy of a second, unless there is no room beside so many that wait to
// travel together.
func (q *liveQueue) push(c *attribution.Chunk, rosterID attribution.Fingerprint, o *Options, together int) bool {
	slices := 0
	for i := range c.Windows {
		slices += len(c.Windows[i].Slices)
	}
	n := 256 + 64*len(c.Windows) + 48*slices + 24*len(c.Tallies) // about what it holds in memory
	if len(q.seconds) >= o.LiveSeconds+together-1 || q.bytes+n > o.LiveBytes {
		return false
	}
	own := *c
	own.Windows = append([]attribution.DeviceWindow(nil), c.Windows...)
	own.Tallies = append([]attribution.Tally(nil), c.Tallies...)
	arena := make([]attribution.Slice, 0, slices)
	for i := range own.Windows {
		w, at := &own.Windows[i], len(arena)
		arena = append(arena, w.Slices...)
		w.Slices = arena[at:len(arena):len(arena)]
	}
	q.seconds = append(q.seconds, liveSecond{&own, rosterID, n})
	q.bytes += n
	return true
}

func (q *liveQueue) pop() (l liveSecond) {
	l = q.seconds[0]
	q.seconds[0] = liveSecond{} // let go of it
	q.seconds = q.seconds[1:]
	q.bytes -= l.bytes
	return l
}

// takeLive is the live seconds that are to be sent now, none of them in a chunk that
// was sent already: as many as travel together, or, where their chunk is closed or
// they take much memory, those that are there. The encoder begins anew where the
// collector has asked for a chunk again: it may lack what the next second would be
// told by.
func (u *Uplink) takeLive(s *session, closed bool) (ls []liveSecond) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s.anew {
		s.anew = false
		s.lives.Reset()
	}
	if len(u.live.seconds) < s.together && !closed && u.live.bytes < u.o.LiveBytes/2 {
		return nil
	}
	for len(u.live.seconds) > 0 && len(ls) < s.together {
		l := u.live.pop()
		if l.chunk.Key.Sequence > s.sent {
			ls = append(ls, l)
			continue
		}
		u.status.LiveDropped++
	}
	return ls
}

// sendLive sends live seconds in one message, after the rosters that they refer to.
func (u *Uplink) sendLive(s *session, ls []liveSecond) error {
	var ms []*pb.Live
	for i := range ls {
		l := &ls[i]
		m, err := s.lives.Encode(l.chunk, l.rosterID)
		if err != nil { // such a node exceeds every limit of the format by far
			u.countLive(&u.status.LiveDropped, 1)
			u.o.Logger.Debug("uplink: a live second can't travel", "node", u.o.Node, "second", int64(l.chunk.Key.Sequence), "err", err)
			continue
		}
		r, id := s.lives.Roster()
		err = u.sendRoster(s, id, func() ([]byte, error) {
			b, err := proto.Marshal(wire.EncodeRoster(r))
			if err != nil {
				return nil, fmt.Errorf("roster %v: %w", id, err)
			}
			return b, nil
		})
		if err != nil {
			return err
		}
		if len(s.wentOut) >= 8*attribution.ChunkSeconds {
			clear(s.wentOut) // their chunks never came: those travel in full if they do
		}
		s.wentOut[l.chunk.Key.Sequence] = struct{}{}
		ms = append(ms, m)
	}
	u.countLive(&u.status.LiveSent, len(ms))
	switch len(ms) {
	case 0:
		return nil
	case 1:
		return s.stream.Send(&pb.FromAgent{Message: &pb.FromAgent_Live{Live: ms[0]}})
	default:
		return s.stream.Send(&pb.FromAgent{Message: &pb.FromAgent_Lives{Lives: &pb.LiveSeconds{Seconds: ms}}})
	}
}

func (u *Uplink) countLive(n *uint64, more int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*n += uint64(more)
}
