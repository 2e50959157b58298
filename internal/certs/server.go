package certs

import (
	"crypto/tls"
	"math"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// lastWords is how long after the end of a client's certificate its
// connection is closed, so that a stream which ends for the same reason can
// still say so.
const lastWords = time.Second

// ServerConfig is for servers that speak these protocols. Clients must have a
// certificate of the authorities, where there are any. The set must have a
// certificate.
func (s *Set) ServerConfig(protocols ...string) *tls.Config {
	s.mustHavePair()
	return &tls.Config{
		MinVersion: s.o.MinVersion, NextProtos: protocols, SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			now := s.current(s.o.Every)
			c := &tls.Config{
				MinVersion: s.o.MinVersion, NextProtos: protocols, SessionTicketsDisabled: true,
				Certificates: []tls.Certificate{*now.pair}, Time: s.o.Clock,
			}
			if now.pool != nil {
				c.ClientCAs, c.ClientAuth = now.pool, tls.RequireAndVerifyClientCert
			}
			if bounded, ok := hello.Conn.(*connection); ok {
				c.VerifyConnection = func(with tls.ConnectionState) error {
					if len(with.PeerCertificates) > 0 {
						// Sub is the longest duration there is for a certificate without
						// an end, which nothing may be added to.
						left := min(with.PeerCertificates[0].NotAfter.Sub(s.o.Clock()), math.MaxInt64-lastWords)
						bounded.closeIn(left + lastWords)
					}
					return nil
				}
			}
			return c, nil
		},
	}
}

func (s *Set) mustHavePair() {
	if s.o.Cert == "" {
		panic("BUG: a server without a certificate")
	}
}

// ServerCredentials are ServerConfig's for a gRPC server.
func (s *Set) ServerCredentials() credentials.TransportCredentials {
	return credentials.NewTLS(s.ServerConfig("h2"))
}

// Listen returns a listener whose connections end with their client's
// certificate. TLS itself is still to be put on them, with ServerCredentials
// or ServerConfig.
func (s *Set) Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &connection{Conn: c}, nil
}

// connection is one that may be closed at a time.
type connection struct {
	net.Conn

	mu     sync.Mutex
	closed bool
	end    *time.Timer
}

// closeIn closes it after a while, unless somebody else does before.
func (c *connection) closeIn(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.end == nil {
		c.end = time.AfterFunc(d, func() { _ = c.Close() }) // nobody to tell
	}
}

func (c *connection) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.end != nil {
		c.end.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}
