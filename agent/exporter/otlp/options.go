package otlp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/internal/certs"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// Options configure a pusher. Endpoint is required.
type Options struct {
	// Endpoint is the host:port of an OTLP/gRPC receiver (usually port 4317).
	Endpoint string
	// Insecure sends in plain text. Default: TLS by the system's authorities.
	Insecure bool
	// CAFile has the authorities to trust instead, PEM.
	CAFile string
	// CertFile and KeyFile are the client's certificate, PEM, read again for
	// each connection.
	CertFile, KeyFile string
	// Headers are sent with every push, such as authorization. They are never
	// logged.
	Headers map[string]secret.Text
	// NoCompression sends requests as they are instead of gzipped, which takes
	// off nine tenths and more.
	NoCompression bool

	// Interval is the time between pushes, default 15 s; at least 1 s.
	Interval time.Duration
	// Timeout is how long one may take, default 10 s.
	Timeout time.Duration
	// MaxRequestBytes is where a push is split into requests: 1 MiB by default,
	// of the 4 MiB that gRPC servers take. One owner is never split.
	MaxRequestBytes int

	// Version is service.version.
	Version string
	// InstanceID is service.instance.id of the node's resource. Default:
	// cluster/node.
	InstanceID string
	// HostName is host.name, where it is known.
	HostName string

	// Logger is told when pushes begin to fail and when they succeed again.
	// Default: nobody.
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	if o.Interval == 0 {
		o.Interval = 15 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = 1 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate checks all that can be checked without a look at files.
func (o Options) Validate() error {
	o.setDefaults()
	if strings.Contains(o.Endpoint, "://") {
		return errors.New("endpoint is a URL: want host:port, and insecure for plain text") // it may hold a password
	}
	if _, _, err := net.SplitHostPort(o.Endpoint); err != nil {
		return fmt.Errorf("endpoint: want host:port, such as collector.observability:4317: %w", err)
	}
	switch {
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("the client's certificate and its key come together")
	case o.Insecure && (o.CAFile != "" || o.CertFile != ""):
		return errors.New("insecure is without TLS: want no CA and no certificate then")
	case o.Interval < time.Second || o.Timeout <= 0 || o.MaxRequestBytes < 0:
		return fmt.Errorf("interval %v, timeout %v, requests of %d bytes: want an interval of at least 1s, and the rest positive",
			o.Interval, o.Timeout, o.MaxRequestBytes)
	}
	for k, v := range o.Headers {
		if !isHeader(k) {
			return fmt.Errorf("header %.80q: want lower-case letters, digits, -, _ and ., and not the prefix grpc-", k)
		}
		if !strings.HasSuffix(k, "-bin") && strings.ContainsFunc(v.Reveal(), func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("the value of header %s: want printable ASCII; is there a line break at its end?", k)
		}
	}
	return nil
}

func isHeader(k string) bool {
	return k != "" && !strings.HasPrefix(k, "grpc-") && !strings.ContainsFunc(k, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// certificates are those of the client; nil is plain text.
func (o *Options) certificates() (*certs.Set, error) {
	if o.Insecure {
		return nil, nil
	}
	// TLS 1.2 is what collectors speak by default.
	s, err := certs.Open(certs.Options{Name: "otlp", Cert: o.CertFile, Key: o.KeyFile, CA: o.CAFile, MinVersion: tls.VersionTLS12, Log: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	return s, nil
}
