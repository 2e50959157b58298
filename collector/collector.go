// Package collector wires the stages of the collector into one program:
//
//	agents ══ gRPC ══▶ ingest ─▶ rollup ─▶ store ─▶ query ─▶ api ─▶ gRPC, HTTP/JSON, page
//
// Package ingest owns the single writer of the store; everything that changes
// the ledger (chunks, rate cards, rules, housekeeping) goes through it. Queries
// overlay what is stored with what ingest holds.
package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/run"
	"google.golang.org/grpc"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/gateway"
	"github.com/gpuledger/gpuledger/collector/identity"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/verify"
	"github.com/gpuledger/gpuledger/internal/certs"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// maxMessage bounds one message of an agent: a chunk's body is at most 1 MiB,
// a roster more.
const maxMessage = 8 << 20

// Deps is what a collector takes from its surroundings.
type Deps struct {
	Version string
	Log     *slog.Logger
	// Abort ends a graceful stop at once; nil: nothing does.
	Abort <-chan struct{}
	// Ready, if set, is called once with the addresses that are served.
	Ready func(Addresses) error
}

// Addresses are where a collector serves.
type Addresses struct {
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	// OpenCost is the address of OpenCost's API alone, if it has one.
	OpenCost string `json:"opencost,omitempty"`
}

// WriteFile makes the addresses appear in a file, whole, as JSON.
func (a Addresses) WriteFile(name string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".tmp")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// Collector is one running collector.
type Collector struct {
	cfg    Config
	deps   Deps
	store  store.Store
	ingest *ingest.Server
	docs   *documents
	engine *query.Engine
	ledger *api.Server
	// gateways are read for what they know of customers.
	gateways *gateway.Gateways
	// exported are the ledger's sums as counters.
	exported *rollupexport.Rollups
	others   *others                  // nil: the store is this collector's alone
	follower atomic.Pointer[follower] // likewise
	grpc     *grpc.Server
	// open and refused count connections of agents and programs over gRPC.
	open, refused atomic.Int64
	// tls and pushTLS are shown to those who connect, and to the receiver of
	// pushed sums; nil: none.
	tls, pushTLS *certs.Set
	agents       *identity.Guard  // nil: whoever may connect may write for any node
	tokens       *identity.Tokens // nil: they do not count
	callers      *access.Guard    // knows who asks
	audit        *access.Log
}

// New opens the ledger. The configuration must be valid. Run it, or Close it.
func New(ctx context.Context, cfg Config, deps Deps) (*Collector, error) {
	st, err := cfg.openStore(ctx, deps.Log)
	if err != nil {
		return nil, err
	}
	return open(ctx, cfg, deps, st)
}

