package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/placement"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/peers"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble is synctest.Test with empty pools before and after: a pooled
// compressor holds a channel, which belongs to the bubble that made it.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	empty := func() {
		runtime.GC()
		runtime.GC()
	}
	empty()
	defer empty()
	synctest.Test(t, f)
}

// machine is one collector, which may be killed and started again.
type machine struct {
	w       *world
	address string
	stalled atomic.Bool // its store fails
	frozen  chan struct{}

	mu    sync.Mutex
	lis   *bufconn.Listener
	conns []*conn
	alive *running
}

// running is one life of a machine.
type running struct {
	ingest *ingest.Server
	engine *query.Engine
	peers  *peers.Peers
	grpc   *grpc.Server
	stop   func()
	ended  sync.WaitGroup
}

// failing is a store that fails while its machine is stalled.
type failing struct {
	*querytest.Shared
	m *machine
}

func (f failing) Commit(ctx context.Context, b *store.Batch) error {
	if f.m.stalled.Load() {
		return fmt.Errorf("%w: it is stalled", store.ErrUnavailable)
	}
	return f.Shared.Commit(ctx, b)
}

func (m *machine) start() {
	w := m.w
	st := failing{w.ledger.Open(), m}
	s, err := ingest.New(context.Background(), st, ingest.Options{Version: m.address, AllowFuture: true})
	if err != nil {
		w.t.Error(err)
		return
	}
	r := &running{ingest: s}
	var id peers.Instance
	copy(id[:], fmt.Sprint(m.address, time.Now().UnixNano()))
	r.peers, err = peers.New(peers.Options{Instance: id, Addresses: w.addresses, Dial: w.dial})
	if err != nil {
		w.t.Fatal(err)
	}
	r.engine = query.New(query.Config{Store: st, Overlay: s, Peers: r.peers})
	r.grpc = grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	pb.RegisterIngestServer(r.grpc, s)
	pb.RegisterPeerServer(r.grpc, peers.NewServer(peers.ServerOptions{
		Instance: id, Name: m.address, Open: s.Open, Nodes: func() []*pb.NodeStatus { return nil },
	}))
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	lis := bufconn.Listen(1 << 20)
	r.ended.Go(func() {
		if err := s.Run(ctx); err != nil {
			w.t.Errorf("%s: %v", m.address, err)
		}
	})
	r.ended.Go(func() { _ = r.grpc.Serve(lis) })
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lis, m.alive = lis, r
}

// kill ends it at once: nothing more is committed or sent.
func (m *machine) kill() {
	m.mu.Lock()
	r, conns := m.alive, m.conns
	m.alive, m.lis, m.conns = nil, nil, nil
	m.mu.Unlock()
	if r == nil {
		return
	}
	r.stop()
	for _, c := range conns {
		_ = c.Close()
	}
	r.grpc.Stop()
	r.ended.Wait()
	r.peers.Close()
}

// drain stops it as a rolling upgrade does.
func (m *machine) drain() {
	m.mu.Lock()
	r := m.alive
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = r.ingest.Drain(ctx) // what it did not get done is with the agents
	m.kill()
}

func (m *machine) running() *running {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive
}

// freeze lets nothing through, in either direction, as a cut cable does.
func (m *machine) freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen == nil {
		m.frozen = make(chan struct{})
	}
}

func (m *machine) thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil {
		close(m.frozen)
		m.frozen = nil
	}
}

func (m *machine) gate() chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen
}

// conn is a connection to a machine.
type conn struct {
	net.Conn
	m      *machine
	closed chan struct{}
	once   sync.Once
}

func (c *conn) pass() error {
	gate := c.m.gate()
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if stuck := c.pass(); stuck != nil {
		return 0, stuck
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// world is machines, agents and what they share.
type world struct {
	t         *testing.T
	rng       *rand.Rand
	ledger    *querytest.Ledger
	addresses []string
	machines  map[string]*machine
	fleet     *placement.Fleet
	nodes     []*node
	start     attribution.Second
}

// jitter draws from one source of the seed.
func (w *world) jitter(seed uint64) func() float64 {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Float64()
	}
}

func newWorld(t *testing.T, seed uint64, machines, nodes int) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), ledger: querytest.NewLedger(), machines: map[string]*machine{},
		start: attribution.Second(time.Now().Unix()),
	}
	for i := range machines {
		a := fmt.Sprintf("collector-%d:9440", i)
		w.addresses = append(w.addresses, a)
		w.machines[a] = &machine{w: w, address: a}
	}
	for _, a := range w.addresses {
		w.machines[a].start()
	}
	var err error
	w.fleet, err = placement.New(placement.Options{Addresses: w.addresses, Dial: w.dial, Rand: w.jitter(seed)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		w.nodes = append(w.nodes, newNode(w, i, w.jitter(seed+uint64(i))))
	}
	return w
}

