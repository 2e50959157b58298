package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/internal/certs"
)

// dialer makes the connections to collectors that a valid configuration asks
// for.
type dialer struct {
	certs   *certs.Set // nil: plain text
	options []grpc.DialOption
}

// dialer reads certificates and the token, so that a mistake shows now rather
// than with every stream.
func (c *CollectorConfig) dialer(log *slog.Logger) (*dialer, error) {
	d := &dialer{}
	creds := insecure.NewCredentials()
	if c.TLS() {
		var err error
		d.certs, err = certs.Open(certs.Options{Name: "collector", Cert: c.CertFile, Key: c.KeyFile, CA: c.CAFile, Log: log})
		if err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		creds = d.certs.ClientCredentials()
	}
	d.options = append(uplink.DialOptions(), grpc.WithTransportCredentials(creds))
	if c.TokenFile != "" {
		t := token{file: c.TokenFile, encrypted: c.TLS()}
		if _, err := t.read(); err != nil {
			return nil, err
		}
		d.options = append(d.options, grpc.WithPerRPCCredentials(t))
	}
	return d, nil
}

// dial connects to one collector, whose certificate is for a server name; "":
// that of the target. Nothing is sent yet: the connection is made when it is
// used, and made again when it is lost.
func (d *dialer) dial(target, serverName string) (*grpc.ClientConn, error) {
	opts := d.options
	if serverName != "" {
		opts = append(slices.Clip(opts), grpc.WithAuthority(serverName))
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("collector %s: %w", target, err)
	}
	return conn, nil
}

// token is a service account's. It is read for each stream, since the kubelet
// replaces it while it is valid.
type token struct {
	file      string
	encrypted bool // the connection is; plain text is for loopback alone, which the configuration's check sees to
}

// maxToken bounds a token's file; Kubernetes' have about 1 kB.
const maxToken = 16 << 10

func (t token) read() (string, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return "", fmt.Errorf("collector.token_file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	b = bytes.TrimSpace(b)
	switch {
	case err != nil:
	case len(b) == 0:
		err = errors.New("it is empty")
	case len(b) > maxToken:
		err = fmt.Errorf("it has more than %d bytes", maxToken)
	case bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' }):
		err = errors.New("it holds more than a token")
	}
	if err != nil {
		return "", fmt.Errorf("collector.token_file: %s: %w", t.file, err)
	}
	return string(b), nil
}

// GetRequestMetadata implements [credentials.PerRPCCredentials].
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := t.read()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + text}, nil
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials].
func (t token) RequireTransportSecurity() bool { return t.encrypted }

var _ credentials.PerRPCCredentials = token{}
