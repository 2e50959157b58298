package otlp_test

import (
	"context"
	"fmt"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/secret"
)

func TestEachOwnerIsAResourceOfItsOwn(t *testing.T) {
	r := receive(t)
	e := newExporter(t, exporter.Options{Labels: []string{"app", "team"}})
	p := newPusher(t, e, otlp.Options{Endpoint: r.addr, Insecure: true, Version: "1.2.3", HostName: "metal-1", Headers: map[string]secret.Text{"x-key": "secret"}})
	defer p.Close()
	for i := range 5 {
		e.Add(exportertest.Episode(i))
	}
	p.Push(t.Context())
	got := r.take()
	if len(got) != 1 || len(got[0].GetResourceMetrics()) != 6 {
		t.Fatalf("%d requests: want one, with the node and five owners", len(got))
	}
	if r.headers.Get("x-key")[0] != "secret" {
		t.Errorf("headers %v", r.headers)
	}
	all := points(got)
	want := func(metric, unit string, value float64, start attribution.Second, monotonic bool, has ...string) {
		t.Helper()
		for _, x := range all {
			matches := x.metric == metric
			for _, h := range has {
				matches = matches && strings.Contains(x.resource+"| "+x.attributes, h+" ")
			}
			if !matches {
				continue
			}
			if x.unit != unit || math.Abs(x.value-value) > 1e-9*value || x.start != uint64(start)*1e9 || x.monotonic != monotonic {
				t.Errorf("%s of %v: %+v", metric, has, x)
			}
			return
		}
		t.Errorf("no %s of %v", metric, has)
	}
	const start = exportertest.Start
	pod := []string{
		"k8s.cluster.name=prod", "k8s.node.name=gpu-1", "k8s.namespace.name=shop", "k8s.pod.name=chat-1", "k8s.pod.uid=uid-chat-1",
		"k8s.container.name=server", "k8s.deployment.name=chat", "k8s.pod.label.app=chat", "gpuledger.owner.kind=container",
		"service.name=gpuledger-agent", "service.version=1.2.3", "host.name=metal-1",
	}
	of := func(more ...string) []string { return append(more, pod...) }
	want("gpuledger.gpu.time", "s", 5*0.333333333, start, true, of("gpuledger.basis=used", "hw.id=GPU-a")...)
	want("gpuledger.cost", "{USD}", 0.001157408, start, true, of("gpuledger.basis=used")...)
	want("gpuledger.gpu.sm_active_time", "s", 5*0.300000001, start, true, of("gpuledger.basis=used")...)
	want("gpuledger.gpu.memory_time", "By.s", 5*30*(1<<30), start, true, of("gpuledger.basis=used")...)
	want("gpuledger.gpu.energy", "J", 583.539095, start, true, of("gpuledger.basis=used")...)
	want("gpuledger.inferences", "{inference}", 40, start, true, of("gpuledger.outcome=success", "gen_ai.request.model=llama", "gpuledger.tier=gold")...)
	want("gpuledger.inferences", "{inference}", 5, start, true, of("gpuledger.outcome=failure", "error.type=oom")...)
	want("gpuledger.tokens", "{token}", 5000, start, true, of("gen_ai.token.type=input")...)
	want("gpuledger.queue.time", "{request}.s", 15, start, true, of()...)
	want("gpuledger.gpu.time", "s", 0.5, start, true, "process.executable.name=miner", "gpuledger.basis=unattributed")
	want("gpuledger.gpu.unpriced_time", "s", 4, start, true, "gpuledger.owner.kind=nobody", "gpuledger.basis=unallocated")

	gpu := []string{"hw.id=GPU-a", "hw.type=gpu", "hw.model=NVIDIA H100 80GB HBM3", "hw.vendor=NVIDIA", "service.instance.id=prod/gpu-1"}
	want("hw.gpu.utilization", "1", 0.433333334/0.8, 0, false, append(gpu, "hw.gpu.task=general")...)
	want("hw.gpu.memory.usage", "By", 32*(1<<30)/0.8, start, false, gpu...)
	want("hw.gpu.memory.limit", "By", 80*(1<<30), start, false, gpu...)
	want("hw.energy", "J", 5*350.123457, start, true, gpu...)
	want("hw.power", "W", 350.123457/0.8, 0, false, gpu...)
	want("gpuledger.gpu.price", "{USD}/h", 2.500000001, 0, false, append(gpu, "gpuledger.capacity_type=spot")...)
	want("hw.gpu.memory.limit", "By", 5*(1<<30), start, false, "hw.id=MIG-b1", "hw.parent=GPU-b")
	for _, x := range all {
		mig := strings.Contains(x.attributes, "hw.id=MIG-b1 ")
		if mig && (strings.Contains(x.metric, "energy") || strings.Contains(x.metric, "power") || strings.Contains(x.metric, "cost") ||
			strings.Contains(x.metric, "gpu.price") || x.metric == "hw.gpu.utilization" || x.metric == "hw.gpu.memory.usage") {
			t.Errorf("an unpriced device without sensors, that nobody looks at now, has %+v", x)
		}
		if strings.Contains(x.resource, "team") {
			t.Errorf("a label that the pod has not: %s", x.resource)
		}
	}
}

