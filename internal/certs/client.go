package certs

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
)

// ClientConfig is for one connection, or for those of a moment: it holds what
// the files hold now.
func (s *Set) ClientConfig() *tls.Config {
	now := s.current(0)
	c := &tls.Config{MinVersion: s.o.MinVersion, RootCAs: now.pool, Time: s.o.Clock}
	if now.pair != nil {
		// Given whatever authorities the server names: to stay silent would
		// only make its answer harder to understand.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return now.pair, nil }
	}
	return c
}

// ClientCredentials are for a gRPC client: each of its connections begins with
// what the files hold then.
func (s *Set) ClientCredentials() credentials.TransportCredentials { return client{s} }

type client struct{ s *Set }

func (c client) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.s.ClientConfig()).ClientHandshake(ctx, authority, conn)
}

func (client) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	panic("BUG: a client's credentials at a server")
}

func (client) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c client) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is part of the interface, deprecated, and not used.
func (client) OverrideServerName(string) error { return nil }
