package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// MostAgents bounds a load.
const MostAgents = 10_000

// Options say what is played.
type Options struct {
	Address string
	Dial    []grpc.DialOption // credentials above all
	Fleet   *Fleet

	Agents int
	// For is how long live seconds are played.
	For time.Duration
	// Backlog is how much of the past each agent sends first, in full chunks and
	// as fast as the collector takes it.
	Backlog time.Duration
	// Ramp is the time over which agents connect; it counts before For.
	Ramp time.Duration
	// Spread is how far apart the agents send what was sealed at the same
	// moment: how well their clocks agree.
	Spread time.Duration
	// Settle bounds the wait for the last acknowledgements.
	Settle time.Duration
	// Streams are those of one TCP connection. Real agents have one each.
	Streams int
	// Hostile agents try to do harm beside the others.
	Hostile int
}

// Validate finds what makes no sense.
func (o *Options) Validate() error {
	for _, x := range []struct {
		name        string
		value       int64
		least, most int64
	}{
		{"agents", int64(o.Agents), 1, MostAgents},
		{"devices", int64(o.Fleet.Devices), 1, 64},
		{"owners", int64(o.Fleet.Owners), 1, 64},
		{"streams of a connection", int64(o.Streams), 1, 1000},
		{"hostile agents", int64(o.Hostile), 0, 1000},
		{"seconds of a pod's life", o.Fleet.Life, 1, 1 << 40},
		{"seconds of backlog", int64(o.Backlog / time.Second), 0, 7 * 86400},
		{"seconds to play", int64(o.For / time.Second), 0, 7 * 86400},
		{"seconds of ramp", int64(o.Ramp / time.Second), 0, 3600},
	} {
		if x.value < x.least || x.value > x.most {
			return fmt.Errorf("%d %s: want %d to %d", x.value, x.name, x.least, x.most)
		}
	}
	if o.For < time.Second && o.Backlog < time.Second {
		return errors.New("there is nothing to play: neither live seconds nor a backlog")
	}
	return nil
}

// Load is one run of a fleet.
type Load struct {
	o      Options
	ledger pb.LedgerClient
	conns  []*grpc.ClientConn
	agents []*agent
	count  counters
	start  attribution.Second // of the backlog
	live   attribution.Second // of the live seconds: the end of the backlog
	end    attribution.Second
}

// Open connects to the collector that is to bear it. Close it afterwards.
func Open(ctx context.Context, o Options) (*Load, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	l := &Load{o: o}
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	l.ledger = pb.NewLedgerClient(conn)
	if err := l.prices(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.o.Fleet.scratch.New = func() any { return &scratch{} }
	return l, nil
}

func (l *Load) dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+l.o.Address, slices.Concat([]grpc.DialOption{
		grpc.WithReadBufferSize(4 << 10), grpc.WithWriteBufferSize(4 << 10),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256 << 20)),
	}, opts, []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 20 * time.Second, PermitWithoutStream: true}),
	}, l.o.Dial)...)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

