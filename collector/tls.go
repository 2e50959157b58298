package collector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/oklog/run"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/internal/certs"
)

// maxHTTPConnections bounds those of each address for HTTP.
const maxHTTPConnections = 1024

// openTLS reads the certificates that the collector shows those who connect:
// nil where there is no TLS.
func (t *TLSConfig) openTLS(log *slog.Logger) (*certs.Set, error) {
	if t.CertFile == "" {
		return nil, nil
	}
	s, err := certs.Open(certs.Options{Name: "listen", Cert: t.CertFile, Key: t.KeyFile, CA: t.ClientCAFile, Log: log})
	if err != nil {
		return nil, fmt.Errorf("%w: tls: %w", ErrConfig, err)
	}
	return s, nil
}

// credentials are those of the gRPC server.
func (c *Collector) credentials() credentials.TransportCredentials {
	if c.tls == nil {
		return insecure.NewCredentials()
	}
	return c.tls.ServerCredentials()
}

// expiring ends connections with their client's certificate.
func (c *Collector) expiring(l net.Listener) net.Listener {
	if c.tls != nil {
		l = c.tls.Listen(l)
	}
	return l
}

// guardHTTP bounds a listener in connections, and each of them in time, and
// puts TLS on it where there is any.
func (c *Collector) guardHTTP(l net.Listener) net.Listener {
	l = c.expiring(netutil.LimitListener(l, maxHTTPConnections))
	if c.tls != nil {
		l = tls.NewListener(l, c.tls.ServerConfig("http/1.1"))
	}
	return l
}

// addTLS has certificates looked at while the group runs.
func (c *Collector) addTLS(ctx context.Context, g *run.Group) {
	for _, s := range c.certificates() {
		watching, stop := context.WithCancel(ctx)
		g.Add(func() error {
			s.Run(watching)
			return nil
		}, func(error) { stop() })
	}
}

// certificates are all that are in use.
func (c *Collector) certificates() (all []*certs.Set) {
	for _, s := range []*certs.Set{c.tls, c.pushTLS, c.others.certificates()} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// certificateWarnings are what an operator should do about them.
func (c *Collector) certificateWarnings() (ws []string) {
	for _, s := range c.certificates() {
		if w := s.Status().Warning; w != "" {
			ws = append(ws, w)
		}
	}
	return ws
}

// checkListeners holds every address to what reaches it: plain text is for
// this machine, unless the network keeps others out.
func (c *Config) checkListeners(bad func(key, format string, args ...any)) {
	for _, x := range []struct {
		key, addr string
		optional  bool
	}{{"grpc_listen", c.GRPCListen, false}, {"http_listen", c.HTTPListen, false}, {"opencost_listen", c.OpenCostListen, true}} {
		if x.optional && x.addr == "" {
			continue
		}
		host, _, err := net.SplitHostPort(x.addr)
		switch {
		case err != nil:
			bad(x.key, "want host:port: %v", err)
		case c.TLS.CertFile == "" && !c.InsecureListen && !isLoopback(host):
			bad(x.key, "%s can be reached from other machines, in plain text and by anyone: set tls.cert_file, or insecure_listen: true where the network keeps others out", x.addr)
		case x.key == "http_listen" && c.Pprof && c.TLS.ClientCAFile == "" && !c.InsecureListen && !isLoopback(host):
			bad("pprof", "at http_listen %s anyone could read the program's memory: set tls.client_ca_file, listen on loopback, or set insecure_listen: true where the network keeps others out", x.addr)
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		bad("tls.cert_file", "cert_file and key_file come together")
	}
	if c.TLS.ClientCAFile != "" && c.TLS.CertFile == "" {
		bad("tls.client_ca_file", "needs cert_file and key_file")
	}
}

// guardOpenCost is guardHTTP but for loopback, where kubectl-cost looks through
// a port-forward, in plain text.
func (c *Collector) guardOpenCost(l net.Listener) (net.Listener, error) {
	host, _, err := net.SplitHostPort(c.cfg.OpenCostListen)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if isLoopback(host) {
		return netutil.LimitListener(l, maxHTTPConnections), nil
	}
	return c.guardHTTP(l), nil
}