func (w *world) dial(target, _ string) (*grpc.ClientConn, error) {
	m := w.machines[target]
	return grpc.NewClient("passthrough:///"+target, append(uplink.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			m.mu.Lock()
			lis, frozen := m.lis, m.frozen
			m.mu.Unlock()
			if frozen != nil {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			if lis == nil {
				return nil, errors.New("connection refused")
			}
			raw, err := lis.DialContext(ctx)
			if err != nil {
				return nil, err
			}
			c := &conn{Conn: raw, m: m, closed: make(chan struct{})}
			m.mu.Lock()
			m.conns = append(m.conns, c)
			m.mu.Unlock()
			return c, nil
		}))...)
}

func (w *world) stop() {
	for _, n := range w.nodes {
		n.stop()
	}
	for _, m := range w.machines {
		m.thaw()
		m.kill()
	}
}

// node is one agent, from its spool on.
type node struct {
	w      *world
	name   string
	boot   attribution.Boot
	spool  *spool.Spool
	uplink *uplink.Uplink
	cancel func()
	ended  sync.WaitGroup
	made   []*attribution.Chunk
}

func newNode(w *world, i int, jitter func() float64) *node {
	n := &node{w: w, name: fmt.Sprintf("gpu-%02d", i), boot: attribution.Boot{byte(i + 1)}}
	var err error
	n.spool, err = spool.Open(memfs.New(), "/s", spool.Options{Boot: n.boot})
	if err != nil {
		w.t.Fatal(err)
	}
	n.uplink, err = uplink.New(uplink.Options{
		Collectors: w.fleet.Node("c", n.name), Cluster: "c", Node: n.name, Spool: n.spool, Rand: jitter,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.ended.Go(func() { _ = n.uplink.Run(ctx) })
	return n
}

func (n *node) stop() {
	n.cancel()
	n.ended.Wait()
	if err := n.spool.Close(); err != nil {
		n.w.t.Error(err)
	}
}

// second is what happened in one second: two devices, two owners.
func (n *node) seconds(from attribution.Second, k int) *attribution.Chunk {
	r := &attribution.Roster{
		Devices: []attribution.Device{
			{ID: "GPU-" + n.name + "-0", Cluster: "c", Node: n.name, Model: "H100", Sensors: attribution.SensorEnergy},
			{ID: "GPU-" + n.name + "-1", Cluster: "c", Node: n.name, Model: "H100", Sensors: attribution.SensorEnergy},
		},
		Owners:  []attribution.Owner{{}, {Kind: attribution.Container, Cluster: "c", Node: n.name, Namespace: "ns", Pod: "p", Container: "c"}},
		Methods: []string{"sm/device"},
	}
	var ws []attribution.DeviceWindow
	for s := from; s < from+attribution.Second(k); s++ {
		for d := range uint32(2) {
			used := (int64(s)*7919 + int64(d)*31) % attribution.WindowNanos
			ws = append(ws, attribution.DeviceWindow{
				Device: d, Second: s, Energy: 300_000_000 + int64(s%7), Price: attribution.Price{PerHour: 5 * money.Unit / 2, Revision: 1},
				Slices: []attribution.Slice{
					{Owner: 1, Basis: attribution.Used, Time: used, SMActive: used},
					{Owner: 0, Basis: attribution.Unallocated, Time: attribution.WindowNanos - used},
				},
			})
		}
	}
	key := attribution.ChunkKey{Cluster: "c", Node: n.name, Boot: n.boot, Sequence: from}
	return attribution.BuildChunk(key, k, r.Facts(), ws, nil)
}

// tick seals a second: it goes out live, and with the last of ten its chunk is
// closed.
func (n *node) tick(s attribution.Second) {
	t := n.w.t
	live := n.seconds(s, 1)
	n.uplink.Live(live, live.Roster.Fingerprint())
	if (s-n.w.start)%attribution.ChunkSeconds != attribution.ChunkSeconds-1 {
		return
	}
	c := n.seconds(s-attribution.ChunkSeconds+1, attribution.ChunkSeconds)
	id := c.Roster.Fingerprint()
	m, err := wire.EncodeChunk(c, id)
	if err != nil {
		t.Fatal(err)
	}
	roster, err := proto.Marshal(wire.EncodeRoster(c.Roster))
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(m)
	if err == nil {
		err = n.spool.AppendChunk(spool.Chunk{Sequence: c.Key.Sequence, Seconds: c.Seconds, RosterID: id, Body: body}, roster)
	}
	if err == nil {
		err = n.spool.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	n.made = append(n.made, c)
}

// pass lets so many seconds pass; each is sealed when it has ended, and then
// each is done.
func (w *world) pass(seconds int, each func(s attribution.Second)) {
	for range seconds {
		time.Sleep(time.Until(time.Unix(int64(w.now())+1, 0)))
		s := w.now() - 1
		for _, n := range w.nodes {
			n.tick(s)
		}
		if each != nil {
			each(s)
		}
	}
}

func (w *world) now() attribution.Second { return attribution.Second(time.Now().Unix()) }
