package placement_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

	"github.com/gpuledger/gpuledger/agent/placement"
	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/internal/rendezvous"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is machines that can be connected to while they are up.
type network struct {
	mu      sync.Mutex
	servers map[string]*grpc.Server
	lis     map[string]*bufconn.Listener
	served  sync.WaitGroup
	dialed  map[string]int
	names   map[string]string // server name by target
	lookups int
	hosts   []netip.Addr
	broken  error // of look-ups
}

func newNetwork(t *testing.T, addresses ...string) *network {
	n := &network{servers: map[string]*grpc.Server{}, lis: map[string]*bufconn.Listener{}, dialed: map[string]int{}, names: map[string]string{}}
	for _, a := range addresses {
		n.start(a)
	}
	t.Cleanup(func() {
		for a := range n.lis {
			n.stop(a)
		}
		n.served.Wait()
	})
	return n
}

func (n *network) start(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	lis, srv := bufconn.Listen(1<<16), grpc.NewServer()
	n.lis[address], n.servers[address] = lis, srv
	n.served.Go(func() { _ = srv.Serve(lis) })
}

func (n *network) stop(address string) {
	n.mu.Lock()
	srv := n.servers[address]
	delete(n.lis, address)
	delete(n.servers, address)
	n.mu.Unlock()
	if srv != nil {
		srv.Stop()
	}
}

func (n *network) dial(target, serverName string) (*grpc.ClientConn, error) {
	const scheme = "passthrough:///"
	if len(target) < len(scheme) || target[:len(scheme)] != scheme {
		target = scheme + target
	}
	n.mu.Lock()
	n.names[target[len(scheme):]] = serverName
	n.mu.Unlock()
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			n.mu.Lock()
			n.dialed[address]++
			lis := n.lis[address]
			n.mu.Unlock()
			if lis == nil {
				return nil, errors.New("connection refused")
			}
			return lis.DialContext(ctx)
		}))
}

func (n *network) lookup(context.Context, string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups++
	return slices.Clone(n.hosts), n.broken
}

func (n *network) fleet(t *testing.T, addresses ...string) *placement.Fleet {
	t.Helper()
	f, err := placement.New(placement.Options{Addresses: addresses, Dial: n.dial, Lookup: n.lookup, Rand: func() float64 { return 0.5 }})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func next(t *testing.T, n *placement.Node) uplink.Collector {
	t.Helper()
	c, err := n.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	three = []string{"a:1", "b:1", "c:1"}
	gone  = status.Error(codes.Unavailable, "stopping")
)

// A node goes through the collectors in its order while they fail, comes back
// to those whose time is up, and never stops trying.
func TestFailuresAreTriedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, three...)
		n := w.fleet(t, three...).Node("east", "n1")
		order := rendezvous.Order("east/n1", three)
		for range 2 {
			for _, want := range order {
				c := next(t, n)
				if c.Name != want {
					t.Fatalf("to %s: want %s of %v", c.Name, want, order)
				}
				c.Done(0, gone)
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Hour)
		c := next(t, n)
		if c.Name != order[0] {
			t.Fatalf("after an hour to %s", c.Name)
		}
		c.Done(time.Hour, nil) // left in peace
		if c = next(t, n); c.Name != order[0] {
			t.Fatalf("after a stream that was left in peace to %s", c.Name)
		}
		c.Done(time.Second, status.Error(codes.Aborted, "a newer stream"))
		if c = next(t, n); c.Name != order[0] {
			t.Fatalf("after a newer stream of the node to %s", c.Name)
		}
		c.Done(time.Second, gone)
	})
}

// better waits for at most d.
func better(n *placement.Node, d time.Duration) (bool, time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	began := time.Now()
	return n.Better(ctx), time.Since(began)
}

// A node that had to go elsewhere goes back when its first choice can be reached
// again, and not before.
func TestGoesBackWhenReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, three...)
		n := w.fleet(t, three...).Node("east", "n1")
		order := rendezvous.Order("east/n1", three)
		c := next(t, n)
		if ok, _ := better(n, 24*time.Hour); ok {
			t.Fatal("better than the first choice")
		}
		w.stop(order[0])
		c.Done(24*time.Hour, gone)
		if c = next(t, n); c.Name != order[1] {
			t.Fatalf("to %s", c.Name)
		}
		before := w.dialed[order[0]]
		if ok, _ := better(n, time.Hour); ok {
			t.Fatal("a better one that is down")
		}
		if tries := w.dialed[order[0]] - before; tries < 3 || tries > 20 {
			t.Fatalf("%d attempts in an hour at one that is down", tries)
		}
		w.start(order[0])
		ok, took := better(n, time.Hour)
		if !ok || took > 11*time.Minute {
			t.Fatalf("better: %v after %v", ok, took)
		}
		c.Done(time.Hour, nil)
		if c = next(t, n); c.Name != order[0] {
			t.Fatalf("back to %s", c.Name)
		}
		c.Done(time.Hour, nil)
	})
}

