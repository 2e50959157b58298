package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/chunker"
	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/placement"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// liveWithin is how far behind a window may be for it to be worth sending
// live. Further back the node is catching up, and whole chunks are cheaper.
const liveWithin = 30

// node is one node's pipeline. Its sealer's goroutine has everything that is
// not said to be for others.
type node struct {
	sampler.Node
	log    *slog.Logger
	spool  *spool.Spool
	uplink *uplink.Uplink
	meter  *meter.Meter
	prices *prices
	export *export // nil: a script's
	// relieve has all nodes of a player make room on the disk that they share.
	relieve func()

	chunks *chunker.Chunker
	live   bool          // chunks keeps a journal, and sends seconds live
	rater  *rating.Rater // that chunks and meter have

	metered         atomic.Pointer[meter.Meter] // meter, for any goroutine
	windows, slices atomic.Uint64               // handed to chunks
	counts          chunkerStats
}

// chunkerStats adds up the counts of the chunkers that a node has had.
type chunkerStats struct {
	mu      sync.Mutex
	sum     chunker.Stats
	current *chunker.Chunker
}

// replace makes c the one that counts.
func (s *chunkerStats) replace(c *chunker.Chunker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum = s.total()
	s.current = c
}

// load is the sum so far. Any goroutine may call it.
func (s *chunkerStats) load() chunker.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total()
}

func (s *chunkerStats) total() chunker.Stats {
	t := s.sum
	if s.current != nil {
		c := s.current.Stats()
		t.Seconds += c.Seconds
		t.Windows += c.Windows
		t.UnpricedWindows += c.UnpricedWindows
		t.Chunks += c.Chunks
		t.Recovered += c.Recovered
		t.Refused += c.Refused
		t.NotJournaled += c.NotJournaled
		t.DroppedTallies += c.DroppedTallies
		t.UnlabeledOwners += c.UnlabeledOwners
		t.UnownedWindows += c.UnownedWindows
		t.LostWindows += c.LostWindows
	}
	return t
}

// prices is what a node knows of the rate card. Its methods are for any
// goroutine.
type prices struct {
	rater atomic.Pointer[rating.Rater]
	known chan struct{} // closed when the first card is there
	once  sync.Once
}

func (p *prices) set(r *rating.Rater) {
	p.rater.Store(r)
	p.once.Do(func() { close(p.known) })
}

// nodeOptions is what a node is made of.
type nodeOptions struct {
	dir     string
	boot    attribution.Boot // zero: a live node, whose spool has its own
	spool   SpoolConfig
	fs      spool.FS
	client  pb.IngestClient
	fleet   *placement.Fleet // in place of client, if not nil
	version string
	rand    func() float64
	log     *slog.Logger
	export  *export
	// storedCard says that the card kept from an earlier run may be used
	// before the collector sends one.
	storedCard bool
}

