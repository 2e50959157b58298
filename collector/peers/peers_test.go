package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/peers"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// other is a collector that can be asked.
type other struct {
	mu    sync.Mutex
	open  []*attribution.Chunk
	asked int
	hang  atomic.Bool
	wrong func(*ingest.Open) // spoils what it tells
	lis   *bufconn.Listener
	srv   *grpc.Server
	down  atomic.Bool
	over  chan struct{} // closed at the end
}

func (o *other) tell(f func(*ingest.Open) error) error {
	o.mu.Lock()
	o.asked++
	cs := slices.Clone(o.open)
	o.mu.Unlock()
	for _, c := range cs {
		e := querytest.Encode(c)
		x := &ingest.Open{Cluster: c.Key.Cluster, Node: c.Key.Node, RosterID: e.Roster.ID, Roster: wire.PackRoster(e.Roster.Body), Chunk: &pb.Chunk{
			Boot: e.Chunk.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds), RosterId: e.Chunk.RosterID[:],
			Body: e.Chunk.Body, Digest: e.Chunk.Digest,
		}}
		if o.wrong != nil {
			o.wrong(x)
		}
		if err := f(x); err != nil {
			return err
		}
	}
	if o.hang.Load() {
		<-o.over
	}
	return nil
}

// rig is collectors, the first of which asks.
type rig struct {
	others map[string]*other
	served sync.WaitGroup
	peers  *peers.Peers
	hosts  []netip.Addr
}

func newRig(t *testing.T, addresses []string, configured ...string) *rig {
	r := &rig{others: map[string]*other{}}
	for i, a := range addresses {
		o := &other{lis: bufconn.Listen(1 << 20), srv: grpc.NewServer(), over: make(chan struct{})}
		r.others[a] = o
		pb.RegisterPeerServer(o.srv, peers.NewServer(peers.ServerOptions{
			Instance: peers.Instance{byte(i)}, Name: fmt.Sprint("collector-", i), Version: "v", Open: o.tell,
			Nodes: func() []*pb.NodeStatus { return []*pb.NodeStatus{{Node: a, Connected: true}} },
		}))
		r.served.Go(func() { _ = o.srv.Serve(o.lis) })
	}
	var err error
	r.peers, err = peers.New(peers.Options{
		Instance: peers.Instance{0}, Addresses: configured,
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return r.hosts, nil },
		Dial: func(target, _ string) (*grpc.ClientConn, error) {
			if target[:4] != "pass" {
				target = "passthrough:///" + target
			}
			return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					if o := r.others[address]; o != nil && !o.down.Load() {
						return o.lis.DialContext(ctx)
					}
					return nil, errors.New("connection refused")
				}))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) close() {
	r.peers.Close()
	for _, o := range r.others {
		close(o.over)
		o.srv.Stop()
	}
	r.served.Wait()
}

const all = attribution.Second(1) << 40

func keys(cs []store.Pending) (out []string) {
	for _, c := range cs {
		out = append(out, fmt.Sprintf("%s/%d+%d", c.Key().Node, c.Key().Sequence-querytest.Start, c.Seconds()))
	}
	slices.Sort(out)
	return out
}

var addresses = []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"}

// What the others have open comes, within the range; this collector is not asked
// for its own, though it is on the list; and questions of a moment share one
// answer.
func TestOpenOfTheOthers(t *testing.T) {
	w := querytest.NewWorld()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, addresses, addresses...)
		defer r.close()
		r.others[addresses[0]].open = []*attribution.Chunk{w.Chunk("n2", querytest.Start, 10)} // this one's
		r.others[addresses[1]].open = []*attribution.Chunk{w.Chunk("n1", querytest.Start, 10), w.Chunk("n1", querytest.Start+10, 1)}
		r.others[addresses[2]].open = []*attribution.Chunk{w.Chunk("n2", querytest.Start+20, 10)}
		for range 10 {
			cs, missing := r.peers.Open(t.Context(), 0, all)
			if got := fmt.Sprint(keys(cs), missing); got != "[n1/0+10 n1/10+1 n2/20+10] []" {
				t.Fatal(got)
			}
		}
		cs, _ := r.peers.Open(t.Context(), querytest.Start+9, querytest.Start+20)
		if got := fmt.Sprint(keys(cs)); got != "[n1/0+10 n1/10+1]" {
			t.Fatal(got)
		}
		time.Sleep(time.Minute)
		again, _ := r.peers.Open(t.Context(), 0, all)
		if st := r.peers.Stats(); len(again) != 3 || r.others[addresses[1]].asked != 2 || r.others[addresses[0]].asked != 0 || st.Chunks != 3 || st.Late != 0 {
			t.Fatalf("%d chunks, %d times asked, %+v", len(again), r.others[addresses[1]].asked, st)
		}
	})
}

