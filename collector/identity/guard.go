package identity

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// AnyCluster is the cluster of those who may write to any.
const AnyCluster = "*"

// Identity is the node that a caller has proved to be on.
type Identity struct {
	Cluster string // or AnyCluster
	Node    string
	By      string    // what proved it: certificate or token
	Until   time.Time // when that ends
}

// Options say who is let in: whom Certificates or Tokens identify. One of the
// two may be nil.
type Options struct {
	Certificates *Certificates
	Tokens       *Tokens
	// Clock is the wall clock. Default: time.Now.
	Clock func() time.Time
	// Log is told of those who are refused. Default: nobody.
	Log *slog.Logger
}

// Stats counts streams since the start.
type Stats struct {
	Unidentified int64 // refused: nobody knows who it is
	WrongNode    int64 // refused: said to be another than it is
	Unanswered   int64 // refused: the API server could not be asked
	Unsaid       int64 // refused: too many of its streams have not said hello
	Ended        int64 // ended with their certificate or token
}

// Guard is an Ingest service before another, which sees only streams of nodes
// that are who they say.
type Guard struct {
	pb.UnimplementedIngestServer
	next pb.IngestServer
	o    Options

	unidentified, wrongNode, unanswered, tooMany, ended atomic.Int64

	mu     sync.Mutex
	logged time.Time
	silent int            // refusals that were not logged since
	unsaid map[string]int // streams of a node that have not said hello
}

// mostUnsaid bounds the streams of one node that have not said hello. Each may hold a
// message that is as large as may be and does not end.
const mostUnsaid = 8

// New puts a guard before a service.
func New(next pb.IngestServer, o Options) *Guard {
	if o.Certificates == nil && o.Tokens == nil {
		panic("BUG: a guard that can let in nobody")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Guard{next: next, o: o, unsaid: map[string]int{}}
}

// Stats is the counts so far.
func (g *Guard) Stats() Stats {
	return Stats{
		Unidentified: g.unidentified.Load(), WrongNode: g.wrongNode.Load(), Unanswered: g.unanswered.Load(), Unsaid: g.tooMany.Load(), Ended: g.ended.Load(),
	}
}

// errEnded is Canceled, which agents know for no trouble: they begin anew.
var errEnded = status.Error(codes.Canceled, "the certificate or token that this stream began with has expired: connect again with a new one")

// Stream implements the service.
func (g *Guard) Stream(s grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]) error {
	id, err := g.identify(s.Context())
	if err != nil {
		g.refused(s.Context(), err)
		return err
	}
	left := id.Until.Sub(g.o.Clock())
	if left <= 0 {
		err := status.Errorf(codes.Unauthenticated, "the %s of node %s has expired", id.By, id.Node)
		g.refused(s.Context(), err)
		return err
	}
	said, err := g.begins(&id)
	if err != nil {
		g.tooMany.Add(1)
		g.tell(s.Context(), err)
		return err
	}
	defer said()
	ctx, cancel := context.WithTimeoutCause(s.Context(), left, errEnded)
	defer cancel()
	err = g.next.Stream(&stream{BidiStreamingServer: s, ctx: ctx, guard: g, id: id, said: said})
	if context.Cause(ctx) == errEnded { //nolint:errorlint // it is this very one
		g.ended.Add(1)
		return errEnded
	}
	return err
}

// stream is one of which the first message must be its node's hello.
type stream struct {
	grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]
	ctx   context.Context //nolint:containedctx // a stream has its context
	guard *Guard
	id    Identity
	said  func() // something
	seen  bool   // by the one goroutine that receives
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*pb.FromAgent, error) {
	m, err := s.BidiStreamingServer.Recv()
	if err != nil || s.seen {
		return m, err
	}
	s.seen = true
	s.said()
	// What is no hello is refused behind the guard, too.
	h := m.GetHello()
	if h == nil || (h.GetNode() == s.id.Node && (s.id.Cluster == AnyCluster || h.GetCluster() == s.id.Cluster)) {
		return m, nil
	}
	err = status.Errorf(codes.PermissionDenied, "the %s is node %q's of cluster %q: it can't write for node %q of cluster %q\n"+
		"hint: the agent's settings cluster and node must be what it is known by (ingest_access of the collector)",
		s.id.By, s.id.Node, s.id.Cluster, short(h.GetNode()), short(h.GetCluster()))
	s.guard.refused(s.ctx, err)
	return nil, err
}

// begins counts a stream until it has said something, or ends.
func (g *Guard) begins(id *Identity) (said func(), err error) {
	name := id.Cluster + "/" + id.Node
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unsaid[name] >= mostUnsaid {
		return nil, status.Errorf(codes.ResourceExhausted, "%d streams of node %q have not said hello: end them", mostUnsaid, id.Node)
	}
	g.unsaid[name]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.unsaid[name]--; g.unsaid[name] == 0 {
			delete(g.unsaid, name)
		}
	}), nil
}

// identify finds out who is at the other end.
func (g *Guard) identify(ctx context.Context) (Identity, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get("authorization"); len(values) > 0 && g.o.Tokens != nil {
		scheme, token, ok := strings.Cut(values[0], " ")
		if len(values) > 1 || !ok || !strings.EqualFold(scheme, "bearer") {
			return Identity{}, status.Error(codes.Unauthenticated, "authorization: want one bearer token")
		}
		return g.o.Tokens.identify(ctx, token, address(ctx), g.o.Clock())
	}
	if p, ok := peer.FromContext(ctx); ok && g.o.Certificates != nil {
		if with, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(with.State.VerifiedChains) > 0 {
			return g.o.Certificates.identify(with.State.PeerCertificates[0])
		}
	}
	return Identity{}, status.Error(codes.Unauthenticated, "who sends is not known: "+g.wanted())
}

// wanted says what would do.
func (g *Guard) wanted() string {
	var ways []string
	if g.o.Certificates != nil {
		ways = append(ways, "a client certificate (collector.cert_file of the agent)")
	}
	if g.o.Tokens != nil {
		ways = append(ways, "a service account's token (collector.token_file of the agent)")
	}
	return "want " + strings.Join(ways, " or ")
}

// address is the peer's, without its port; the zero value where it has none.
func address(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	if a, ok := p.Addr.(*net.TCPAddr); ok {
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap()
	}
	return netip.Addr{}
}

// refused counts a refusal and tells of it.
func (g *Guard) refused(ctx context.Context, err error) {
	switch status.Code(err) {
	case codes.PermissionDenied:
		g.wrongNode.Add(1)
	case codes.Unavailable:
		g.unanswered.Add(1)
	default:
		g.unidentified.Add(1)
	}
	g.tell(ctx, err)
}

// tell logs a refusal: one a second, and how many were not.
func (g *Guard) tell(ctx context.Context, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.o.Clock()
	if since := now.Sub(g.logged); since >= 0 && since < time.Second {
		g.silent++
		return
	}
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	g.o.Log.Warn("an agent was refused", "from", from, "error", status.Convert(err).Message(), "refused_silently_before", g.silent)
	g.logged, g.silent = now, 0
}

// short bounds what is repeated of what a stranger says.
func short(s string) string {
	if len(s) <= 64 {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:64], ""), len(s))
}
