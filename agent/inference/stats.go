package inference

import (
	"sync/atomic"

	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
)

// Target is a site, and how it is doing.
type Target struct {
	Namespace, Pod, Container string
	Format                    string // "" until one was found
	State                     State
}

// Stats are figures about a sampler; counts are since its start.
type Stats struct {
	Targets []Target // at most Options.Targets

	Readings map[State]uint64 // by what they came to
	Refused  uint64           // sites beyond a bound, each time that pods are looked at
	Unfit    uint64           // annotations and rules that make no sense at a pod, each time

	Firsts   uint64 // servers whose first reading is their baseline: they began before anybody looked
	Restarts uint64 // of servers
	Fallen   uint64 // series that fell although the server told of no restart
	Frozen   uint64 // readings of servers that work, and whose counters stand still
	Unsure   uint64 // readings of Triton servers that do not tell which models are ensembles
	Late     uint64 // times that tallies were yielded after their second was sealed
	Unkept   uint64 // times that the state could not be written
	Damaged  uint64 // times that the state could not be read

	// Dropped counts what was on pages, or in them, and does not count.
	Dropped Dropped
}

// Dropped counts series and values by why they do not count.
type Dropped struct {
	Malformed, Long, Labels, Duplicate, Excess, Value uint64 // of pages
	Tracker                                           uint64 // series beyond what is remembered
	Tally                                             uint64 // values beyond what a second takes
}

type counts struct {
	counting, unreachable, timeout, unknown, gateway                                atomic.Uint64
	refused, unfit, firsts, restarts, fallen, frozen, unsure, late, unkept, damaged atomic.Uint64
	malformed, long, labels, duplicate, series, value, tracker, excess              atomic.Uint64
}

// frozenAfter is after how many readings in a row in which requests ran and
// nothing was counted it is thought that nothing ever will: some servers can
// have their counters switched off.
const frozenAfter = 60

func (c *counts) add(r *result) {
	switch r.state {
	case Counting:
		c.counting.Add(1)
	case TimedOut:
		c.timeout.Add(1)
	case Unknown:
		c.unknown.Add(1)
	case AGateway:
		c.gateway.Add(1)
	case Probing, Unreachable:
		c.unreachable.Add(1)
	}
	if r.unsure {
		c.unsure.Add(1)
	}
	c.drops(&r.drops)
}

func (c *counts) drops(d *exposition.Drops) {
	c.malformed.Add(d.Malformed)
	c.long.Add(d.Long)
	c.labels.Add(d.Labels)
	c.duplicate.Add(d.Duplicate)
	c.series.Add(d.Excess)
	c.value.Add(d.Value)
}

func (c *counts) note(n *serving.Note, r *serving.Reading) {
	if n.First {
		c.firsts.Add(1)
	}
	if n.Restarted {
		c.restarts.Add(1)
	}
	if n.Still >= frozenAfter {
		c.frozen.Add(1)
	}
	c.fallen.Add(uint64(max(n.Fallen, 0)))
	c.tracker.Add(uint64(max(n.Refused, 0)))
	c.value.Add(uint64(max(r.Dropped, 0)))
}

// Stats reads the figures as they are now. Any goroutine may.
func (s *Sampler) Stats() Stats {
	c := &s.counts
	return Stats{
		Targets: *s.shown.Load(),
		Readings: map[State]uint64{
			Counting: c.counting.Load(), Unreachable: c.unreachable.Load(), TimedOut: c.timeout.Load(),
			Unknown: c.unknown.Load(), AGateway: c.gateway.Load(),
		},
		Refused: c.refused.Load(), Unfit: c.unfit.Load(), Firsts: c.firsts.Load(), Restarts: c.restarts.Load(), Fallen: c.fallen.Load(),
		Frozen: c.frozen.Load(), Unsure: c.unsure.Load(), Late: c.late.Load(), Unkept: c.unkept.Load(), Damaged: c.damaged.Load(),
		Dropped: Dropped{
			Malformed: c.malformed.Load(), Long: c.long.Load(), Labels: c.labels.Load(), Duplicate: c.duplicate.Load(),
			Excess: c.series.Load(), Value: c.value.Load(), Tracker: c.tracker.Load(), Tally: c.excess.Load(),
		},
	}
}
