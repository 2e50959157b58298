package push

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is what runs a server, and can be killed: its timeline is the test's.
type agent struct {
	t       *testing.T
	listen  string
	dir     string
	clock   atomic.Int64 // Unix s
	lag     atomic.Int64 // s by which sealing is behind
	lasting attribution.Second
	owners  owners
	options Options
	server  *Server
	cancel  context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	dead    bool // nothing is sealed any more, and what is yielded is gone
	events  []sampler.Event
	ledger  map[attribution.Measure]int64 // of what lasts
	conn    *grpc.ClientConn
}

type owners struct {
	process, address *attribution.Owner
	later            *atomic.Uint64 // more than 0 where another process has the pid
	early            bool
}

func (o owners) Known() bool { return !o.early }

func (o owners) Process(pid uint32) (*attribution.Owner, uint64) {
	if int(pid) != os.Getpid() {
		return nil, 0
	}
	if o.later == nil {
		return o.process, 1
	}
	return o.process, 1 + o.later.Load()
}

func (o owners) Address(ip netip.Addr, container string) *attribution.Owner {
	if !ip.IsLoopback() || o.address == nil || (container != "" && container != o.address.Container) {
		return nil
	}
	return o.address
}

var trainer = &attribution.Owner{Kind: attribution.Container, Namespace: "ml", Pod: "train", PodUID: "u-1", Container: "main"}

func newAgent(t *testing.T, listen string) *agent {
	a := &agent{t: t, listen: listen, dir: t.TempDir(), owners: owners{process: trainer, address: trainer, later: new(atomic.Uint64)}, ledger: map[attribution.Measure]int64{}}
	a.clock.Store(1_000_000)
	a.lag.Store(1)
	a.start()
	t.Cleanup(a.kill)
	return a
}

func (a *agent) unsealed() attribution.Second {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sealed()
}

func (a *agent) sealed() attribution.Second {
	if a.dead {
		return a.lasting
	}
	return attribution.Second(a.clock.Load() - a.lag.Load())
}

func (a *agent) start() {
	a.mu.Lock()
	a.dead = false
	a.mu.Unlock()
	o := a.options
	o.Node, o.Listen, o.Owners, o.File, o.From = "n", a.listen, a.owners, filepath.Join(a.dir, "pushed"), a.lasting
	o.Now = func() int64 { return a.clock.Load() * int64(time.Second) }
	o.Unsealed, o.Durable = a.unsealed, a.unsealed
	s, err := New(o)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.server, a.cancel, a.done = s, cancel, make(chan struct{})
	done := a.done
	go func() {
		defer close(done)
		if err := s.Run(ctx, func() sampler.Producer { return (*producer)(a) }); err != nil {
			a.t.Error(err)
		}
	}()
}

// kill ends the agent: what is not sealed is gone.
func (a *agent) kill() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
	if a.cancel == nil {
		return
	}
	a.mu.Lock()
	a.dead, a.lasting = true, a.sealed()
	for _, e := range a.events {
		if attribution.SecondOf(e.Time-1) >= a.lasting {
			continue
		}
		for _, v := range e.Tally.Values {
			a.ledger[v.Measure] += v.Value
		}
	}
	a.events = nil
	a.mu.Unlock()
	a.cancel()
	<-a.done
	a.cancel = nil
}

// total is what has been counted.
func (a *agent) total(m attribution.Measure) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := a.ledger[m]
	for _, e := range a.events {
		for _, v := range e.Tally.Values {
			if v.Measure == m {
				sum += v.Value
			}
		}
	}
	return sum
}

type producer agent

func (p *producer) Yield(e *sampler.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dead {
		p.events = append(p.events, *e)
	}
}

func (*producer) Close() {}

// ticking has the timeline advance, fast, until the test ends.
func (a *agent) ticking() {
	tick := time.NewTicker(20 * time.Millisecond)
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				a.clock.Add(1)
			}
		}
	}()
	a.t.Cleanup(func() { close(stop); <-ended })
}

// dial connects, once the server listens.
func (a *agent) dial() *grpc.ClientConn {
	a.t.Helper()
	if a.conn != nil {
		return a.conn
	}
	target := a.listen
	if filepath.IsAbs(target) {
		target = "unix://" + target
	}
	c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		a.t.Fatal(err)
	}
	a.conn = c
	return c
}

func (a *agent) record(q *pb.RecordRequest) (*pb.RecordReply, error) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return pb.NewPushClient(a.dial()).Record(ctx, q)
}