// job and instance are all that Prometheus makes of a resource.
func TestSeriesStayApartInPrometheus(t *testing.T) {
	r := receive(t)
	e := newExporter(t, exporter.Options{Labels: []string{"app"}})
	p := newPusher(t, e, otlp.Options{Endpoint: r.addr, Insecure: true})
	defer p.Close()
	unknown, known := exportertest.Pod("x"), exportertest.Pod("x")
	unknown.PodUID, unknown.Labels, unknown.Controller, unknown.ControllerKind = "", nil, "", ""
	relabelled := known
	relabelled.Labels = attribution.Labels{{Key: "app", Value: "other"}}
	var cuts []exportertest.Cut
	for _, o := range []attribution.Owner{
		unknown, known, relabelled, exportertest.Process(attribution.HostProcess, 1, "a"), exportertest.Process(attribution.UnknownProcess, 1, "a"),
	} {
		cuts = append(cuts, exportertest.Cut{Owner: o, Basis: attribution.Unobserved, Time: 2e8})
	}
	e.Add(exportertest.Chunk(exportertest.Start, []exportertest.Window{{Device: exportertest.GPU("GPU-a"), Cuts: cuts}}, nil))
	p.Push(t.Context())
	seen := map[string]bool{}
	for _, x := range points(r.take()) {
		_, instance, _ := strings.Cut(x.resource, "service.instance.id=")
		key := fmt.Sprint(x.metric, " ", instance, x.attributes)
		if seen[key] {
			t.Errorf("twice: %s", key)
		}
		seen[key] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d points", len(seen))
	}
}

func TestLaw1PushedTimesSumToTheWindows(t *testing.T) {
	r := receive(t)
	e := newExporter(t, exporter.Options{})
	p := newPusher(t, e, otlp.Options{Endpoint: r.addr, Insecure: true, MaxRequestBytes: 4000})
	defer p.Close()
	for i := range 8 {
		var ws []exportertest.Window
		for d := range 4 {
			ws = append(ws, exportertest.Window{Device: exportertest.GPU(fmt.Sprint("GPU-", d)), Price: exportertest.Price(3600e9), Cuts: []exportertest.Cut{
				{Owner: exportertest.Pod(fmt.Sprint("a", i, d)), Basis: attribution.Used, Time: 25e7},
				{Owner: exportertest.Pod("b"), Basis: attribution.Reserved, Time: 75e7},
			}})
		}
		e.Add(exportertest.Chunk(exportertest.Start+attribution.Second(i), ws, nil))
	}
	p.Push(t.Context())
	got := r.take()
	if len(got) < 3 {
		t.Errorf("%d requests: want several of at most 4000 bytes", len(got))
	}
	for _, m := range got {
		if n := proto.Size(m); n > 4000 && len(m.GetResourceMetrics()) > 1 {
			t.Errorf("a request of %d bytes", n)
		}
	}
	time, cost := 0.0, 0.0
	for _, x := range points(got) {
		switch x.metric {
		case "gpuledger.gpu.time":
			time += x.value
		case "gpuledger.cost":
			cost += x.value
		}
	}
	if time != 32 || cost != 32 {
		t.Errorf("times sum to %v s, costs to %v: want 32, 32", time, cost)
	}
	if s := p.Stats(); s.Pushes != 1 || s.Requests != uint64(len(got)) || s.Bytes == 0 || s.LastSuccess != int64(exportertest.Start+7) {
		t.Errorf("stats %+v", s)
	}
}

