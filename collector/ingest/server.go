package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Server is the Ingest service and the single writer of the store. Make it with
// [New], run its writer with [Server.Run], stop it with [Server.Drain] and then
// by ending Run's context. All methods may be called concurrently.
type Server struct {
	pb.UnimplementedIngestServer

	store  store.Store
	shared store.Shared // the same, nil where no other collector writes to it
	knower store.Knower // the same, nil where it does not tell what it has
	o      Options

	mu      sync.Mutex
	nodes   map[nodeID]*node
	ordered []*node        // the same by name, as long as none comes or goes; never changed
	streams sync.WaitGroup // goroutines; added to under mu while not dead

	card     atomic.Pointer[pb.RateCard]
	journal  atomic.Pointer[rerating.Journal]
	budget   *budget
	own      holder      // of the budget: what the collector makes itself
	turns    turns       // of streams that bring a backlog
	lives    pool        // of live seconds
	rosters  pool        // of streams' rosters
	hot      room        // of those that stay decoded
	decoded  room        // of pending chunks that are kept decoded
	benches  benches     // for streams that make chunks
	pressed  atomic.Bool // the budget is short: commit everything
	queue    queue
	jobs     chan job
	writer   writer
	count    counters
	unpriced unpriced
	trouble  atomic.Pointer[error] // what the store failed with; nil: it works
	newest   atomic.Int64          // first second after the newest stored one
	// forgotten is the newest commit whose chunks may have left memory.
	forgotten atomic.Uint64

	blamed   atomic.Int64  // when a stream was last told of that ended for what it sent, Unix ns
	draining chan struct{} // closed: nothing more is accepted
	drained  chan struct{} // closed: streams send what they have and end
	dead     chan struct{} // closed: the writer has ended
}

// New returns a server over a store, whose ranges it reads. Unless the store is
// a [store.Shared] it must not be written by anyone else from then on, except
// through [Server.Do].
func New(ctx context.Context, st store.Store, o Options) (*Server, error) {
	if err := o.Limits.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	s := &Server{
		store: st, o: o,
		nodes:    make(map[nodeID]*node),
		queue:    queue{wake: make(chan struct{}, 1)},
		jobs:     make(chan job),
		unpriced: unpriced{log: o.Log, devices: make(map[string]*unpricedDevice)},
		benches:  newBenches(2 * runtime.GOMAXPROCS(0)),
		draining: make(chan struct{}), drained: make(chan struct{}), dead: make(chan struct{}),
	}
	s.budget = newBudget(o.Limits.PendingChunks, o.Limits.PendingBytes, s.press)
	s.turns.most, s.decoded.most, s.hot.most = o.Limits.CatchingUp, o.Limits.DecodedBytes, hotRosters
	s.lives.most, s.rosters.most = o.Limits.LiveTotalBytes, o.Limits.RosterTotalBytes
	s.shared, _ = st.(store.Shared)
	s.knower, _ = st.(store.Knower)
	err := st.View(ctx, func(r store.Reader) error {
		s.writer.commits = r.Commits()
		j, err := r.Journal(ctx)
		if err != nil {
			return err
		}
		s.journal.Store(j)
		return r.Ranges(ctx, func(x store.Range) error {
			n := s.known(nodeID{x.Cluster, x.Node})
			n.has.spans = append(n.has.spans, span{x.From, x.To, x.Boot})
			n.storedThrough = max(n.storedThrough, x.To)
			s.newest.Store(max(s.newest.Load(), int64(x.To)))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read what is stored: %w", err)
	}
	s.forgotten.Store(s.writer.commits)
	for _, n := range s.nodes {
		n.has.sort()
	}
	return s, nil
}

// known is the node of an id, made if need be.
func (s *Server) known(id nodeID) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[id]
	if n == nil {
		n = s.addNode(id)
	}
	return n
}

// addNode adds a node under the server's mutex. Those of the collector's own
// count as one when memory is shared out.
func (s *Server) addNode(id nodeID) *node {
	n := &node{id: id, holder: &holder{}, budget: s.budget, lives: &s.lives, decoded: &s.decoded, limits: &s.o.Limits, count: &s.count}
	if strings.HasPrefix(id.node, OwnPrefix) {
		n.holder = &s.own
	}
	s.nodes[id], s.ordered = n, nil
	return n
}

// removeNode forgets a node under the server's mutex.
func (s *Server) removeNode(n *node) {
	delete(s.nodes, n.id)
	s.ordered = nil
}

// allNodes is every node in order of (cluster, node). The slice is shared.
func (s *Server) allNodes() []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ordered == nil {
		s.ordered = slices.SortedFunc(maps.Values(s.nodes), func(a, b *node) int {
			return cmp.Or(cmp.Compare(a.id.cluster, b.id.cluster), cmp.Compare(a.id.node, b.id.node))
		})
	}
	return s.ordered
}

// connect makes st the stream of its node, in place of an older one, and
// welcomes it. stored is what the store has of the node, nil where that is known
// already. The node's lock is never held while the server's is asked for.
func (s *Server) connect(st *stream, id nodeID, stored *seconds) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.gone {
		return errSuperseded
	}
	n := s.nodes[id]
	if n == nil {
		if len(s.nodes) >= s.o.Limits.Nodes {
			return status.Errorf(codes.ResourceExhausted, "%d nodes are known, as many as may be: raise limits.nodes", len(s.nodes))
		}
		n = s.addNode(id)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.stream; old != nil {
		s.count.superseded.Add(1)
		close(old.superseded)
	}
	if n.boot != st.boot {
		n.dropLive(func(*live) bool { return true })
	}
	n.learn(stored)
	n.decodeLive(nil) // of the older stream
	n.stream, n.boot, n.version, n.tail = st, st.boot, st.version, tail{boot: st.boot}
	st.node = n
	st.turn.welcome(func(waits bool) {
		st.pacing.begin(waits, func(p pb.Pace) {
			err = st.outbox.answer(&pb.ToAgent{Message: &pb.ToAgent_Welcome{Welcome: &pb.Welcome{
				Version: s.o.Version, StoredThrough: int64(n.storedThrough), Pace: p, LiveEvery: uint32(s.o.LiveEvery),
			}}})
		})
	})
	return err
}

// disconnect notes the end of a stream.
func (s *Server) disconnect(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.gone = true
	n := st.node
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stream != st {
		return
	}
	n.stream, n.left = nil, s.o.Clock()
	s.letGo(n)
	if n.idle() {
		s.removeNode(n)
	}
}

// SetRateCard gives a card to every stream, now and when it begins. The server
// keeps it; it must not change.
func (s *Server) SetRateCard(card *pb.RateCard) {
	s.card.Store(card)
	for _, n := range s.allNodes() {
		n.mu.Lock()
		if n.stream != nil {
			n.stream.signal()
		}
		n.mu.Unlock()
	}
}

// Drain ends the service gracefully: nothing more is accepted, what is accepted
// is committed and acknowledged, and streams end with Unavailable. Where ctx
// ends first, what is not committed stays with the agents. The writer must be
// running; Drain is called once. The gRPC server is stopped after it.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	close(s.draining)
	s.mu.Unlock()
	s.readyAll()
	err := s.budget.empty(ctx, s.dead)
	close(s.drained)
	return err
}

