package slurm

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const period = time.Second

// MaxHoldings bounds the holdings that are stated; more are refused and
// counted.
const MaxHoldings = 4096

// Options is what a Watcher needs.
type Options struct {
	Dir           string // of the job files
	Cluster, Node string
	// Units are the node's devices as they are now.
	Units func() []sampler.Unit
	// Now is the agent's clock, in Unix ns. Default: the wall clock.
	Now func() int64
	// Initial is what the ledger says is held from an earlier run. What of it
	// is no job's on this node is not looked at.
	Initial []sampler.Holding
	Log     *slog.Logger
}

// Owns reports whether an owner is a job on this node, under this cluster's
// name: one whose holdings a watcher states and ends.
func (o *Options) Owns(owner *attribution.Owner) bool {
	return sampler.IsJob(owner) && owner.Cluster == o.Cluster && owner.Node == o.Node
}

// Watcher is a [sampler.Live] that yields which jobs hold which devices.
type Watcher struct {
	opts    Options
	stated  map[holding]*state
	empty   map[gpuName]bool // files that were empty when last read
	jobs    map[string]*attribution.Owner
	said    string // the last trouble that was logged
	holders atomic.Pointer[map[string][]*attribution.Owner]
	stats   stats
}

var _ sampler.Live = (*Watcher)(nil)

type holding struct{ device, job string }

// state is what was said of a holding.
type state struct {
	added    uint64 // of the device that it was said of
	fresh    bool   // it was not said yet
	restored bool   // it was said by an earlier run, and not by this one
	seen     bool   // in the reading at hand
}

type stats struct {
	jobs, holdings, unresolved    atomic.Int64
	unreadable, badLines, refused atomic.Uint64
}

// Stats is what a watcher has, and what it could not do so far.
type Stats struct {
	Jobs       int // that hold a device
	Holdings   int
	Unresolved int // files that name no device, at the last reading

	Unreadable uint64 // readings of the directory, or of a file, that failed
	BadLines   uint64 // lines that were no job's id, at each reading
	Refused    uint64 // holdings beyond MaxHoldings, at each reading
}

// New makes a watcher.
func New(opts Options) *Watcher {
	if opts.Now == nil {
		opts.Now = func() int64 { return time.Now().UnixNano() }
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{
		opts: opts, stated: make(map[holding]*state),
		empty: make(map[gpuName]bool), jobs: make(map[string]*attribution.Owner),
	}
	for _, h := range opts.Initial {
		if h.Owner != nil && opts.Owns(h.Owner) && len(w.stated) < MaxHoldings {
			w.stated[holding{h.DeviceID, h.Owner.Controller}] = &state{restored: true}
		}
	}
	w.publish()
	return w
}

// Stats may be called at any time.
func (w *Watcher) Stats() Stats {
	s := &w.stats
	return Stats{
		Jobs: int(s.jobs.Load()), Holdings: int(s.holdings.Load()), Unresolved: int(s.unresolved.Load()),
		Unreadable: s.unreadable.Load(), BadLines: s.badLines.Load(), Refused: s.refused.Load(),
	}
}

// Holders are the jobs that hold a device now, in canonical order. Any
// goroutine may call it, and only read the result.
func (w *Watcher) Holders(device string) []*attribution.Owner { return (*w.holders.Load())[device] }

// Run implements [sampler.Live]. It is called once.
func (w *Watcher) Run(ctx context.Context, producer func() sampler.Producer) error {
	p := producer()
	defer p.Close()
	w.read(p)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.read(p)
		}
	}
}

// read reads the directory, and yields what has changed, all as of one instant.
func (w *Watcher) read(p sampler.Producer) {
	files, err := readDir(w.opts.Dir)
	units := w.opts.Units()
	now := w.opts.Now() // not before a device among units was added
	for _, s := range w.stated {
		s.seen = err != nil
	}
	if err == nil {
		w.take(files, units)
	} else {
		w.stats.unreadable.Add(1)
		w.say("the directory can't be read: its jobs are taken to go on", err)
	}
	if w.settle(p, units, now) {
		w.publish()
	}
}

