package simulation

import (
	"context"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// source plays a node's script as it happens, on the agent's own timeline: at
// the end of each second, and a little later, it tells of the second.
type source struct {
	script *script
	now    func() int64
	phase  int64 // ns after the end of a second
	tick   func(now int64)

	mu    sync.Mutex
	hung  bool
	first attribution.Second // in which devices were added; 0: not yet
	seen  []stretch          // what was told of without a gap
}

// stretch is [from, to).
type stretch struct{ from, to attribution.Second }

func (x stretch) has(s attribution.Second) bool { return s >= x.from && s < x.to }

func newSource(s *script, b agent.Beginning, phase int64, tick func(now int64)) *source {
	return &source{script: s, now: b.Now, phase: phase, tick: tick}
}

// hang has the source see nothing, or see again.
func (s *source) hang(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung = on
}

// state is what has been told of.
func (s *source) state() (first attribution.Second, seen []stretch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, append([]stretch(nil), s.seen...)
}

// Run implements [sampler.Live].
func (s *source) Run(ctx context.Context, producer func() sampler.Producer) error {
	p := producer()
	defer p.Close()
	devices := make([]counters, len(s.script.devices))
	sampled := attribution.Second(0) // 0: the next sample begins anew
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	next := attribution.SecondOf(s.now()-s.phase) + 1
	for added := false; ; next++ {
		for wait := next.Nanos() + s.phase - s.now(); wait > 0; wait = next.Nanos() + s.phase - s.now() {
			timer.Reset(time.Duration(wait))
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		}
		s.tick(s.now())
		s.holdings(p, next, !added)
		added = true
		s.mu.Lock()
		hung := s.hung
		s.mu.Unlock()
		if hung {
			sampled = 0
			continue
		}
		s.samples(p, devices, next, sampled == 0)
		s.note(next, sampled == 0)
		sampled = next
	}
}

// note keeps what the model has to know.
func (s *source) note(at attribution.Second, anew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == 0 {
		s.first = at
	}
	if anew {
		s.seen = append(s.seen, stretch{at, at})
		return
	}
	s.seen[len(s.seen)-1].to = at
}

// holdings tells what changes at the beginning of a second.
func (s *source) holdings(p sampler.Producer, at attribution.Second, all bool) {
	for i, d := range s.script.devices {
		e := sampler.Event{Time: at.Nanos(), Node: s.script.node, DeviceID: d.ID}
		switch {
		case all:
			e.Kind, e.Device = sampler.DeviceAdded, d
			p.Yield(&e)
			s.mu.Lock()
			s.first = at
			s.mu.Unlock()
		case int64(at)%s.script.epoch != 0:
			continue
		default:
			for _, h := range s.script.holders(i, at-1) {
				e.Kind, e.Owner = sampler.Released, h.owner
				p.Yield(&e)
			}
		}
		for _, h := range s.script.holders(i, at) {
			e.Kind, e.Owner, e.Replicas = sampler.Held, h.owner, h.replicas
			p.Yield(&e)
		}
	}
}

func (s *source) samples(p sampler.Producer, devices []counters, at attribution.Second, anew bool) {
	for i, d := range s.script.devices {
		e := sampler.Event{Kind: sampler.Sampled, Time: at.Nanos(), Node: s.script.node, DeviceID: d.ID}
		e.Sample = devices[i].read(s.script, i, at-1)
		e.Sample.Gap = anew
		p.Yield(&e)
	}
}
