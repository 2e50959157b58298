package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Limits of what an agent may say of itself. A node's name is a DNS name.
const (
	maxName    = 253
	maxVersion = 128
)

// stream is one agent's connection. Two goroutines work on it: the receiver
// takes in what comes and may wait for memory, the sender (gRPC's own) sends
// what is in the outbox and waits for nothing but the agent.
type stream struct {
	s          *Server
	superseded chan struct{} // closed by the stream that takes over
	outbox     outbox
	pacing     pacing

	// Set by the receiver when the stream is connected, fixed afterwards.
	boot    attribution.Boot
	version string
	node    *node // set under the server's mutex
	gone    bool  // guarded by the server's mutex: has ended

	// The receiver's own.
	id      nodeID // as the hello has it; empty before
	rosters rosters
	counted *roster // whose memory has been counted, with a chunk's
	lived   *roster // the same, with a live second's
	excerpt excerpt
	turn    turn
	pause   pause
	usual   int64 // bytes of the last chunk; 0: there was none

	// Guarded by the node's mutex.
	receipts     receipts
	rejectLogged time.Time
}

// signal wakes the sender.
func (st *stream) signal() { st.outbox.signal() }

// Stream serves one agent.
func (s *Server) Stream(g grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]) error {
	s.mu.Lock()
	select {
	case <-s.draining:
		s.mu.Unlock()
		return errDraining
	case <-s.dead:
		s.mu.Unlock()
		return errDraining
	default:
	}
	s.streams.Add(2)
	s.mu.Unlock()
	defer s.streams.Done()
	s.count.streams.Add(1)
	defer s.count.streams.Add(-1)

	st := &stream{
		s: s, superseded: make(chan struct{}), outbox: outbox{wake: make(chan struct{}, 1)},
		turn:    turn{of: &s.turns},
		rosters: rosters{most: s.o.Limits.Rosters, mostBytes: s.o.Limits.RosterBytes, pool: &s.rosters, room: &s.hot},
	}
	st.pacing.outbox = &st.outbox
	st.turn.hold = func(on bool) { st.pacing.set(&st.pacing.queued, on) }
	introduced, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		defer s.streams.Done()
		defer st.turn.end()
		defer st.rosters.release()
		err := st.receive(g, introduced)
		s.blame(g.Context(), st.id, err)
		ended <- err
	}()
	err := st.send(g, introduced, ended)
	s.disconnect(st)
	return err
}

// blame counts a stream that ends for what its agent sent, and tells of one in a
// second.
func (s *Server) blame(ctx context.Context, id nodeID, err error) {
	if c := status.Code(err); c != codes.InvalidArgument && c != codes.FailedPrecondition {
		return
	}
	s.count.invalid.Add(1)
	now := s.o.Clock().UnixNano()
	if last := s.blamed.Load(); now-last >= int64(rejectLogEvery) && s.blamed.CompareAndSwap(last, now) {
		from := ""
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		s.o.Log.Warn("stream ended for what it sent", "from", from, "cluster", id.cluster, "node", id.node, "error", err)
	}
}

// receive takes in messages until the stream ends. After the agent's last one
// it returns io.EOF, and the stream stays the node's until all is acknowledged.
func (st *stream) receive(g grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent], introduced chan<- struct{}) error {
	m, err := g.Recv()
	if err != nil {
		return noHello(err)
	}
	if err := st.hello(g.Context(), m.GetHello()); err != nil {
		return err
	}
	close(introduced)
	for {
		st.turn.await()
		m, err := g.Recv()
		st.turn.came()
		if errors.Is(err, io.EOF) {
			st.s.flush(st.node)
			return io.EOF
		}
		if err != nil {
			return unread(err)
		}
		select {
		case <-st.s.draining:
			return errDraining
		default:
		}
		if err := st.handle(g.Context(), m); err != nil {
			return err
		}
	}
}

func noHello(err error) error {
	if errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "the stream ended before its hello")
	}
	return unread(err)
}

// unread is why a message could not be taken in. What gRPC says of one that is too
// large, or can't be read, is the agent's fault.
func unread(err error) error {
	if s := status.Convert(err); s.Code() == codes.Internal || s.Code() == codes.ResourceExhausted {
		return status.Error(codes.InvalidArgument, s.Message())
	}
	return err
}