var (
	errStopped    = errors.New("the writer has stopped")
	errDraining   = status.Error(codes.Unavailable, "the collector is stopping")
	errSuperseded = status.Error(codes.Aborted, "a newer stream of this node has taken over")
)

// readyAll makes every group ready and asks for their commit at once.
func (s *Server) readyAll() {
	for _, n := range s.allNodes() {
		n.mu.Lock()
		gs := n.makeReady(func(*group) bool { return true })
		n.mu.Unlock()
		s.queue.add(gs, s.o.Clock())
	}
	s.queue.rush()
}

// relieve has memory given back soon. What is ready is committed at once; where
// nothing is, so much of what is open is made ready as makes a commit, the fullest
// minutes first. A minute that is committed in parts is as many rows, and as much
// work, as each part alone: done to all of a fleet, it would keep the memory short.
func (s *Server) relieve() {
	if !s.queue.empty() {
		s.queue.rush()
		return
	}
	var bytes [chunksPerMinute + 1]int64 // by the number of chunks, six and more together
	fullness := func(g *group) int { return min(len(g.chunks), len(bytes)-1) }
	nodes := s.allNodes()
	for _, n := range nodes {
		n.mu.Lock()
		for _, g := range n.open {
			bytes[fullness(g)] += g.bytes
		}
		n.mu.Unlock()
	}
	least, sum := len(bytes)-1, bytes[len(bytes)-1]
	for least > 1 && sum < s.o.Limits.PendingBytes/commitPart {
		least--
		sum += bytes[least]
	}
	for _, n := range nodes {
		n.mu.Lock()
		gs := n.makeReady(func(g *group) bool { return fullness(g) >= least })
		n.mu.Unlock()
		s.queue.add(gs, s.o.Clock())
	}
	s.queue.rush()
}

// press asks the writer to relieve memory.
func (s *Server) press() {
	if !s.pressed.Swap(true) {
		s.queue.signal()
	}
}

// job is something to be done by the writer.
type job struct {
	ctx  context.Context
	do   func(context.Context) error
	done chan error
}

// Do calls f between commits on the writer's goroutine, the only one that may
// change the store, and returns what f does. It waits its turn as long as ctx
// lasts.
func (s *Server) Do(ctx context.Context, f func(context.Context) error) error {
	j := job{ctx, f, make(chan error, 1)}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.dead:
		return errStopped
	}
	return <-j.done
}

func sortedKeys[V any](m map[string]V) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
