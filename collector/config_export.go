package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/oklog/run"

	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// ExportConfig says what others may see of the ledger's sums as metrics: at
// /metrics/rollups of http_listen, by OTLP, and by Prometheus remote write.
type ExportConfig struct {
	// Dimensions are what series are told apart by, as in a report: any of its
	// dimensions that are of owners or devices, label:KEY too. Default:
	// [cluster, team, model, class].
	Dimensions []string `yaml:"dimensions"`

	// LatencyTargets are the latencies within which successes are counted, up
	// to eight; each is rounded up to a bucket of the ledger's histogram (19 %
	// at most). Default: [1s, 2s, 5s, 10s, 30s].
	LatencyTargets []Duration `yaml:"latency_targets"`

	// MaxGroups bounds how many combinations of the dimensions have series of
	// their own, some ten each; the rest is summed under __other__. Default:
	// 2000. 0 means the default.
	MaxGroups int `yaml:"max_groups"`

	// MinInterval is the time between two questions to the ledger for these
	// metrics; whoever asks more often gets the last answer. Default: 15s. 0
	// means the default.
	MinInterval Duration `yaml:"min_interval"`

	OTLP        ExportOTLPConfig        `yaml:"otlp"`
	RemoteWrite ExportRemoteWriteConfig `yaml:"remote_write"`
}

// ExportOTLPConfig says where the sums are pushed to by OTLP over gRPC.
type ExportOTLPConfig struct {
	// Endpoint is a receiver's host:port. Default "": nothing is pushed.
	Endpoint string `yaml:"endpoint"`

	// Interval is the time between two pushes. Default: 1m.
	Interval Duration `yaml:"interval"`

	// Timeout bounds a push. One that fails is not repeated: the next has
	// everything. Default: 10s.
	Timeout Duration `yaml:"timeout"`

	// Insecure allows a connection without TLS to another machine. Default:
	// false.
	Insecure bool `yaml:"insecure"`

	// CAFile holds the certificates that the receiver's is checked against, in
	// PEM. Default "": the system's, but none on loopback.
	CAFile string `yaml:"ca_file"`

	// CertFile and KeyFile are the collector's own certificate there, in PEM,
	// read again for each connection. Default "": none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// Headers are sent with each push. Their values are shown nowhere. Default:
	// none.
	Headers map[string]secret.Text `yaml:"headers"`
}

func defaultExport() ExportConfig {
	c := ExportConfig{
		Dimensions: rollupexport.DefaultDimensions(), MaxGroups: 2000, MinInterval: Duration{15 * time.Second},
		OTLP:        ExportOTLPConfig{Interval: Duration{time.Minute}, Timeout: Duration{10 * time.Second}, Headers: map[string]secret.Text{}},
		RemoteWrite: defaultRemoteWrite(),
	}
	for _, d := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second} {
		c.LatencyTargets = append(c.LatencyTargets, Duration{d})
	}
	return c
}

func (c *ExportConfig) options() rollupexport.Options {
	o := rollupexport.Options{Dimensions: c.Dimensions, MaxGroups: c.MaxGroups, MinInterval: c.MinInterval.Duration}
	for _, t := range c.LatencyTargets {
		o.Targets = append(o.Targets, t.Duration)
	}
	return o
}

func (c *ExportConfig) check(bad func(key, format string, args ...any)) {
	o := c.options()
	if err := o.Validate(); err != nil {
		bad("export", "%v", err)
	}
	c.RemoteWrite.check(bad)
	if c.OTLP.Endpoint == "" {
		return
	}
	if err := c.OTLP.options().Validate(); err != nil {
		bad("export.otlp", "%v", err)
	}
}

func (o *ExportOTLPConfig) options() rollupexport.OTLPOptions {
	host, _, _ := net.SplitHostPort(o.Endpoint) // Validate tells
	return rollupexport.OTLPOptions{
		Endpoint: o.Endpoint, Insecure: o.Insecure || (isLoopback(host) && o.CAFile == "" && o.CertFile == ""),
		CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile,
		Headers: o.Headers, Interval: o.Interval.Duration, Timeout: o.Timeout.Duration,
	}
}

// rollups are the ledger's sums as counters.
func (c *Collector) rollups(engine *query.Engine) (*rollupexport.Rollups, error) {
	o := c.cfg.Export.options()
	o.Query, o.Retention, o.Currency, o.Now, o.Log = engine, c.cfg.retention, c.currency, time.Now, c.deps.Log
	o.Changed = c.rulesOrPricesChanged
	return rollupexport.New(o)
}

// currency is the ledger's, "" while there is no rate card.
func (c *Collector) currency() string {
	if card := c.docs.card.Load(); card != nil {
		return card.Currency
	}
	return ""
}

// rulesOrPricesChanged is when stored time last came to mean another team or
// another cost.
func (c *Collector) rulesOrPricesChanged(ctx context.Context) (last time.Time, err error) {
	for _, kind := range []store.DocumentKind{store.RuleSets, store.Reratings} {
		doc, err := c.store.Document(ctx, kind, 0)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return last, err
		case doc.Applied.After(last):
			last = doc.Applied
		}
	}
	return last, nil
}

// addPush has the sums pushed while the group runs, where it is wanted.
func (c *Collector) addPush(ctx context.Context, g *run.Group, at Addresses) error {
	if err := c.addRemoteWrite(ctx, g, at); err != nil {
		return err
	}
	if c.cfg.Export.OTLP.Endpoint == "" {
		return nil
	}
	o := c.cfg.Export.OTLP.options()
	o.Version, o.InstanceID, o.Log = c.deps.Version, at.HTTP, c.deps.Log
	p, err := rollupexport.NewPusher(c.exported, o)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	c.pushTLS = p.Certificates()
	ctx, stop := context.WithCancel(ctx)
	g.Add(func() error { return p.Run(ctx) }, func(error) { stop() })
	return nil
}
