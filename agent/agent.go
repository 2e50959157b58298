package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/placement"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/certs"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Source is what an agent looks at: a script, or something live.
type Source struct {
	// Script is played at Speed virtual seconds a second; 0 is as fast as
	// possible. The agent closes it.
	Script sampler.Script
	Speed  float64
	// Anchor is when the script's virtual time is the wall clock's, in Unix ns,
	// as it is for a simulation that began now. At 0, virtual time goes on
	// where the nodes' spools are.
	Anchor int64

	// Live opens a live source.
	Live func(Beginning) (sampler.Live, error)
	// Holds says that the live source takes the holdings of Beginning over, and
	// releases those that are no more. Without it they end when it adds their
	// device.
	Holds bool
}

// Beginning is what a live source goes on from.
type Beginning struct {
	Now  func() int64      // the timeline that its events are on, Unix ns
	Held []sampler.Holding // who held what when the last run ended

	// From is the first second that did not outlast the last run, 0 where there
	// was none. What was yielded for it and later ones is gone.
	From attribution.Second
	// Unsealed is the first second that is not sealed yet, Durable the first
	// that a crash now would undo. Any goroutine may ask.
	Unsealed, Durable func() attribution.Second
}

// Deps is what an agent needs of the world.
type Deps struct {
	Client  pb.IngestClient  // reaches the only collector
	Fleet   *placement.Fleet // the collectors, in place of Client; nil: Client it is
	Certs   []*certs.Set     // to be looked after while Run runs; nil ones are none
	FS      spool.FS
	Machine Machine
	Log     *slog.Logger
	Version string
	// Rand yields numbers in [0, 1) for jitter. nil: math/rand/v2.
	Rand func() float64
	// Abort cuts a graceful stop short when it ends. nil: nothing does.
	Abort context.Context //nolint:containedctx // it is a second signal, not the scope of a call
}

// Agent is one process's pipelines.
type Agent struct {
	cfg    Config
	source Source
	deps   Deps

	mu     sync.Mutex // for what is read while Run runs
	nodes  []*node
	live   *liveNode
	began  time.Time
	sealed attribution.Second // what was to be sealed next when Healthy was asked last
}

// New makes an agent of a valid configuration; Run runs it.
func New(cfg Config, source Source, deps Deps) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if (source.Script == nil) == (source.Live == nil) {
		return nil, errors.New("agent: want either a script or a live source")
	}
	if deps.Abort == nil {
		deps.Abort = context.Background()
	}
	return &Agent{cfg: cfg, source: source, deps: deps}, nil
}

// Run runs until a script has been played and everything of it acknowledged,
// or ctx ends; then it stops gracefully and returns nil. It is called once.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.close()) }()
	a.mu.Lock()
	a.began = time.Now()
	a.mu.Unlock()

	ids, err := a.nodeIDs()
	if err != nil {
		return err
	}
	if err := a.open(ids); err != nil {
		return err
	}
	// Spools and uplinks outlast what drives the nodes.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	for _, n := range a.nodes {
		wg.Go(func() {
			if err := n.run(below, a.deps.Abort); err != nil {
				n.log.Error("the node's spool or uplink ended", "error", err)
			}
		})
	}
	for _, s := range a.certificates() {
		wg.Go(func() { s.Run(below) })
	}
	if a.source.Script != nil {
		err = a.play(ctx)
	} else {
		err = a.runLive(ctx)
	}
	stop()
	wg.Wait()
	return err
}

// nodeIDs are the nodes to run.
func (a *Agent) nodeIDs() ([]sampler.Node, error) {
	if a.source.Script == nil {
		name, err := a.cfg.NodeName(os.Getenv)
		return []sampler.Node{{Cluster: a.cfg.Cluster, Name: name}}, err
	}
	ids := a.source.Script.Nodes()
	if len(ids) == 0 {
		return nil, errors.New("the script has no nodes")
	}
	seen := make(map[string]bool, len(ids))
	for i := range ids {
		if ids[i].Name == "" {
			return nil, fmt.Errorf("the script's node %d has no name", i)
		}
		if seen[ids[i].Name] {
			return nil, fmt.Errorf("the script lists node %q twice", ids[i].Name)
		}
		seen[ids[i].Name] = true
	}
	return ids, nil
}

