package kubelet

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Stats is what a watcher has done and how it stands. Counts are since it was
// made.
type Stats struct {
	Lists  uint64            // answers
	Errors map[string]uint64 // calls that failed: unavailable, rate-limited, timeout, restarted, other
	Epochs uint64            // kubelets seen
	// Dropped counts what the bounds on a list left out.
	Dropped          uint64
	CheckpointErrors uint64
	LivingErrors     uint64 // the living pods could not be told
	Expired          uint64 // holdings ended by [Patience]
	LastList         int64  // time of the last answer, Unix ns; 0: none yet

	Holdings    int // held now
	Waiting     int // of them, those that wait for their pod to be known
	Unconfirmed int // of them, those missing since the kubelet was restarted
	Unresolved  int // names of GPUs that fit no device of the driver's, at most 1024
}

// counters are the parts of Stats, each set by the watcher's goroutine.
type counters struct {
	lists, epochs, dropped, checkpoint, living, expired atomic.Uint64
	errors                                              [errorKinds]atomic.Uint64
	last, holdings, waiting, unconfirmed, unresolvedNow atomic.Int64
}

// Stats is how the watcher stands. Any goroutine may call it.
func (w *Watcher) Stats() Stats {
	c := &w.counters
	s := Stats{
		Lists: c.lists.Load(), Errors: make(map[string]uint64, errorKinds), Epochs: c.epochs.Load(), Dropped: c.dropped.Load(),
		CheckpointErrors: c.checkpoint.Load(), LivingErrors: c.living.Load(), Expired: c.expired.Load(), LastList: c.last.Load(),
		Holdings: int(c.holdings.Load()), Waiting: int(c.waiting.Load()),
		Unconfirmed: int(c.unconfirmed.Load()), Unresolved: int(c.unresolvedNow.Load()),
	}
	for kind, name := range errorNames {
		s.Errors[name] = c.errors[kind].Load()
	}
	return s
}

// staleAfter is how old the last list may be for the watcher to be ready.
const staleAfter = 30 * time.Second

// Ready is nil while the kubelet answers, and else says for how long it has not.
// Any goroutine may call it.
func (w *Watcher) Ready() error {
	last := w.counters.last.Load()
	if last == 0 {
		return fmt.Errorf("the kubelet has not answered yet at %s", w.opt.Socket)
	}
	if age := time.Duration(w.opt.Now() - last); age > staleAfter {
		return fmt.Errorf("the kubelet has not answered for %s at %s: holdings are as they were", age.Round(time.Second), w.opt.Socket)
	}
	return nil
}