func (a *agent) export(ms ...*metricspb.Metric) (*collectorpb.ExportMetricsServiceResponse, error) {
	a.t.Helper()
	return a.exportOf(nil, ms...)
}

func (a *agent) exportOf(resource []*commonpb.KeyValue, ms ...*metricspb.Metric) (*collectorpb.ExportMetricsServiceResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return collectorpb.NewMetricsServiceClient(a.dial()).Export(ctx, &collectorpb.ExportMetricsServiceRequest{ResourceMetrics: []*metricspb.ResourceMetrics{{
		Resource: &resourcepb.Resource{Attributes: resource}, ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: ms}},
	}}})
}

func tcp(t *testing.T) string {
	t.Helper()
	at, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "push")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return "unix://" + filepath.Join(dir, "push.sock")
}

const one = int64(attribution.One)

// Whoever pushes is counted, under who his connection says that he is, over a
// socket and over TCP.
func TestRecord(t *testing.T) {
	for name, listen := range map[string]func(*testing.T) string{"socket": socket, "TCP": tcp} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, listen(t))
			a.ticking()
			reply, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 1, Served: []*pb.Served{{
				Model: "m", Tenant: "acme", Tier: "gold", Successes: new(uint64(3)), Failures: map[string]uint64{"Time Out": 2, "abort": 1},
				InputTokens: new(uint64(100)), OutputTokens: new(uint64(0)), Checkpoints: new(uint64(1)), LatencyNs: []uint64{1_000_000, 1_000_001, 2_000_000},
			}}})
			if err != nil || reply.GetDuplicate() {
				t.Fatal(reply, err)
			}
			for m, want := range map[attribution.Measure]int64{
				attribution.Success: 3 * one, "failure/time_out": 2 * one, attribution.Aborted: one, attribution.TokensInput: 100,
				attribution.Checkpoint: one, "latency/0": one, "latency/1": one, "latency/4": one,
			} {
				if got := a.total(m); got != want {
					t.Errorf("%s: %d, want %d", m, got, want)
				}
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			zero := false
			for _, e := range a.events {
				if e.Tally.Owner != trainer || e.Tally.Model != "m" || e.Tally.Tenant != "acme" || e.Tally.Tier != "gold" {
					t.Errorf("%+v", e.Tally)
				}
				for _, v := range e.Tally.Values {
					zero = zero || (v.Measure == attribution.TokensOutput && v.Value == 0)
					if v.Measure == attribution.TokensCached {
						t.Error("what was not measured is there")
					}
				}
			}
			if !zero {
				t.Error("a measured 0 is not there")
			}
		})
	}
}

// Who pushes is nobody that is known: nothing counts.
func TestStrangers(t *testing.T) {
	for name, listen := range map[string]func(*testing.T) string{"socket": socket, "TCP": tcp} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, listen(t))
			a.kill()
			a.owners = owners{process: &attribution.Owner{Kind: attribution.UnknownProcess, PID: 1}}
			a.start()
			_, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 1, Served: []*pb.Served{{Successes: new(uint64(3))}}})
			if status.Code(err) != codes.PermissionDenied || a.server.Stats().Strangers != 1 {
				t.Error(err, a.server.Stats())
			}
		})
	}
}

// Before the pods are known whoever pushes is told to try again: exporters drop
// what is refused for good.
func TestEarly(t *testing.T) {
	a := newAgent(t, tcp(t))
	a.kill()
	a.owners = owners{early: true}
	a.start()
	_, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 1, Served: []*pb.Served{{Successes: new(uint64(3))}}})
	if s := a.server.Stats(); status.Code(err) != codes.Unavailable || s.Early != 1 || s.Strangers != 0 {
		t.Error(err, s)
	}
}

// An answer means durable: before the second is sealed there is none.
func TestLaw4AnswersMeanDurable(t *testing.T) {
	a := newAgent(t, tcp(t))
	a.clock.Add(10)
	a.lag.Add(10) // nothing is sealed for ten seconds
	answered := make(chan error, 1)
	conn := a.dial()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := pb.NewPushClient(conn).Record(ctx, &pb.RecordRequest{Client: "c", Sequence: 1, Served: []*pb.Served{{Successes: new(uint64(1))}}})
		answered <- err
	}()
	for a.total(attribution.Success) == 0 {
		pause(10 * time.Millisecond)
	}
	pause(300 * time.Millisecond)
	select {
	case err := <-answered:
		t.Fatal("answered before the second was sealed: ", err)
	default:
	}
	a.lag.Store(-1) // it is sealed
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

