package simulation

import (
	"context"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// follow brings what other collectors change into force at this one, as
// collectors that share a store do: it looks every few seconds, until ctx ends.
func (c *collector) follow(ctx context.Context, life *collectorLife) {
	shared, ok := life.store.(store.Shared)
	if !ok {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for due := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if changed, err := shared.Refresh(ctx); err == nil {
			due = due || changed
		}
		if due {
			due = life.server.Do(ctx, func(context.Context) error { return c.learn(life) }) != nil
		}
		timer.Reset(time.Second + time.Duration(c.chance()*float64(2*time.Second)))
	}
}

// learn takes in the stored journal and rate card. It is called where the store
// may be written.
func (c *collector) learn(life *collectorLife) error {
	j, err := journal(life.store)
	if err != nil {
		return err
	}
	life.server.SetJournal(j)
	if card := c.newestCard(life.store); card != nil {
		life.server.SetRateCard(wire.EncodeRateCard(card))
	}
	return nil
}

// chance is a number in [0, 1), for any goroutine.
func (c *collector) chance() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.Float64()
}
