package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuledger/gpuledger/internal/certs"
)

// certificates are all that are in use. a.mu is not held.
func (a *Agent) certificates() []*certs.Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*certs.Set
	for _, s := range a.deps.Certs {
		if s != nil {
			all = append(all, s)
		}
	}
	for _, n := range a.nodes {
		if n.export != nil && n.export.push != nil && n.export.push.Certificates() != nil {
			all = append(all, n.export.push.Certificates())
		}
	}
	return all
}

// certificates yields how certificates do.
func (m *metrics) certificates(out chan<- prometheus.Metric) {
	for _, set := range m.agent.certificates() {
		s := set.Status()
		send := func(name, help string, kind prometheus.ValueType, value float64) {
			d := prometheus.NewDesc("gpuledger_agent_"+name, help, []string{"for"}, nil)
			out <- prometheus.MustNewConstMetric(d, kind, value, s.Name)
		}
		if !s.NotAfter.IsZero() {
			send("certificate_expiry_timestamp_seconds", "When the certificate in use expires.", prometheus.GaugeValue, float64(s.NotAfter.Unix()))
		}
		send("certificate_reloads_total", "Times that replaced files of certificates were taken.", prometheus.CounterValue, float64(s.Reloads))
		send("certificate_failures_total", "Times that files of certificates were found broken; those in use stayed.", prometheus.CounterValue, float64(s.Failures))
	}
}
