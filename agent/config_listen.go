package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"golang.org/x/net/netutil"

	"github.com/gpuledger/gpuledger/internal/certs"
)

// TLSConfig encrypts http_listen. Its files are read again when they are
// replaced; where the new ones are broken, those in use stay.
type TLSConfig struct {
	// CertFile and KeyFile are the certificate that is shown to those who
	// connect, in PEM. Default "": no TLS.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// ClientCAFile holds the certificates that those who connect must have
	// theirs from, in PEM; the kubelet's probes have none. Default "": anyone
	// may connect.
	ClientCAFile string `yaml:"client_ca_file"`
}

// maxHTTPConnections bounds those of http_listen.
const maxHTTPConnections = 64

// checkListeners holds every address to what reaches it: plain text is for this
// machine, unless the network keeps others out.
func (c *Config) checkListeners(bad func(key, format string, args ...any)) {
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		bad("tls.cert_file", "cert_file and key_file come together")
	}
	if c.TLS.ClientCAFile != "" && c.TLS.CertFile == "" {
		bad("tls.client_ca_file", "needs cert_file and key_file")
	}
	if c.HTTPListen != "" {
		switch host, _, err := net.SplitHostPort(c.HTTPListen); {
		case err != nil:
			bad("http_listen", "want host:port: %v", err)
		case c.InsecureListen || isLoopbackHost(host):
		case c.TLS.CertFile == "":
			bad("http_listen", "%s can be reached from other machines, in plain text: set tls.cert_file, or insecure_listen: true where the network keeps others out", c.HTTPListen)
		case c.PProf && c.TLS.ClientCAFile == "":
			bad("pprof", "at http_listen %s anyone could read the program's memory: set tls.client_ca_file, listen on loopback, or set insecure_listen: true where the network keeps others out", c.HTTPListen)
		}
	}
	if at := c.Inference.PushListen; at != "" && !strings.HasPrefix(at, "unix://") && !c.InsecureListen {
		if host, _, err := net.SplitHostPort(at); err == nil && !isLoopbackHost(host) {
			bad("inference.push_listen", "%s can be reached from other machines, in plain text: use a unix socket, or set insecure_listen: true where the network keeps others out", at)
		}
	}
}

func isLoopbackHost(host string) bool { return isLoopback(net.JoinHostPort(host, "0")) }

// Listener is http_listen of a valid configuration, bounded and with TLS where
// it has any; the set is that of its certificates, nil for none.
func (c *Config) Listener(ctx context.Context, log *slog.Logger) (net.Listener, *certs.Set, error) {
	var set *certs.Set
	if c.TLS.CertFile != "" {
		var err error
		set, err = certs.Open(certs.Options{Name: "listen", Cert: c.TLS.CertFile, Key: c.TLS.KeyFile, CA: c.TLS.ClientCAFile, Log: log})
		if err != nil {
			return nil, nil, fmt.Errorf("tls: %w", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.HTTPListen)
	if err != nil {
		return nil, nil, fmt.Errorf("http_listen: %w", err)
	}
	l = netutil.LimitListener(l, maxHTTPConnections)
	if set != nil {
		l = tls.NewListener(set.Listen(l), set.ServerConfig("http/1.1"))
	}
	return l, set, nil
}
