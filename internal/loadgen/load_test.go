package loadgen

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a small collector: it checks what comes, stores it in memory, and
// asks and breaks off as it is told.
type ledger struct {
	pb.UnimplementedIngestServer
	pb.UnimplementedLedgerServer
	t    *testing.T
	load *Load

	paces []pb.Pace // that it goes through, each for as long; the last stays
	each  time.Duration
	began time.Time
	every uint32 // live seconds that it asks for together

	mu       sync.Mutex
	breakOff int // streams that end after their first chunk
	ask      int // chunks that are asked for in full
	lose     int // chunks that are acknowledged and not kept
	twice    int // chunks that are kept twice
	links    map[string][]byte
	chunks   map[attribution.ChunkKey]int // seconds
	extra    map[string]int64             // ns
	asked    map[attribution.ChunkKey]bool
	held     int64         // agents at a time, at most
	together int           // live seconds that came together, at most
	latest   time.Duration // that a chunk came after its end
}

var errBroken = errors.New("broken off")

func (l *ledger) Stream(g grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]) error {
	m, err := g.Recv()
	if err != nil {
		return err
	}
	h := m.GetHello()
	s := &peer{ledger: l, BidiStreamingServer: g, hello: h, rosters: make(map[attribution.Fingerprint]*attribution.Roster)}
	if err := s.welcome(); err != nil {
		return err
	}
	var pacing sync.WaitGroup
	defer pacing.Wait()
	ended := make(chan struct{})
	defer close(ended)
	pacing.Go(func() { s.setThePace(ended) })
	for {
		m, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := s.take(m)
		if err != nil {
			if !errors.Is(err, errBroken) {
				l.t.Error(err)
			}
			return err
		}
		if answer != nil {
			if err := s.Send(answer); err != nil {
				return err
			}
		}
	}
}

type peer struct {
	*ledger
	grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]
	sending sync.Mutex
	pace    pb.Pace
	since   time.Time
	hello   *pb.Hello
	rosters map[attribution.Fingerprint]*attribution.Roster
	lives   wire.LiveDecoder
	parts   []*attribution.Chunk
}

func (s *peer) Send(m *pb.ToAgent) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.BidiStreamingServer.Send(m)
}

func (s *peer) take(m *pb.FromAgent) (*pb.ToAgent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.allowed(m); err != nil {
		return nil, err
	}
	switch m := m.GetMessage().(type) {
	case *pb.FromAgent_Roster:
		r, err := wire.DecodeRoster(m.Roster)
		if err == nil {
			s.rosters[r.Fingerprint()] = r
		}
		return nil, err
	case *pb.FromAgent_Live:
		return nil, s.live(m.Live)
	case *pb.FromAgent_Lives:
		s.together = max(s.together, len(m.Lives.GetSeconds()))
		for _, m := range m.Lives.GetSeconds() {
			if err := s.live(m); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case *pb.FromAgent_Closed:
		key, err := wire.ClosedKey(m.Closed, s.hello.Cluster, s.hello.Node, attribution.Boot(s.hello.Boot))
		if err != nil {
			return nil, err
		}
		var parts []*attribution.Chunk
		for _, p := range s.parts {
			if p.Key.Sequence >= key.Sequence {
				parts = append(parts, p)
			}
		}
		s.parts = nil
		if s.ask > 0 {
			s.ask--
			s.asked[key] = true
			return &pb.ToAgent{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{Boot: key.Boot[:], Sequence: int64(key.Sequence)}}}, nil
		}
		c := attribution.Join(key, int(m.Closed.Seconds), parts)
		if d, err := wire.Digest(c, c.Roster.Fingerprint()); err != nil || string(d[:]) != string(m.Closed.Digest) {
			return nil, errors.New("a chunk's seconds are not those that went live")
		}
		return s.keep(c, m.Closed.Digest, m.Closed.Previous)
	case *pb.FromAgent_Chunk:
		id, err := wire.RosterID(m.Chunk.RosterId)
		if err != nil {
			return nil, err
		}
		c, err := wire.DecodeChunk(m.Chunk, s.hello.Cluster, s.hello.Node, s.rosters[id])
		if err != nil {
			return nil, err
		}
		return s.keep(c, m.Chunk.Digest, m.Chunk.Previous)
	}
	return nil, nil // a flush
}

