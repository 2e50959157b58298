package loadgen

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// sender is the sending half of one stream.
type sender struct {
	*agent
	stream  grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent]
	until   attribution.Second // the run's end
	rosters map[attribution.Fingerprint]bool
	lives   wire.LiveEncoder
	live    attribution.Second // the first second after the last that was sent live, or waits in going; 0: none
	going   []*pb.Live         // wait for others to travel with
	every   int                // live seconds of a message, as welcomed
	flushed bool
}

// maxRosters is how many rosters a stream remembers to have sent.
const maxRosters = 32

func (s *sender) send(m *pb.FromAgent) error {
	s.count.bytes.Add(size(m))
	return s.stream.Send(m)
}

// work sends what is due until all is acknowledged, or the stream ends.
func (s *sender) work(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		busy, wait, err := s.step(time.Now())
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if busy {
			continue
		}
		if s.next >= s.until && s.settled() {
			return s.stream.CloseSend()
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-timer.C:
		}
	}
}

func (s *sender) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unacked) == 0
}

// step sends one thing, if any is due; otherwise it says how long none is.
func (s *sender) step(now time.Time) (busy bool, wait time.Duration, err error) {
	pace := s.mayBeSent()
	if c, ok := s.again(pace); ok {
		return true, 0, s.chunk(c)
	}
	sealed := attribution.Second(now.Add(-s.phase-sealedAfter).Unix() - 1) // the newest
	second := max(s.next, s.live)
	if pace == pb.Pace_PACE_CHUNKS { // whole chunks, when their last second is sealed
		second = s.next + attribution.Second(s.span(s.next)) - 1
	}
	switch {
	case pace == pb.Pace_PACE_NOTHING:
		return false, time.Second, nil // another pace wakes it
	case s.next >= s.until:
		if !s.flushed {
			s.flushed = true
			return true, 0, s.send(&pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}})
		}
		return false, time.Second, nil
	case second <= sealed-attribution.ChunkSeconds, // behind: whole chunks
		second <= sealed && pace == pb.Pace_PACE_CHUNKS:
		return s.catchUp(sealed)
	case second <= sealed:
		return true, 0, s.second(second)
	}
	due := time.Unix(int64(second)+1, 0).Add(sealedAfter + s.phase)
	return false, max(time.Until(due), time.Millisecond), nil
}

func (s *sender) mayBeSent() pb.Pace {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pace
}

// again is a chunk that was asked for, or, where the pace allows it, one that
// another stream sent before.
func (s *sender) again(pace pb.Pace) (sentChunk, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.resend) > 0 {
		from := s.resend[0]
		s.resend = s.resend[1:]
		for i := range s.unacked {
			if s.unacked[i].from == from && s.unacked[i].onStream {
				s.lives.Reset()
				s.count.resends.Add(1)
				return s.unacked[i], true
			}
		}
	}
	if pace == pb.Pace_PACE_NOTHING {
		return sentChunk{}, false
	}
	flying := 0
	for i := range s.unacked {
		c := &s.unacked[i]
		switch {
		case c.onStream:
			flying++
		case flying < inFlight:
			c.onStream = true
			s.count.resends.Add(1)
			s.flushed = false
			return *c, true
		}
	}
	return sentChunk{}, false
}

// span is how many seconds the chunk that begins at a second has.
func (s *sender) span(from attribution.Second) int {
	return int(min(from.ChunkStart()+attribution.ChunkSeconds, s.until) - from)
}

// catchUp sends the next chunk in full, which is sealed already.
func (s *sender) catchUp(sealed attribution.Second) (busy bool, wait time.Duration, err error) {
	s.mu.Lock()
	n := len(s.unacked)
	s.mu.Unlock()
	switch behind := int64(sealed - s.next); {
	case n >= maxUnacked && behind > 2*attribution.ChunkSeconds:
		s.count.skipped.Add(behind)
		s.next = sealed
		s.forgetLive()
		return true, 0, nil
	case n >= inFlight:
		return false, time.Second, nil // an ack wakes it
	}
	c := sentChunk{from: s.next, seconds: s.span(s.next)}
	s.forgetLive()
	m, err := s.encode(c)
	if err != nil {
		return false, 0, err
	}
	s.closed(c, m.GetDigest())
	s.count.slicesSent.Add(int64(c.seconds) * s.node.fleet.slicesOfSecond())
	return true, 0, s.full(m)
}

