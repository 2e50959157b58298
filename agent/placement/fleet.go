package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
)

const (
	// lookupEvery is how old what a look-up said may be for a node that stays
	// where it is, lookupFresh for one that is about to connect: the many nodes
	// of one process ask together.
	lookupEvery = time.Minute
	lookupFresh = 5 * time.Second
	// lookupTimeout bounds a look-up.
	lookupTimeout = 5 * time.Second
	// maxCollectors bounds what a look-up may say.
	maxCollectors = 1024
)

// Options say where the collectors are. Addresses and Dial are required.
type Options struct {
	// Addresses are the collectors, each host:port or any gRPC target. A single
	// one whose host is a name may stand for many.
	Addresses []string
	// Dial makes a connection to a target whose certificate is for a server
	// name; "": that of the target itself. It sends nothing yet.
	Dial func(target, serverName string) (*grpc.ClientConn, error)
	// Lookup resolves a host name. Default: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Rand yields numbers in [0, 1) for jitter, for any goroutine. Default:
	// math/rand/v2.
	Rand   func() float64
	Logger *slog.Logger
}

// member is one collector. Its name is what nodes are placed by.
type member struct{ name, target, serverName string }

// Fleet is the collectors that the nodes of this process may stream to. Its
// methods are for any goroutine.
type Fleet struct {
	o          Options
	host, port string // of the one address that is looked up; "": none is

	mu      sync.Mutex
	members []member
	looked  time.Time // when members were last learnt
	tried   time.Time // to learn them
	several bool      // the host has had several addresses: one that is left is still called by it
	conns   map[member]*conn
}

// conn is a connection with the number of its users. The last one closes it.
type conn struct {
	*grpc.ClientConn
	users int
}

// New checks the options. Nothing is looked up or sent yet.
func New(o Options) (*Fleet, error) {
	if len(o.Addresses) == 0 || o.Dial == nil {
		return nil, errors.New("placement: an address and a way to dial it are required")
	}
	if len(o.Addresses) > maxCollectors {
		return nil, fmt.Errorf("placement: %d collectors: want at most %d", len(o.Addresses), maxCollectors)
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{o: o, conns: make(map[member]*conn)}
	for _, a := range o.Addresses {
		f.members = append(f.members, member{name: a, target: a})
	}
	if len(o.Addresses) == 1 {
		f.host, f.port = named(o.Addresses[0])
	}
	return f, nil
}

// named is the host and port of an address whose host is a name that may stand
// for several machines; "" otherwise.
func named(address string) (host, port string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || host == "localhost" || strings.ContainsAny(host, "/:%") {
		return "", ""
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil { // unix:///…, for one
		return "", ""
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", ""
	}
	return host, port
}

// Several reports whether there may ever be more than one collector.
func (f *Fleet) Several() bool { return f.host != "" || len(f.o.Addresses) > 1 }

// list is the collectors as they were known at most so long ago.
func (f *Fleet) list(ctx context.Context, age time.Duration) []member {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.host == "" || now.Sub(f.looked) < age || now.Sub(f.tried) < lookupFresh {
		return f.members
	}
	f.tried = now
	// The lock is held meanwhile: who else wants to know waits for the answer.
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := f.o.Lookup(ctx, f.host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		f.o.Logger.Debug("placement: looking the collectors up failed: they are where they were", "host", f.host, "err", err)
		return f.members
	}
	f.looked = now
	if ms := f.spread(addrs); !slices.Equal(ms, f.members) {
		f.o.Logger.Info("placement: the collectors", "host", f.host, "addresses", len(ms))
		f.members = ms
	}
	return f.members
}

// spread is the collectors that the host's addresses stand for. Of the two
// families only one counts, so that a collector that has both is one; and where
// it has one address of it, gRPC chooses between the two.
func (f *Fleet) spread(addrs []netip.Addr) []member {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	use := v4
	if len(v6) > len(v4) {
		use = v6
	}
	slices.SortFunc(use, netip.Addr.Compare)
	use = slices.Compact(use)
	if f.several = f.several || len(use) > 1; !f.several {
		return []member{{name: f.o.Addresses[0], target: f.o.Addresses[0]}}
	}
	ms := make([]member, 0, len(use))
	for _, a := range use[:min(len(use), maxCollectors)] {
		at := net.JoinHostPort(a.String(), f.port)
		ms = append(ms, member{name: at, target: "passthrough:///" + at, serverName: f.host})
	}
	return ms
}

// use is a connection to a member; let go of it with release.
func (f *Fleet) use(m member) (*grpc.ClientConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.conns[m]
	if c == nil {
		cc, err := f.o.Dial(m.target, m.serverName)
		if err != nil {
			return nil, err
		}
		c = &conn{ClientConn: cc}
		f.conns[m] = c
	}
	c.users++
	return c.ClientConn, nil
}

func (f *Fleet) release(m member) {
	f.mu.Lock()
	c := f.conns[m]
	if c.users--; c.users > 0 {
		f.mu.Unlock()
		return
	}
	delete(f.conns, m)
	f.mu.Unlock()
	_ = c.Close() // nothing runs over it any more
}