// openNode opens a node's spool and makes its uplink, which does not run yet.
func openNode(id sampler.Node, o nodeOptions) (n *node, err error) {
	n = &node{Node: id, log: o.log.With("node", id.Name), prices: &prices{known: make(chan struct{})}, export: o.export}
	n.spool, err = spool.Open(o.fs, o.dir, spool.Options{
		Boot: o.boot, Repeatable: o.boot != attribution.Boot{}, MaxBytes: o.spool.MaxBytes, Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	var collectors uplink.Collectors
	if o.fleet != nil {
		collectors = o.fleet.Node(id.Cluster, id.Name)
	}
	n.uplink, err = uplink.New(uplink.Options{
		Client: o.client, Collectors: collectors, Cluster: id.Cluster, Node: id.Name, Version: o.version,
		Spool: n.spool, OnRateCard: n.takeRateCard, Logger: o.log, Rand: o.rand,
	})
	if err == nil && o.storedCard {
		err = n.loadRateCard()
	}
	if err != nil {
		return nil, errors.Join(err, n.spool.Close())
	}
	return n, nil
}

// loadRateCard takes the card that an earlier run kept. A card that can't be
// read is no reason not to run.
func (n *node) loadRateCard() error {
	b, err := n.spool.RateCard()
	if err != nil || b == nil {
		return err
	}
	m := &pb.RateCard{}
	if err = proto.Unmarshal(b, m); err == nil {
		err = n.useRateCard(m)
	}
	if err != nil {
		n.log.Warn("the kept rate card can't be used; waiting for the collector's", "error", err)
	}
	return nil
}

func (n *node) useRateCard(m *pb.RateCard) error {
	card, err := wire.DecodeRateCard(m)
	if err != nil {
		return err
	}
	r, err := rating.NewRater(card)
	if err != nil {
		return err
	}
	if n.export != nil {
		if err := n.export.totals.SetRateCard(card.Revision, card.Currency); err != nil {
			return err
		}
	}
	n.prices.set(r)
	return nil
}

// takeRateCard is given every card that the collector sends.
func (n *node) takeRateCard(m *pb.RateCard) {
	old := n.prices.rater.Load()
	if err := n.useRateCard(m); err != nil {
		n.log.Error("the collector's rate card is refused; prices stay as they were", "error", err)
		return
	}
	if old == nil || old.Card().Revision != m.GetRevision() {
		n.log.Info("rate card", "revision", m.GetRevision(), "currency", m.GetCurrency(), "policy", m.GetPolicy())
	}
	b, err := proto.Marshal(m)
	if err == nil {
		err = n.spool.SetRateCard(b)
	}
	if err != nil {
		n.log.Warn("the rate card could not be kept for the next start", "error", err)
	}
}

// openChunker makes the chunker that seconds are handed to from now on: with
// or without a journal and live seconds. What the last one had open is closed.
func (n *node) openChunker(live bool) error {
	if n.chunks != nil {
		if err := n.chunks.Flush(); err != nil {
			return err
		}
	}
	o := chunker.Options{
		Cluster: n.Cluster, Node: n.Name, Spool: n.spool, Journal: live, Logger: n.log,
		Unpriced: func(d *attribution.Device, s attribution.Second) {
			n.log.Error("UNPRICED device: its time is recorded, its cost is unknown; add a price for it to the rate card",
				"device", d.ID, "model", d.Model, "capacity_type", d.CapacityType, "from_second", int64(s))
		},
	}
	if live {
		o.Live = n.uplink.Live
	}
	if n.export != nil {
		o.Sealed = n.export.totals.Add
	}
	c, err := chunker.New(o)
	if err != nil {
		return err
	}
	n.chunks, n.live, n.rater = c, live, nil
	n.counts.replace(c)
	return nil
}

// run keeps the spool synced, the uplink up and what is exported pushed until
// ctx ends; abort cuts the last push short.
func (n *node) run(ctx, abort context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, 3)
	wg.Go(func() { errs[0] = n.spool.Run(ctx) })
	wg.Go(func() { errs[1] = n.uplink.Run(ctx) })
	if n.export != nil && n.export.push != nil {
		wg.Go(func() { errs[2] = n.export.push.Run(ctx, abort) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// refresh gives chunker and meter the newest rate card.
func (n *node) refresh() {
	if r := n.prices.rater.Load(); r != nil && r != n.rater {
		n.rater = r
		n.chunks.SetPricer(r)
		n.meter.SetPolicy(r.Policy())
	}
}

// emit hands a sealed second to the chunker.
func (n *node) emit(s *meter.Sealed) error {
	if err := n.chunks.Seal(s.Second, s.Windows, s.Tallies, s.Facts); err != nil {
		return err
	}
	slices := 0
	for i := range s.Windows {
		slices += len(s.Windows[i].Slices)
	}
	n.windows.Add(uint64(len(s.Windows)))
	n.slices.Add(uint64(slices))
	return nil
}

// seal seals through a second, with or without journal and live seconds, and
// waits where the spool is full. Between the two it changes at the end of a ten
// only, so that chunks are the same whenever it happens.
func (n *node) seal(ctx context.Context, through attribution.Second, live bool) error {
	if live != n.live && n.meter.Next() == n.meter.Next().ChunkStart() && n.meter.Next() >= n.chunks.Next() {
		if err := n.waiting(ctx, func() error { return n.openChunker(live) }); err != nil {
			return err
		}
	}
	n.refresh()
	return n.waiting(ctx, func() error { return n.meter.Seal(through, n.emit) })
}

// waiting does f, again and again while the spool is full.
func (n *node) waiting(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, spool.ErrFull) {
			return err
		}
		n.log.Debug("waiting for space in the spool", "error", err)
		if err := n.awaitSpace(ctx); err != nil {
			return err
		}
	}
}

// awaitSpace waits until everything appended is durable and the spool takes
// more. The collector holds the chunks of a minute until it is complete, and
// the rest of it may be what there is no space for: it is asked not to.
func (n *node) awaitSpace(ctx context.Context) error {
	err := n.spool.AwaitSpace(ctx, func(fault error) {
		if fault != nil {
			n.relieve()
			return
		}
		n.uplink.Flush()
	})
	if err != nil {
		return fmt.Errorf("wait for space in the spool: %w", err)
	}
	return nil
}

// finish closes the open chunk and waits until everything is acknowledged.
func (n *node) finish(ctx context.Context) error {
	if err := n.waiting(ctx, n.chunks.Flush); err != nil {
		return err
	}
	if err := n.awaitSpace(ctx); err != nil {
		return err
	}
	return n.uplink.Drain(ctx)
}

// awaitRateCard waits for a card: for ever, or until the timeout has passed
// (then it is false).
func (n *node) awaitRateCard(ctx context.Context, timeout <-chan time.Time) (bool, error) {
	again := time.NewTicker(5 * time.Second)
	defer again.Stop()
	for {
		select {
		case <-n.prices.known:
			return true, nil
		case <-timeout:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-again.C:
			s := n.uplink.Status()
			n.log.Warn("waiting for the collector's rate card", "connected", s.Connected, "last_error", s.LastError)
		}
	}
}
