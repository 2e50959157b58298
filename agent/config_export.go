package agent

import (
	"time"

	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// ExportConfig is what others may see of the ledger on this node, as it is
// sealed: on /metrics of http_listen, and by OTLP.
type ExportConfig struct {
	// PodLabels are keys of pod labels that metrics carry too, each as label_
	// and the key with underscores. Default: none.
	PodLabels []string `yaml:"pod_labels"`

	// MaxSeries bounds how many owners of a device on a basis are kept apart;
	// what comes beyond it is added up in one series of owner __overflow__. It
	// is the agent's memory: about 3 kB each while they are scraped. Default:
	// 5000.
	MaxSeries int `yaml:"max_series"`

	// Linger is how long an owner who gets no more time stays in the metrics: it
	// should be two scrapes and more. Default: 10m.
	Linger Duration `yaml:"linger"`

	OTLP OTLPConfig `yaml:"otlp"`
}

// OTLPConfig says where metrics are pushed to by OTLP over gRPC.
type OTLPConfig struct {
	// Endpoint is a collector's host:port. Default "": nothing is pushed.
	Endpoint string `yaml:"endpoint"`

	// Interval is the time between two pushes. Default: 15s.
	Interval Duration `yaml:"interval"`

	// Timeout bounds a push. One that fails is not repeated: the next has
	// everything. Default: 10s.
	Timeout Duration `yaml:"timeout"`

	// Insecure allows a connection without TLS to another machine. Default:
	// false.
	Insecure bool `yaml:"insecure"`

	// CAFile holds the certificates that the collector's is checked against,
	// in PEM. Default "": the system's, but none on loopback.
	CAFile string `yaml:"ca_file"`

	// CertFile and KeyFile are this agent's own certificate, in PEM, read again
	// for each connection. Default "": none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// Headers are sent with each push. Their values are shown nowhere. Default:
	// none.
	Headers map[string]secret.Text `yaml:"headers"`
}

func (c *ExportConfig) check(bad func(key, format string, args ...any)) {
	if c.MaxSeries < 100 || c.MaxSeries > 100_000 {
		bad("export.max_series", "%d: want 100 to 100000", c.MaxSeries)
	}
	if c.Linger.Duration < time.Minute {
		bad("export.linger", "%v: want at least 1m, or a scraper may miss the last value", c.Linger)
	}
	if len(c.PodLabels) > 32 {
		bad("export.pod_labels", "there are %d: at most 32 are allowed", len(c.PodLabels))
	}
	for _, key := range c.PodLabels {
		if !labelPattern.MatchString(key) {
			bad("export.pod_labels", "%.40q is not the key of a label", key)
		}
	}
	if c.OTLP.Endpoint == "" {
		return
	}
	if err := c.OTLP.options().Validate(); err != nil {
		bad("export.otlp", "%v", err)
	}
}

func (o *OTLPConfig) options() otlp.Options {
	return otlp.Options{
		Endpoint: o.Endpoint, Insecure: o.Insecure || (isLoopback(o.Endpoint) && o.CAFile == "" && o.CertFile == ""),
		CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile,
		Headers: o.Headers, Interval: o.Interval.Duration, Timeout: o.Timeout.Duration,
	}
}