func TestAFailureIsToldOnceAndLosesNothing(t *testing.T) {
	r := receive(t)
	logger, log := lines()
	e := newExporter(t, exporter.Options{Linger: time.Second})
	p := newPusher(t, e, otlp.Options{Endpoint: r.addr, Insecure: true, Logger: logger, Headers: map[string]secret.Text{"authorization": "hush"}})
	defer p.Close()
	r.answer(status.Error(codes.ResourceExhausted, "slow down"), 0)
	for i := range 3 {
		e.Add(exportertest.Episode(3 * i)) // chat-2 is there
		p.Push(t.Context())
	}
	for i := range 5 {
		e.Add(exportertest.Episode(10 + 3*i)) // and never again
		p.Push(t.Context())
	}
	r.answer(nil, 0)
	p.Push(t.Context())
	p.Push(t.Context()) // nothing new
	got := r.take()
	found := false
	for _, x := range points(got) {
		found = found || (strings.Contains(x.resource, "chat-2") && x.metric == "gpuledger.gpu.time" && math.Abs(x.value-0.6) < 1e-12)
	}
	if len(got) != 1 || !found {
		t.Errorf("%d requests, the last value of what had ended: %v", len(got), found)
	}
	if s := p.Stats(); s.Failures != 8 || s.Pushes != 1 {
		t.Errorf("stats %+v", s)
	}
	e.Add(exportertest.Episode(25))
	r.answer(nil, 7)
	p.Push(t.Context())
	e.Add(exportertest.Episode(26))
	p.Push(t.Context())
	for _, x := range points(r.take()[1:]) {
		if strings.Contains(x.resource, "chat-2") {
			t.Errorf("still there after it was exported: %+v", x)
		}
	}
	if s := p.Stats(); s.RejectedPoints != 14 || s.Pushes != 3 {
		t.Errorf("stats %+v", s)
	}
	text := log.String()
	if strings.Count(text, "can't be pushed") != 1 || strings.Count(text, "pushed again") != 1 || strings.Count(text, "rejects some") != 1 ||
		strings.Contains(text, "hush") {
		t.Errorf("log:\n%s", text)
	}
}

func TestRunPushesALastTimeAndEnds(t *testing.T) {
	r := receive(t)
	e := newExporter(t, exporter.Options{})
	p := newPusher(t, e, otlp.Options{Endpoint: r.addr, Insecure: true, Interval: time.Hour})
	e.Add(exportertest.Episode(0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx, t.Context()); err != nil {
		t.Error(err)
	}
	if len(r.take()) != 1 {
		t.Error("nothing was pushed at the end")
	}
}

// A receiver that takes connections and never answers does not hold up an end
// that is cut short.
func TestTheLastPushCanBeCutShort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := newExporter(t, exporter.Options{})
	p := newPusher(t, e, otlp.Options{Endpoint: l.Addr().String(), Insecure: true, Timeout: time.Hour})
	e.Add(exportertest.Episode(0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	abort, cut := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx, abort) }()
	c, err := l.Accept() // it has begun
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cut()
	if err := <-ended; err != nil || p.Stats().Failures != 1 {
		t.Errorf("%v, %+v", err, p.Stats())
	}
}

