package placement

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/internal/rendezvous"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	// passMin and passMax bound how long a collector that failed is passed over.
	passMin, passMax = 15 * time.Second, 10 * time.Minute
	// steady is how long a stream must have lasted for its collector to be as
	// good as new.
	steady = 10 * time.Minute
	// lookMin and lookMax bound the time between two looks for a better one.
	lookMin, lookMax = 20 * time.Second, 40 * time.Second
	// probeTimeout bounds an attempt to connect to a better one.
	probeTimeout = 5 * time.Second
)

// Node chooses for one node. It is an [uplink.Collectors].
type Node struct {
	f    *Fleet
	key  string
	with member           // of the last stream
	bad  map[string]*pass // by name
}

// pass says that a collector is passed over.
type pass struct {
	until time.Time
	again time.Duration // how long the next time
}

var _ uplink.Collectors = (*Node)(nil)

// Node is the choice of a node. It is for one uplink.
func (f *Fleet) Node(cluster, node string) *Node {
	return &Node{f: f, key: cluster + "/" + node, bad: make(map[string]*pass)}
}

// Next is the first choice of those that have not just failed, else the one that
// may be tried again soonest.
func (n *Node) Next(ctx context.Context) (uplink.Collector, error) {
	ms := n.order(n.f.list(ctx, lookupFresh))
	best := ms[0]
	now := time.Now()
	for _, m := range ms {
		if !n.passed(m, now) {
			best = m
			break
		}
		if n.bad[m.name].until.Before(n.bad[best.name].until) {
			best = m
		}
	}
	conn, err := n.f.use(best)
	if err != nil {
		n.fail(best)
		return uplink.Collector{}, err
	}
	n.with = best
	return uplink.Collector{
		Name: best.name, Client: pb.NewIngestClient(conn),
		Done: func(lasted time.Duration, why error) {
			n.f.release(best)
			n.done(best, lasted, why)
		},
	}, nil
}

// order is the collectors as the node prefers them. What failed and is on the
// list no more is forgotten.
func (n *Node) order(ms []member) []member {
	byName := make(map[string]member, len(ms))
	names := make([]string, len(ms))
	for i, m := range ms {
		byName[m.name], names[i] = m, m.name
	}
	for name := range n.bad {
		if _, ok := byName[name]; !ok && name != n.with.name {
			delete(n.bad, name)
		}
	}
	out := make([]member, 0, len(ms))
	for _, name := range rendezvous.Order(n.key, names) {
		out = append(out, byName[name])
	}
	return out
}

func (n *Node) passed(m member, now time.Time) bool {
	p := n.bad[m.name]
	return p != nil && now.Before(p.until)
}

// done notes how a stream ended.
func (n *Node) done(m member, lasted time.Duration, why error) {
	if lasted >= steady {
		delete(n.bad, m.name)
	}
	switch status.Code(why) {
	case codes.OK, codes.Canceled:
	case codes.Aborted, codes.FailedPrecondition:
		// A newer stream of this node, or one that is to begin anew: that is
		// nothing against the collector.
	default:
		n.fail(m)
	}
}

// fail passes a collector over for a while.
func (n *Node) fail(m member) {
	p := n.bad[m.name]
	if p == nil {
		p = &pass{again: passMin}
		n.bad[m.name] = p
	}
	p.until = time.Now().Add(n.jitter(p.again/2, p.again))
	p.again = min(2*p.again, passMax)
}

// jitter is a time from a to b.
func (n *Node) jitter(a, b time.Duration) time.Duration {
	return a + time.Duration(n.f.o.Rand()*float64(b-a))
}

// Better waits until a collector that the node prefers can be connected to.
func (n *Node) Better(ctx context.Context) bool {
	if !n.f.Several() {
		<-ctx.Done()
		return false
	}
	t := time.NewTimer(n.jitter(lookMin, lookMax))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
		if m, ok := n.preferred(ctx); ok {
			switch {
			case n.probe(ctx, m):
				return true
			case ctx.Err() == nil:
				n.fail(m)
			}
		}
		t.Reset(n.jitter(lookMin, lookMax))
	}
}

// preferred is the best collector that is preferred to the one in use and that
// may be tried.
func (n *Node) preferred(ctx context.Context) (member, bool) {
	now := time.Now()
	for _, m := range n.order(n.f.list(ctx, lookupEvery)) {
		if rendezvous.Compare(n.key, m.name, n.with.name) >= 0 {
			break
		}
		if !n.passed(m, now) {
			return m, true
		}
	}
	return member{}, false
}

// probe reports whether a collector can be connected to.
func (n *Node) probe(ctx context.Context, m member) bool {
	conn, err := n.f.use(m)
	if err != nil {
		return false
	}
	defer n.f.release(m)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if s == connectivity.TransientFailure || s == connectivity.Shutdown || !conn.WaitForStateChange(ctx, s) {
			return false
		}
	}
	return true
}
