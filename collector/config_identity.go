package collector

import (
	"fmt"
	"net"
	"os"
	"regexp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuledger/gpuledger/collector/identity"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// IngestAccessConfig says how agents prove on which node they are, so that no
// node writes another's ledger. With neither certificates nor service accounts
// whoever may connect may write for any node.
type IngestAccessConfig struct {
	// Cluster is the one that agents may write for whose proof does not name
	// one; an asterisk is any. Default: default.
	Cluster string `yaml:"cluster"`

	// Certificates say how a client certificate names its node. They need
	// tls.client_ca_file.
	Certificates IngestCertificatesConfig `yaml:"certificates"`

	// Kubernetes has tokens of pods checked by the API server (TokenReview).
	Kubernetes IngestKubernetesConfig `yaml:"kubernetes"`
}

// IngestCertificatesConfig are patterns of names in client certificates: {node}
// stands for the node's name, {cluster}, where it is there, for the cluster's.
// What is empty is not looked at.
type IngestCertificatesConfig struct {
	// URI is a pattern such as spiffe://example.org/cluster/{cluster}/node/{node}.
	// Default "": none.
	URI string `yaml:"uri"`

	// DNS is a pattern such as {node}.nodes.gpuledger. Default "": none.
	DNS string `yaml:"dns"`

	// CommonName is a pattern such as system:node:{node}. Default "": none.
	CommonName string `yaml:"common_name"`
}

// IngestKubernetesConfig says whose tokens count. The node's name is what
// Kubernetes 1.32 and newer put into tokens of pods.
type IngestKubernetesConfig struct {
	// ServiceAccounts are those of agents, as namespace/name. Empty: tokens do
	// not count.
	ServiceAccounts []string `yaml:"service_accounts"`

	// Audience is whom tokens must be meant for. Default: gpuledger.
	Audience string `yaml:"audience"`

	// APIServer is the API server's URL. Default "": that of the cluster that
	// the collector runs in.
	APIServer string `yaml:"api_server"`

	// CAFile holds the certificates that the API server's is checked against,
	// in PEM. Default "": the pod's.
	CAFile string `yaml:"ca_file"`

	// TokenFile is the collector's own token there, which needs the right to
	// create tokenreviews. It is read for each question. Default "": the pod's.
	TokenFile string `yaml:"token_file"`
}

func defaultIngestAccess() IngestAccessConfig {
	return IngestAccessConfig{
		Cluster: "default", Kubernetes: IngestKubernetesConfig{ServiceAccounts: []string{}, Audience: "gpuledger"},
	}
}

func (c *IngestAccessConfig) patterns() identity.Patterns {
	return identity.Patterns{URI: c.Certificates.URI, DNS: c.Certificates.DNS, CommonName: c.Certificates.CommonName, Cluster: c.Cluster}
}

func (c *IngestAccessConfig) certificates() bool {
	return c.Certificates != (IngestCertificatesConfig{})
}

func (c *Config) checkIngestAccess(bad func(key, format string, args ...any)) {
	a := &c.IngestAccess
	if err := a.patterns().Check(); err != nil {
		bad("ingest_access.certificates", "%v", err)
	}
	if a.certificates() && c.TLS.ClientCAFile == "" {
		bad("ingest_access.certificates", "nobody shows a certificate without tls.client_ca_file")
	}
	k := &a.Kubernetes
	account := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	for _, name := range k.ServiceAccounts {
		if !account.MatchString(name) {
			bad("ingest_access.kubernetes.service_accounts", "%.80q: want namespace/name", name)
		}
	}
	if len(k.ServiceAccounts) == 0 {
		return
	}
	if k.Audience == "" {
		bad("ingest_access.kubernetes.audience", "must not be empty: a token for anybody is a token for the API server")
	}
	if a.Cluster == "" {
		bad("ingest_access.cluster", "must not be empty: name one, or * for any")
	}
	if host, _, err := net.SplitHostPort(c.GRPCListen); c.TLS.CertFile == "" && (err != nil || !isLoopback(host)) {
		bad("ingest_access.kubernetes", "a token in plain text is anybody's: set tls.cert_file")
	}
}

// guardIngest is the service that agents reach.
func (c *Collector) guardIngest() (pb.IngestServer, error) {
	a := &c.cfg.IngestAccess
	o := identity.Options{Log: c.deps.Log}
	var err error
	if o.Certificates, err = identity.NewCertificates(a.patterns()); err != nil {
		return nil, fmt.Errorf("%w: ingest_access.certificates: %w", ErrConfig, err)
	}
	if k := &a.Kubernetes; len(k.ServiceAccounts) > 0 {
		server, err := identity.NewAPIServer(identity.APIServerOptions{
			URL: k.APIServer, CAFile: k.CAFile, TokenFile: k.TokenFile, Getenv: os.Getenv,
		})
		if err != nil {
			return nil, fmt.Errorf("%w: ingest_access.kubernetes: %w", ErrConfig, err)
		}
		o.Tokens = identity.NewTokens(identity.TokenOptions{
			Reviewer: server, ServiceAccounts: k.ServiceAccounts, Audience: k.Audience, Cluster: a.Cluster,
		})
	}
	if o.Certificates == nil && o.Tokens == nil {
		if host, _, err := net.SplitHostPort(c.cfg.GRPCListen); err != nil || !isLoopback(host) {
			c.deps.Log.Warn("whoever may connect may write for any node", "hint", "set ingest_access (docs/security.md)")
		}
		return c.ingest, nil
	}
	c.agents, c.tokens = identity.New(c.ingest, o), o.Tokens
	return c.agents, nil
}

// identities yields what is counted of those who were refused.
func (m *metrics) identities(out chan<- prometheus.Metric) {
	if m.c.agents == nil {
		return
	}
	s := m.c.agents.Stats()
	refused := prometheus.NewDesc("gpuledger_collector_streams_refused_total", "Streams refused for who began them.", []string{"reason"}, nil)
	for reason, n := range map[string]int64{"unidentified": s.Unidentified, "wrong_node": s.WrongNode, "unanswered": s.Unanswered, "silent": s.Unsaid} {
		out <- prometheus.MustNewConstMetric(refused, prometheus.CounterValue, float64(n), reason)
	}
	out <- prometheus.MustNewConstMetric(desc("streams_expired_total", "Streams ended with the certificate or token that they began with."), prometheus.CounterValue, float64(s.Ended))
	if m.c.tokens != nil {
		out <- prometheus.MustNewConstMetric(desc("token_reviews_total", "Questions to the API server about agents' tokens."), prometheus.CounterValue, float64(m.c.tokens.Reviews()))
	}
}
