package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a collector that keeps chunks in memory, acknowledges them at
// once, and insists that a chunk that comes again is the same.
type ledger struct {
	pb.UnimplementedIngestServer
	t testing.TB

	mu      sync.Mutex
	nodes   map[string]map[int64]*attribution.Chunk // by node and sequence
	digests map[string][]byte                       // by node/sequence
	card    *pb.RateCard
	live    int
	closed  int
	flushes int
	broken  []string
	gate    chan struct{} // while it is open, chunks wait to be taken
	hold    bool          // acknowledge when a flush asks for it, not before
}

func newLedger(t testing.TB) *ledger {
	return &ledger{
		t: t, nodes: map[string]map[int64]*attribution.Chunk{}, digests: map[string][]byte{},
		card: &pb.RateCard{Revision: 1, Currency: "USD", Policy: "sm", Prices: []*pb.PriceRule{{Model: "*", NanoPerDeviceHour: 2_500_000_000}}},
	}
}

func (l *ledger) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = append(l.broken, fmt.Sprintf(format, args...))
}

// check fails the test if the agent ever did something wrong.
func (l *ledger) check() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.broken {
		l.t.Error(b)
	}
}

func (l *ledger) Stream(s grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	l.mu.Lock()
	card, through := l.card, int64(0)
	for _, c := range l.nodes[hello.GetNode()] {
		through = max(through, int64(c.End()))
	}
	l.mu.Unlock()
	out := []*pb.ToAgent{{Message: &pb.ToAgent_Welcome{Welcome: &pb.Welcome{Version: "test", StoredThrough: through}}}}
	if card != nil {
		out = append(out, &pb.ToAgent{Message: &pb.ToAgent_RateCard{RateCard: card}})
	}
	for _, m := range out {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	rosters := map[attribution.Fingerprint]*attribution.Roster{}
	missing := map[int64]bool{} // announced chunks that have been asked for
	var newest int64
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		var answer *pb.ToAgent
		switch x := m.GetMessage().(type) {
		case *pb.FromAgent_Roster:
			r, err := wire.DecodeRoster(x.Roster)
			if err != nil {
				l.complain("roster: %v", err)
				continue
			}
			rosters[r.Fingerprint()] = r
		case *pb.FromAgent_Live:
			l.mu.Lock()
			l.live++
			l.mu.Unlock()
		case *pb.FromAgent_Chunk:
			if l.gate != nil {
				<-l.gate
			}
			l.take(hello, x.Chunk, rosters)
			delete(missing, x.Chunk.GetSequence())
			newest = max(newest, x.Chunk.GetSequence())
			ack := newest
			for q := range missing {
				ack = min(ack, q-1)
			}
			if !l.hold {
				answer = &pb.ToAgent{Message: &pb.ToAgent_Ack{Ack: &pb.Ack{Boot: hello.GetBoot(), Sequence: ack}}}
			}
		case *pb.FromAgent_Closed:
			l.mu.Lock()
			l.closed++
			l.mu.Unlock()
			missing[x.Closed.GetSequence()] = true
			answer = &pb.ToAgent{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{Boot: hello.GetBoot(), Sequence: x.Closed.GetSequence()}}}
		case *pb.FromAgent_Flush:
			l.mu.Lock()
			l.flushes++
			l.mu.Unlock()
			if l.hold {
				answer = &pb.ToAgent{Message: &pb.ToAgent_Ack{Ack: &pb.Ack{Boot: hello.GetBoot(), Sequence: newest}}}
			}
		}
		if answer != nil {
			if err := s.Send(answer); err != nil {
				return err
			}
		}
	}
}

// take keeps a chunk.
func (l *ledger) take(hello *pb.Hello, m *pb.Chunk, rosters map[attribution.Fingerprint]*attribution.Roster) {
	c, err := wire.DecodeChunk(m, hello.GetCluster(), hello.GetNode(), rosters[attribution.Fingerprint(m.GetRosterId())])
	if err != nil {
		l.complain("chunk %d: %v", m.GetSequence(), err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	name := fmt.Sprintf("%s/%d", hello.GetNode(), m.GetSequence())
	if d, ok := l.digests[name]; ok && !bytes.Equal(d, m.GetDigest()) {
		l.broken = append(l.broken, "chunk "+name+" came again and is another")
	}
	node := l.nodes[hello.GetNode()]
	if node == nil {
		node = map[int64]*attribution.Chunk{}
		l.nodes[hello.GetNode()] = node
	}
	for _, old := range node {
		if old.Key.Sequence != c.Key.Sequence && old.Key.Sequence < c.End() && c.Key.Sequence < old.End() {
			l.broken = append(l.broken, fmt.Sprintf("chunks %d and %d of %s overlap", old.Key.Sequence, c.Key.Sequence, hello.GetNode()))
		}
	}
	l.digests[name] = m.GetDigest()
	node[m.GetSequence()] = c
}

// seconds is what the ledger has of a node, second by second: the canonical
// text of its windows and tallies.
func (l *ledger) seconds(node string) map[attribution.Second]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[attribution.Second]string{}
	for _, c := range l.nodes[node] {
		for s := c.Key.Sequence; s < c.End(); s++ {
			out[s] += ""
		}
		for i := range c.Windows {
			w := &c.Windows[i]
			text := fmt.Sprintf("%s %s %d %v", c.Roster.Devices[w.Device].ID, c.Roster.Methods[w.Method], w.Energy, w.Price)
			for _, s := range w.Slices {
				text += fmt.Sprintf(" [%s %v %d %d %d %d]", c.Roster.Owners[s.Owner].Pod, s.Basis, s.Time, s.SMActive, s.Memory, s.Cost)
			}
			out[w.Second] += text + "\n"
		}
		for _, t := range c.Tallies {
			out[t.Second] += fmt.Sprintf("tally %s %d\n", c.Roster.Measures[t.Measure], t.Value)
		}
	}
	return out
}

// link is a connection to a ledger that can be cut for good.
type link struct {
	conn   *grpc.ClientConn
	server *grpc.Server
	served chan struct{}
	cut    atomic.Bool
}

var errCut = errors.New("cut")

func dial(t testing.TB, l *ledger) *link {
	listener := bufconn.Listen(1 << 20)
	k := &link{server: grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second})), served: make(chan struct{})}
	pb.RegisterIngestServer(k.server, l)
	go func() {
		defer close(k.served)
		_ = k.server.Serve(listener)
	}()
	opts := append(uplink.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if k.cut.Load() {
				return nil, errCut
			}
			return listener.DialContext(ctx)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	var err error
	if k.conn, err = grpc.NewClient("passthrough:///ledger", opts...); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *link) close() {
	k.cut.Store(true)
	k.server.Stop()
	<-k.served
	_ = k.conn.Close()
}

