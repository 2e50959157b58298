package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/agent/uplink"
)

// Dial makes the connection to collector.address that a valid configuration asks
// for. Nothing is sent yet: it is made when it is used, and made again when it is
// lost.
func Dial(c *CollectorConfig) (*grpc.ClientConn, error) { return c.dial(c.Address, "") }

// dial connects to one collector, whose certificate is for a server name; "":
// that of the target.
func (c *CollectorConfig) dial(target, serverName string) (*grpc.ClientConn, error) {
	opts, err := c.dialOptions()
	if err != nil {
		return nil, err
	}
	if serverName != "" {
		opts = append(opts, grpc.WithAuthority(serverName))
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("collector %s: %w", target, err)
	}
	return conn, nil
}

func (c *CollectorConfig) dialOptions() ([]grpc.DialOption, error) {
	creds := insecure.NewCredentials()
	if c.TLS() {
		conf, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(conf)
	}
	return append(uplink.DialOptions(), grpc.WithTransportCredentials(creds)), nil
}

func (c *CollectorConfig) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("collector.ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("collector.ca_file: no certificate in it (want PEM)")
		}
	}
	if c.CertFile != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &cert, err
		}
		if _, err := load(nil); err != nil {
			return nil, fmt.Errorf("collector.cert_file: %w", err)
		}
		conf.GetClientCertificate = load // for each connection, since it is renewed
	}
	return conf, nil
}
