package agent

import (
	"time"
)

// ExportConfig is what others may see of the ledger on this node, as it is
// sealed: on /metrics of http_listen, and by OTLP.
type ExportConfig struct {
	// PodLabels are keys of pod labels that metrics carry too, each as label_
	// and the key with underscores. Default: none.
	PodLabels []string `yaml:"pod_labels"`

	// MaxSeries bounds how many owners of a device on a basis are kept apart;
	// what comes beyond it is added up in one series of owner __overflow__.
	// Default: 5000.
	MaxSeries int `yaml:"max_series"`

	// Linger is how long an owner who gets no more time stays in the metrics.
	// Default: 10m, which is longer than Prometheus takes to call a series
	// stale.
	Linger Duration `yaml:"linger"`

	OTLP OTLPConfig `yaml:"otlp"`
}

// OTLPConfig says where metrics are pushed to by OTLP over gRPC.
type OTLPConfig struct {
	// Endpoint is a collector's host:port. Default "": nothing is pushed.
	Endpoint string `yaml:"endpoint"`

	// Interval is the time between two pushes. Default: 15s.
	Interval Duration `yaml:"interval"`

	// Timeout bounds a push, retries included. Default: 10s.
	Timeout Duration `yaml:"timeout"`

	// Insecure allows a connection without TLS to another machine. Default:
	// false.
	Insecure bool `yaml:"insecure"`

	// CAFile holds the certificates that the collector's is checked against,
	// in PEM. Default "": the system's, but none on loopback.
	CAFile string `yaml:"ca_file"`

	// CertFile and KeyFile are this agent's own certificate, in PEM. Default
	// "": none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// Headers are sent with each push. Default: none.
	Headers map[string]string `yaml:"headers"`
}

func (c *ExportConfig) check(bad func(key, format string, args ...any)) {
	if c.MaxSeries < 100 || c.MaxSeries > 1_000_000 {
		bad("export.max_series", "%d: want 100 to 1000000", c.MaxSeries)
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
	o := &c.OTLP
	if o.Endpoint == "" {
		return
	}
	if o.Interval.Duration < time.Second {
		bad("export.otlp.interval", "%v: want at least 1s", o.Interval)
	}
	if o.Timeout.Duration <= 0 {
		bad("export.otlp.timeout", "%v: want more than 0", o.Timeout)
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		bad("export.otlp.cert_file", "cert_file and key_file come together")
	}
	if o.Insecure && (o.CAFile != "" || o.CertFile != "") {
		bad("export.otlp.insecure", "either insecure or certificates")
	}
}