// tape is a script of prepared events.
type tape struct {
	nodes      []sampler.Node
	start, end int64
	horizon    int64
	events     []sampler.Event
	next       int
	fail       error // in place of the end
}

func (s *tape) Nodes() []sampler.Node { return s.nodes }
func (s *tape) Start() int64          { return s.start }
func (s *tape) End() int64            { return s.end }
func (s *tape) Horizon() int64        { return s.horizon }
func (s *tape) Close() error          { return nil }

func (s *tape) Next(e *sampler.Event) error {
	if s.next == len(s.events) {
		if s.fail != nil {
			return s.fail
		}
		return io.EOF
	}
	*e = s.events[s.next]
	s.next++
	return nil
}

// again is the same script from its beginning.
func (s *tape) again() *tape {
	c := *s
	c.next = 0
	return &c
}

// record makes a tape: nodes with two devices each, samples at uneven times,
// holdings that come and go, and tallies, all from one seed.
func record(seed uint64, nodes, seconds int, start int64) *tape {
	r := rand.New(rand.NewPCG(seed, 0))
	s := &tape{start: start * sec, end: (start + int64(seconds)) * sec, horizon: 12 * sec}
	type counter struct {
		device *attribution.Device
		active int64
		last   int64
	}
	var devices []*counter
	for n := range nodes {
		id := sampler.Node{Cluster: "c", Name: fmt.Sprintf("n%d", n), Boot: attribution.Boot{byte(n + 1), byte(seed)}}
		s.nodes = append(s.nodes, id)
		for d := range 2 {
			dev := &attribution.Device{ID: fmt.Sprintf("GPU-%d-%d", n, d), Cluster: "c", Node: id.Name, Model: "H100", MemoryBytes: 80 << 30, Sensors: attribution.SensorMemory}
			devices = append(devices, &counter{device: dev, last: s.start})
			s.events = append(s.events, sampler.Event{Kind: sampler.DeviceAdded, Time: s.start, Node: id.Name, DeviceID: dev.ID, Device: dev})
		}
	}
	owner := func(c *counter, i int) *attribution.Owner {
		return &attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: c.device.Node, Namespace: "ns", Pod: fmt.Sprintf("pod-%d", i), Container: "main"}
	}
	held := map[*counter]int{}
	for at := s.start; at < s.end; at += 250e6 {
		for _, c := range devices {
			e := sampler.Event{Time: at, Node: c.device.Node, DeviceID: c.device.ID}
			switch roll := r.IntN(40); {
			case roll < 4 && at > c.last: // a sample every few seconds
				c.active += r.Int64N(at - c.last)
				e.Kind, e.Sample = sampler.Sampled, &sampler.Sample{
					Gap: r.IntN(20) == 0 || at-c.last > s.horizon, SMActive: c.active, ProcessSM: true,
					Processes: []sampler.Process{{PID: 7, Start: 1, Owner: owner(c, 0), SMActive: c.active / 2, MemoryBytes: 1 << 30}},
				}
				c.last = at
			case roll == 4:
				e.Kind, e.Owner, e.Replicas = sampler.Held, owner(c, r.IntN(3)), 1+r.Int64N(3)
				held[c]++
			case roll == 5:
				e.Kind, e.Owner = sampler.Released, owner(c, r.IntN(3))
			case roll == 6 && at-s.start > 10*sec:
				e.Kind, e.Tally = sampler.Tallied, &sampler.Tally{
					Owner: owner(c, 0), Model: "m", Seconds: 1 + r.Int64N(8),
					Values: []sampler.Value{{Measure: attribution.Success, Value: r.Int64N(1e9)}},
				}
			default:
				continue
			}
			s.events = append(s.events, e)
		}
	}
	return s
}

// rig is what an agent in a test runs on.
type rig struct {
	cfg    Config
	source Source
	deps   Deps
}

func newRig(s sampler.Script, fs spool.FS, k *link) *rig {
	cfg := DefaultConfig()
	cfg.StateDir = "/state"
	return &rig{cfg: cfg, source: Source{Script: s}, deps: Deps{
		Client: pb.NewIngestClient(k.conn), FS: fs, Log: slog.New(slog.DiscardHandler), Version: "test",
		Machine: Machine{
			Wall:   func() int64 { return time.Now().UnixNano() },
			Uptime: func() int64 { return time.Now().UnixNano() - 1e18 },
			BootID: "boot-1",
		},
	}}
}

func (r *rig) agent(t testing.TB) *Agent {
	a, err := New(r.cfg, r.source, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