// send sends what is in the outbox until the stream ends, and says why it did.
func (st *stream) send(g grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent], introduced <-chan struct{}, ended <-chan error) error {
	hello := time.NewTimer(st.s.o.Timing.Hello)
	defer hello.Stop()
	late := hello.C
	var why error // not nil: end when the outbox is empty
	var sent *pb.RateCard
	closing := false // the agent has sent its last: end when all is acknowledged
	for {
		// Asked before the outbox is emptied: the ack that settles the last
		// chunk is then in it.
		done := closing && st.settled()
		ms := st.outbox.take()
		if introduced == nil {
			if card := st.s.card.Load(); card != sent {
				sent = card
				ms = append(ms, &pb.ToAgent{Message: &pb.ToAgent_RateCard{RateCard: card}})
			}
		}
		if err := st.deliver(g, ms); err != nil {
			return err
		}
		if why != nil {
			return why
		}
		if done {
			return nil
		}
		select {
		case <-st.outbox.wake:
		case <-introduced:
			introduced, late = nil, nil
		case <-late:
			why = status.Errorf(codes.DeadlineExceeded, "no hello within %v", st.s.o.Timing.Hello)
		case <-st.superseded:
			return errSuperseded
		case <-st.s.drained:
			why = errDraining
		case <-st.s.dead:
			return errDraining
		case err := <-ended:
			ended = nil
			switch {
			case errors.Is(err, io.EOF):
				closing = true
				st.signal()
			case errors.Is(err, errDraining):
				// Acks of what was accepted are still to come.
			default:
				why = err
			}
		case <-g.Context().Done():
			return status.FromContextError(context.Cause(g.Context())).Err()
		}
	}
}

// deliver sends messages, as long as the agent reads. gRPC interrupts a call of
// Send only when the handler returns, hence the goroutine.
func (st *stream) deliver(g grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent], ms []*pb.ToAgent) error {
	if len(ms) == 0 {
		return nil
	}
	done := make(chan error, 1)
	st.s.streams.Go(func() {
		for _, m := range ms {
			if err := g.Send(m); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	})
	unread := time.NewTimer(st.s.o.Timing.Unread)
	defer unread.Stop()
	select {
	case err := <-done:
		return err
	case <-unread.C:
		st.s.count.unread.Add(1)
		return status.Errorf(codes.ResourceExhausted, "the collector's answers have not been read for %v", st.s.o.Timing.Unread)
	}
}

func (st *stream) hello(ctx context.Context, h *pb.Hello) error {
	if h == nil {
		return status.Error(codes.InvalidArgument, "the first message must be hello")
	}
	for _, f := range []struct {
		field, value string
		empty        bool
		most         int
	}{{"cluster", h.Cluster, true, maxName}, {"node", h.Node, false, maxName}, {"version", h.Version, true, maxVersion}} {
		if err := checkName(f.value, f.empty, f.most); err != nil {
			return status.Errorf(codes.InvalidArgument, "hello: %s: %v", f.field, err)
		}
	}
	if strings.HasPrefix(h.Node, OwnPrefix) {
		return status.Errorf(codes.InvalidArgument, "hello: node: names that begin with %q are the collector's own", OwnPrefix)
	}
	if len(h.Boot) != len(st.boot) {
		return status.Errorf(codes.InvalidArgument, "hello: boot has %d bytes: want %d", len(h.Boot), len(st.boot))
	}
	copy(st.boot[:], h.Boot)
	st.version = h.Version
	id := nodeID{h.Cluster, h.Node}
	st.id = id
	stored, err := st.s.reload(ctx, id)
	if err != nil {
		return err
	}
	return st.s.connect(st, id, stored)
}

func checkName(s string, empty bool, most int) error {
	switch {
	case s == "" && !empty:
		return errors.New("is missing")
	case len(s) > most:
		return fmt.Errorf("has %d bytes: at most %d are taken", len(s), most)
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) {
			return fmt.Errorf("has the character %U: only printable ones are taken", r)
		}
	}
	return nil
}

// outbox holds what the sender has yet to send. Acks replace one another, so
// it is bounded by the rejects and resends, each of which answers one chunk.
type outbox struct {
	wake chan struct{}

	mu      sync.Mutex
	answers []*pb.ToAgent
	ack     *pb.ToAgent
}

// mostAnswers is how many rejects and resends may wait for an agent that does
// not read them.
const mostAnswers = 4096

func (b *outbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// answer adds a welcome, reject or resend. It returns an error where the agent
// has too many unread ones.
func (b *outbox) answer(m *pb.ToAgent) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.answers) >= mostAnswers {
		return status.Errorf(codes.ResourceExhausted, "%d answers wait to be read", len(b.answers))
	}
	b.answers = append(b.answers, m)
	b.signal()
	return nil
}

// acknowledge replaces the ack that waits.
func (b *outbox) acknowledge(boot attribution.Boot, sequence attribution.Second) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ack = &pb.ToAgent{Message: &pb.ToAgent_Ack{Ack: &pb.Ack{Boot: boot[:], Sequence: int64(sequence)}}}
	b.signal()
}

// take empties the box; a reject comes before the ack that covers it.
func (b *outbox) take() []*pb.ToAgent {
	b.mu.Lock()
	defer b.mu.Unlock()
	ms := b.answers
	if b.ack != nil {
		ms = append(ms, b.ack)
	}
	b.answers, b.ack = nil, nil
	return ms
}
