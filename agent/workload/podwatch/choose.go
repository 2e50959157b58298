package podwatch

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// patience is how long a source that worked may fail before the next one
	// is used: longer than a kubelet takes to restart.
	patience = 30 * time.Second
	// tryBetter is how often better sources than the one in use are tried.
	tryBetter = time.Minute

	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// chooser decides which source is followed. One leads; while it is not the
// best, better ones are tried beside it, and one that has all pods takes over.
type chooser struct {
	*Watcher
	lead  *session // nil while it waits to be tried again
	rank  int      // of the leading source
	trial *session // of a source better than rank, nil while there is none

	worked   bool      // the leading source has been in sync
	failing  time.Time // since when none is in sync; zero while one is
	attempts int       // that failed since
	told     []string  // by source: the failure that was logged last

	again  *time.Timer // for the lead
	better *time.Timer // for a trial
}

func (w *Watcher) choose(ctx context.Context) {
	c := &chooser{
		Watcher: w, failing: time.Now(), told: make([]string, len(w.sources)),
		again: time.NewTimer(0), better: time.NewTimer(around(tryBetter)),
	}
	c.failingSince.Store(c.failing.UnixNano())
	defer c.stop()
	for ctx.Err() == nil {
		c.step(ctx)
	}
}

// step waits for what happens next and acts on it.
func (c *chooser) step(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-c.again.C:
		if c.lead == nil {
			c.lead = c.start(ctx, c.rank)
			close(c.lead.admit)
		}
	case <-c.lead.news():
		c.lead.noticed = true
		c.inSync()
	case <-c.lead.end():
		if c.lead.unnoticed() { // it told all pods, and failed at once
			c.inSync()
		}
		err := c.lead.err
		c.lead = nil
		if ctx.Err() == nil {
			c.failed(err)
		}
	case <-c.better.C:
		c.try(ctx, 0)
	case <-c.trial.news():
		c.promote()
	case <-c.trial.end():
		rank, err := c.trial.rank, c.trial.err
		c.trial = nil
		if ctx.Err() == nil {
			c.tell(rank, err)
			c.try(ctx, rank+1)
		}
	}
}

func (c *chooser) stop() {
	for _, s := range []*session{c.lead, c.trial} {
		if s != nil {
			s.stop()
		}
	}
	c.again.Stop()
	c.better.Stop()
}

// inSync notes that the leading source has told all pods.
func (c *chooser) inSync() {
	c.worked, c.attempts, c.failing, c.told[c.rank] = true, 0, time.Time{}, ""
	c.failingSince.Store(0)
	if used := int64(c.rank) + 1; c.using.Swap(used) != used {
		c.counts.switches.Add(1)
		c.log.Info("the node's pods are told by another source", "source", c.names[c.rank])
	}
}

// failed decides what comes after the leading source has failed: the same once
// more, or the next.
func (c *chooser) failed(err error) {
	c.tell(c.rank, err)
	c.attempts++
	now := time.Now()
	if c.failing.IsZero() {
		c.failing = now
		c.failingSince.Store(now.UnixNano())
	}
	delay := backoff(c.attempts)
	if left := patience - now.Sub(c.failing); c.worked && left > 0 {
		delay = min(delay, left)
	} else {
		if c.worked {
			c.attempts = 0
		}
		if c.attempts < len(c.sources) { // it has not been tried yet
			delay = 0
		}
		c.worked = false
		c.rank = (c.rank + 1) % len(c.sources)
		if c.trial != nil && c.trial.rank >= c.rank {
			c.trial.stop()
			c.trial = nil
			c.better.Reset(around(tryBetter))
		}
	}
	c.again.Reset(delay)
}

// try tries the sources from a rank on that are better than the leading one.
func (c *chooser) try(ctx context.Context, rank int) {
	if rank < c.rank {
		c.trial = c.start(ctx, rank)
		return
	}
	c.better.Reset(around(tryBetter))
}

// promote makes the trial, which has all pods, the lead.
func (c *chooser) promote() {
	if c.lead != nil {
		c.lead.stop()
	}
	c.again.Stop()
	c.lead, c.trial = c.trial, nil
	c.lead.noticed = true
	c.rank = c.lead.rank
	close(c.lead.admit)
	c.inSync()
	c.better.Reset(around(tryBetter))
}

// tell logs a failure of a source, once for as long as it stays the same.
func (c *chooser) tell(rank int, err error) {
	c.counts.failures.Add(1)
	if c.told[rank] == err.Error() {
		return
	}
	c.told[rank] = err.Error()
	if errors.Is(err, errAbsent) && len(c.sources) > 1 {
		c.log.Info("a source of the node's pods is not here", "source", c.names[rank], "error", err)
		return
	}
	c.log.Warn("a source of the node's pods has failed", "source", c.names[rank], "error", err)
}

// news is closed when a session has all pods and nobody has noticed yet.
func (s *session) news() <-chan struct{} {
	if s == nil || s.noticed {
		return nil
	}
	return s.synced
}

func (s *session) unnoticed() bool {
	select {
	case <-s.news():
		return true
	default:
		return false
	}
}

func (s *session) end() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.ended
}

// backoff is how long to wait after a number of failures in a row.
func backoff(failures int) time.Duration {
	return around(min(firstRetry<<min(failures-1, 10), lastRetry))
}

// around is d, a quarter more or less, so that nodes do not act together.
func around(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }
