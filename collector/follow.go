package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/oklog/run"

	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

const (
	// followMin and followMax bound the time between two looks at what other
	// collectors have changed.
	followMin, followMax = time.Second, 3 * time.Second
	// followTimeout bounds a look.
	followTimeout = 10 * time.Second
)

// follower keeps a collector up with what others change in a shared store: the
// rate card, the rules, the journal of reratings.
type follower struct {
	store store.Shared
	docs  *documents
	// do runs a function where the store may be written.
	do func(context.Context, func(context.Context) error) error
	// rerated is told of a new journal, within do.
	rerated func(*rerating.Journal)
	log     *slog.Logger

	failing atomic.Pointer[string] // why it can't keep up; nil: it does
}

// addFollower has others' changes come into force here while the group runs,
// where there are others.
func (c *Collector) addFollower(ctx context.Context, g *run.Group) {
	shared, ok := c.store.(store.Shared)
	if !ok {
		return
	}
	f := &follower{
		store: shared, docs: c.docs, do: c.ingest.Do, log: c.deps.Log,
		rerated: func(j *rerating.Journal) {
			c.ingest.SetJournal(j)
			c.docs.journal.Store(j)
		},
	}
	c.follower.Store(f)
	following, stop := context.WithCancel(ctx)
	g.Add(func() error { return f.run(following) }, func(error) { stop() })
}

// run looks every few seconds, until ctx ends.
func (f *follower) run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	due := true // what came between opening the documents and now
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		due = f.look(ctx, due)
		t.Reset(followMin + rand.N(followMax-followMin))
	}
}

// look takes in what was changed, or was due before. It reports whether anything
// still is.
func (f *follower) look(ctx context.Context, due bool) bool {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	changed, err := f.store.Refresh(ctx)
	due = due || changed
	if err == nil && due {
		err = f.do(ctx, f.take)
	}
	if err == nil {
		if f.failing.Swap(nil) != nil {
			f.log.Info("what other collectors change comes into force here again")
		}
		return false
	}
	if errors.Is(err, context.Canceled) {
		return due
	}
	why := err.Error()
	if last := f.failing.Swap(&why); last == nil || *last != why {
		f.log.Warn("what other collectors change does not come into force here; trying again", "error", err)
	}
	return due
}

// take brings what is stored into force, on the writer's goroutine.
func (f *follower) take(ctx context.Context) error {
	return errors.Join(f.takeJournal(ctx), f.docs.takeCard(ctx), f.docs.takeRules(ctx))
}

func (f *follower) takeJournal(ctx context.Context) error {
	return f.store.View(ctx, func(r store.Reader) error {
		j, err := r.Journal(ctx)
		// A replica that is behind may say less than is in force.
		if err == nil && j.Next() > f.docs.journal.Load().Next() {
			f.log.Info("reratings of another collector count from here on", "entries", j.Next()-1)
			f.rerated(j)
		}
		return err
	})
}

// takeCard brings the newest stored rate card into force.
func (d *documents) takeCard(ctx context.Context) error {
	doc, err := d.store.Document(ctx, store.RateCards, 0)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rate card: %w", err)
	}
	if have := d.card.Load(); have != nil && have.Revision >= doc.Revision {
		return nil
	}
	card, err := d.RateCard(ctx, doc.Revision)
	if err != nil {
		return err
	}
	d.log.Info("a rate card of another collector is in force", "revision", card.Revision)
	d.card.Store(card)
	d.applied(card)
	return nil
}

// takeRules brings the newest stored rules into force.
func (d *documents) takeRules(ctx context.Context) error {
	doc, err := d.store.Document(ctx, store.RuleSets, 0)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	if d.rules.Load().Revision >= doc.Revision {
		return nil
	}
	rules, err := d.storedRules(ctx, doc.Revision)
	if err != nil {
		return err
	}
	d.log.Info("rules of another collector are in force", "revision", rules.Revision)
	return d.enforce(ctx, rules)
}

// warning is what an operator should know of it.
func (f *follower) warning() []string {
	if f == nil {
		return nil
	}
	if why := f.failing.Load(); why != nil {
		return []string{"rate cards, rules and reratings of other collectors do not come into force here: " + *why}
	}
	return nil
}
