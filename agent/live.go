package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
)

// stateSeconds is how often a live node's state is kept.
const stateSeconds = attribution.ChunkSeconds

// liveState is what a live node keeps beside its chunks.
type liveState struct {
	BootID string `json:"boot_id"` // of the machine
	Now    int64  `json:"now"`     // the timeline, Unix ns
	Uptime int64  `json:"uptime"`  // of the machine at that time, ns
	// Since is the first second of this life of the machine that may be billed.
	Since attribution.Second `json:"since,omitempty"`
	Meter meter.State        `json:"meter"`
}

// held is who held what, by device; none where nothing was kept.
func (k *liveState) held() (hs []sampler.Holding) {
	if k == nil {
		return nil
	}
	for i := range k.Meter.Devices {
		d := &k.Meter.Devices[i]
		for j := range d.Holdings {
			hs = append(hs, sampler.Holding{DeviceID: d.Device.ID, Owner: &d.Holdings[j].Owner, Replicas: d.Holdings[j].Replicas})
		}
	}
	return hs
}

// liveNode runs a node on what happens now.
type liveNode struct {
	*node
	machine Machine
	clock   *Clock
	limits  LimitsConfig
	holds   bool     // the source knows the restored holdings
	seen    observed // the source, where it tells of itself

	kept    attribution.Second // when the state was last kept
	since   attribution.Second // as liveState has it
	changed atomic.Int64       // second of the newest change of a holding or device
	letGo   bool               // the spool is full: seconds are let go
	holders meter.State        // when that began

	restored restoredDevices

	dropped atomic.Uint64 // seconds let go
	refused atomic.Uint64 // events that made no sense, or met a limit
}

// observed is a live source that tells how it is doing. Any goroutine may ask.
type observed interface {
	ready() error
	collect(c *nodeCollector)
}

// newLiveNode reads what an earlier run kept and resumes its timeline, so that
// the source can be opened on it.
func newLiveNode(n *node, m Machine, limits LimitsConfig) (*liveNode, *liveState, error) {
	l := &liveNode{node: n, machine: m, limits: limits}
	if err := n.openChunker(true); err != nil {
		return nil, nil, err
	}
	var kept *liveState
	if b := n.spool.Meter(); b != nil {
		kept = &liveState{}
		if err := json.Unmarshal(b, kept); err != nil {
			n.log.Error("the kept state is damaged: the time since the last run is nobody's", "error", err)
			kept = nil
		}
	}
	floor := n.chunks.Next().Nanos()
	if kept != nil && kept.BootID == m.BootID && m.Uptime() >= kept.Uptime {
		l.clock = ResumeClock(m.Wall, m.Uptime, kept.Now, kept.Uptime, floor)
	} else {
		l.clock = NewClock(m.Wall, m.Uptime, floor)
	}
	l.doubt(kept, l.clock.Now())
	return l, kept, nil
}

// doubt tells a spool that was damaged which seconds it may have forgotten: none
// that are later than now, nor much later than what it has kept.
func (l *liveNode) doubt(kept *liveState, now int64) {
	const margin = attribution.Second(30) // what is kept is some ten seconds old
	if kept != nil {
		now = max(now, kept.Now)
	}
	until := max(attribution.SecondOf(now), l.chunks.Next()) + margin
	if l.spool.Sound(until) {
		l.log.Warn("the spool was damaged: seconds that it may have forgotten are closed one by one, and their chain begins anew",
			"from_second", int64(l.chunks.Next()), "until_second", int64(until))
	}
}

// from is the second to go on with: the next whole one on a new node; else the
// first unsealed one, but not before the machine came up, and not more than
// max_gap back.
func (l *liveNode) from(kept *liveState) attribution.Second {
	now, uptime := l.clock.Read()
	next := l.chunks.Next()
	if kept == nil || next == 0 {
		return max(attribution.SecondOf(now)+1, next)
	}
	from := max(next, kept.Since)
	if kept.BootID != l.machine.BootID { // whose clock may go on before Since
		from = max(next, attribution.SecondOf(now-uptime))
	}
	if oldest := attribution.SecondOf(now - int64(l.limits.MaxGap.Duration)); from < oldest {
		l.log.Warn("the agent was away for longer than limits.max_gap: what lies further back is not billed",
			"unbilled_seconds", int64(oldest-from), "max_gap", l.limits.MaxGap)
		from = oldest
	}
	return from
}

// run seals until ctx ends. The uplink and the spool run already.
func (l *liveNode) run(ctx context.Context, kept *liveState, source sampler.Live) error {
	if err := l.begin(ctx, kept); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := source.Run(ctx, l.producer); err != nil {
			cancel(fmt.Errorf("the source ended: %w", err))
		}
	})
	err := l.sealOnTime(ctx)
	cancel(nil)
	wg.Wait()
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return errors.Join(err, l.keepState(true))
}

// begin waits for a rate card for a while, and then seals the time that the
// agent was away.
func (l *liveNode) begin(ctx context.Context, kept *liveState) error {
	timeout := time.NewTimer(l.limits.RateCardWait.Duration)
	defer timeout.Stop()
	priced, err := l.awaitRateCard(ctx, timeout.C)
	if err != nil {
		return err
	}
	if !priced {
		l.log.Error("UNPRICED: no rate card has ever come from the collector: time is recorded, its cost is unknown until one does",
			"waited", l.limits.RateCardWait)
	}
	from := l.from(kept)
	if kept == nil { // a spool that was lost must not repeat what is stored
		if stored := l.uplink.Status().StoredThrough; stored > from {
			from = stored
			l.doubt(kept, stored.Nanos())
		}
	}
	l.since = from
	if kept != nil && kept.BootID == l.machine.BootID {
		l.since = kept.Since
	}
	options := meter.Options{From: from, LaneRecords: 1024, KeepRestored: l.holds}
	l.meter = meter.New(options)
	if kept != nil {
		if err := l.meter.Restore(kept.Meter, from); err != nil {
			l.log.Error("the kept holdings can't be used: the time since the last run is nobody's", "error", err)
			l.meter = meter.New(options)
		}
		l.restored.begin(kept.Meter, attribution.SecondOf(l.clock.Now())+forgetAfter)
	}
	l.metered.Store(l.meter)
	l.refresh()
	if through := l.due(); through-from > liveWithin {
		l.log.Info("sealing the time that the agent was away as unobserved", "from_second", int64(from), "seconds", int64(through-from)+1)
		return l.catchUp(ctx, through)
	}
	return nil
}

// catchUp seals a long time in steps, so that it can be told to stop.
func (l *liveNode) catchUp(ctx context.Context, through attribution.Second) error {
	const step = 600
	for l.meter.Next() <= through && ctx.Err() == nil {
		if err := l.sealThrough(min(through, l.meter.Next()+step-1)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// lag is how late windows are sealed, 0 where they are on time. Any goroutine
// may call it.
func (l *liveNode) lag() time.Duration {
	m := l.metered.Load()
	if m == nil {
		return 0 // waiting for the first rate card
	}
	return max(time.Duration(l.clock.Now()-grace-(m.Next()+1).Nanos()), 0)
}

// due is the last second that may be sealed now.
func (l *liveNode) due() attribution.Second { return attribution.SecondOf(l.clock.Now()-grace) - 1 }

// sealOnTime seals each second one second after its end.
func (l *liveNode) sealOnTime(ctx context.Context) error {
	for {
		if through := l.due(); through >= l.meter.Next() {
			if err := l.catchUp(ctx, through); err != nil {
				return stopped(ctx, err)
			}
		}
		wait := (l.meter.Next() + 1).Nanos() + grace - l.clock.Now()
		if err := sleep(ctx, max(time.Duration(wait), time.Millisecond)); err != nil {
			return nil //nolint:nilerr // being told to stop is no failure
		}
	}
}

// sealThrough seals, up to a second or one before it, and keeps the state. It
// begins with journal and live seconds, does without while it catches up, and
// changes between the two at the end of a ten: catching up ends with one, so that
// every second from there on is journaled.
func (l *liveNode) sealThrough(through attribution.Second) error {
	next := l.meter.Next()
	live := through-next <= liveWithin
	if live != l.live && !l.letGo && l.chunks.Next() == l.chunks.Next().ChunkStart() {
		if err := l.openChunker(live); err != nil && !errors.Is(err, spool.ErrFull) {
			return err
		}
	}
	switch {
	case live:
	case l.live: // it could not change yet
		through = min(through, next.ChunkStart()+attribution.ChunkSeconds-1)
	case through.ChunkStart() > next:
		through = through.ChunkStart() - 1
	}
	l.refresh()
	if err := l.meter.Seal(through, l.emitOrLetGo); err != nil {
		return err
	}
	if err := l.forgetGone(); err != nil {
		return err
	}
	return l.keepState(false)
}

// keepState keeps the meter's state every ten seconds, with the second in which
// a holding changed, or now.
func (l *liveNode) keepState(now bool) error {
	next, changed := l.meter.Next(), attribution.Second(l.changed.Load())
	if !now && l.kept != 0 && next < l.kept+stateSeconds && (changed < l.kept || changed >= next) {
		return nil
	}
	l.kept = next
	at, uptime := l.clock.Read()
	b, err := json.Marshal(liveState{BootID: l.machine.BootID, Now: at, Uptime: uptime, Since: l.since, Meter: l.meter.State()})
	if err != nil {
		panic("BUG: a meter's state is not JSON: " + err.Error())
	}
	if err := l.spool.AppendMeter(b); err != nil && !errors.Is(err, spool.ErrFull) {
		return err
	}
	return nil
}

// unsealed is the first second that is not sealed yet. Any goroutine may ask.
func (l *liveNode) unsealed() attribution.Second {
	if m := l.metered.Load(); m != nil {
		return m.Next()
	}
	return 0
}
