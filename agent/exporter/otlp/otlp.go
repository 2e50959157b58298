package otlp

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/certs"
)

// Pusher pushes snapshots. Run it once.
type Pusher struct {
	o       Options
	certs   *certs.Set // nil: plain text
	view    *exporter.View
	conn    *grpc.ClientConn
	client  colpb.MetricsServiceClient
	builder builder

	pushed    attribution.Second // the last one that succeeded
	failing   bool
	rejecting bool

	stats struct {
		pushes, failures, requests, bytes, rejected atomic.Uint64

		success atomic.Int64
	}
}

// Stats are a pusher's counts since New.
type Stats struct {
	Pushes         uint64 // that succeeded
	Failures       uint64 // pushes that failed
	Requests       uint64 // that succeeded
	Bytes          uint64 // of them, before compression
	RejectedPoints uint64 // that the receiver took the rest without
	LastSuccess    int64  // Unix seconds of the snapshot last pushed, 0 for none
}

// New makes a pusher of an exporter's snapshots. Series wait for it from now
// on. Nothing is sent before Run, which must follow: it closes the connection.
func New(e *exporter.Exporter, o Options) (*Pusher, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	o.setDefaults()
	set, err := o.certificates()
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if set != nil {
		creds = set.ClientCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent("gpuledger-agent/" + o.Version),
		// A receiver that is back gets the next push, not one minutes later.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
			BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: max(time.Second, o.Interval/2),
		}, MinConnectTimeout: o.Timeout}),
	}
	if !o.NoCompression {
		options = append(options, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	}
	conn, err := grpc.NewClient(o.Endpoint, options...)
	if err != nil {
		return nil, fmt.Errorf("otlp: endpoint %s: %w", o.Endpoint, err)
	}
	s := e.Snapshot()
	if o.InstanceID == "" {
		o.InstanceID = s.Cluster + "/" + s.Node
	}
	return &Pusher{
		o: o, certs: set, view: e.NewView(true), conn: conn, client: colpb.NewMetricsServiceClient(conn),
		builder: builder{o: &o, node: nodeResource(&o, s), limit: o.MaxRequestBytes},
	}, nil
}

// Certificates are what is shown to the receiver and what it is checked
// against; nil is plain text. The caller runs them.
func (p *Pusher) Certificates() *certs.Set { return p.certs }

// Run pushes at every interval until ctx ends, then once more, unless abort has
// ended too, and closes the connection.
func (p *Pusher) Run(ctx, abort context.Context) error {
	ticker := time.NewTicker(p.o.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.push(ctx)
		case <-ctx.Done():
			p.push(abort)
			if err := p.conn.Close(); err != nil {
				return fmt.Errorf("otlp: %w", err)
			}
			return nil
		}
	}
}

// push sends the latest snapshot, unless it has been.
func (p *Pusher) push(ctx context.Context) {
	s := p.view.Snapshot()
	if s.Second == p.pushed {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	for k, v := range p.o.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v.Reveal())
	}
	rejected, reason := int64(0), ""
	for size, request := range p.builder.requests(s) {
		response, err := p.client.Export(ctx, request)
		if err != nil {
			p.failed(err)
			return
		}
		p.stats.requests.Add(1)
		p.stats.bytes.Add(uint64(size))
		if partial := response.GetPartialSuccess(); partial.GetRejectedDataPoints() > 0 {
			rejected, reason = rejected+partial.GetRejectedDataPoints(), partial.GetErrorMessage()
		}
	}
	p.succeeded(s, rejected, reason)
}

func (p *Pusher) failed(err error) {
	p.stats.failures.Add(1)
	if !p.failing {
		p.o.Logger.Warn("metrics can't be pushed; each push will be tried once, and the next has everything",
			"endpoint", p.o.Endpoint, "err", err)
	}
	p.failing = true
}

// succeeded notes a push. What the receiver rejected it would reject again
// (the protocol forbids to repeat it), so it counts as exported.
func (p *Pusher) succeeded(s *exporter.Snapshot, rejected int64, reason string) {
	p.pushed = s.Second
	p.view.Exported(s)
	p.stats.pushes.Add(1)
	p.stats.success.Store(int64(s.Second))
	p.stats.rejected.Add(uint64(rejected))
	if p.failing {
		p.o.Logger.Info("metrics are pushed again", "endpoint", p.o.Endpoint)
	}
	if rejected > 0 && !p.rejecting {
		p.o.Logger.Warn("the receiver of metrics rejects some", "endpoint", p.o.Endpoint, "points", rejected, "reason", reason)
	}
	p.failing, p.rejecting = false, rejected > 0
}

// Stats is a snapshot of the counts. Any goroutine may call it.
func (p *Pusher) Stats() Stats {
	s := &p.stats
	return Stats{
		Pushes: s.pushes.Load(), Failures: s.failures.Load(), Requests: s.requests.Load(), Bytes: s.bytes.Load(),
		RejectedPoints: s.rejected.Load(), LastSuccess: s.success.Load(),
	}
}
