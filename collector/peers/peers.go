package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	// freshFor is how old an answer may be that a question makes do with.
	freshFor = 300 * time.Millisecond
	// keepFor is how long the last answer of a peer counts that answers no more.
	keepFor = time.Minute
	// pauseMin and pauseMax bound how long nobody waits for a peer that failed.
	pauseMin, pauseMax = 2 * time.Second, 30 * time.Second
	// lookupEvery is how often a host name is looked up.
	lookupEvery = 30 * time.Second
	// maxPeers bounds what it may say.
	maxPeers = 256
)

// Options say who the others are. Dial is required.
type Options struct {
	Instance Instance
	// Addresses are the others, each host:port or any gRPC target; among them
	// may be this collector's own. A single one whose host is a name stands for
	// all addresses that it has.
	Addresses []string
	// Dial makes a connection to a target whose certificate is for a server
	// name; "": that of the target itself.
	Dial func(target, serverName string) (*grpc.ClientConn, error)
	// Lookup resolves a host name. Default: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Timeout is how long a question waits for the others. Default 1 s.
	Timeout time.Duration
	Logger  *slog.Logger
}

// Stats counts since the start.
type Stats struct {
	Answers  uint64 // of peers
	Failures uint64 // attempts that brought none
	Chunks   uint64 // decoded
	Bytes    uint64 // of chunks, as they travelled
	Late     uint64 // questions that were answered without some peer
}

// Peers are the other collectors. Its methods are for any goroutine.
type Peers struct {
	o          Options
	host, port string // of the one address that is looked up; "": none is

	ctx    context.Context //nolint:containedctx // ends what runs between two questions
	cancel func()
	wg     sync.WaitGroup // guarded by mu as long as ctx lasts

	mu      sync.Mutex
	peers   []*peer
	looked  time.Time
	looking chan struct{} // closed when the look-up that runs has ended; nil: none runs

	answers, failures, chunks, bytes, late atomic.Uint64
}

// New makes Peers. Nobody is asked yet. Close it.
func New(o Options) (*Peers, error) {
	if len(o.Addresses) == 0 || o.Dial == nil {
		return nil, errors.New("peers: an address and a way to dial it are required")
	}
	if len(o.Addresses) > maxPeers {
		return nil, fmt.Errorf("peers: %d addresses: want at most %d", len(o.Addresses), maxPeers)
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Peers{o: o}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if len(o.Addresses) == 1 {
		p.host, p.port = named(o.Addresses[0])
	}
	if p.host == "" {
		for _, a := range o.Addresses {
			p.peers = append(p.peers, &peer{all: p, address: a, target: a})
		}
	}
	return p, nil
}

// named is the host and port of an address whose host is a name that may stand
// for several machines; "" otherwise.
func named(address string) (host, port string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || host == "localhost" || strings.ContainsAny(address, "/%") {
		return "", ""
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", ""
	}
	return host, port
}

// Close ends what is under way and closes the connections.
func (p *Peers) Close() {
	p.mu.Lock()
	p.cancel()
	p.mu.Unlock()
	p.wg.Wait()
	for _, x := range p.peers {
		x.close()
	}
}

// start runs f until it returns or Close is called.
func (p *Peers) start(f func(context.Context)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return false
	}
	p.wg.Go(func() { f(p.ctx) })
	return true
}

// list is the peers as they are known; where they are not known yet, it waits
// for the first look-up.
func (p *Peers) list(ctx context.Context) []*peer {
	p.mu.Lock()
	if p.host != "" && p.looking == nil && time.Since(p.looked) >= lookupEvery && p.ctx.Err() == nil {
		p.looking = make(chan struct{})
		p.looked = time.Now()
		p.wg.Go(p.lookUp)
	}
	peers, looking := p.peers, p.looking
	p.mu.Unlock()
	if len(peers) > 0 || looking == nil {
		return peers
	}
	select {
	case <-looking:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers
}

// lookUp finds out what the host name stands for. What can't be found out stays
// as it was.
func (p *Peers) lookUp() {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	addrs, err := p.o.Lookup(ctx, p.host)
	var gone []*peer
	p.mu.Lock()
	if err != nil || len(addrs) == 0 {
		p.o.Logger.Debug("peers: looking the other collectors up failed: they are where they were", "host", p.host, "err", err)
	} else {
		gone = p.replace(addrs)
	}
	close(p.looking)
	p.looking = nil
	p.mu.Unlock()
	for _, x := range gone {
		x.close()
	}
}

// replace makes the addresses of one family the peers and returns those that are
// no more. The mutex is held.
func (p *Peers) replace(addrs []netip.Addr) (gone []*peer) {
	family := map[bool][]netip.Addr{}
	for _, a := range addrs {
		a = a.Unmap()
		family[a.Is4()] = append(family[a.Is4()], a)
	}
	use := family[true]
	if len(family[false]) > len(use) {
		use = family[false]
	}
	slices.SortFunc(use, netip.Addr.Compare)
	use = slices.Compact(use)
	before := map[string]*peer{}
	for _, x := range p.peers {
		before[x.address] = x
	}
	p.peers = nil
	for _, a := range use[:min(len(use), maxPeers)] {
		at := net.JoinHostPort(a.String(), p.port)
		x := before[at]
		if x == nil {
			x = &peer{all: p, address: at, target: "passthrough:///" + at, serverName: p.host}
		}
		delete(before, at)
		p.peers = append(p.peers, x)
	}
	for _, x := range before {
		gone = append(gone, x)
	}
	return gone
}

// Open is what the others have open that overlaps [from, to), and those whose
// answer is not fresh, in order. It waits for at most the timeout.
func (p *Peers) Open(ctx context.Context, from, to attribution.Second) (cs []store.Pending, missing []string) {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	peers := p.list(ctx)
	if p.host != "" && len(peers) == 0 {
		missing = append(missing, p.host)
	}
	for _, x := range peers {
		x.ask(asked)
	}
	for _, x := range peers {
		last, fresh := x.await(ctx, asked)
		if last != nil && asked.Sub(last.at) < keepFor {
			for _, c := range last.chunks {
				if c.key.Sequence < to && c.end() > from {
					cs = append(cs, c)
				}
			}
		}
		if !fresh {
			missing = append(missing, x.address)
		}
	}
	if len(missing) > 0 {
		p.late.Add(1)
	}
	return cs, missing
}

// Status is how a peer does.
type Status struct {
	Address string
	Err     error             // why it does not answer
	Nodes   *pb.NodesResponse // nil where it does not
}

// Status asks all others, in order of their addresses. This collector is not
// among them.
func (p *Peers) Status(ctx context.Context) []Status {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	peers := p.list(ctx)
	all := make([]Status, len(peers))
	var wg sync.WaitGroup
	for i, x := range peers {
		wg.Go(func() { all[i] = x.status(ctx) })
	}
	wg.Wait()
	all = slices.DeleteFunc(all, func(s Status) bool { return string(s.Nodes.GetInstance()) == string(p.o.Instance[:]) })
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Address, b.Address) })
	return all
}

// Stats is the counts so far.
func (p *Peers) Stats() Stats {
	return Stats{
		Answers: p.answers.Load(), Failures: p.failures.Load(), Chunks: p.chunks.Load(), Bytes: p.bytes.Load(), Late: p.late.Load(),
	}
}