func (a *Agent) open(ids []sampler.Node) error {
	for _, id := range ids {
		var x *export
		if a.source.Script == nil {
			var err error
			if x, err = openExport(&a.cfg, id, a.deps.Version, a.deps.Log); err != nil {
				return err
			}
		}
		n, err := openNode(id, nodeOptions{
			export: x,
			dir:    spoolDir(a.cfg.StateDir, id.Cluster, id.Name), boot: id.Boot, spool: a.cfg.Spool,
			fs: a.deps.FS, client: a.deps.Client, fleet: a.deps.Fleet, version: a.deps.Version, rand: a.deps.Rand, log: a.deps.Log,
			// A script's chunks must come out the same again: it takes the card
			// that the collector has, not one of an earlier run.
			storedCard: a.source.Script == nil || a.source.Speed > 0,
		})
		if err != nil {
			return fmt.Errorf("node %s: %w", id.Name, err)
		}
		a.mu.Lock()
		a.nodes = append(a.nodes, n)
		a.mu.Unlock()
	}
	return nil
}

func (a *Agent) close() error {
	var errs []error
	for _, n := range a.nodes {
		errs = append(errs, n.spool.Close())
	}
	if a.source.Script != nil {
		errs = append(errs, a.source.Script.Close())
	}
	return errors.Join(errs...)
}

// play plays the script and waits until everything is acknowledged.
func (a *Agent) play(ctx context.Context) error {
	if err := a.awaitRateCards(ctx); err != nil {
		return stopped(ctx, err)
	}
	var p *pace
	if a.source.Speed > 0 {
		p = a.pace()
	}
	pl, err := newPlayer(a.source.Script, a.nodes, p)
	if err != nil {
		return err
	}
	if err := pl.run(ctx); err != nil {
		if stopped(ctx, err) == nil {
			return a.drain(false)
		}
		return err
	}
	a.deps.Log.Info("the script has ended; waiting until everything is durable")
	if err := a.finish(ctx); err != nil {
		return stopped(ctx, err)
	}
	return a.summarise()
}

// stopped is nil for an error that is only ctx's end.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// awaitRateCards waits until all nodes have a rate card: for ever if the
// script runs as fast as possible.
func (a *Agent) awaitRateCards(ctx context.Context) error {
	var timeout <-chan time.Time
	if a.source.Speed > 0 {
		t := time.NewTimer(a.cfg.Limits.RateCardWait.Duration)
		defer t.Stop()
		timeout = t.C
	}
	for _, n := range a.nodes {
		priced, err := n.awaitRateCard(ctx, timeout)
		if err != nil {
			return err
		}
		if !priced {
			n.log.Error("UNPRICED: no rate card has come from the collector: time is recorded, its cost is unknown until one does")
			return nil
		}
	}
	return nil
}

// pace maps the machine's time onto the script's.
func (a *Agent) pace() *pace {
	clock := NewClock(a.deps.Machine.Wall, a.deps.Machine.Uptime, 0)
	start := a.source.Script.Start()
	p := &pace{wall: clock.Now, from: clock.Now(), virtual0: start, speed: a.source.Speed}
	if a.source.Anchor != 0 {
		p.from, p.virtual0 = a.source.Anchor, a.source.Anchor
		return p
	}
	next := attribution.Second(0)
	for i, n := range a.nodes {
		if s := n.spool.Next(); i == 0 || s < next {
			next = s
		}
	}
	p.virtual0 = max(start, next.Nanos())
	return p
}

// finish closes what is open and waits for all acknowledgements.
func (a *Agent) finish(ctx context.Context) error {
	return a.each(func(n *node) error { return n.finish(ctx) })
}

