package uplink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const start = attribution.Second(1_700_000_000)

var boot = attribution.Boot{4, 2}

// collector is a small one that keeps the protocol: it stores chunks whose
// roster or live windows it has seen on the stream, and acknowledges them.
// What it is told to do wrong, it does.
type collector struct {
	pb.UnimplementedIngestServer

	mu       sync.Mutex
	streams  int
	began    []time.Time
	stored   map[int64][]byte // bodies; nil where announced
	order    []int64          // every chunk as it came, announced or not
	lives    int
	alone    int   // of them, told by no base
	together []int // of them, in one message
	flushes  int
	pending  int // chunks in a row not acknowledged
	most     int
	errs     []error
	asked    map[int64]bool // chunks asked for again

	storedThrough int64
	cards         []*pb.RateCard
	pace          pb.Pace                                                   // in Welcome
	every         uint32                                                    // in Welcome
	now           *voice                                                    // the newest stream
	silent        bool                                                      // no Welcome
	keep          bool                                                      // acknowledge on Flush only
	onChunk       func(s pb.Ingest_StreamServer, c *pb.Chunk) (bool, error) // true: handled
	onHello       func(s pb.Ingest_StreamServer)                            // after Welcome
}

// voice is a stream on which any goroutine may speak.
type voice struct {
	pb.Ingest_StreamServer
	mu sync.Mutex
}

func (v *voice) Send(m *pb.ToAgent) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.Ingest_StreamServer.Send(m)
}

// say says something on the newest stream.
func (c *collector) say(m *pb.ToAgent) {
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	if err := s.Send(m); err != nil {
		c.fail("%v", err)
	}
}

func (c *collector) setPace(p pb.Pace) { c.say(&pb.ToAgent{Message: &pb.ToAgent_Pace{Pace: p}}) }

func (c *collector) Stream(stream pb.Ingest_StreamServer) error {
	s := &voice{Ingest_StreamServer: stream}
	m, err := s.Recv()
	if err != nil {
		return err
	}
	if h := m.GetHello(); h.GetNode() != "n" || !bytes.Equal(h.GetBoot(), boot[:]) {
		c.fail("hello %v", m)
	}
	c.mu.Lock()
	c.streams++
	c.began = append(c.began, time.Now())
	c.pending, c.now = 0, s
	welcome := &pb.Welcome{Version: "test", StoredThrough: c.storedThrough, Pace: c.pace, LiveEvery: c.every}
	c.mu.Unlock()
	if c.silent {
		<-s.Context().Done()
		return s.Context().Err()
	}
	err = s.Send(&pb.ToAgent{Message: &pb.ToAgent_Welcome{Welcome: welcome}})
	for _, card := range c.cards {
		err = errors.Join(err, s.Send(&pb.ToAgent{Message: &pb.ToAgent_RateCard{RateCard: card}}))
	}
	if c.onHello != nil {
		c.onHello(s)
	}
	seen := seen{rosters: map[attribution.Fingerprint]*attribution.Roster{}, lives: map[int64]bool{}}
	for err == nil {
		if m, err = s.Recv(); err != nil {
			return err
		}
		err = c.take(s, m, &seen)
	}
	return err
}

// seen is what came on one stream.
type seen struct {
	rosters map[attribution.Fingerprint]*attribution.Roster
	decoder wire.LiveDecoder
	lives   map[int64]bool
	newest  int64
}

