package peers

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// fetchTimeout bounds an attempt, also where nobody waits for it any more: the
// next question finds its answer.
const fetchTimeout = 5 * time.Second

// peer is one address of another collector, or of this one.
type peer struct {
	all                         *Peers
	address, target, serverName string

	mu      sync.Mutex
	conn    *grpc.ClientConn
	asking  chan struct{} // closed when the attempt that runs has ended; nil: none runs
	last    *told
	self    bool          // it is this collector
	pause   time.Duration // after the next failure
	until   time.Time     // nobody waits before
	err     error         // of the last attempt
	stopped bool
}

// told is one answer of a peer.
type told struct {
	at      time.Time // when it came; it is of the time since it was asked for
	cut     bool
	chunks  []*chunk
	checked map[chunkID]*chunk
	rosters map[attribution.Fingerprint]*roster
}

// chunkID tells a chunk from every other.
type chunkID struct {
	cluster, node string
	digest        string // over everything else
}

// ask begins an attempt, unless one runs or what is there is fresh.
func (x *peer) ask(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.self || x.stopped || x.asking != nil || (x.last != nil && now.Sub(x.last.at) < freshFor) {
		return
	}
	done := make(chan struct{})
	if x.all.start(func(ctx context.Context) { x.attempt(ctx, done) }) {
		x.asking = done
	}
}

// await is the newest answer, once there is a fresh one, or ctx ends, or nobody
// waits for this peer.
func (x *peer) await(ctx context.Context, asked time.Time) (last *told, fresh bool) {
	x.mu.Lock()
	asking, wait := x.asking, !asked.Before(x.until)
	x.mu.Unlock()
	if asking != nil && wait {
		select {
		case <-asking:
		case <-ctx.Done():
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.self {
		return nil, true
	}
	return x.last, x.last != nil && !x.last.cut && asked.Sub(x.last.at) < freshFor
}

// attempt asks, and notes what came of it.
func (x *peer) attempt(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	x.mu.Lock()
	before := x.last
	x.mu.Unlock()
	t, self, err := x.fetch(ctx, before)
	x.mu.Lock()
	defer x.mu.Unlock()
	defer close(done)
	x.asking, x.self = nil, self
	if err == nil {
		x.all.answers.Add(1)
		t.at = time.Now()
		x.last, x.err, x.pause = t, nil, 0
		return
	}
	x.all.failures.Add(1)
	if x.err == nil {
		x.all.o.Logger.Warn("peers: a collector does not tell what it has open: the newest seconds of its nodes come once they are stored", "peer", x.address, "err", err)
	}
	x.pause = min(max(2*x.pause, pauseMin), pauseMax)
	x.err, x.until = err, time.Now().Add(x.pause)
}

// client is a way to the peer.
func (x *peer) client() (pb.PeerClient, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stopped {
		return nil, context.Canceled
	}
	if x.conn == nil {
		conn, err := x.all.o.Dial(x.target, x.serverName)
		if err != nil {
			return nil, err
		}
		x.conn = conn
	}
	return pb.NewPeerClient(x.conn), nil
}

func (x *peer) close() {
	x.mu.Lock()
	conn := x.conn
	x.conn, x.stopped = nil, true
	x.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // nothing that is asked matters any more
	}
}

// fetch asks for what is open.
func (x *peer) fetch(ctx context.Context, before *told) (t *told, self bool, err error) {
	client, err := x.client()
	if err != nil {
		return nil, false, err
	}
	stream, err := client.Open(ctx, &pb.OpenRequest{Instance: x.all.o.Instance[:]}, grpc.MaxCallRecvMsgSize(maxPart))
	if err != nil {
		return nil, false, err
	}
	t = &told{checked: make(map[chunkID]*chunk), rosters: make(map[attribution.Fingerprint]*roster)}
	if before == nil {
		before = &told{}
	}
	bytes := int64(0)
	var mem wire.Arena
	for first := true; ; first = false {
		p, err := stream.Recv()
		if err == io.EOF { //nolint:errorlint // it is never wrapped
			return nil, false, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, false, err
		}
		if first && string(p.GetInstance()) == string(x.all.o.Instance[:]) {
			return t, true, nil
		}
		if err := x.take(t, before, p, &mem); err != nil {
			return nil, false, err
		}
		bytes += int64(proto.Size(p)) // it is kept as it came
		t.cut = p.GetCut()
		if p.GetLast() {
			return t, false, nil
		}
		if bytes > maxBytes || len(t.chunks) > maxChunks {
			t.cut = true
			return t, false, nil
		}
	}
}

// take adds a part to an answer. What the answer before had is not checked again.
func (x *peer) take(t, before *told, p *pb.OpenPart, mem *wire.Arena) error {
	for _, r := range p.GetRosters() {
		id, err := wire.RosterID(r.GetId())
		if err != nil {
			return err
		}
		own := before.rosters[id]
		if own == nil {
			if own, err = newRoster(id, r.GetRoster()); err != nil {
				return err
			}
		}
		t.rosters[id] = own
	}
	for _, o := range p.GetChunks() {
		m := o.GetChunk()
		id := chunkID{o.GetCluster(), o.GetNode(), string(m.GetDigest())}
		c := before.checked[id]
		if c == nil {
			rosterID, err := wire.RosterID(m.GetRosterId())
			if err != nil {
				return err
			}
			of := t.rosters[rosterID]
			if of == nil {
				return fmt.Errorf("a chunk of %q refers to roster %v, which did not come", o.GetNode(), rosterID)
			}
			mem.Reset()
			if c, err = newChunk(o, of, mem); err != nil {
				return err
			}
			x.all.chunks.Add(1)
			x.all.bytes.Add(uint64(len(m.GetBody())))
		}
		t.checked[id] = c
		t.chunks = append(t.chunks, c)
	}
	return nil
}

// status asks how the peer does.
func (x *peer) status(ctx context.Context) Status {
	s := Status{Address: x.address}
	client, err := x.client()
	if err == nil {
		s.Nodes, err = client.Nodes(ctx, &pb.NodesRequest{Instance: x.all.o.Instance[:]}, grpc.MaxCallRecvMsgSize(maxPart))
	}
	s.Err = err
	return s
}
