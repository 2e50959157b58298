package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/bounded"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// maxRosters is how many rosters a stream is remembered to have been sent. One
// more, and they are forgotten, and sent again when needed: that is harmless.
// It is half of what a collector remembers (its limits.rosters), so that none
// is referred to that the collector has forgotten.
const maxRosters = 32

// DialOptions are what a connection to the collector should have: keepalive,
// so that a silently lost peer is noticed within half a minute, no retries of its
// own, since a stream can't be retried, fixed windows, since to find better ones gRPC
// would ping the collector for each thing that it says, and a bound of what its
// messages may become.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bounded.Codec(wire.MaxParts))),
		grpc.WithStaticStreamWindowSize(64 << 10), grpc.WithStaticConnWindowSize(64 << 10),
	}
}

// session is one stream's life. The sender's goroutine owns what is not under
// the uplink's mutex.
type session struct {
	stream grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent]
	better chan struct{} // closed: another collector is

	together int // live seconds of a message, as welcomed

	// The sender's own.
	sent    attribution.Second // the newest chunk sent
	rosters map[attribution.Fingerprint]struct{}
	lives   wire.LiveEncoder
	wentOut map[attribution.Second]struct{} // seconds sent live and not yet in a chunk
	flushed uint64                          // Flush requests answered
	flushAt attribution.Second              // sent, when the last Flush went out

	// Under the uplink's mutex.
	inFlight []flight           // in order
	newest   attribution.Second // ever in flight
	bytes    int64
	resend   map[attribution.Second]struct{} // of those in flight
	anew     bool                            // the next live second is to stand alone
	pace     pb.Pace                         // what may be sent
}

// flight is a chunk that was sent and not yet acknowledged.
type flight struct {
	sequence attribution.Second
	bytes    int64
}

// runSession opens a stream and works it until it fails, another collector is
// better, or ctx ends. It tells when it was welcomed, if it was.
func (u *Uplink) runSession(ctx context.Context, c *Collector) (welcomed time.Time, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u.mu.Lock()
	u.status.Streams++
	u.mu.Unlock()
	s, w, err := u.greet(ctx, cancel, c)
	if err != nil {
		return welcomed, err
	}
	welcomed = time.Now()
	u.setPace(s, w.GetPace())
	u.begin(s, w, c.Name)
	defer u.end()

	var better sync.WaitGroup
	defer better.Wait()
	better.Go(func() {
		if u.o.Collectors.Better(ctx) {
			close(s.better)
		}
	})
	received := make(chan error, 1)
	go func() {
		received <- u.receive(s)
		cancel()
	}()
	err = u.sendAll(ctx, s)
	cancel()
	// The receiver knows the cause; the sender often only that the stream is gone.
	if cause := <-received; err == nil || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		err = cause
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the collector ended it")
	}
	return welcomed, err
}

// greet opens a stream and waits for its Welcome.
func (u *Uplink) greet(ctx context.Context, cancel func(), c *Collector) (*session, *pb.Welcome, error) {
	stream, err := c.Client.Stream(ctx)
	if err != nil {
		return nil, nil, err
	}
	s := &session{
		stream: stream, better: make(chan struct{}), sent: spool.Start, flushAt: spool.Start, newest: spool.Start,
		rosters: map[attribution.Fingerprint]struct{}{}, wentOut: map[attribution.Second]struct{}{},
		resend: map[attribution.Second]struct{}{},
	}
	boot := u.o.Spool.Boot()
	hello := &pb.Hello{Cluster: u.o.Cluster, Node: u.o.Node, Boot: boot[:], Version: u.o.Version}
	err = stream.Send(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: hello}})
	if err != nil && !errors.Is(err, io.EOF) { // at EOF, Recv knows the cause
		return nil, nil, err
	}
	late := time.AfterFunc(u.o.WelcomeTimeout, cancel)
	m, err := stream.Recv()
	switch inTime := late.Stop(); {
	case !inTime:
		return nil, nil, fmt.Errorf("no welcome within %v", u.o.WelcomeTimeout)
	case err != nil:
		return nil, nil, err
	case m.GetWelcome() == nil:
		return nil, nil, fmt.Errorf("the collector began with %T in place of Welcome", m.GetMessage())
	}
	s.together = min(max(int(m.GetWelcome().GetLiveEvery()), 1), attribution.ChunkSeconds)
	return s, m.GetWelcome(), nil
}