func (s *peer) live(m *pb.Live) error {
	head, err := s.lives.Peek(m)
	if err != nil {
		return err
	}
	c, err := s.lives.Decode(m, s.hello.Cluster, s.hello.Node, attribution.Boot(s.hello.Boot), s.rosters[head.RosterID])
	s.parts = append(s.parts, c)
	return err
}

// keep stores a chunk once, follows the chain, and acknowledges.
func (s *peer) keep(c *attribution.Chunk, digest, previous []byte) (*pb.ToAgent, error) {
	if s.breakOff > 0 {
		s.breakOff--
		return nil, errBroken
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	after := time.Since(time.Unix(int64(c.End()), 0))
	if after < sealedAfter {
		return nil, errors.New("a chunk comes before it is sealed")
	}
	s.latest = max(s.latest, after)
	if _, again := s.chunks[c.Key]; !again {
		want := s.links[c.Key.Node]
		if want == nil {
			want = attribution.FirstLink(c.Key.Boot)
		}
		if !s.asked[c.Key] && len(s.asked) == 0 && string(previous) != string(want) {
			return nil, errors.New("the chain is broken")
		}
		s.links[c.Key.Node] = attribution.Link(previous, c.Key.Sequence, digest)
		s.chunks[c.Key] = c.Seconds
		if s.lose > 0 {
			s.lose--
			s.chunks[c.Key] = 0
		}
		if s.twice > 0 {
			s.twice--
			s.extra[c.Key.Node] += int64(c.Seconds) * int64(len(c.Roster.Devices)) * attribution.WindowNanos
		}
	}
	return &pb.ToAgent{Message: &pb.ToAgent_Ack{Ack: &pb.Ack{Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence)}}}, nil
}

func (l *ledger) GetRateCard(context.Context, *pb.GetRateCardRequest) (*pb.RateCard, error) {
	return nil, status.Error(codes.NotFound, "there is none")
}

func (l *ledger) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = max(l.held, l.load.Stats().Held)
	through := make(map[string]attribution.Second)
	r := &pb.StatusResponse{}
	for k, n := range l.chunks {
		through[k.Node] = max(through[k.Node], k.Sequence+attribution.Second(n))
		r.Nodes = append(r.Nodes, &pb.NodeStatus{Cluster: k.Cluster, Node: k.Node, VisibleThrough: int64(through[k.Node])})
	}
	return r, nil
}

func (l *ledger) Report(context.Context, *pb.ReportRequest) (*pb.ReportResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sums := make(map[string]int64)
	for k, n := range l.chunks {
		sums[k.Node] += 2 * int64(n) * attribution.WindowNanos
	}
	out := &pb.ReportResponse{}
	for node, ns := range sums {
		out.Rows = append(out.Rows, &pb.ReportRow{Keys: []string{node}, Sum: &pb.BasisSum{DeviceTimeNs: strconv.FormatInt(ns+l.extra[node], 10)}})
	}
	return out, nil
}

// play has a load of five agents borne by a ledger, in virtual time.
func play(t *testing.T, o Options, l *ledger, check func(*Load, *Verdict)) {
	runtime.GC() // a pooled compressor cannot be used in another bubble
	runtime.GC()
	defer runtime.GC()
	defer runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		l.t, l.began = t, time.Now()
		l.links, l.chunks = make(map[string][]byte), make(map[attribution.ChunkKey]int)
		l.extra, l.asked = make(map[string]int64), make(map[attribution.ChunkKey]bool)
		pipe := bufconn.Listen(1 << 20)
		server := grpc.NewServer()
		pb.RegisterIngestServer(server, l)
		pb.RegisterLedgerServer(server, l)
		served := make(chan error, 1)
		go func() { served <- server.Serve(pipe) }()
		o.Address, o.Agents, o.Streams, o.Settle = "pipe", 5, 2, time.Minute
		o.Fleet = &Fleet{Cluster: "c", Devices: 2, Owners: 2, Life: 60, Seed: 1}
		o.Dial = []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		}
		load, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		l.load = load
		if err := load.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, err := load.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		check(load, v)
		if err := load.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		<-served
	})
}