// A first choice that can be connected to and then refuses costs ever fewer
// moves.
func TestNoFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, three...)
		n := w.fleet(t, three...).Node("east", "n1")
		order := rendezvous.Order("east/n1", three)
		moves := 0
		for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); moves++ {
			c := next(t, n)
			if c.Name != order[0] {
				t.Fatalf("move %d to %s", moves, c.Name)
			}
			c.Done(0, status.Error(codes.ResourceExhausted, "overloaded"))
			c = next(t, n)
			if c.Name != order[1] {
				t.Fatalf("refused by the first choice, to %s", c.Name)
			}
			ok, took := better(n, time.Hour)
			if !ok {
				t.Fatal("the first choice can be reached")
			}
			c.Done(took, nil)
		}
		if moves > 60 { // every 7.5 to 10 minutes in the end
			t.Fatalf("%d moves in six hours", moves)
		}
	})
}

// A host name is looked up again: what it stands for is placed by address, and
// one that comes takes its nodes over.
func TestHostNameWithSeveralAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "10.0.0.1:9440", "10.0.0.2:9440", "10.0.0.3:9440")
		ip := netip.MustParseAddr
		w.hosts = []netip.Addr{ip("10.0.0.2"), ip("10.0.0.1"), ip("fd00::1"), ip("10.0.0.2")}
		f := w.fleet(t, "collectors.example:9440")
		two := []string{"10.0.0.1:9440", "10.0.0.2:9440"}
		all := append(slices.Clone(two), "10.0.0.3:9440")
		name := ""
		for i := 0; name == "" || rendezvous.Order("/"+name, all)[0] != all[2]; i++ {
			name = fmt.Sprintf("n%d", i)
		}
		n := f.Node("", name)
		c := next(t, n)
		if want := rendezvous.Order("/"+name, two)[0]; c.Name != want {
			t.Fatalf("to %s: want %s", c.Name, want)
		}
		if w.names[c.Name] != "collectors.example" {
			t.Fatalf("the certificate is to be that of %q", w.names[c.Name])
		}
		if ok, _ := better(n, time.Hour); ok {
			t.Fatal("better than the first choice")
		}
		if w.lookups > 70 {
			t.Fatalf("%d look-ups in an hour", w.lookups)
		}
		w.broken = errors.New("no such host")
		if ok, _ := better(n, time.Hour); ok {
			t.Fatal("moved because a look-up failed")
		}
		w.broken, w.hosts = nil, nil // nobody is ready
		if ok, _ := better(n, time.Hour); ok {
			t.Fatal("moved because nobody is listed")
		}
		only := ip("10.0.0.1")
		if c.Name == two[0] {
			only = ip("10.0.0.2")
		}
		w.hosts = []netip.Addr{only} // the others are not ready
		if ok, _ := better(n, time.Hour); ok {
			t.Fatal("moved to a worse one, since it is the only one listed")
		}
		w.hosts = []netip.Addr{ip("10.0.0.3"), ip("10.0.0.1"), ip("10.0.0.2")}
		ok, took := better(n, time.Hour)
		if !ok || took > 3*time.Minute {
			t.Fatalf("one more collector: %v after %v", ok, took)
		}
		c.Done(time.Hour, nil)
		if c = next(t, n); c.Name != all[2] {
			t.Fatalf("to %s", c.Name)
		}
		c.Done(time.Hour, nil)
	})
}

// Targets that can only be one collector are never looked up, and nobody looks
// for a better one.
func TestOneCollectorIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, a := range []string{"127.0.0.1:9440", "[::1]:9440", "localhost:9440", "passthrough:///x:1", "unix:///run/c.sock", "dns:///c:9440"} {
			w := newNetwork(t)
			f := w.fleet(t, a)
			if f.Several() {
				t.Errorf("%s may be several", a)
			}
			n := f.Node("", "n")
			c := next(t, n)
			ok, took := better(n, time.Hour)
			c.Done(0, gone)
			again := next(t, n)
			again.Done(0, gone)
			if ok || took != time.Hour || w.lookups > 0 || c.Name != a || again.Name != a {
				t.Errorf("%s: %v after %v, %d look-ups, to %s and %s", a, ok, took, w.lookups, c.Name, again.Name)
			}
		}
	})
	if _, err := placement.New(placement.Options{}); err == nil {
		t.Error("a fleet of nobody")
	}
}

// Nodes of one process share connections, which are closed when nobody streams
// over them.
func TestConnectionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork(t, "a:1")
		f := w.fleet(t, "a:1")
		var cs []uplink.Collector
		for i := range 10 {
			cs = append(cs, next(t, f.Node("", fmt.Sprint(i))))
		}
		for _, c := range cs { // no such service, but an answer over the wire
			s, err := c.Client.Stream(t.Context())
			if err == nil {
				_, err = s.Recv()
			}
			if status.Code(err) != codes.Unimplemented {
				t.Fatal(err)
			}
		}
		if w.dialed["a:1"] != 1 {
			t.Fatalf("%d connections", w.dialed["a:1"])
		}
		for _, c := range cs {
			c.Done(0, gone)
		}
	})
}
