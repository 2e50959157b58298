package agent

import (
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload"
	"github.com/gpuledger/gpuledger/attribution"
)

// producer gives a goroutine of the source a feed.
func (l *liveNode) producer() sampler.Producer {
	feed, err := workload.NewFeed(l.meter)
	if err != nil {
		l.log.Error("a producer is refused: what it sees is unobserved", "error", err)
	}
	return &liveProducer{node: l, feed: feed}
}

// liveProducer is a sampler.Producer.
type liveProducer struct {
	node     *liveNode
	feed     *workload.Feed // nil: refused
	refusing bool
}

// Yield implements sampler.Producer.
func (p *liveProducer) Yield(e *sampler.Event) {
	l := p.node
	if p.feed == nil {
		l.refused.Add(1)
		return
	}
	switch e.Kind {
	case sampler.DeviceAdded:
		l.restored.seen(e.DeviceID)
		l.change(e.Time)
	case sampler.DeviceRemoved, sampler.Held, sampler.Released:
		l.change(e.Time)
	case sampler.Sampled, sampler.Tallied:
	}
	err := p.feed.Apply(e)
	if err != nil {
		l.refused.Add(1)
		if !p.refusing { // the first of a row: the rest is counted
			l.log.Warn("an event is refused", "error", err)
		}
	}
	p.refusing = err != nil
}

// change notes that something changed that a restart has to know.
func (l *liveNode) change(at int64) {
	second := int64(attribution.SecondOf(at))
	for old := l.changed.Load(); old < second && !l.changed.CompareAndSwap(old, second); old = l.changed.Load() {
	}
}

// Close implements sampler.Producer.
func (p *liveProducer) Close() {
	if p.feed != nil {
		p.feed.Close()
	}
}