func (u *Uplink) begin(s *session, w *pb.Welcome, collector string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-u.welcomed:
		if u.status.Collector != collector {
			u.status.Moves++
		}
	default:
	}
	u.status.Collector = collector
	u.session, u.live = s, liveQueue{}
	u.status.Connected, u.status.LastError = true, ""
	u.status.ServerVersion = w.GetVersion()
	u.status.StoredThrough = max(attribution.Second(w.GetStoredThrough()), 0)
	select {
	case <-u.welcomed:
	default:
		close(u.welcomed)
	}
	u.signal()
}

func (u *Uplink) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.LiveDropped += uint64(len(u.live.seconds))
	u.session, u.live, u.status.Connected = nil, liveQueue{}, false
}

// sendAll sends until the stream or ctx ends, or another collector is better.
func (u *Uplink) sendAll(ctx context.Context, s *session) error {
	for {
		select {
		case <-s.better:
			return u.leave(ctx, s)
		default:
		}
		changed := u.o.Spool.Changed()
		busy, err := u.sendOne(s)
		if err != nil {
			return err
		}
		if busy {
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-u.wake:
		case <-s.better:
		}
	}
}

// leave ends a stream that works. The collector makes durable what it was sent,
// acknowledges that, and ends the stream from its side; what it does not get
// done in time is sent to the next one again.
func (u *Uplink) leave(ctx context.Context, s *session) error {
	if err := s.stream.CloseSend(); err != nil {
		return err
	}
	t := time.NewTimer(u.o.LeaveTimeout)
	defer t.Stop()
	select {
	case <-ctx.Done(): // the receiver is at the end, too
	case <-t.C:
	}
	return errMoved
}

// sendOne sends what is most urgent, if there is anything: what was asked for
// again and, as far as the collector's pace allows, a live second, the next
// chunk, a flush.
func (u *Uplink) sendOne(s *session) (busy bool, err error) {
	q, asked, held := u.takeResend(s)
	if asked {
		return true, u.sendAgain(s, q)
	}
	if held {
		return false, nil // another pace wakes us
	}
	backlog := u.o.Spool.Waiting(s.sent)
	if backlog <= 1 { // caught up: the chunk that has just been closed may lie there
		if ls := u.takeLive(s, backlog > 0); len(ls) > 0 {
			return true, u.sendLive(s, ls)
		}
	}
	if backlog > 0 {
		return u.sendNext(s)
	}
	return u.sendFlush(s)
}

// takeResend is a chunk that was asked for again, if there is one, and whether
// nothing else may be sent.
func (u *Uplink) takeResend(s *session) (sequence attribution.Second, asked, held bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	held = s.pace == pb.Pace_PACE_NOTHING
	for q := range s.resend {
		delete(s.resend, q)
		return q, true, held
	}
	return 0, false, held
}

// sendAgain sends a chunk in full that is in flight already.
func (u *Uplink) sendAgain(s *session, sequence attribution.Second) error {
	c, ok, err := u.o.Spool.Read(sequence - 1)
	if err != nil {
		return u.unreadable(s, c.Sequence, err)
	}
	if !ok || c.Sequence != sequence {
		return nil // acknowledged meanwhile
	}
	s.flushed, s.flushAt = 0, spool.Start // it was not there when the last Flush came
	return u.sendChunk(s, &c, false)
}