// each does f for all nodes, some of them at a time.
func (a *Agent) each(f func(*node) error) error {
	const atOnce = 64
	var wg sync.WaitGroup
	errs := make([]error, len(a.nodes))
	slots := make(chan struct{}, atOnce)
	for i, n := range a.nodes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(n); err != nil {
				errs[i] = fmt.Errorf("node %s: %w", n.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// drain gives what is in the spools, at a stop, some time to be acknowledged.
// What is not stays there. A live node's open chunk is closed first; a script
// will come to the same second again.
func (a *Agent) drain(closeOpen bool) error {
	ctx, cancel := context.WithTimeout(a.deps.Abort, a.cfg.Limits.DrainTimeout.Duration)
	defer cancel()
	err := a.each(func(n *node) error {
		if closeOpen {
			if err := n.chunks.Flush(); err != nil {
				return err
			}
		}
		return n.uplink.Drain(ctx)
	})
	if a.deps.Abort.Err() != nil {
		return ErrAborted
	}
	if err != nil {
		a.deps.Log.Warn("stopped before everything was acknowledged; the rest is sent after the next start", "error", err)
	}
	return nil
}

// ErrAborted says that a graceful stop was cut short.
var ErrAborted = errors.New("aborted")

// runLive runs the one node of a live source.
func (a *Agent) runLive(ctx context.Context) error {
	l, kept, err := newLiveNode(a.nodes[0], a.deps.Machine, a.cfg.Limits)
	if err != nil {
		return err
	}
	l.holds = a.source.Holds
	source, err := a.source.Live(Beginning{
		Now: l.clock.Now, Held: kept.held(), From: l.chunks.Next(), Unsealed: l.unsealed, Durable: l.spool.Durable,
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.live = l
	l.seen, _ = source.(observed)
	a.mu.Unlock()
	if err := stopped(ctx, l.run(ctx, kept, source)); err != nil {
		return err
	}
	return a.drain(true)
}

// Summary is what a finished script came to.
type Summary struct {
	Nodes           int     `json:"nodes"`
	Windows         uint64  `json:"windows"` // device seconds handed to the spool in this run
	Slices          uint64  `json:"slices"`
	UnpricedWindows uint64  `json:"unpriced_windows"`
	Chunks          uint64  `json:"chunks"`
	RejectedChunks  uint64  `json:"rejected_chunks"`
	BytesSent       uint64  `json:"bytes_sent"` // bodies of chunks
	WallSeconds     float64 `json:"wall_seconds"`
	SlicesPerSecond float64 `json:"slices_per_second"`
}

// Summary adds up what has happened so far. It may be called at any time.
func (a *Agent) Summary() Summary {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Summary{Nodes: len(a.nodes), WallSeconds: time.Since(a.began).Seconds()}
	for _, n := range a.nodes {
		c, u := n.counts.load(), n.uplink.Status()
		s.Windows += n.windows.Load()
		s.Slices += n.slices.Load()
		s.UnpricedWindows += c.UnpricedWindows
		s.Chunks += c.Chunks
		s.RejectedChunks += u.Rejected
		s.BytesSent += u.BytesSent
	}
	if s.WallSeconds > 0 {
		s.SlicesPerSecond = float64(s.Slices) / s.WallSeconds
	}
	return s
}

// ErrRejected says that the collector has refused chunks for good.
var ErrRejected = errors.New("the collector refused chunks; they are kept in the spools' folder rejected")

// summarise logs and writes the summary.
func (a *Agent) summarise() error {
	s := a.Summary()
	a.deps.Log.Info("done", "nodes", s.Nodes, "windows", s.Windows, "slices", s.Slices, "chunks", s.Chunks,
		"wall_seconds", s.WallSeconds, "slices_per_second", int64(s.SlicesPerSecond))
	var errs []error
	if s.RejectedChunks > 0 {
		errs = append(errs, fmt.Errorf("%w: %d of %d", ErrRejected, s.RejectedChunks, s.Chunks))
	}
	if a.cfg.SummaryFile != "" {
		errs = append(errs, writeSummary(a.cfg.SummaryFile, &s))
	}
	return errors.Join(errs...)
}

func writeSummary(name string, s *Summary) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	if err := writeFile(name, append(b, '\n')); err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	return nil
}