// The agent is killed at any moment, and clients send again what was not
// answered. What is counted is what was sent.
func TestLaw4PushedIsCountedOnceThroughKills(t *testing.T) {
	a := newAgent(t, socket(t))
	a.ticking()
	r := rand.New(rand.NewPCG(1, 2))
	total, starts := int64(0), 0
	for sequence := uint64(1); sequence <= 25; sequence++ {
		n := r.Uint64N(20)
		total += int64(n)
		for {
			kill := r.IntN(3) == 0
			ended := make(chan error, 1)
			conn := a.dial()
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				_, err := pb.NewPushClient(conn).Record(ctx, &pb.RecordRequest{Client: "c", Sequence: sequence, Served: []*pb.Served{{Successes: &n}}})
				ended <- err
			}()
			if kill {
				pause(time.Duration(r.IntN(500)) * time.Millisecond)
				a.kill()
				a.start()
				starts++
			}
			if <-ended == nil {
				break
			}
		}
	}
	if got := a.total(attribution.Success); got != total*one || starts == 0 {
		t.Errorf("%d are counted, %d were sent, in %d lives", got/one, total, starts+1)
	}
}

func TestUnfitRequests(t *testing.T) {
	a := newAgent(t, tcp(t))
	many := make([]*pb.Served, maxServed+1)
	for i := range many {
		many[i] = &pb.Served{}
	}
	for name, q := range map[string]*pb.RecordRequest{
		"no client":   {Sequence: 1},
		"no sequence": {Client: "c"},
		"too many":    {Client: "c", Sequence: 1, Served: many},
		"a model":     {Client: "c", Sequence: 1, Served: []*pb.Served{{Model: "a\nb"}}},
		"a number":    {Client: "c", Sequence: 1, Served: []*pb.Served{{InputTokens: new(uint64(1 << 60))}}},
		"latencies":   {Client: "c", Sequence: 1, Served: []*pb.Served{{LatencyNs: make([]uint64, maxLatencies+1)}}},
	} {
		if _, err := a.record(q); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := a.server.Stats(); got.Unfit != 6 {
		t.Errorf("%+v", got)
	}
}

// A pusher has only so many requests a second.
func TestRateIsBounded(t *testing.T) {
	r := rates{of: map[string]*rate{}}
	at := time.Unix(1000, 0)
	for i := range 2 * perSecond {
		if !r.allow("a", at) {
			t.Fatal(i)
		}
	}
	if r.allow("a", at) || !r.allow("b", at) || !r.allow("a", at.Add(time.Second)) {
		t.Error("the rate is not held")
	}
	for i := range 3 * maxPushers {
		r.allow(fmt.Sprint(i), at.Add(time.Second))
	}
	if len(r.of) > maxPushers {
		t.Errorf("%d pushers", len(r.of))
	}
	if !r.allow("new", at.Add(time.Minute)) {
		t.Error("those who are silent hold the place of others")
	}
}

// One pusher that makes up names has no effect on others.
func TestClientsAreBounded(t *testing.T) {
	c := &counts{}
	second := attribution.Second(1000)
	o := Options{
		File: filepath.Join(t.TempDir(), "f"), Now: func() int64 { return second.Nanos() },
		Durable: func() attribution.Second { return second }, Unsealed: func() attribution.Second { return second },
	}
	b := openBook(&o, c)
	for i := range 2 * maxClients {
		_, err := b.mark(fmt.Sprintf("u-1/main/%d", i), 1, second)
		if (err == nil) != (i < perPusher) {
			t.Fatal(i, err)
		}
	}
	if _, err := b.mark("u-2/main/x", 1, second); err != nil {
		t.Error(err)
	}
	if _, err := b.mark("u-1/main/new", 1, second+forgetClients+1); err != nil || len(b.marks) > maxClients {
		t.Errorf("%v, %d", err, len(b.marks))
	}
}

// Only a socket that nobody listens behind is removed.
func TestSocketIsReplaced(t *testing.T) {
	at := socket(t)
	path := at[len("unix://"):]
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listen(t.Context(), at, owners{}, &counts{}); err == nil {
		l.Close()
		t.Error("a file was removed")
	}
	_ = os.Remove(path)
	first, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := listen(t.Context(), at, owners{}, &counts{}); err == nil {
		l.Close()
		t.Error("another's socket was taken")
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = first.Close()
	l, err := listen(t.Context(), at, owners{}, &counts{})
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
