package rollupexport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"

	"github.com/gpuledger/gpuledger/internal/certs"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// OTLPOptions say where the counters are pushed to by OTLP over gRPC.
type OTLPOptions struct {
	Endpoint          string // host:port
	Insecure          bool   // without TLS
	CAFile            string // authorities to trust instead of the system's, PEM
	CertFile, KeyFile string // of the client, PEM
	Headers           map[string]secret.Text
	Interval          time.Duration // default 60 s, at least 1 s
	Timeout           time.Duration // of a push, default 10 s
	Version           string        // service.version
	InstanceID        string        // service.instance.id
	Log               *slog.Logger  // told of certificates; nil: nobody
}

func (o *OTLPOptions) setDefaults() {
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
}

// Validate checks all that can be checked without a look at files.
func (o OTLPOptions) Validate() error {
	o.setDefaults()
	if strings.Contains(o.Endpoint, "://") {
		return errors.New("endpoint is a URL: want host:port, and insecure for plain text") // it may hold a password
	}
	if _, _, err := net.SplitHostPort(o.Endpoint); err != nil {
		return fmt.Errorf("endpoint: want host:port, such as collector.observability:4317: %w", err)
	}
	switch {
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("cert_file and key_file come together")
	case o.Insecure && (o.CAFile != "" || o.CertFile != ""):
		return errors.New("insecure is without TLS: want no CA and no certificate then")
	case o.Interval < time.Second || o.Timeout <= 0:
		return fmt.Errorf("interval %v, timeout %v: want an interval of at least 1s, and a timeout", o.Interval, o.Timeout)
	}
	for k, v := range o.Headers {
		if k == "" || strings.HasPrefix(k, "grpc-") || strings.ContainsFunc(k, notOfHeader) {
			return fmt.Errorf("header %.80q: want lower-case letters, digits, -, _ and ., and not the prefix grpc-", k)
		}
		if strings.ContainsFunc(v.Reveal(), func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("the value of header %s: want printable ASCII; is there a line break at its end?", k)
		}
	}
	return nil
}

func notOfHeader(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// certificates are those of the client; nil is plain text.
func (o *OTLPOptions) certificates() (*certs.Set, error) {
	if o.Insecure {
		return nil, nil
	}
	// TLS 1.2 is what collectors speak by default.
	s, err := certs.Open(certs.Options{Name: "export", Cert: o.CertFile, Key: o.KeyFile, CA: o.CAFile, MinVersion: tls.VersionTLS12, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	return s, nil
}

// Pusher pushes the counters by OTLP. Every push has everything, so none is
// repeated: what one failed to bring, the next does.
type Pusher struct {
	o       OTLPOptions
	r       *Rollups
	certs   *certs.Set // nil: plain text
	conn    *grpc.ClientConn
	client  colpb.MetricsServiceClient
	failing bool

	pushes, failures, rejected atomic.Uint64
}

// PushStats are a pusher's counts.
type PushStats struct {
	Pushes, Failures uint64
	Rejected         uint64 // data points that the receiver took the rest without
}

// NewPusher makes a Pusher. Nothing is sent before Run, which must follow: it
// closes the connection.
func NewPusher(r *Rollups, o OTLPOptions) (*Pusher, error) {
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
	conn, err := grpc.NewClient(o.Endpoint, grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent("gpuledger-collector/"+o.Version), grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)),
		// A receiver that is back gets the next push, not one minutes later.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
			BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: max(time.Second, o.Interval/2),
		}, MinConnectTimeout: o.Timeout}))
	if err != nil {
		return nil, fmt.Errorf("otlp: endpoint %s: %w", o.Endpoint, err)
	}
	return &Pusher{o: o, r: r, certs: set, conn: conn, client: colpb.NewMetricsServiceClient(conn)}, nil
}

// Run pushes at every interval until ctx ends, and closes the connection.
func (p *Pusher) Run(ctx context.Context) error {
	ticker := time.NewTicker(p.o.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.push(ctx)
		case <-ctx.Done():
			if err := p.conn.Close(); err != nil {
				return fmt.Errorf("otlp: %w", err)
			}
			return nil
		}
	}
}

// push sends the newest counters. Those that are not new are sent all the
// same, as long as they are of this epoch: they are cumulative.
func (p *Pusher) push(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	s, err := p.r.Snapshot(ctx)
	if err == nil {
		err = p.send(ctx, s)
	}
	if err != nil {
		p.failures.Add(1)
		if !p.failing {
			p.r.o.Log.Warn("rollups can't be pushed; each push is tried once, and the next has everything", "endpoint", p.o.Endpoint, "error", err)
		}
	} else {
		p.pushes.Add(1)
		if p.failing {
			p.r.o.Log.Info("rollups are pushed again", "endpoint", p.o.Endpoint)
		}
	}
	p.failing = err != nil
}

func (p *Pusher) send(ctx context.Context, s *Snapshot) error {
	for k, v := range p.o.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v.Reveal())
	}
	for request := range p.requests(s) {
		response, err := p.client.Export(ctx, request)
		if err != nil {
			return err
		}
		p.rejected.Add(uint64(max(0, response.GetPartialSuccess().GetRejectedDataPoints())))
	}
	return nil
}

// Stats is a snapshot of the counts. Any goroutine may call it.
func (p *Pusher) Stats() PushStats {
	return PushStats{Pushes: p.pushes.Load(), Failures: p.failures.Load(), Rejected: p.rejected.Load()}
}

// Certificates are what is shown to the receiver and what it is checked
// against; nil is plain text. The caller runs them.
func (p *Pusher) Certificates() *certs.Set { return p.certs }

// Close closes the connection of a pusher that was not run.
func (p *Pusher) Close() error { return p.conn.Close() }
