package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/opencost"
	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/web"
)

// webServer is everything that is served over HTTP:
//
//	/v1/…      the JSON API
//	/          the page
//	/healthz   200 while the process runs
//	/readyz    200 while the store answers
//	/metrics   what the collector counts of itself
//	/metrics/rollups   the ledger's sums as counters
//	/allocation…       OpenCost's API, at /model/allocation… too
type webServer struct {
	gateway *api.Gateway
	server  *http.Server
}

func (c *Collector) web(ctx context.Context) (*webServer, error) {
	gateway, err := api.NewGateway(ctx, c.ledger, web.Handler(), passage(c.callers))
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&metrics{c}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(refusals{c.callers})
	mux := c.callers.NewMux(onLoopback(c.cfg.HTTPListen))
	mux.Handle("GET /healthz", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") }))
	mux.Handle("GET /readyz", http.HandlerFunc(c.readyz))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.Handle("GET /metrics/rollups", rollupexport.Handler(c.exported, 9*time.Second))
	allocations := c.allocations()
	for _, pattern := range opencost.Paths() {
		mux.Handle(pattern, allocations)
	}
	if c.cfg.Pprof {
		mux.Handle("GET /debug/pprof/", http.HandlerFunc(pprof.Index))
		mux.Handle("GET /debug/pprof/profile", http.HandlerFunc(pprof.Profile))
		mux.Handle("GET /debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	}
	mux.Handle("/v1/", gateway)
	mux.Handle("/", gateway)
	return &webServer{gateway: gateway, server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		// A verification streams for as long as it takes.
		WriteTimeout: 30 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}}, nil
}

// allocations answers OpenCost's API.
func (c *Collector) allocations() http.Handler {
	return opencost.New(opencost.Config{Query: c.engine, Currency: c.currency, Now: time.Now, Log: c.deps.Log})
}

// addOpenCost serves OpenCost's API at an address of its own while the group
// runs, where it is wanted, and tells where.
func (c *Collector) addOpenCost(ctx context.Context, g *run.Group) (addr string, err error) {
	if c.cfg.OpenCostListen == "" {
		return "", nil
	}
	l, err := listen(ctx, c.cfg.OpenCostListen, "opencost_listen")
	if err != nil {
		return "", err
	}
	addr = l.Addr().String()
	if l, err = c.guardOpenCost(l); err != nil {
		return "", err
	}
	w := &webServer{server: &http.Server{
		Handler: c.callers.Only(onLoopback(c.cfg.OpenCostListen), opencost.Paths()[0], c.allocations()), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 5 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}}
	g.Add(func() error { return w.serve(l) }, func(error) { w.stop() })
	return addr, nil
}

func (c *Collector) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := c.store.View(ctx, func(store.Reader) error { return nil }); err != nil {
		// Anyone may ask this: what the store says is for the log.
		c.deps.Log.Warn("not ready: the store does not answer", "error", err)
		http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok") // nobody to tell
}

func (w *webServer) serve(l net.Listener) error {
	if err := w.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

func (w *webServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if w.server.Shutdown(ctx) != nil {
		_ = w.server.Close() // who is slower than a second is cut off
	}
}