func wantAll(t *testing.T, seconds int64) func(*Load, *Verdict) {
	return func(l *Load, v *Verdict) {
		t.Helper()
		s := l.Stats()
		if v.AckedSeconds != seconds || v.UnackedSeconds != 0 || len(v.Lost)+len(v.Doubled) != 0 {
			t.Errorf("%+v: want %d seconds", v, seconds)
		}
		if s.SlicesAcked != seconds*4 || s.ChunksSent != s.ChunksAcked || s.AckSamples != s.ChunksAcked || s.Rejects != 0 || s.Skipped != 0 {
			t.Errorf("counted %+v", s)
		}
	}
}

func TestLiveAndBacklogArePlayed(t *testing.T) {
	for name, o := range map[string]Options{
		"live":    {For: 95 * time.Second, Spread: 200 * time.Millisecond},
		"backlog": {Backlog: 95 * time.Second},
		"both":    {Backlog: 63 * time.Second, For: 32 * time.Second, Ramp: 10 * time.Second},
		"every 4": {For: 95 * time.Second, Spread: 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			c := &ledger{}
			if name == "every 4" {
				c.every = 4
			}
			play(t, o, c, func(l *Load, v *Verdict) {
				wantAll(t, 5*95)(l, v)
				s := l.Stats()
				if c.together != int(c.every) {
					t.Errorf("%d live seconds came together, want %d", c.together, c.every)
				}
				if s.Live < 5*int64(o.For/time.Second) || (s.FreshOnes > 0) != (o.For > 0) || s.Resends+s.Ends != 0 {
					t.Errorf("counted %+v", s)
				}
			})
		})
	}
}

// Streams that break and chunks that are asked for cost nothing but work.
func TestLaw4BrokenStreamsLoseNothing(t *testing.T) {
	play(t, Options{Backlog: 50 * time.Second, For: 60 * time.Second}, &ledger{breakOff: 7, ask: 6}, func(l *Load, v *Verdict) {
		wantAll(t, 5*110)(l, v)
		if s := l.Stats(); s.Ends != 7 || s.Resends < 13 {
			t.Errorf("counted %+v", s)
		}
	})
}

// A ledger that acknowledges what it does not keep, or keeps it twice, is found
// out.
func TestLaw4WhatIsLostOrDoubledIsFound(t *testing.T) {
	play(t, Options{Backlog: 50 * time.Second}, &ledger{lose: 1}, func(_ *Load, v *Verdict) {
		if len(v.Lost) != 1 || len(v.Doubled) != 0 {
			t.Errorf("%+v", v)
		}
	})
	play(t, Options{Backlog: 50 * time.Second}, &ledger{twice: 1}, func(_ *Load, v *Verdict) {
		if len(v.Lost) != 0 || len(v.Doubled) != 1 {
			t.Errorf("%+v", v)
		}
	})
}

func TestHistogram(t *testing.T) {
	var h histogram
	if _, n := h.quantile(50); n != 0 {
		t.Error("an empty one has samples")
	}
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	for percent, want := range map[int64]time.Duration{1: 10 * time.Millisecond, 50: 500 * time.Millisecond, 99: 990 * time.Millisecond} {
		if got, n := h.quantile(percent); n != 1000 || got < want || got > want+want/8+time.Microsecond {
			t.Errorf("p%d of %d is %v: want %v", percent, n, got, want)
		}
	}
	h = histogram{}
	h.add(0)
	h.add(1 << 62)
	if got, _ := h.quantile(100); got < 24*time.Hour {
		t.Errorf("the longest is %v", got)
	}
}