// A peer that is down or hangs is named, costs a question no more than the
// timeout, then nothing; what it said last counts for a minute.
func TestLaw8SlowAndDeadPeers(t *testing.T) {
	w := querytest.NewWorld()
	for _, hangs := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, addresses, addresses...)
			defer r.close()
			bad := r.others[addresses[1]]
			bad.open = []*attribution.Chunk{w.Chunk("n1", querytest.Start, 10)}
			if cs, missing := r.peers.Open(t.Context(), 0, all); len(cs) != 1 || missing != nil {
				t.Fatal(keys(cs), missing)
			}
			if bad.hang.Store(hangs); !hangs {
				bad.down.Store(true)
				bad.srv.Stop()
			}
			waited := time.Duration(0)
			for i := range 60 {
				time.Sleep(time.Second)
				began := time.Now()
				cs, missing := r.peers.Open(t.Context(), 0, all)
				took := time.Since(began)
				waited += took
				if took > time.Second || !slices.Equal(missing, addresses[1:2]) || (len(cs) != 1 && i < 20) {
					t.Fatalf("after %d s: %v, missing %v, took %v", i, keys(cs), missing, took)
				}
			}
			if waited > 15*time.Second {
				t.Fatalf("60 questions waited %v", waited)
			}
			time.Sleep(time.Minute)
			if cs, _ := r.peers.Open(t.Context(), 0, all); len(cs) != 0 {
				t.Fatal("what it said minutes ago still counts")
			}
			if st := r.peers.Status(t.Context()); len(st) != 2 || (st[0].Err == nil) != hangs || st[1].Nodes.GetName() != "collector-2" {
				t.Fatalf("%+v", st)
			}
		})
	}
}

// What a peer says is checked: an answer with anything wrong in it does not
// count.
func TestWrongAnswersDoNotCount(t *testing.T) {
	w := querytest.NewWorld()
	for name, spoil := range map[string]func(*ingest.Open){
		"a chunk that its digest is not of": func(o *ingest.Open) { o.Chunk.Sequence += 10 },
		"a roster that is not there":        func(o *ingest.Open) { o.Chunk.RosterId = make([]byte, 16) },
		"a roster under another's id":       func(o *ingest.Open) { o.RosterID[0] ^= 1 },
		"no body":                           func(o *ingest.Open) { o.Chunk.Body = nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, addresses, addresses...)
			defer r.close()
			o := r.others[addresses[2]]
			o.open, o.wrong = []*attribution.Chunk{w.Chunk("n1", querytest.Start, 10)}, spoil
			if cs, missing := r.peers.Open(t.Context(), 0, all); len(cs) > 0 || !slices.Equal(missing, addresses[2:]) {
				t.Errorf("%s: %v, missing %v", name, keys(cs), missing)
			}
		})
	}
}

// A host name stands for all of its addresses, which are looked up again.
func TestHostName(t *testing.T) {
	w := querytest.NewWorld()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, addresses, "collectors.example:1")
		defer r.close()
		r.others[addresses[1]].open = []*attribution.Chunk{w.Chunk("n1", querytest.Start, 10)}
		r.others[addresses[2]].open = []*attribution.Chunk{w.Chunk("n2", querytest.Start, 10)}
		if _, missing := r.peers.Open(t.Context(), 0, all); !slices.Equal(missing, []string{"collectors.example"}) {
			t.Fatalf("missing %v", missing)
		}
		r.hosts = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
		time.Sleep(time.Minute)
		if cs, missing := r.peers.Open(t.Context(), 0, all); len(cs) != 1 || missing != nil {
			t.Fatal(keys(cs), missing)
		}
		r.hosts = append(r.hosts[1:], netip.MustParseAddr("10.0.0.3"))
		for range 3 { // the question that looks up does not wait for it
			time.Sleep(time.Minute)
			r.peers.Open(t.Context(), 0, all)
		}
		if cs, missing := r.peers.Open(t.Context(), 0, all); len(cs) != 2 || missing != nil {
			t.Fatal(keys(cs), missing)
		}
	})
}
