package simulation

import (
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Bounds of what is on its way, as gRPC's flow control has them.
const (
	windowMessages = 64
	windowBytes    = 256 << 10
	// recorded is how many messages of a stream are kept to be sent again.
	recorded = 400
	// A peer that has fallen silent is noticed by keepalive.
	clientKeepalive = 30 * time.Second
	serverKeepalive = 50 * time.Second
)

var (
	errReset   = status.Error(codes.Unavailable, "connection reset")
	errRefused = status.Error(codes.Unavailable, "connection refused")
	errTimeout = status.Error(codes.Unavailable, "keepalive timeout")
)

// link is a node's way to the collectors: a pb.IngestClient whose streams the
// network treats badly. Of several collectors a stream goes to the one that the
// node prefers at the time, or to the next that listens.
type link struct {
	w    *world
	node *node

	mu     sync.Mutex
	prefer int // among the world's collectors
	r      *rand.Rand
	base   time.Duration
	down   bool // refused
	frozen bool // swallowed
	conns  []*conn
	old    [][]byte // of the newest stream that ended
	wg     sync.WaitGroup
}

func newLink(w *world, n *node, r *rand.Rand) *link {
	return &link{w: w, node: n, prefer: len(w.nodes) % len(w.at), r: r, base: time.Duration(50_000 + r.Int64N(40_000_000))}
}

func (l *link) delay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.base + time.Duration(l.r.Int64N(int64(l.base)))
	if l.r.IntN(200) == 0 {
		d += time.Duration(l.r.Int64N(int64(2 * time.Second)))
	}
	return d
}

// Stream implements [pb.IngestClient].
func (l *link) Stream(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent], error) {
	timer := time.NewTimer(l.delay())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	l.mu.Lock()
	refused := l.down
	l.mu.Unlock()
	to, server := l.listening()
	if refused || server == nil {
		return nil, errRefused
	}
	c := l.open(to, server)
	stop := context.AfterFunc(ctx, func() { l.cancelled(c) })
	return &clientSide{ctx: ctx, l: l, c: c, stop: stop}, nil
}

// cancelled tells the server that the client is gone, unless nothing arrives.
func (l *link) cancelled(c *conn) {
	l.mu.Lock()
	frozen := l.frozen
	l.mu.Unlock()
	c.fail(true, !frozen, status.Error(codes.Canceled, "the agent is gone"))
}

// listening is the collector that a stream goes to now, and its server; nil
// where none listens.
func (l *link) listening() (*collector, pb.IngestServer) {
	l.mu.Lock()
	first := l.prefer
	l.mu.Unlock()
	for i := range l.w.at {
		c := l.w.at[(first+i)%len(l.w.at)]
		if s := c.serving(); s != nil {
			return c, s
		}
	}
	return nil, nil
}

// newest is the collector that the newest stream goes to, nil where there is none.
func (l *link) newest() *collector {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) == 0 {
		return nil
	}
	return l.conns[len(l.conns)-1].to
}

// move has the node prefer the next collector from its next stream on. The one
// that runs is left to be cut, or to end by itself.
func (l *link) move(by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prefer = (l.prefer + by) % len(l.w.at)
}

// open begins a stream at a server.
func (l *link) open(to *collector, s pb.IngestServer) *conn {
	c := &conn{up: newPipe(l.delay), down: newPipe(l.delay), to: to}
	c.server, c.hangUp = context.WithCancel(context.Background())
	l.mu.Lock()
	l.conns = append(l.conns, c)
	frozen := l.frozen
	l.mu.Unlock()
	if frozen {
		c.freeze(true)
	}
	l.wg.Add(1)
	to.streams.Add(1)
	go func() {
		defer l.wg.Done()
		defer to.streams.Done()
		err := s.Stream(&serverSide{c: c})
		c.hangUp()
		c.up.set(func() { c.up.broken = errReset })
		if err == nil {
			err = io.EOF
		}
		c.down.set(func() { c.down.ended = err })
		l.closed(c)
	}()
	return c
}

// closed forgets a stream, but for what it sent.
func (l *link) closed(c *conn) {
	c.mu.Lock()
	for _, t := range c.stall {
		t.Stop()
	}
	c.stall = nil
	sent := c.sent
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = slices.DeleteFunc(l.conns, func(x *conn) bool { return x == c })
	if len(sent) > 2 {
		l.old = sent
	}
}