func (c *collector) take(s pb.Ingest_StreamServer, m *pb.FromAgent, seen *seen) error {
	switch x := m.GetMessage().(type) {
	case *pb.FromAgent_Roster:
		r, err := wire.DecodeRoster(x.Roster)
		if err != nil {
			c.fail("%v", err)
			return err
		}
		seen.rosters[r.Fingerprint()] = r
	case *pb.FromAgent_Live:
		c.live(x.Live, seen)
	case *pb.FromAgent_Lives:
		c.mu.Lock()
		c.together = append(c.together, len(x.Lives.GetSeconds()))
		c.mu.Unlock()
		for _, m := range x.Lives.GetSeconds() {
			c.live(m, seen)
		}
	case *pb.FromAgent_Flush:
		c.mu.Lock()
		c.flushes++
		c.mu.Unlock()
		if c.keep {
			return c.ack(s, seen.newest)
		}
	case *pb.FromAgent_Chunk:
		if seen.rosters[attribution.Fingerprint(x.Chunk.GetRosterId())] == nil {
			c.fail("chunk %d before its roster", x.Chunk.GetSequence())
		}
		return c.chunk(s, x.Chunk, seen)
	case *pb.FromAgent_Closed:
		for q := x.Closed.GetSequence(); q < x.Closed.GetSequence()+int64(x.Closed.GetSeconds()); q++ {
			if !seen.lives[q] {
				c.fail("chunk %d announced without second %d", x.Closed.GetSequence(), q)
			}
		}
		return c.chunk(s, &pb.Chunk{Sequence: x.Closed.GetSequence(), Seconds: x.Closed.GetSeconds()}, seen)
	default:
		c.fail("message %T", x)
	}
	return nil
}

func (c *collector) live(m *pb.Live, seen *seen) {
	c.mu.Lock()
	c.lives++
	if m.GetBase() == 0 {
		c.alone++
	}
	c.mu.Unlock()
	head, err := seen.decoder.Peek(m)
	if err == nil && seen.rosters[head.RosterID] == nil {
		err = errors.New("came before its roster")
	}
	if err != nil {
		c.fail("live second: %v", err)
		return
	}
	second, err := seen.decoder.Decode(m, "", "n", boot, seen.rosters[head.RosterID])
	if err != nil {
		c.fail("%v", err)
		return
	}
	if want := second.Key.Sequence; second.Windows[0].Energy != int64(want)%1000 {
		c.fail("live second %d arrived with energy %d", want, second.Windows[0].Energy)
	}
	seen.lives[int64(second.Key.Sequence)] = true
}

func (c *collector) chunk(s pb.Ingest_StreamServer, m *pb.Chunk, seen *seen) error {
	c.mu.Lock()
	c.order = append(c.order, m.GetSequence())
	c.pending++
	c.most = max(c.most, c.pending)
	c.mu.Unlock()
	seen.newest = max(seen.newest, m.GetSequence())
	if c.onChunk != nil {
		if handled, err := c.onChunk(s, m); handled || err != nil {
			return err
		}
	}
	c.store(m)
	if c.keep {
		return nil
	}
	return c.ack(s, seen.newest)
}

func (c *collector) store(m *pb.Chunk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stored[m.GetSequence()] = m.GetBody()
}

func (c *collector) ack(s pb.Ingest_StreamServer, sequence int64) error {
	c.mu.Lock()
	c.pending = 0
	c.mu.Unlock()
	for q := range c.asked { // what was asked for again is not here yet, whatever came after it
		sequence = min(sequence, q-10)
	}
	return s.Send(ackOf(boot, sequence))
}

func ackOf(b attribution.Boot, sequence int64) *pb.ToAgent {
	return &pb.ToAgent{Message: &pb.ToAgent_Ack{Ack: &pb.Ack{Boot: b[:], Sequence: sequence}}}
}

func (c *collector) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// world is a spool, its uplink and a collector.
type world struct {
	t     *testing.T
	sp    *spool.Spool
	up    *uplink.Uplink
	col   *collector
	next  attribution.Second
	close []func()
}

