package simulation

import (
	"context"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// live is the run: stretches in which much happens, and quiet times between.
func (w *world) live() {
	w.event("begin: %d nodes", len(w.nodes))
	for _, c := range w.at {
		c.start()
	}
	w.applyCard()
	for _, n := range w.nodes {
		n.powerOn()
		n.start()
		w.wait(w.upTo(5 * time.Second))
	}
	w.wait(20 * time.Second)
	if w.o.Calm {
		w.wait(10 * time.Minute)
		return
	}
	total := time.Duration(w.o.Hours * float64(time.Hour))
	// Mostly little happens at a time, so that there can be many seeds.
	scale := int64(1)
	if w.r.IntN(12) == 0 {
		scale = 8
	}
	stretches := 1 + w.r.IntN(3)
	for i := range stretches {
		w.trouble(w.upTo(time.Duration(scale*int64(20*time.Minute)))+time.Minute, time.Duration(2+w.r.IntN(45))*time.Second)
		if w.isBroken() {
			return
		}
		left := total - time.Since(w.began)
		w.quiet(max(left/time.Duration(stretches-i), time.Minute), scale)
	}
	if w.seed%7 == 1 {
		w.rotFirst(w.nodes[w.r.IntN(len(w.nodes))])
	}
	if w.limits.PendingChunks > 0 {
		w.stall()
	}
}

// upTo is a random time.
func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.r.Int64N(int64(d))) }

// applyCard applies a rate card of other prices.
func (w *world) applyCard() {
	card := cardOf(money.Amount(1_000_000_000+w.r.Int64N(9_000_000_000)), money.Amount(w.r.Int64N(2_000_000_000)))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	w.event("rate card: %v", w.any().applyCard(ctx, card))
}

// finish heals everything, and gives agents and collectors the time that they
// need.
func (w *world) finish() {
	w.event("finish")
	for _, c := range w.at {
		c.storeTrouble(0, 0, 0)
		c.start()
	}
	for _, n := range w.nodes {
		n.mend()
		n.powerOn()
		n.start()
	}
	w.wait(40 * time.Second)
	for range 80 {
		if w.caughtUp() {
			break
		}
		w.wait(15 * time.Second)
	}
	for _, n := range w.nodes {
		n.leave()
	}
	w.rollAll()
	for _, n := range w.nodes {
		n.link.cut()
		n.link.wg.Wait()
	}
	w.event("over")
}

// mend ends all that is wrong with a node's surroundings.
func (n *node) mend() {
	heal(n.fs)
	n.log.heal()
	n.hang(false)
	n.link.freeze(false)
	n.link.refuse(false)
}

// caughtUp reports whether the ledger has nearly all of every node.
func (w *world) caughtUp() bool {
	for _, n := range w.nodes {
		through := attribution.Second(0)
		for _, c := range w.at {
			if life := c.alive(); life != nil {
				through = max(through, life.server.StoredThrough(cluster, n.name))
			}
		}
		if through < n.log.now()-100 {
			return false
		}
	}
	return true
}
