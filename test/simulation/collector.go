package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// collector is a collector's place; what runs there comes and goes.
type collector struct {
	w    *world
	name string
	r    *rand.Rand

	mu      sync.Mutex
	life    *collectorLife // nil: it does not run
	streams sync.WaitGroup
	trouble struct {
		delay         time.Duration
		before, after float64
	}
}

// collectorLife is one process.
type collectorLife struct {
	store  ledgerStore
	server *ingest.Server
	engine *query.Engine
	stop   context.CancelFunc
	ran    chan struct{} // closed when the server has ended
	killed bool
}

// serving is the server, nil where nothing listens.
func (c *collector) serving() pb.IngestServer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == nil {
		return nil
	}
	return c.life.server
}

func (c *collector) alive() *collectorLife {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life
}

// start runs a collector, unless one runs.
func (c *collector) start() {
	if c.alive() != nil || c.w.asleep {
		return
	}
	st, err := c.w.ledger.open(c.ask)
	if err != nil {
		c.w.broken("the collector can't open its ledger: %v", err)
		return
	}
	s, err := ingest.New(context.Background(), st, ingest.Options{
		Version: "sim", Log: c.w.logger("collector " + c.name), Rand: c.chance, Limits: c.w.limits, LiveEvery: c.w.liveEvery,
	})
	if err != nil {
		c.w.broken("the collector can't start: %v", err)
		return
	}
	life := &collectorLife{store: st, server: s, ran: make(chan struct{})}
	life.engine = query.New(query.Config{Store: st, Overlay: s})
	if card := c.newestCard(st); card != nil {
		s.SetRateCard(wire.EncodeRateCard(card))
	}
	ctx, stop := context.WithCancel(context.Background())
	life.stop = stop
	c.mu.Lock()
	c.life = life
	c.mu.Unlock()
	if len(c.w.at) > 1 {
		c.streams.Go(func() { c.follow(ctx, life) })
	}
	go func() {
		defer close(life.ran)
		if err := s.Run(ctx); err != nil {
			c.ended(life, err)
		}
	}()
}

// ended is told that a collector's writer gave up.
func (c *collector) ended(life *collectorLife, err error) {
	c.mu.Lock()
	killed := life.killed
	if c.life == life {
		c.life = nil
	}
	c.mu.Unlock()
	if !killed {
		c.w.broken("the collector's writer gave up: %v", err)
	}
}

// newestCard is the rate card in force.
func (c *collector) newestCard(st store.Store) *rating.Card {
	doc, err := st.Document(context.Background(), store.RateCards, 0)
	if err != nil {
		return nil
	}
	card, err := rating.Parse(doc.Body)
	if err != nil {
		c.w.broken("stored rate card %d: %v", doc.Revision, err)
		return nil
	}
	card.Revision = doc.Revision
	return card
}

// take ends a collector's life for new streams.
func (c *collector) take(killed bool) *collectorLife {
	c.mu.Lock()
	defer c.mu.Unlock()
	life := c.life
	c.life = nil
	if life != nil {
		life.killed = killed
	}
	return life
}

// crash ends the process now: what it was doing is done or not, and nothing else
// is.
func (c *collector) crash() {
	life := c.take(true)
	if life == nil {
		return
	}
	life.store.Kill()
	c.w.cutAll(c)
	life.stop()
	<-life.ran
	c.streams.Wait()
}

// roll stops the process gracefully.
func (c *collector) roll() {
	life := c.alive()
	if life == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = life.server.Drain(ctx) // what is not durable stays with the agents
	c.take(true)
	c.w.cutAll(c)
	life.stop()
	<-life.ran
	c.streams.Wait()
	life.store.Kill()
}

// ask is what is wrong with a write to the store now.
func (c *collector) ask(what string) (t trouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trouble.delay > 0 {
		t.Delay = time.Duration(c.r.Int64N(int64(c.trouble.delay)))
	}
	failed := fmt.Errorf("%w: the store fails", store.ErrUnavailable)
	switch x := c.r.Float64(); {
	case x < c.trouble.before:
		t.Before = failed
	case x < c.trouble.before+c.trouble.after && (what == "commit" || what == "rerate"):
		t.After = failed
	}
	return t
}

// storeTrouble has writes fail before or after they took effect, as often as
// said, and take their time.
func (c *collector) storeTrouble(delay time.Duration, before, after float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble.delay, c.trouble.before, c.trouble.after = delay, before, after
}

// applyCard makes a card the next revision; false where that failed.
func (c *collector) applyCard(ctx context.Context, card rating.Card) bool {
	life := c.alive()
	if life == nil {
		return false
	}
	err := life.server.Do(ctx, func(ctx context.Context) error {
		n, err := life.store.PutDocument(ctx, store.RateCards, rating.Format(&card), time.Now())
		if err != nil {
			return err
		}
		card.Revision = n
		c.w.model.cardApplied(&card)
		life.server.SetRateCard(wire.EncodeRateCard(&card))
		return nil
	})
	return err == nil
}

// rerate prices a stretch anew, or undoes an entry.
func (c *collector) rerate(ctx context.Context, e rerating.Entry) error {
	life := c.alive()
	if life == nil {
		return errRefused
	}
	planner := plan.Planner{Decode: c.w.ledger.decode}
	return life.server.Do(ctx, func(ctx context.Context) error {
		var p *plan.Plan
		var next *rerating.Journal
		err := life.store.View(ctx, func(r store.Reader) (err error) {
			if e.Undoes != 0 {
				p, err = planner.Undo(ctx, r, e)
			} else {
				p, err = planner.Rerate(ctx, r, e)
			}
			if err != nil {
				return err
			}
			p.Entry.Applied = time.Now().UTC()
			j, err := r.Journal(ctx)
			if err != nil {
				return err
			}
			next, err = j.With(p.Entry)
			return err
		})
		if err != nil {
			return err
		}
		if err := life.store.Rerate(ctx, p.Rerating()); err != nil {
			return err
		}
		life.server.SetJournal(next)
		return nil
	})
}

// cardOf is a rate card of flat prices.
func cardOf(h100, l4 money.Amount) rating.Card {
	return rating.Card{
		Currency: "USD", Policy: "sm",
		Prices: []rating.PriceRule{{Model: "H100", PerDeviceHour: h100}, {Model: "L4", PerDeviceHour: l4}},
	}
}

// expected reports whether an error is one that faults cause.
func expected(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutdated) || errors.Is(err, errRefused) || errors.Is(err, plan.ErrNothing) ||
		errors.Is(err, rerating.ErrUndo) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// logger is where a process logs to.
func (w *world) logger(who string) *slog.Logger { return slog.New(&logs{w: w, who: who}) }
