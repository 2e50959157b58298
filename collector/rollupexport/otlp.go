package rollupexport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
)

// OTLPOptions say where the counters are pushed to by OTLP over gRPC.
type OTLPOptions struct {
	Endpoint          string // host:port
	Insecure          bool   // without TLS
	CAFile            string // authorities to trust instead of the system's, PEM
	CertFile, KeyFile string // of the client, PEM, read again for each connection
	Headers           map[string]string
	Interval          time.Duration // default 60 s, at least 1 s
	Timeout           time.Duration // of a push, default 10 s
	Version           string        // service.version
	InstanceID        string        // service.instance.id
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
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("the value of header %s: want printable ASCII; is there a line break at its end?", k)
		}
	}
	return nil
}

func notOfHeader(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

func (o *OTLPOptions) credentials() (credentials.TransportCredentials, error) {
	if o.Insecure {
		return insecure.NewCredentials(), nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12} // what collectors speak by default
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("otlp: authorities: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("otlp: %s: no certificate in it (want PEM)", o.CAFile)
		}
	}
	if o.CertFile != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			return &cert, err
		}
		if _, err := load(nil); err != nil {
			return nil, fmt.Errorf("otlp: the client's certificate: %w", err)
		}
		conf.GetClientCertificate = load
	}
	return credentials.NewTLS(conf), nil
}

// Pusher pushes the counters by OTLP. Every push has everything, so none is
// repeated: what one failed to bring, the next does.
type Pusher struct {
	o       OTLPOptions
	r       *Rollups
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
	creds, err := o.credentials()
	if err != nil {
		return nil, err
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
	return &Pusher{o: o, r: r, conn: conn, client: colpb.NewMetricsServiceClient(conn)}, nil
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
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
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

// Close closes the connection of a pusher that was not run.
func (p *Pusher) Close() error { return p.conn.Close() }