// take notes what the files say, and leaves what they can't be asked about.
func (w *Watcher) take(files []jobFile, units []sampler.Unit) {
	noIndex := !slices.ContainsFunc(units, func(u sampler.Unit) bool { return u.Index >= 0 })
	unresolved, trouble := int64(0), error(nil)
	empty := make(map[gpuName]bool)
	for i := range files {
		f := &files[i]
		w.stats.badLines.Add(uint64(f.bad))
		if f.err != nil {
			w.stats.unreadable.Add(1)
			trouble = cmp.Or(trouble, f.err)
		}
		nothing := f.err == nil && len(f.jobs) == 0
		if nothing {
			empty[f.name] = true
		}
		unknown := f.err != nil || (nothing && !w.empty[f.name])
		found := false
		for j := range units {
			u := &units[j]
			if !f.name.of(u, noIndex) {
				continue
			}
			found = true
			if unknown {
				w.keep(u.ID)
			}
			for _, job := range f.jobs {
				w.hold(holding{u.ID, job})
			}
		}
		if !found {
			unresolved++
		}
	}
	w.empty = empty
	w.stats.unresolved.Store(unresolved)
	w.say("a file can't be read: its jobs are taken to go on", trouble)
}

// keep leaves a device's holdings as they are.
func (w *Watcher) keep(device string) {
	for h, s := range w.stated {
		if h.device == device {
			s.seen = true
		}
	}
}

// hold notes that a job holds a device.
func (w *Watcher) hold(h holding) {
	s := w.stated[h]
	switch {
	case s != nil:
		s.seen = true
	case len(w.stated) >= MaxHoldings:
		w.stats.refused.Add(1)
	default:
		w.stated[h] = &state{fresh: true, seen: true}
	}
}

// settle yields what is new, and what is no more. What a device held that is
// away waits until it is back.
func (w *Watcher) settle(p sampler.Producer, units []sampler.Unit, now int64) (changed bool) {
	added := make(map[string]uint64, len(units))
	for i := range units {
		added[units[i].ID] = units[i].Added
	}
	for _, h := range slices.SortedFunc(maps.Keys(w.stated), compareHoldings) {
		s := w.stated[h]
		number, there := added[h.device]
		if !there {
			continue
		}
		ended := s.added != number && !s.restored // with the device
		switch {
		case s.seen && (s.fresh || s.restored || ended):
			w.yield(p, sampler.Held, h, now)
			s.fresh, s.restored, s.added = false, false, number
			changed = true
		case s.seen:
		default:
			if !ended {
				w.yield(p, sampler.Released, h, now)
			}
			delete(w.stated, h)
			changed = true
		}
	}
	return changed
}

func compareHoldings(a, b holding) int {
	return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.job, b.job))
}

func (w *Watcher) yield(p sampler.Producer, kind sampler.Kind, h holding, now int64) {
	p.Yield(&sampler.Event{
		Kind: kind, Time: now, Node: w.opts.Node, DeviceID: h.device, Owner: w.owner(h.job), Replicas: 1,
	})
}

// owner is a job's owner, the same for as long as the job holds anything.
func (w *Watcher) owner(job string) *attribution.Owner {
	o := w.jobs[job]
	if o == nil {
		o = sampler.JobOwner(w.opts.Cluster, w.opts.Node, job)
		w.jobs[job] = o
	}
	return o
}

// publish makes the holdings what Holders answers from.
func (w *Watcher) publish() {
	jobs := make(map[string]*attribution.Owner)
	holders := make(map[string][]*attribution.Owner)
	for h := range w.stated {
		jobs[h.job] = w.owner(h.job)
		holders[h.device] = append(holders[h.device], jobs[h.job])
	}
	for _, owners := range holders {
		slices.SortFunc(owners, attribution.CompareOwners)
	}
	w.jobs = jobs
	w.holders.Store(&holders)
	w.stats.jobs.Store(int64(len(jobs)))
	w.stats.holdings.Store(int64(len(w.stated)))
}

// say logs trouble when it appears.
func (w *Watcher) say(what string, err error) {
	switch {
	case err == nil:
		w.said = ""
	case err.Error() != w.said:
		w.opts.Log.Warn("slurm job files", "consequence", what, "error", err)
		w.said = err.Error()
	}
}
