package collector

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/oklog/run"

	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// ExportRemoteWriteConfig says where the sums are pushed to by Prometheus
// remote write: the series of /metrics/rollups, with the labels job and instance
// that a scrape would give them.
type ExportRemoteWriteConfig struct {
	// URL is the receiver's, such as https://metrics.example/api/v1/write.
	// Default "": nothing is written.
	URL string `yaml:"url"`

	// Protocol is the version of remote write, 1.0 or 2.0, in quotes. Default: 1.0.
	Protocol string `yaml:"protocol"`

	// Interval is the time between two pushes. Default: 1m.
	Interval Duration `yaml:"interval"`

	// Timeout bounds a push with all its retries. What one does not bring, the
	// next does. Default: 30s.
	Timeout Duration `yaml:"timeout"`

	// Insecure allows plain HTTP to another machine. Default: false.
	Insecure bool `yaml:"insecure"`

	// BearerTokenFile holds a token that is sent in the header Authorization; it
	// is read again for each request. Default "": none.
	BearerTokenFile string `yaml:"bearer_token_file"`

	// CAFile holds the certificates that the receiver's is checked against, in
	// PEM. Default "": the system's.
	CAFile string `yaml:"ca_file"`

	// CertFile and KeyFile are the collector's own certificate there, in PEM,
	// read again for each connection. Default "": none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// Headers are sent with each request. Their values are shown nowhere.
	// Default: none.
	Headers map[string]secret.Text `yaml:"headers"`

	// Labels are those of every series, such as the region; job and instance may
	// be among them. Default: none.
	Labels map[string]string `yaml:"labels"`
}

func defaultRemoteWrite() ExportRemoteWriteConfig {
	return ExportRemoteWriteConfig{
		Protocol: rollupexport.RemoteWrite1, Interval: Duration{time.Minute}, Timeout: Duration{30 * time.Second},
		Headers: map[string]secret.Text{}, Labels: map[string]string{},
	}
}

func (o *ExportRemoteWriteConfig) options() rollupexport.RemoteWriteOptions {
	return rollupexport.RemoteWriteOptions{
		URL: o.URL, Protocol: o.Protocol, Insecure: o.Insecure, BearerTokenFile: o.BearerTokenFile,
		CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile, Headers: o.Headers, Labels: o.Labels,
		Interval: o.Interval.Duration, Timeout: o.Timeout.Duration,
	}
}

func (o *ExportRemoteWriteConfig) check(bad func(key, format string, args ...any)) {
	if o.URL == "" {
		return
	}
	if err := o.options().Validate(); err != nil {
		bad("export.remote_write", "%v", err)
	}
}

// addRemoteWrite has the sums pushed by remote write while the group runs, where
// it is wanted.
func (c *Collector) addRemoteWrite(ctx context.Context, g *run.Group, at Addresses) error {
	if c.cfg.Export.RemoteWrite.URL == "" {
		return nil
	}
	o := c.cfg.Export.RemoteWrite.options()
	o.Version = c.deps.Version
	// Two collectors of one ledger tell the same, as different instances.
	o.Labels = map[string]string{"job": "gpuledger-collector", "instance": at.HTTP}
	maps.Copy(o.Labels, c.cfg.Export.RemoteWrite.Labels)
	w, err := rollupexport.NewRemoteWriter(c.exported, o)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	g.Add(func() error { return w.Run(ctx) }, func(error) { stop() })
	return nil
}