// closed notes the next chunk: from here on it is sent until it is acknowledged.
func (s *sender) closed(c sentChunk, digest []byte) {
	c.previous, c.at, c.onStream = s.previous, time.Now(), true
	s.previous = attribution.Link(s.previous, c.from, digest)
	s.next = c.end()
	s.count.chunksSent.Add(1)
	s.mu.Lock()
	s.unacked = append(s.unacked, c)
	s.mu.Unlock()
}

// chunk sends a chunk in full that was closed before.
func (s *sender) chunk(c sentChunk) error {
	m, err := s.encode(c)
	if err != nil {
		return err
	}
	m.Previous = c.previous
	return s.full(m)
}

// encode makes a chunk, and sends its roster.
func (s *sender) encode(c sentChunk) (*pb.Chunk, error) {
	x := s.node.fleet.scratch.Get().(*scratch)
	defer s.node.fleet.scratch.Put(x)
	made, last := s.node.chunk(c.from, c.seconds, s.cast, x)
	s.cast = last
	id := last.id
	if made.Roster != last.roster {
		id = made.Roster.Fingerprint()
	}
	if err := s.roster(made.Roster, id); err != nil {
		return nil, err
	}
	m, err := wire.EncodeChunk(made, id)
	if err == nil {
		m.Previous = s.previous
	}
	return m, err
}

func (s *sender) full(m *pb.Chunk) error {
	return s.send(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})
}

// second sends a second live, and its chunk's digest when it is the chunk's
// last.
func (s *sender) second(second attribution.Second) error {
	x := s.node.fleet.scratch.Get().(*scratch)
	defer s.node.fleet.scratch.Put(x)
	s.cast = s.node.castAt(second, s.cast)
	live, err := s.lives.Encode(s.node.second(second, s.cast, x), s.cast.id)
	if err != nil {
		return err
	}
	if err := s.roster(s.lives.Roster()); err != nil {
		return err
	}
	s.live, s.going = second+1, append(s.going, live)
	c := sentChunk{from: s.next, seconds: s.span(s.next)}
	if s.live >= c.end() || len(s.going) >= s.every {
		if err := s.together(); err != nil {
			return err
		}
	}
	if s.live < c.end() {
		return nil
	}
	made, last := s.node.chunk(c.from, c.seconds, s.cast, x)
	s.cast = last
	id := last.id
	if made.Roster != last.roster {
		id = made.Roster.Fingerprint()
	}
	digest, err := wire.Digest(made, id)
	if err != nil {
		return err
	}
	m := &pb.ChunkClosed{Sequence: int64(c.from), Seconds: uint32(c.seconds), Digest: digest[:], Previous: s.previous}
	s.closed(c, digest[:])
	return s.send(&pb.FromAgent{Message: &pb.FromAgent_Closed{Closed: m}})
}

// together sends the live seconds that wait, in one message.
func (s *sender) together() error {
	m := &pb.FromAgent{Message: &pb.FromAgent_Lives{Lives: &pb.LiveSeconds{Seconds: s.going}}}
	if len(s.going) == 1 {
		m.Message = &pb.FromAgent_Live{Live: s.going[0]}
	}
	s.count.live.Add(int64(len(s.going)))
	s.count.slicesSent.Add(int64(len(s.going)) * s.node.fleet.slicesOfSecond())
	s.going = nil
	return s.send(m)
}

// forgetLive gives up the live seconds of the chunk that is open: it is sent in full.
// The next one stands alone, since what waits to be sent would have told it.
func (s *sender) forgetLive() {
	if len(s.going) > 0 {
		s.lives.Reset()
	}
	s.live, s.going = 0, nil
}

// roster sends a roster unless this stream has it.
func (s *sender) roster(r *attribution.Roster, id attribution.Fingerprint) error {
	if s.rosters[id] {
		return nil
	}
	b, err := proto.Marshal(wire.EncodeRoster(r))
	if err != nil {
		return err
	}
	if len(s.rosters) >= maxRosters {
		clear(s.rosters)
	}
	s.rosters[id] = true
	return s.send(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.PackRoster(b)}})
}