// cut ends all streams at once; what was on its way is lost.
func (l *link) cut() { l.cutFrom(nil) }

// cutFrom ends all streams to a collector, or to all: nil.
func (l *link) cutFrom(to *collector) {
	l.mu.Lock()
	conns := slices.Clone(l.conns)
	l.mu.Unlock()
	for _, c := range conns {
		if to == nil || c.to == to {
			c.fail(true, true, errReset)
		}
	}
}

// forsake has the agent see its streams end, and the collectors not: to them
// they are silent, until keepalive notices.
func (l *link) forsake() {
	l.mu.Lock()
	conns := slices.Clone(l.conns)
	l.mu.Unlock()
	for _, c := range conns {
		c.freeze(true)
		c.fail(true, false, errReset)
	}
}

// refuse has no stream begin, or lets it again.
func (l *link) refuse(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = on
}

// freeze swallows everything, both ways, or lets it through again.
func (l *link) freeze(on bool) {
	l.mu.Lock()
	l.frozen = on
	conns := slices.Clone(l.conns)
	l.mu.Unlock()
	for _, c := range conns {
		c.freeze(on)
	}
}

// ghost sends what an earlier stream sent once more, as a stream of its own, and
// holds it for a while.
func (l *link) ghost(hold time.Duration) bool {
	l.mu.Lock()
	old := l.old
	for _, c := range l.conns {
		c.mu.Lock()
		if len(c.sent) > 2 {
			old = slices.Clone(c.sent)
		}
		c.mu.Unlock()
	}
	l.mu.Unlock()
	to, server := l.listening()
	if len(old) == 0 || server == nil {
		return false
	}
	c := l.open(to, server)
	l.wg.Go(func() {
		defer c.hangUp()
		timer := time.NewTimer(hold)
		defer timer.Stop()
		for _, body := range old {
			if c.up.send(c.server, body) != nil {
				return
			}
		}
		select {
		case <-timer.C:
		case <-c.server.Done():
		}
	})
	return true
}

// clientSide is the agent's end.
type clientSide struct {
	grpc.ClientStream
	ctx  context.Context //nolint:containedctx // it is the stream's own
	l    *link
	c    *conn
	stop func() bool

	shown wire.LiveDecoder
}

func (s *clientSide) Context() context.Context     { return s.ctx }
func (s *clientSide) Header() (metadata.MD, error) { return nil, nil } //nolint:nilnil // as gRPC has it
func (s *clientSide) Send(m *pb.FromAgent) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	s.show(m)
	s.c.mu.Lock()
	if len(s.c.sent) < recorded {
		s.c.sent = append(s.c.sent, body)
	}
	s.c.mu.Unlock()
	return s.c.up.send(s.ctx, body)
}

// show notes which seconds go out live.
func (s *clientSide) show(m *pb.FromAgent) {
	lives := m.GetLives().GetSeconds()
	if live := m.GetLive(); live != nil {
		lives = []*pb.Live{live}
	}
	for _, live := range lives {
		if head, err := s.shown.Peek(live); err == nil {
			s.l.node.log.shown(head.Second)
		}
	}
}

func (s *clientSide) CloseSend() error {
	s.c.up.set(func() { s.c.up.ended = io.EOF })
	return nil
}

func (s *clientSide) Recv() (*pb.ToAgent, error) {
	body, err := s.c.down.recv(s.ctx)
	if err != nil {
		s.stop()
		return nil, err
	}
	m := &pb.ToAgent{}
	err = proto.Unmarshal(body, m)
	if card := m.GetRateCard(); card != nil {
		s.l.node.log.given(card.GetRevision())
	}
	return m, err
}

// serverSide is the collector's end.
type serverSide struct {
	grpc.ServerStream
	c *conn
}

func (s *serverSide) Context() context.Context     { return s.c.server }
func (s *serverSide) SendHeader(metadata.MD) error { return nil }
func (s *serverSide) SetHeader(metadata.MD) error  { return nil }

func (s *serverSide) Send(m *pb.ToAgent) error {
	body, err := proto.Marshal(m)
	if err == nil && s.c.down.send(s.c.server, body) != nil {
		err = errReset
	}
	return err
}

func (s *serverSide) Recv() (*pb.FromAgent, error) {
	body, err := s.c.up.recv(s.c.server)
	if err != nil {
		return nil, err
	}
	m := &pb.FromAgent{}
	return m, proto.Unmarshal(body, m)
}