// open is New with a store that is open, which it takes over.
func open(ctx context.Context, cfg Config, deps Deps, st store.Store) (*Collector, error) {
	c := &Collector{cfg: cfg, deps: deps, store: st}
	if err := c.wire(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Collector) wire(ctx context.Context) error {
	var err error
	c.audit = access.NewLog(c.store, time.Now, c.deps.Log)
	if err := c.recoverAudit(ctx); err != nil {
		return err
	}
	c.docs, err = openDocuments(access.WithCaller(ctx, access.Configuration()), c.store, c.audit, time.Now, c.deps.Log, c.cfg.RateCard, c.cfg.Rules)
	if err != nil {
		return err
	}
	if err := c.auditRetentions(ctx); err != nil {
		return err
	}
	c.ingest, err = ingest.New(ctx, c.store, ingest.Options{
		Version: c.deps.Version, Log: c.deps.Log, AllowFuture: c.cfg.AllowFuture, Retention: c.cfg.retention(),
		LiveEvery: int(c.cfg.LiveEvery.Duration / time.Second), Limits: c.cfg.ingestLimits(),
	})
	if err != nil {
		return err
	}
	c.docs.serve(c.ingest)
	if c.gateways, err = c.openGateways(); err != nil {
		return err
	}
	if err := c.openOthers(); err != nil {
		return err
	}
	engine := query.New(query.Config{
		Store: c.store, Overlay: c.ingest, Peers: c.others.queried(),
		Mapping:     func() store.Mapping { return *c.docs.mapping.Load() },
		Names:       c.docs.names.Load,
		Card:        c.docs.RateCard,
		Retention:   c.cfg.retention,
		Timeout:     c.cfg.Limits.QueryTimeout.Duration,
		Concurrency: c.cfg.Limits.Queries,
		Scope:       access.ScopeOf,
		Asker:       access.AskerOf,
	})
	past := &reratings{
		store: c.store, audit: c.audit, planner: plan.Planner{Decode: newDecoder().decode}, now: time.Now, log: c.deps.Log,
		planning: make(chan struct{}, 1),
		do:       c.ingest.Do, applied: func(j *rerating.Journal) {
			c.ingest.SetJournal(j)
			c.docs.journal.Store(j)
		},
	}
	c.engine = engine
	if c.exported, err = c.rollups(engine); err != nil {
		return err
	}
	checks := verify.Config{Store: c.store, Workers: runtime.GOMAXPROCS(0), Audit: c.verifyAudit}
	if r := c.cfg.retention(); r != (store.Retention{}) {
		checks.Retention = c.cfg.retention
		checks.Now = c.ingest.DataTime
	}
	c.ledger = api.New(api.Config{
		Query: engine, Verify: verify.New(checks), Documents: c.docs, Status: c.status, Now: time.Now, Reratings: past,
		WhoAmI: whoAmI, Audit: c.listAudit,
		Gateways: c.cfg.joins(), Backups: &api.Backups{Store: c.store, Version: c.deps.Version, Begin: c.auditBackup}, Log: c.deps.Log,
	})
	if c.tls, err = c.cfg.TLS.openTLS(c.deps.Log); err != nil {
		return err
	}
	if c.callers, err = c.openAccess(); err != nil {
		return err
	}
	c.grpc = grpc.NewServer(append(append(grpcLimits(), grpc.Creds(c.credentials())), c.callers.ServerOptions()...)...)
	service, err := c.guardIngest()
	if err != nil {
		return err
	}
	pb.RegisterIngestServer(c.grpc, service)
	pb.RegisterLedgerServer(c.grpc, c.ledger)
	c.others.register(c.grpc)
	return nil
}

// Run serves until ctx ends, then stops gracefully: what was accepted is made
// durable and acknowledged. It closes the ledger.
func (c *Collector) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.Close()) }()
	grpcListener, err := listen(ctx, c.cfg.GRPCListen, "grpc_listen")
	if err != nil {
		return err
	}
	grpcListener = c.bounded(grpcListener)
	httpListener, err := listen(ctx, c.cfg.HTTPListen, "http_listen")
	if err != nil {
		return errors.Join(err, grpcListener.Close())
	}
	grpcListener, httpListener = c.expiring(grpcListener), c.guardHTTP(httpListener)
	web, err := c.web(ctx)
	if err != nil {
		return errors.Join(err, grpcListener.Close(), httpListener.Close())
	}
	defer func() { err = errors.Join(err, web.gateway.Close()) }()

	// The writer outlives ctx: a graceful stop still commits.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var g run.Group
	g.Add(func() error { return c.ingest.Run(writing) }, func(error) { stopWriting() })
	g.Add(func() error { return c.grpc.Serve(grpcListener) }, func(error) { c.stopGRPC() })
	g.Add(func() error { return web.serve(httpListener) }, func(error) { web.stop() })
	// What runs beside the writer outlives ctx, too: the first that ends, ends
	// all, and it must not be before everything is durable.
	beside := access.WithCaller(context.WithoutCancel(ctx), access.Self())
	at := Addresses{GRPC: grpcListener.Addr().String(), HTTP: httpListener.Addr().String()}
	if at.OpenCost, err = c.addOpenCost(ctx, &g); err == nil {
		err = c.addPush(beside, &g, at)
	}
	c.addTLS(beside, &g)
	c.addFollower(beside, &g)
	reading, stopReading := context.WithCancel(beside)
	defer stopReading()
	g.Add(func() error { return c.gateways.Run(reading) }, func(error) { stopReading() })
	starting, stop := context.WithCancel(ctx)
	failed := err
	g.Add(func() error {
		if failed != nil {
			return failed
		}
		if err := c.begin(at); err != nil {
			return err
		}
		<-starting.Done()
		c.drain()
		return nil
	}, func(error) { stop() })
	return g.Run()
}

// begin says where it serves.
func (c *Collector) begin(at Addresses) error {
	if c.docs.card.Load() == nil {
		c.deps.Log.Warn("there is no rate card: all device time is UNPRICED until one is applied", "hint", "gpuledger ratecard apply FILE")
	}
	c.deps.Log.Info("serving", "grpc", at.GRPC, "http", "http://"+at.HTTP, "data_dir", c.cfg.DataDir, "version", c.deps.Version)
	if c.deps.Ready != nil {
		return c.deps.Ready(at)
	}
	return nil
}

// drain makes everything durable that was accepted, as long as it may take.
func (c *Collector) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StopTimeout.Duration)
	defer cancel()
	stopped := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer close(stopped)
	watch.Go(func() {
		select {
		case <-c.deps.Abort:
			cancel()
		case <-stopped:
		}
	})
	if err := c.ingest.Drain(ctx); err != nil {
		c.deps.Log.Warn("stopped before everything was durable; it stays with the agents", "error", err)
	}
}

// stopGRPC lets calls that are running end, for a moment.
func (c *Collector) stopGRPC() {
	done := make(chan struct{})
	go func() {
		c.grpc.GracefulStop()
		close(done)
	}()
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		c.grpc.Stop()
		<-done
	}
}

// Close closes a collector that was not run.
func (c *Collector) Close() error {
	c.others.close()
	return c.store.Close()
}

func listen(ctx context.Context, addr, key string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: is another collector running here? Choose another address, or port 0 for any", key, err)
	}
	return l, nil
}
