// Package push takes counts from servers that nobody can read, and from
// training processes: by gpuledger's own service, and as OpenTelemetry metrics.
//
// # Who pushes
//
// Nobody says who he is. Over a unix socket the kernel tells the process at the
// other end, and the table of processes whose it is. Over TCP the peer's
// address is a pod's; on the host's network, where many have the same, nobody
// is believed. So a pod can push for itself only.
//
// # Exactly once
//
//	request ─▶ book ─▶ state (file) ─▶ tallies ─▶ second sealed, durable ─▶ answer
//
// What is taken is counted in the second in which it is written down, and is
// answered when that second is durable. A client that gets no answer sends the
// same again, with the same sequence; the book knows the last sequence of each,
// as of the last durable second, also after the agent was killed. OpenTelemetry
// has no sequences: cumulative points are read like a page, and a delta that
// ends no later than the last of its series has been counted.
//
// # Bounds
//
// Connections, streams, requests under way, bytes of a request, requests a
// second of each pusher, clients and series that are remembered: each has a
// limit, and what is beyond it is refused and counted.
package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/bounded"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Owners tells who is at the other end of a connection; nil is nobody that can
// be counted for. Any goroutine may ask.
type Owners interface {
	// Process is who answers for a process, and when it began, in a unit of its
	// own: what has its pid later began at another time.
	Process(pid uint32) (owner *attribution.Owner, start uint64)
	// Address is a container of the pod that has an address; "" is the one that
	// holds a device, else the first.
	Address(ip netip.Addr, container string) *attribution.Owner
	// Known reports whether the node's pods have been told: before that, who is
	// nobody may be somebody yet.
	Known() bool
}

// Options say where to listen, and for whom. All but Log, Tenant and Tier are
// required.
type Options struct {
	Node   string
	Listen string // unix:///path, or host:port
	Owners Owners
	Now    func() int64 // the timeline, Unix ns
	// Unsealed is the first second that is not sealed, Durable the first that a
	// crash now would undo, and From the first that did not outlast the last run.
	Unsealed, Durable func() attribution.Second
	From              attribution.Second
	File              string // what is remembered; its directory is there
	// Tenant and Tier are the attributes of OpenTelemetry metrics that name
	// them; "" is none.
	Tenant, Tier string
	Log          *slog.Logger // nil is none
}

// Bounds.
const (
	maxConnections = 64
	perGroup       = 16 // connections of a pod, or of a user of the machine
	maxStreams     = 2  // of a connection
	maxRequest     = 512 << 10
	maxParts       = 1 << 15 // of a request, see package bounded
	maxWaiting     = 512     // requests that are not answered yet
	maxClients     = 1024    // and series of deltas
	perPusher      = 256     // of them, of one pusher
	maxReadings    = 256     // metrics of resources that are cumulative
	perReader      = 64      // of them, of one pusher
	perSecond      = 10      // requests of one pusher, and as many again at once
	maxPushers     = 512
	// refusePause is for how long an answer waits that is a refusal, so that
	// whoever does not mind refusals costs little.
	refusePause = 200 * time.Millisecond
)

// Server is a [sampler.Live] of tallies that were pushed.
type Server struct {
	pb.UnimplementedPushServer
	o       Options
	log     *slog.Logger
	book    *book
	entries chan *entry
	rates   rates
	counts  counts
	hist    *attribution.Histogram
	ended   chan struct{} // closed when Run is to end
}

// New makes a server that goes on where the last one was. It listens when it
// runs.
func New(o Options) (*Server, error) {
	if o.Owners == nil || o.Now == nil || o.Unsealed == nil || o.Durable == nil || o.File == "" || o.Listen == "" {
		return nil, errors.New("push: an address, owners, a timeline and a file are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Log, entries: make(chan *entry, maxWaiting), hist: attribution.NewHistogram(), rates: rates{of: map[string]*rate{}}, ended: make(chan struct{})}
	s.book = openBook(&s.o, &s.counts)
	return s, nil
}

// Run implements [sampler.Live]. It ends where it can't listen.
func (s *Server) Run(ctx context.Context, producer func() sampler.Producer) error {
	l, err := listen(ctx, s.o.Listen, s.o.Owners, &s.counts)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest), grpc.ForceServerCodecV2(bounded.Codec(maxParts)), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(5*time.Second),
		grpc.WaitForHandlers(true), grpc.MaxHeaderListSize(16<<10), grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: time.Minute, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	pb.RegisterPushServer(server, s)
	collectorpb.RegisterMetricsServiceServer(server, &metricsService{server: s})
	var wg sync.WaitGroup
	var served error
	ctx, cancel := context.WithCancel(ctx)
	wg.Go(func() {
		defer cancel()
		served = server.Serve(l)
	})
	s.book.run(ctx, producer, s.entries)
	close(s.ended)
	server.Stop()
	wg.Wait()
	if served != nil && !errors.Is(served, grpc.ErrServerStopped) && !errors.Is(served, net.ErrClosed) {
		return fmt.Errorf("push: %w", served)
	}
	return nil
}

// Record implements the service.
func (s *Server) Record(ctx context.Context, q *pb.RecordRequest) (*pb.RecordReply, error) {
	who, err := s.pusher(ctx, q.GetContainer())
	if err != nil {
		return nil, err
	}
	e, err := s.entryOf(q)
	if err != nil {
		s.counts.unfit.Add(1)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	e.owner, e.group = who.owner, groupOf(who.name)
	e.client = who.name + "/" + q.GetClient()
	if err := s.enter(ctx, e); err != nil {
		return nil, err
	}
	return &pb.RecordReply{Duplicate: e.duplicate}, nil
}

// pusher is who is at the other end, where he may push now.
func (s *Server) pusher(ctx context.Context, container string) (pusher, error) {
	who := s.pusherOf(ctx, container)
	if who.owner == nil && !s.o.Owners.Known() {
		s.counts.early.Add(1)
		return pusher{}, s.refuse(status.Error(codes.Unavailable, "the node's pods are not known yet: try again"))
	}
	if who.owner == nil {
		s.counts.strangers.Add(1)
		return pusher{}, s.refuse(status.Error(codes.PermissionDenied, "who pushes is not known: over TCP a pod of this node with an address of its own "+
			"(and the container that it names), over the socket a process that this agent sees"))
	}
	if !s.rates.allow(who.name, time.Now()) {
		s.counts.tooMany.Add(1)
		return pusher{}, s.refuse(status.Errorf(codes.ResourceExhausted, "more than %d requests a second: gather more in each", perSecond))
	}
	return who, nil
}

// refuse gives an error after a while. A request that is cancelled meanwhile
// keeps its place among those of its connection.
func (s *Server) refuse(err error) error {
	pause := time.NewTimer(refusePause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-s.ended:
	}
	return err
}

// enter has the book take an entry, and waits until it is durable.
func (s *Server) enter(ctx context.Context, e *entry) error {
	e.done = make(chan error, 1)
	select {
	case s.entries <- e:
	default:
		s.counts.tooMany.Add(1)
		return status.Error(codes.ResourceExhausted, "too many requests wait to be durable: try again")
	}
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done(): // it may be counted: the client sends the same again
		return status.FromContextError(ctx.Err()).Err()
	}
}
