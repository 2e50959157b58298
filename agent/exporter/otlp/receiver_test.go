package otlp_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"

	colpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is an OTLP receiver that keeps what it gets.
type receiver struct {
	colpb.UnimplementedMetricsServiceServer
	addr string

	mu       sync.Mutex
	requests []*colpb.ExportMetricsServiceRequest
	headers  metadata.MD
	refuse   error
	reject   int64
}

// receive starts a receiver on loopback.
func receive(t testing.TB, options ...grpc.ServerOption) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{addr: l.Addr().String()}
	s := grpc.NewServer(options...)
	colpb.RegisterMetricsServiceServer(s, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return r
}

func (r *receiver) Export(ctx context.Context, m *colpb.ExportMetricsServiceRequest) (*colpb.ExportMetricsServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	r.headers, _ = metadata.FromIncomingContext(ctx)
	r.requests = append(r.requests, m)
	response := &colpb.ExportMetricsServiceResponse{}
	if r.reject > 0 {
		response.PartialSuccess = &colpb.ExportMetricsPartialSuccess{RejectedDataPoints: r.reject, ErrorMessage: "too old"}
	}
	return response, nil
}

// answer sets how it answers from now on.
func (r *receiver) answer(refuse error, reject int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse, r.reject = refuse, reject
}

// take is what has been received since it was last asked.
func (r *receiver) take() []*colpb.ExportMetricsServiceRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.requests
	r.requests = nil
	return all
}

func newExporter(t testing.TB, o exporter.Options) *exporter.Exporter {
	t.Helper()
	o.Cluster, o.Node = exportertest.Cluster, exportertest.Node
	e, err := exporter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetRateCard(1, "USD"); err != nil {
		t.Fatal(err)
	}
	return e
}

func newPusher(t testing.TB, e *exporter.Exporter, o otlp.Options) *otlp.Pusher {
	t.Helper()
	p, err := otlp.New(e, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// lines is a logger and what it was told.
func lines() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

// point is a data point with everything that tells it from others.
type point struct {
	resource, metric, unit, attributes string
	start                              uint64
	value                              float64
	monotonic, sum                     bool
}

func points(requests []*colpb.ExportMetricsServiceRequest) (all []point) {
	for _, m := range requests {
		for _, rm := range m.GetResourceMetrics() {
			for _, sm := range rm.GetScopeMetrics() {
				for _, x := range sm.GetMetrics() {
					for _, p := range append(x.GetSum().GetDataPoints(), x.GetGauge().GetDataPoints()...) {
						v := p.GetAsDouble()
						if _, whole := p.GetValue().(*metricspb.NumberDataPoint_AsInt); whole {
							v = float64(p.GetAsInt())
						}
						all = append(all, point{
							text(rm.GetResource().GetAttributes()), x.GetName(), x.GetUnit(), text(p.GetAttributes()), p.GetStartTimeUnixNano(), v,
							x.GetSum().GetIsMonotonic(), x.GetSum() != nil,
						})
					}
				}
			}
		}
	}
	return all
}

func text(as []*commonpb.KeyValue) (s string) {
	for _, a := range as {
		s += fmt.Sprintf("%s=%s ", a.GetKey(), a.GetValue().GetStringValue())
	}
	return s
}
