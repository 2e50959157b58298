package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ServeHTTP serves /healthz, /readyz and /metrics on a listener until ctx
// ends.
//
//	/healthz   200 while the sealer is within 15 s of the timeline, or has
//	           got further since it was asked last
//	/readyz    200 once there is a rate card, the collector is connected, even
//	           where it has the node wait its turn, and the kubelet, where there
//	           is one, has said who holds what
//	/metrics   the totals of what a live node has sealed, and what the agent
//	           counts of itself
//
// and with Config.PProf the program's profiles.
func (a *Agent) ServeHTTP(ctx context.Context, l net.Listener) error {
	server := a.server()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close() // who is slower than a second is cut off
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// server is what ServeHTTP serves, bounded in time.
func (a *Agent) server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", answer(a.Healthy))
	mux.HandleFunc("GET /readyz", answer(a.Ready))
	mux.Handle("GET /metrics", page(a.deps.Log, &metrics{agent: a}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
	if a.cfg.PProf {
		profiles(mux)
	}
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

// page serves metrics. What can't be served is left out, logged, and counted on
// the page; the rest of it is there.
func page(logger *slog.Logger, of ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(of...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelError), Registry: registry,
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second, EnableOpenMetrics: true,
	})
}

func profiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		text := "ok\n"
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			text = err.Error() + "\n"
		}
		_, _ = w.Write([]byte(text)) // nobody to tell
	}
}

// stalledAfter is how far a live node's sealer may lag before it has to get on
// to be healthy.
const stalledAfter = 15 * time.Second

// Healthy fails where a live node seals no more: it is late, and got no further
// since this was called last. One that seals a week that the agent was away
// for must not be killed for it.
func (a *Agent) Healthy() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.live == nil || a.live.metered.Load() == nil {
		return nil
	}
	next, lag := a.live.metered.Load().Next(), a.live.lag()
	advances := next > a.sealed
	a.sealed = next
	if lag > stalledAfter && !advances {
		return fmt.Errorf("windows are sealed %v late, and it gets no better", lag.Round(time.Second))
	}
	return nil
}

// Ready fails until every node has a rate card and is connected.
func (a *Agent) Ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.nodes) == 0 {
		return errors.New("starting")
	}
	for _, n := range a.nodes {
		if n.prices.rater.Load() == nil {
			return fmt.Errorf("node %s: no rate card yet", n.Name)
		}
		if s := n.uplink.Status(); !s.Connected {
			return fmt.Errorf("node %s: not connected to the collector: %s", n.Name, s.LastError)
		}
	}
	if a.live != nil && a.live.seen != nil {
		return a.live.seen.ready()
	}
	return nil
}
