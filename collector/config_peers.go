package collector

import (
	"net"
	"slices"
)

// PeersConfig says who the other collectors of a store are that several write
// to. Each sees what the others have stored anyway; it asks them for what they
// have not stored yet, so that the newest minute is in its answers, too.
type PeersConfig struct {
	// Name is what this collector calls itself in the status. Default "": the
	// host's name.
	Name string `yaml:"name"`

	// Addresses are the other collectors' gRPC addresses, host:port. This
	// collector's own may be among them. A single host name with several
	// addresses (a headless Service) stands for all of them. Default: none.
	Addresses []string `yaml:"addresses"`

	// Timeout is how long a question waits for what the others have open; the
	// newest seconds of one that is slower are missing until they are stored.
	// Default: 1s. 0 means the default.
	Timeout Duration `yaml:"timeout"`

	// CAFile holds the certificates that the others' are checked against, in
	// PEM. They are shown tls.cert_file. Default "": tls.client_ca_file, else
	// the system's.
	CAFile string `yaml:"ca_file"`

	// TokenFile holds a token that the others take for a caller whose role is
	// operator, of everything; it is read again for each call. Default "":
	// none.
	TokenFile string `yaml:"token_file"`

	// Insecure asks other machines in plain text, where tls.cert_file is empty.
	// Default: false.
	Insecure bool `yaml:"insecure"`
}

// maxPeers bounds peers.addresses.
const maxPeers = 256

func (c *Config) checkPeers(bad func(key, format string, args ...any)) {
	p := &c.Peers
	if p.Timeout.Duration < 0 {
		bad("peers.timeout", "is negative")
	}
	if len(p.Addresses) > maxPeers {
		bad("peers.addresses", "%d: want at most %d", len(p.Addresses), maxPeers)
		return
	}
	if len(p.Addresses) > 0 && c.Store == storeDuckDB {
		bad("peers.addresses", "the store %s has one collector: others need a store that they share", c.Store)
	}
	known := p.TokenFile != "" || c.TLS.ClientCAFile != "" && slices.ContainsFunc(c.Access.Grants, func(g GrantConfig) bool { return len(g.Certificates) > 0 })
	if len(p.Addresses) > 0 && c.Access.configured() && !known {
		bad("peers.token_file", "the others ask who asks: name a token of the role operator for everything, or have access.grants know tls.cert_file")
	}
	for i, a := range p.Addresses {
		host, _, err := net.SplitHostPort(a)
		switch {
		case err != nil:
			bad("peers.addresses", "want host:port: %v", err)
		case slices.Contains(p.Addresses[:i], a):
			bad("peers.addresses", "%s is there twice", a)
		case c.TLS.CertFile == "" && !p.Insecure && !isLoopback(host):
			bad("peers.addresses", "%s is another machine: set tls.cert_file, or insecure: true to ask it in plain text", a)
		}
	}
}
