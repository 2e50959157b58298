package interop_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
)

func TestOpenTelemetryCollectorHasWhatTheLedgerHas(t *testing.T) {
	path := os.Getenv("GPULEDGER_OTELCOL")
	if path == "" {
		path = filepath.Join("..", "..", ".tools", "otelcol")
	}
	path = program(t, path, "make interop builds it")
	dir, listen := t.TempDir(), address(t)
	config, file := filepath.Join(dir, "otelcol.yml"), filepath.Join(dir, "metrics.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
receivers: {otlp: {protocols: {grpc: {endpoint: %q}}}}
exporters: {file: {path: %q}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {metrics: {receivers: [otlp], exporters: [file]}}
`, listen, file), 0o600); err != nil {
		t.Fatal(err)
	}

	// The pusher is there first: what it can't deliver yet comes later.
	e := node(t, exporter.Options{}, 50)
	p, err := otlp.New(e, otlp.Options{Endpoint: listen, Insecure: true, Interval: time.Second, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, context.Background()) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	await(t, "a push that fails", func() bool { return p.Stats().Failures > 0 })
	stop := start(t, path, "--config", config)
	await(t, "a push", func() bool { return p.Stats().Pushes == 1 })
	for i := range 50 {
		e.Add(exportertest.Episode(50 + i))
	}
	await(t, "another push", func() bool { return uint64(p.Stats().LastSuccess) == uint64(e.Snapshot().Second) })
	stop()
	pushes := read(t, file)
	if len(pushes) != int(p.Stats().Requests) || p.Stats().RejectedPoints != 0 {
		t.Errorf("%d requests in the file; %+v", len(pushes), p.Stats())
	}
	verify(t, pushes[len(pushes)-1], e.Snapshot())
}

// read is what the collector wrote: a request a line.
func read(t *testing.T, file string) (all []*metricspb.MetricsData) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		m := &metricspb.MetricsData{}
		if err := protojson.Unmarshal(line, m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		t.Fatal("the collector wrote nothing")
	}
	return all
}

func verify(t *testing.T, m *metricspb.MetricsData, s *exporter.Snapshot) {
	t.Helper()
	got := map[string]map[series]float64{}
	for _, rm := range m.GetResourceMetrics() {
		resource := attributes(rm.GetResource().GetAttributes())
		if resource["service.name"] != "gpuledger-agent" || resource["k8s.node.name"] != exportertest.Node || resource["k8s.cluster.name"] != exportertest.Cluster {
			t.Errorf("resource %v", resource)
		}
		if resource["k8s.pod.name"] != "" && (resource["k8s.namespace.name"] != "shop" || resource["k8s.deployment.name"] != "chat" ||
			resource["k8s.pod.uid"] != "uid-"+resource["k8s.pod.name"] || resource["k8s.container.name"] != "server") {
			t.Errorf("a pod's resource %v", resource)
		}
		for _, x := range rm.GetScopeMetrics()[0].GetMetrics() {
			for _, p := range append(x.GetSum().GetDataPoints(), x.GetGauge().GetDataPoints()...) {
				as := attributes(p.GetAttributes())
				v := p.GetAsDouble()
				if _, whole := p.GetValue().(*metricspb.NumberDataPoint_AsInt); whole {
					v = float64(p.GetAsInt())
				}
				if p.GetTimeUnixNano() != uint64((s.Second+1).Nanos()) || (x.GetSum() != nil && p.GetStartTimeUnixNano() == 0) {
					t.Errorf("%s is of %d to %d", x.GetName(), p.GetStartTimeUnixNano(), p.GetTimeUnixNano())
				}
				if got[x.GetName()] == nil {
					got[x.GetName()] = map[series]float64{}
				}
				got[x.GetName()][series{
					resource["gpuledger.owner.kind"], resource["k8s.pod.name"], resource["process.executable.name"], as["hw.id"], as["gpuledger.basis"],
				}] = v
			}
		}
	}
	compare(t, "gpuledger.gpu.time", got["gpuledger.gpu.time"], s, 1e9, func(x *exporter.Series) (int64, bool) { return x.Time, true })
	compare(t, "gpuledger.cost", got["gpuledger.cost"], s, 1e9, func(x *exporter.Series) (int64, bool) { return int64(x.Cost), x.Priced })
	compare(t, "gpuledger.gpu.memory_time", got["gpuledger.gpu.memory_time"], s, 1,
		func(x *exporter.Series) (int64, bool) { return x.Memory, x.HasMemory })
	for name, want := range map[string]map[series]float64{
		"hw.energy": {{gpu: "GPU-a"}: 35012.3457},
		"hw.power":  {{gpu: "GPU-a"}: 350.123457},
		"hw.gpu.memory.limit": {
			{gpu: "GPU-a"}:  80 << 30,
			{gpu: "MIG-b1"}: 5 << 30,
		},
	} {
		for k, v := range want {
			if d := got[name][k] - v; len(got[name]) != len(want) || d > 1e-9 || d < -1e-9 {
				t.Errorf("%s: %v, want %v", name, got[name], want)
			}
		}
	}
}

func attributes(all []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		m[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return m
}
