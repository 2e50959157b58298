package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	// grace is how long after its end a window is sealed in real time.
	grace = int64(time.Second)
	// stepEvents and stepsWaiting bound what is read and not yet metered, per
	// worker.
	stepEvents   = 512
	stepsWaiting = 4
	// stride is how many seconds a player seals at a time where nobody waits
	// for each of them.
	stride = attribution.ChunkSeconds
)

// pace maps real time onto a script's virtual time. A nil pace is as fast as
// possible.
type pace struct {
	wall     func() int64 // Unix ns
	from     int64        // wall time at which
	virtual0 int64        // the virtual time was this
	speed    float64
}

// now is the virtual time, in Unix ns.
func (p *pace) now() int64 {
	return p.virtual0 + int64(float64(p.wall()-p.from)*p.speed)
}

// until is the real time until virtual time t, at least 1 ms.
func (p *pace) until(t int64) time.Duration {
	return max(time.Duration(float64(t-p.now())/p.speed), time.Millisecond)
}

// player plays a script into the pipelines of its nodes: one goroutine reads,
// and workers, each with some of the nodes, meter and seal.
type player struct {
	script  sampler.Script
	pace    *pace
	workers []*worker
	byNode  map[string]*worker

	through attribution.Second // that the workers were told to seal through
	last    int64              // time of the last event
}

// worker is the sealer of some nodes.
type worker struct {
	nodes map[string]*playedNode
	in    chan step
	next  step      // being filled by the reader
	spare chan step // to be filled again
}

// playedNode is a node with the feed of its script.
type playedNode struct {
	*node
	feed *workload.Feed
}

// step is events, and how far to seal after them.
type step struct {
	events  []sampler.Event
	through attribution.Second
	live    bool
}

// newPlayer prepares nodes to be played. Each goes on where its spool is.
func newPlayer(script sampler.Script, nodes []*node, p *pace) (*player, error) {
	workers := min(runtime.GOMAXPROCS(0), len(nodes))
	pl := &player{script: script, pace: p, byNode: make(map[string]*worker, len(nodes))}
	from := attribution.SecondOf(script.Start())
	pl.through = from - 1
	for range workers {
		pl.workers = append(pl.workers, &worker{
			nodes: map[string]*playedNode{}, in: make(chan step, stepsWaiting), spare: make(chan step, stepsWaiting+2),
		})
	}
	records := 1024 // of 64 bytes, per node
	if len(nodes) > 256 {
		records = 256
	}
	relieve := func() {
		for _, n := range nodes {
			n.spool.MakeRoom()
			n.uplink.Flush()
		}
	}
	for i, n := range nodes {
		n.relieve = relieve
		n.meter = meter.New(meter.Options{From: from, LaneRecords: records, Lanes: 1})
		if err := n.openChunker(false); err != nil {
			return nil, err
		}
		n.meter.SkipTo(n.chunks.Next())
		feed, err := workload.NewFeed(n.meter)
		if err != nil {
			return nil, err
		}
		n.metered.Store(n.meter)
		w := pl.workers[i%workers]
		w.nodes[n.Name] = &playedNode{n, feed}
		pl.byNode[n.Name] = w
	}
	return pl, nil
}

// run plays the script to its end. It returns ctx's error if that comes first.
func (p *player) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, w := range p.workers {
		wg.Go(func() {
			if err := w.run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	err := p.read(ctx)
	for _, w := range p.workers {
		close(w.in)
	}
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause // a worker's error, or the stop
	}
	return err
}

// read reads events, hands them on, and tells how far everything that can
// touch a window has been read.
func (p *player) read(ctx context.Context) error {
	horizon := p.script.Horizon()
	for {
		var e sampler.Event
		err := p.script.Next(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := p.advance(ctx, e.Time-horizon); err != nil {
			return err
		}
		p.last = e.Time
		w := p.byNode[e.Node]
		if w == nil {
			return fmt.Errorf("the script has an event of node %q, which it does not list", e.Node)
		}
		if err := w.add(ctx, &e); err != nil {
			return err
		}
	}
	end := p.script.End()
	if end == 0 {
		end = p.last
	}
	return p.finish(ctx, attribution.SecondOf(end-1))
}

// advance seals what can be sealed before an event is handed on, given that
// everything before virtual time known is; at a pace it waits until the event
// is due.
func (p *player) advance(ctx context.Context, known int64) error {
	for {
		now := int64(math.MaxInt64)
		if p.pace != nil {
			now = p.pace.now()
		}
		through := attribution.SecondOf(min(now-grace, known)) - 1
		due := now >= known
		if through >= p.through+stride || (!due && through > p.through) {
			if err := p.tell(ctx, through, now); err != nil {
				return err
			}
		}
		if due {
			return nil
		}
		next := min(known, (p.through+2).Nanos()+grace)
		if err := sleep(ctx, p.pace.until(next)); err != nil {
			return err
		}
	}
}

// finish seals through the last second, at a pace when its time has come.
func (p *player) finish(ctx context.Context, last attribution.Second) error {
	for p.pace != nil && p.through < last {
		now := p.pace.now()
		if through := min(attribution.SecondOf(now-grace)-1, last); through > p.through {
			if err := p.tell(ctx, through, now); err != nil {
				return err
			}
			continue
		}
		if err := sleep(ctx, p.pace.until((p.through+2).Nanos()+grace)); err != nil {
			return err
		}
	}
	return p.tell(ctx, last, math.MaxInt64)
}

// tell has all workers seal through a second. Seconds are sent live if they
// are fresh: as fast as possible none is.
func (p *player) tell(ctx context.Context, through attribution.Second, now int64) error {
	p.through = max(through, p.through)
	live := p.pace != nil && now != math.MaxInt64 && now-(through+1).Nanos() < int64(float64(liveWithin*attribution.WindowNanos)*max(p.pace.speed, 1))
	for _, w := range p.workers {
		w.next.through, w.next.live = p.through, live
		if err := w.send(ctx); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// add hands an event to a worker, for the reader.
func (w *worker) add(ctx context.Context, e *sampler.Event) error {
	w.next.events = append(w.next.events, *e)
	if len(w.next.events) < stepEvents {
		return nil
	}
	return w.send(ctx)
}

func (w *worker) send(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case w.in <- w.next:
	}
	w.next = step{}
	select {
	case s := <-w.spare:
		w.next.events = s.events[:0]
	default:
	}
	return nil
}

// run works off steps until there are no more.
func (w *worker) run(ctx context.Context) error {
	sealed := attribution.Second(math.MinInt64)
	for s := range w.in {
		for i := range s.events {
			if err := w.nodes[s.events[i].Node].apply(&s.events[i]); err != nil {
				return err
			}
		}
		if s.through > sealed && s.through != 0 {
			sealed = s.through
			for _, n := range w.nodes {
				if err := n.seal(ctx, sealed, s.live); err != nil {
					return fmt.Errorf("node %s: %w", n.Name, err)
				}
			}
		}
		clear(s.events)
		select {
		case w.spare <- s:
		default:
		}
	}
	return nil
}

// apply feeds an event and moves it from the lane into the meter: a script is
// read faster than windows come.
func (n *playedNode) apply(e *sampler.Event) error {
	err := n.feed.Apply(e)
	n.meter.Drain()
	if errors.Is(err, meter.ErrFull) {
		err = n.feed.Apply(e) // the lane is empty now
		n.meter.Drain()
	}
	if err != nil {
		return fmt.Errorf("node %s at %s: %w", n.Name, time.Unix(0, e.Time).UTC().Format(time.RFC3339Nano), err)
	}
	return nil
}
