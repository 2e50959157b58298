package agent

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
	"github.com/gpuledger/gpuledger/agent/exporter/prom"
	"github.com/gpuledger/gpuledger/agent/sampler"
)

// export is what others see of the ledger on a live node, as it is sealed.
type export struct {
	totals *exporter.Exporter
	pages  prometheus.Collector
	push   *otlp.Pusher // nil: nothing is pushed
}

func openExport(cfg *Config, id sampler.Node, version string, logger *slog.Logger) (*export, error) {
	c := &cfg.Export
	totals, err := exporter.New(exporter.Options{
		Cluster: id.Cluster, Node: id.Name, Labels: c.PodLabels, MaxSeries: c.MaxSeries, Linger: c.Linger.Duration,
	})
	if err != nil {
		return nil, err
	}
	x := &export{totals: totals, pages: prom.New(totals)}
	if c.OTLP.Endpoint == "" {
		return x, nil
	}
	o := c.OTLP.options()
	o.Version, o.HostName, o.Logger = version, id.Name, logger
	if x.push, err = otlp.New(totals, o); err != nil {
		return nil, err
	}
	return x, nil
}
