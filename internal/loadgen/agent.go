package loadgen

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	// maxUnacked is how many chunks an agent may have unacknowledged: a day.
	maxUnacked = 8640
	// inFlight is how many of them it sends on one stream without waiting.
	inFlight = 256
	// sealedAfter is how long after its end a second is sealed and sent.
	sealedAfter = time.Second
)

// agent is one agent of the load. Its sender does the work; the receiver of its
// stream notes what the collector says.
type agent struct {
	node   *node
	client pb.IngestClient
	count  *counters
	phase  time.Duration // after the others' seconds

	// The sender's own.
	next     attribution.Second // that is not in a chunk yet
	previous []byte             // link of the chain, before the next chunk
	cast     *cast

	mu      sync.Mutex
	unacked []sentChunk          // by sequence
	resend  []attribution.Second // asked for
	acked   int64                // seconds
	pace    pb.Pace              // what this stream may be sent
	wake    chan struct{}        // has room for one: something changed
}

// sentChunk is a chunk that may have to be sent again.
type sentChunk struct {
	from     attribution.Second
	seconds  int
	previous []byte
	at       time.Time // sent for the first time; zero: not yet
	onStream bool      // sent on this stream
}

func (c *sentChunk) end() attribution.Second { return c.from + attribution.Second(c.seconds) }

func (a *agent) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run plays the agent until everything before `until` is acknowledged, or ctx
// ends. A stream that ends is begun again.
func (a *agent) run(ctx context.Context, until attribution.Second) {
	pause := 200 * time.Millisecond
	for {
		began := time.Now()
		err := a.session(ctx, until)
		if err == nil || ctx.Err() != nil {
			return
		}
		a.count.ends.Add(1)
		if time.Since(began) > time.Minute {
			pause = 200 * time.Millisecond
		}
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return
		}
		pause = min(2*pause, 30*time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// session plays one stream. It returns nil when all is acknowledged.
func (a *agent) session(ctx context.Context, until attribution.Second) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.client.Stream(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.resend = nil
	for i := range a.unacked {
		a.unacked[i].onStream = false
	}
	a.mu.Unlock()
	s := &sender{agent: a, stream: stream, until: until, rosters: make(map[attribution.Fingerprint]bool)}
	boot := a.node.boot
	hello := &pb.Hello{Cluster: a.node.fleet.Cluster, Node: a.node.name, Boot: boot[:], Version: "loadgen"}
	if err := s.send(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: hello}}); err != nil {
		return reason(stream, err)
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.GetWelcome() == nil {
		return errors.New("the collector does not welcome")
	}
	a.count.connected.Add(1)
	defer a.count.connected.Add(-1)
	s.every = max(int(m.GetWelcome().GetLiveEvery()), 1)
	a.setPace(m.GetWelcome().GetPace())
	defer a.setPace(pb.Pace_PACE_EVERYTHING)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()
	receiving.Go(func() {
		a.receive(stream)
		cancel()
	})
	return s.work(ctx)
}

// reason is why a stream ended: sending only knows that it did.
func reason(stream grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent], err error) error {
	if _, why := stream.Recv(); why != nil {
		return why
	}
	return err
}

// receive notes what the collector says until the stream ends.
func (a *agent) receive(stream grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent]) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		a.mu.Lock()
		switch m := m.GetMessage().(type) {
		case *pb.ToAgent_Ack:
			if bytes.Equal(m.Ack.GetBoot(), a.node.boot[:]) {
				a.acknowledged(attribution.Second(m.Ack.GetSequence()))
			}
		case *pb.ToAgent_Resend:
			if len(a.resend) < maxUnacked {
				a.resend = append(a.resend, attribution.Second(m.Resend.GetSequence()))
			}
		case *pb.ToAgent_Reject:
			a.rejected(attribution.Second(m.Reject.GetSequence()))
		case *pb.ToAgent_Pace:
			a.paced(m.Pace)
		default: // a rate card: the run keeps the one that it began with
		}
		a.mu.Unlock()
		a.signal()
	}
}

func (a *agent) setPace(p pb.Pace) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paced(p)
}

// paced notes what may be sent from here on, and counts the agents that wait.
func (a *agent) paced(p pb.Pace) {
	if a.pace == pb.Pace_PACE_NOTHING {
		a.count.held.Add(-1)
	}
	if p == pb.Pace_PACE_NOTHING {
		a.count.held.Add(1)
	}
	a.pace = p
}

// acknowledged notes that everything sent on this stream up to a sequence is
// durable.
func (a *agent) acknowledged(sequence attribution.Second) {
	k, now := 0, time.Now()
	for ; k < len(a.unacked) && a.unacked[k].from <= sequence && a.unacked[k].onStream; k++ {
		c := &a.unacked[k]
		a.acked += int64(c.seconds)
		a.count.chunksAcked.Add(1)
		a.count.slicesAcked.Add(int64(c.seconds) * a.node.fleet.slicesOfSecond())
		a.count.ack.add(now.Sub(c.at))
	}
	a.unacked = append(a.unacked[:0], a.unacked[k:]...)
}

// rejected drops a chunk that will never be stored.
func (a *agent) rejected(sequence attribution.Second) {
	for i := range a.unacked {
		if a.unacked[i].from == sequence {
			a.count.rejects.Add(1)
			a.unacked = append(a.unacked[:i], a.unacked[i+1:]...)
			return
		}
	}
}

// size is what a message adds to the bytes sent.
func size(m proto.Message) int64 { return int64(proto.Size(m)) }