// Close ends all connections.
func (l *Load) Close() error {
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// prices has the fleet rated by the collector's card, where it has one.
func (l *Load) prices(ctx context.Context) error {
	m, err := l.ledger.GetRateCard(ctx, &pb.GetRateCardRequest{})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	card, err := wire.DecodeRateCard(m)
	if err != nil {
		return fmt.Errorf("the collector's rate card: %w", err)
	}
	if card.Revision == 0 {
		return nil
	}
	l.o.Fleet.Rater, err = rating.NewRater(card)
	return err
}

// Run plays it all, and waits until everything is acknowledged or the time for
// that is up. It returns an error where the load could not be played; what the
// collector did with it is in Stats and [Load.Check].
func (l *Load) Run(ctx context.Context) error {
	now := time.Now()
	l.live = attribution.Second(now.Add(l.o.Ramp).Unix())
	l.start, l.end = l.live-attribution.Second(l.o.Backlog/time.Second), l.live+attribution.Second(l.o.For/time.Second)
	l.o.Fleet.priced = l.start
	if err := l.hire(); err != nil {
		return err
	}
	// Everyone ends at the deadline, whatever the collector does.
	deadline := now.Add(l.o.Ramp + l.o.For + l.o.Settle)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	beside, stop := context.WithCancel(ctx)
	var besides sync.WaitGroup
	besides.Go(func() { l.watch(beside) })
	for i := range l.o.Hostile {
		besides.Go(func() { l.harass(beside, i) })
	}
	var working sync.WaitGroup
	for i, a := range l.agents {
		working.Go(func() {
			if sleep(ctx, l.o.Ramp*time.Duration(i)/time.Duration(len(l.agents))) {
				a.run(ctx, l.end)
			}
		})
	}
	working.Wait()
	stop()
	besides.Wait()
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// hire makes the agents and their connections.
func (l *Load) hire() error {
	var conn *grpc.ClientConn
	for i := range l.o.Agents {
		if i%l.o.Streams == 0 {
			var err error
			if conn, err = l.dial(uplink.DialOptions()...); err != nil {
				return err
			}
		}
		n := l.o.Fleet.node(i)
		a := &agent{
			node: n, client: pb.NewIngestClient(conn), count: &l.count, next: l.start,
			previous: attribution.FirstLink(n.boot), wake: make(chan struct{}, 1),
		}
		if l.o.Spread > 0 {
			a.phase = time.Duration(l.o.Fleet.hash(uint64(i), 0x9ba5e) % uint64(l.o.Spread))
		}
		l.agents = append(l.agents, a)
	}
	return nil
}

// Stats is what happened so far. Any goroutine may ask.
func (l *Load) Stats() Stats { return l.count.stats() }

// Verdict is what the ledger holds of a run.
type Verdict struct {
	AckedSeconds   int64 `json:"acked_seconds"`   // of nodes, acknowledged
	UnackedSeconds int64 `json:"unacked_seconds"` // of nodes, sent or due and not acknowledged
	// Lost are nodes of which the ledger has less than it acknowledged,
	// Doubled those of which it has more than there was.
	Lost    []string `json:"lost"`
	Doubled []string `json:"doubled"`
}

// report asks the ledger for the device time of every node. A collector that is
// still busy with the load, and answers too late, is asked again.
func (l *Load) report(ctx context.Context) (*pb.ReportResponse, error) {
	const minute = 60
	const tries, pause = 5, 10 * time.Second
	for try := 1; ; try++ {
		answer, err := l.ledger.Report(ctx, &pb.ReportRequest{
			From: int64(l.start) / minute * minute, To: (int64(l.end) + minute - 1) / minute * minute,
			GroupBy: []string{"node"}, Filter: []string{"cluster=" + l.o.Fleet.Cluster},
		})
		if status.Code(err) != codes.DeadlineExceeded || try == tries || !sleep(ctx, pause) {
			return answer, err
		}
	}
}

// Check asks the ledger for the device time of every node, after Run.
func (l *Load) Check(ctx context.Context) (*Verdict, error) {
	answer, err := l.report(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the ledger what it holds: %w", err)
	}
	held := make(map[string]*big.Int, len(answer.GetRows()))
	for _, row := range answer.GetRows() {
		t, ok := new(big.Int).SetString(row.GetSum().GetDeviceTimeNs(), 10)
		if !ok || len(row.GetKeys()) != 1 || row.GetOther() {
			return nil, fmt.Errorf("the ledger answers a node's device time with %v", row)
		}
		held[row.GetKeys()[0]] = t
	}
	v := &Verdict{}
	for _, a := range l.agents {
		a.mu.Lock()
		acked, possible := a.acked, a.acked
		for i := range a.unacked {
			possible += int64(a.unacked[i].seconds)
		}
		if a.next < l.end {
			possible += int64(l.end - a.next) // seconds sent live, perhaps
		}
		a.mu.Unlock()
		v.AckedSeconds += acked
		v.UnackedSeconds += possible - acked
		t := held[a.node.name]
		if t == nil {
			t = new(big.Int)
		}
		switch {
		case t.Cmp(l.deviceTime(acked)) < 0:
			v.Lost = append(v.Lost, a.node.name)
		case t.Cmp(l.deviceTime(possible)) > 0:
			v.Doubled = append(v.Doubled, a.node.name)
		}
	}
	return v, nil
}

// deviceTime is that of so many seconds of a node, ns.
func (l *Load) deviceTime(seconds int64) *big.Int {
	return new(big.Int).Mul(big.NewInt(seconds*int64(l.o.Fleet.Devices)), big.NewInt(attribution.WindowNanos))
}