// newWorld starts everything but the uplink; run starts that.
func newWorld(t *testing.T, col *collector, change func(*uplink.Options)) *world {
	t.Helper()
	sp, err := spool.Open(memfs.New(), "/s", spool.Options{Boot: boot})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, sp: sp, col: col, next: start}
	col.stored = map[int64][]byte{}
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}))
	pb.RegisterIngestServer(srv, col)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///collector", append(uplink.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	o := uplink.Options{Client: pb.NewIngestClient(conn), Node: "n", Spool: sp, Rand: func() float64 { return 0.5 }}
	if change != nil {
		change(&o)
	}
	if w.up, err = uplink.New(o); err != nil {
		t.Fatal(err)
	}
	w.close = append(w.close, func() {
		_ = conn.Close()
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
		for _, err := range col.errs {
			t.Error(err)
		}
	})
	return w
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.up.Run(ctx) }()
	w.close = append(w.close, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) end() {
	for _, f := range slices.Backward(w.close) {
		f()
	}
}

// roster is one of many.
func roster(n byte) *attribution.Roster {
	return &attribution.Roster{
		Devices: []attribution.Device{{ID: "GPU", Node: "n", Sensors: attribution.SensorEnergy}},
		Owners:  []attribution.Owner{{}},
		Methods: []string{fmt.Sprintf("method %d", n)},
	}
}

func rosterAt(s attribution.Second) (r *attribution.Roster, id attribution.Fingerprint, encoding []byte) {
	r = roster(byte(s / 600 % 20))
	encoding, _ = proto.Marshal(wire.EncodeRoster(r))
	return r, r.Fingerprint(), encoding
}

func body(sequence attribution.Second) []byte { return fmt.Appendf(nil, "body of %d", sequence) }

// append adds chunks of ten seconds and syncs.
func (w *world) append(n int) {
	w.t.Helper()
	for range n {
		_, id, r := rosterAt(w.next)
		b, err := proto.Marshal(&pb.Chunk{Boot: boot[:], Sequence: int64(w.next), Seconds: 10, RosterId: id[:], Body: body(w.next)})
		if err == nil {
			err = w.sp.AppendChunk(spool.Chunk{Sequence: w.next, Seconds: 10, RosterID: id, Body: b}, r)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.next += 10
	}
	if err := w.sp.Sync(); err != nil {
		w.t.Fatal(err)
	}
}

// live offers one second.
func (w *world) live(s attribution.Second) {
	r, id, _ := rosterAt(s)
	second := attribution.BuildChunk(attribution.ChunkKey{Node: "n", Boot: boot, Sequence: s}, 1, r.Facts(), []attribution.DeviceWindow{{
		Second: s, Energy: int64(s) % 1000, Slices: []attribution.Slice{{Basis: attribution.Unallocated, Time: attribution.WindowNanos}},
	}}, nil)
	w.up.Live(second, id)
	second.Windows[0].Slices[0].Time = -1 // the caller's memory is its own again
}

func (w *world) drain() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Minute)
	defer cancel()
	if err := w.up.Drain(ctx); err != nil {
		w.t.Fatalf("%v: %+v", err, w.up.Status())
	}
}

// complete checks that the collector has every chunk, with its body where it
// came in full.
func (w *world) complete(announced bool) {
	w.t.Helper()
	w.col.mu.Lock()
	defer w.col.mu.Unlock()
	for s := start; s < w.next; s += 10 {
		b, ok := w.col.stored[int64(s)]
		if !ok || (!announced && !bytes.Equal(b, body(s))) {
			w.t.Fatalf("chunk %d is there: %v, as %q", s, ok, b)
		}
	}
	if st := w.sp.Stats(); st.UnackedChunks != 0 || st.Acked != w.next-10 {
		w.t.Fatalf("%+v", st)
	}
}

func chunkOf(s attribution.Second, id attribution.Fingerprint, body []byte) spool.Chunk {
	return spool.Chunk{Sequence: s, Seconds: 10, RosterID: id, Body: body}
}

// Stream fails while the collector is away.
func (f flaky) Stream(ctx context.Context, opts ...grpc.CallOption) (grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent], error) {
	if f.away() {
		return nil, errors.New("connection refused")
	}
	return f.IngestClient.Stream(ctx, opts...)
}