// sendNext sends the next chunk, if the limits of what is in flight allow it.
func (u *Uplink) sendNext(s *session) (busy bool, err error) {
	c, ok, err := u.o.Spool.Read(s.sent)
	if err != nil {
		return true, u.unreadable(s, c.Sequence, err)
	}
	if !ok {
		return true, nil // acknowledged or set aside meanwhile: look again
	}
	n := int64(len(c.Body))
	u.mu.Lock()
	full := len(s.inFlight) > 0 && (len(s.inFlight) >= u.o.InFlightChunks || s.bytes+n > u.o.InFlightBytes)
	if !full {
		s.inFlight, s.newest = append(s.inFlight, flight{c.Sequence, n}), c.Sequence
		s.bytes += n
	}
	u.mu.Unlock()
	if full {
		return false, nil // an acknowledgement wakes us, through the spool
	}
	s.sent = c.Sequence
	return true, u.sendChunk(s, &c, s.wasLive(&c))
}

// unreadable gives up a chunk that the disk has damaged. Other errors end the
// stream, and are tried again with the next.
func (u *Uplink) unreadable(s *session, sequence attribution.Second, err error) error {
	if !errors.Is(err, spool.ErrCorrupt) {
		return err
	}
	u.o.Logger.Error("uplink: a chunk in the spool is damaged and lost", "node", u.o.Node, "sequence", int64(sequence), "err", err)
	u.mu.Lock()
	s.land(sequence)
	u.mu.Unlock()
	return u.o.Spool.SetAside(sequence, err.Error())
}

// wasLive reports whether all seconds of a chunk went out live on this stream,
// and forgets them and older ones.
func (s *session) wasLive(c *spool.Chunk) bool {
	all := true
	for q := c.Sequence; q < c.End(); q++ {
		_, ok := s.wentOut[q]
		all = all && ok
	}
	for q := range s.wentOut {
		if q < c.End() {
			delete(s.wentOut, q)
		}
	}
	return all
}

// sendChunk sends a chunk, or announces it where its windows went out live.
func (u *Uplink) sendChunk(s *session, c *spool.Chunk, announce bool) error {
	m := &pb.Chunk{}
	if err := proto.Unmarshal(c.Body, m); err != nil {
		return u.unreadable(s, c.Sequence, fmt.Errorf("%w: %w", spool.ErrCorrupt, err))
	}
	out := &pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}}
	if announce {
		out.Message = &pb.FromAgent_Closed{Closed: wire.CloseChunk(m)}
	} else if err := u.sendRoster(s, c.RosterID, func() ([]byte, error) { return u.o.Spool.Roster(c.Sequence) }); err != nil {
		if errors.Is(err, spool.ErrCorrupt) {
			return u.unreadable(s, c.Sequence, err)
		}
		return err
	}
	u.mu.Lock()
	if announce {
		u.status.ChunksClosed++
	} else {
		u.status.ChunksSent++
		u.status.BytesSent += uint64(len(c.Body))
	}
	u.mu.Unlock()
	return s.stream.Send(out)
}

// sendRoster sends a roster unless this stream has it.
func (u *Uplink) sendRoster(s *session, id attribution.Fingerprint, encoding func() ([]byte, error)) error {
	if _, ok := s.rosters[id]; ok {
		return nil
	}
	b, err := encoding()
	if err != nil {
		return err
	}
	// One that the collector can't read would end this stream and every next.
	if err := proto.Unmarshal(b, &pb.Roster{}); err != nil {
		return fmt.Errorf("roster %v: %w: %w", id, spool.ErrCorrupt, err)
	}
	if len(s.rosters) >= maxRosters {
		clear(s.rosters)
	}
	s.rosters[id] = struct{}{}
	return s.stream.Send(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.PackRoster(b)}})
}

// sendFlush passes a request to flush on, once for every state of the stream.
func (u *Uplink) sendFlush(s *session) (busy bool, err error) {
	u.mu.Lock()
	due := len(s.inFlight) > 0 && u.flush > s.flushed && s.flushAt != s.sent
	s.flushed = u.flush
	u.mu.Unlock()
	if !due {
		return false, nil
	}
	s.flushAt = s.sent
	return true, s.stream.Send(&pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}})
}