func TestNobodyThereIsAFailureAndNoMore(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	e := newExporter(t, exporter.Options{})
	p := newPusher(t, e, otlp.Options{Endpoint: addr, Insecure: true})
	defer p.Close()
	e.Add(exportertest.Episode(0))
	p.Push(t.Context())
	if s := p.Stats(); s.Failures != 1 || s.Pushes != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestOptionsAreJudged(t *testing.T) {
	e := newExporter(t, exporter.Options{})
	for name, o := range map[string]otlp.Options{
		"no endpoint":       {},
		"a URL":             {Endpoint: "http://x:4317"},
		"no port":           {Endpoint: "x"},
		"half a key":        {Endpoint: "x:1", CertFile: "c"},
		"insecure with CA":  {Endpoint: "x:1", Insecure: true, CAFile: "c"},
		"short interval":    {Endpoint: "x:1", Interval: time.Millisecond},
		"negative timeout":  {Endpoint: "x:1", Timeout: -1},
		"reserved header":   {Endpoint: "x:1", Headers: map[string]secret.Text{"grpc-timeout": "1"}},
		"upper-case header": {Endpoint: "x:1", Headers: map[string]secret.Text{"Authorization": "1"}},
		"a line break":      {Endpoint: "x:1", Headers: map[string]secret.Text{"authorization": "Bearer hush\n"}},
		"a password":        {Endpoint: "https://me:hush@x:1"},
		"no such CA":        {Endpoint: "x:1", CAFile: "testdata/none"},
		"CA without any":    {Endpoint: "x:1", CAFile: "otlp_test.go"},
		"no such key":       {Endpoint: "x:1", CertFile: "testdata/none", KeyFile: "testdata/none"},
	} {
		if _, err := otlp.New(e, o); err == nil || !strings.HasPrefix(err.Error(), "otlp: ") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A node of 8 GPUs and 60 pods, each on one of them.
func BenchmarkPush(b *testing.B) {
	for _, plain := range []bool{false, true} {
		b.Run(fmt.Sprintf("plain=%v", plain), func(b *testing.B) {
			counter := &wireBytes{}
			r := receive(b, grpc.StatsHandler(counter))
			e := newExporter(b, exporter.Options{Labels: []string{"app"}})
			p := newPusher(b, e, otlp.Options{Endpoint: r.addr, Insecure: true, Version: "1.0.0", NoCompression: plain})
			defer p.Close()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var ws []exportertest.Window
				for d := range 8 {
					w := exportertest.Window{Device: exportertest.GPU(fmt.Sprint("GPU-8f9d5a52-91b0-4b5c-9c3e-00000000000", d)), Price: exportertest.Price(25e8), Energy: 3e8}
					left := attribution.WindowNanos
					for j := d; j < 60; j += 8 {
						name := fmt.Sprintf("chat-7d9c5b8f6d-x%04d", j)
						w.Cuts = append(w.Cuts, exportertest.Cut{Owner: exportertest.Pod(name), Basis: attribution.Used, Time: 5e7, SMActive: 5e7, Memory: 4 << 30},
							exportertest.Cut{Owner: exportertest.Pod(name), Basis: attribution.Reserved, Time: 5e7})
						left -= 1e8
					}
					w.Cuts = append(w.Cuts, exportertest.Cut{Basis: attribution.Unattributed, Time: left})
					ws = append(ws, w)
				}
				e.Add(exportertest.Chunk(exportertest.Start+attribution.Second(i), ws, nil))
				p.Push(b.Context())
				r.take()
			}
			s := p.Stats()
			b.ReportMetric(float64(s.Bytes)/float64(s.Pushes), "bytes/push")
			b.ReportMetric(float64(counter.n.Load())/float64(s.Pushes), "wire-bytes/push")
			b.ReportMetric(float64(s.Requests)/float64(s.Pushes), "requests/push")
		})
	}
}

// wireBytes counts what a server receives.
type wireBytes struct{ n atomic.Int64 }

func (w *wireBytes) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		w.n.Add(int64(in.WireLength))
	}
}

func (w *wireBytes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (w *wireBytes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (w *wireBytes) HandleConn(context.Context, stats.ConnStats)                       {}
