package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// Options are what a watcher is made of. Functions are called by its goroutine,
// unless they say otherwise.
type Options struct {
	Cluster, Node string

	// Socket is the path of the kubelet's PodResources socket, absolute.
	Socket string
	// Checkpoint is the path of the device manager's checkpoint. "": what init
	// containers hold is not known.
	Checkpoint string
	// Interval is the time between two lists. 0: 1 s; at least 0.5 s.
	Interval time.Duration

	// Pods are the node's pods. The watcher is their one reader of Changed.
	Pods *pods.Directory
	// Units are the driver's devices now. The result is not changed later.
	Units func() []sampler.Unit
	// UnitsChanged receives a value after what Units says has changed; nil: that
	// is looked at four times a second. The watcher is its one reader.
	UnitsChanged <-chan struct{}
	// Slices finds what ResourceSlices say of a device; nil: nothing.
	Slices func(driver, pool, device string) (deviceid.Attributes, bool)
	// SlicesChanged receives a value after what Slices says has changed; nil:
	// that is seen at the next list. The watcher is its one reader.
	SlicesChanged <-chan struct{}
	// Resources are further extended resources that are GPUs: see
	// deviceid.Options.
	Resources []string
	// Living gives the UIDs of the pods that have processes, as in their
	// cgroups' names, or the ids of their containers where these don't tell the
	// pod. With an error, others may have some too. It is asked at most every
	// 2 s, and only while holdings are unconfirmed after the kubelet or the agent
	// was restarted. nil: that can't be told.
	Living func() (map[string]bool, error)

	// Initial are the holdings of the agent's last run. They are held already,
	// and are released here. Those whose owners are no containers are ignored.
	Initial []sampler.Holding
	// Now is the time of events, Unix ns. Any goroutine calls it.
	Now func() int64
	Log *slog.Logger
}

// Watcher yields what the kubelet has given to containers, as holdings. It is a
// [sampler.Live].
type Watcher struct {
	opt        Options
	client     lister
	checkpoint *Checkpoint // nil: none
	tracker    *tracker
	wanter     *wanter
	counters   counters

	units    []sampler.Unit
	resolver *deviceid.Resolver
	snapshot *Snapshot // the last; nil: none yet
	grants   []Grant
	asked    time.Time // when Living was asked
	// What is wrong is logged when it begins.
	failing    bool // the last call did
	overfull   bool // the last list was
	unreadable bool // the checkpoint was, since it changed last
	blind      bool // Living failed last
	current    atomic.Pointer[map[string][]*attribution.Owner]
}

// lister is a [Client].
type lister interface {
	List(ctx context.Context) (*Snapshot, error)
	Moved() bool
	Close() error
}

const livingEvery = 2 * time.Second

// New makes a watcher. It dials nothing yet.
func New(opt Options) (*Watcher, error) {
	c, err := NewClient(opt.Socket)
	if err != nil {
		return nil, err
	}
	return newWatcher(opt, c), nil
}

func newWatcher(opt Options, client lister) *Watcher {
	if opt.Interval == 0 {
		opt.Interval = time.Second
	}
	opt.Interval = max(opt.Interval, 500*time.Millisecond)
	w := &Watcher{opt: opt, client: client, tracker: newTracker(opt.Cluster, opt.Node, opt.Initial)}
	w.wanter = &wanter{log: opt.Log, tracker: w.tracker}
	w.tracker.expired = func(h *holding) {
		w.counters.expired.Add(1)
		opt.Log.Warn("a holding of before the kubelet's or the agent's restart is ended: nothing has told whether its pod is still there",
			"device", h.device, "namespace", h.namespace, "pod", h.pod, "container", h.name, "waited", Patience)
	}
	if opt.Checkpoint != "" {
		w.checkpoint = NewCheckpoint(opt.Checkpoint)
	}
	w.publish()
	return w
}

// Holders is who holds a device now. The result is shared: it must not be
// changed. Any goroutine may call it.
func (w *Watcher) Holders(device string) []*attribution.Owner { return (*w.current.Load())[device] }

type answer struct {
	snapshot *Snapshot
	err      error
}

// Run implements [sampler.Live]. It is called once, and closes the connection
// when it ends. What the kubelet does is no reason for it to end.
func (w *Watcher) Run(ctx context.Context, producer func() sampler.Producer) error {
	p := producer()
	defer p.Close()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	answers := make(chan answer, 1)
	began := time.Now()
	timer := time.NewTimer(tick)
	defer timer.Stop()
	pace := pace{interval: w.opt.Interval}
	asking, changed := false, true // what is known already counts at once
	for {
		if w.renewUnits() {
			changed, pace.hurry = true, true
		}
		if changed {
			w.look(w.opt.Now())
		}
		w.step(p)
		changed, w.tracker.fresh = false, false
		if now := time.Now(); !asking && pace.due(now) {
			asking = true
			pace.begin(now)
			wg.Go(func() {
				s, err := w.client.List(ctx)
				answers <- answer{s, err}
			})
		}
		now := time.Now()
		if until := pace.next.Sub(now); until > 0 && !asking && w.settled(&pace) {
			timer.Reset(until)
		} else {
			timer.Reset(tick - now.Sub(began)%tick)
		}
		select {
		case <-ctx.Done():
			w.stop(p)
			return w.client.Close()
		case a := <-answers:
			asking = false
			if a.err != nil {
				w.failed(ctx, a.err)
				pace.failed(time.Now())
				continue
			}
			pace.succeeded()
			w.answered(a.snapshot)
			changed, w.tracker.fresh = true, true
		case <-w.opt.Pods.Changed():
			changed, pace.hurry = true, true
		case <-w.opt.SlicesChanged:
			changed = true
		case <-w.opt.UnitsChanged: // is looked at above
		case <-timer.C:
			if pace.failures > 0 && w.client.Moved() {
				pace.moved()
			}
		}
	}
}

// settled reports whether nothing is to be seen before the next list that is
// not told: an agent that sleeps most of a second pays more for waking up than
// for looking.
func (w *Watcher) settled(p *pace) bool {
	return w.opt.UnitsChanged != nil && w.snapshot != nil && w.wanter.since == nil &&
		p.failures == 0 && !p.hurry && w.counters.waiting.Load() == 0 && w.counters.unconfirmed.Load() == 0
}

// renewUnits takes the driver's devices over if they are others than before.
func (w *Watcher) renewUnits() bool {
	units := w.opt.Units()
	if w.resolver != nil && slices.Equal(units, w.units) {
		return false
	}
	w.units = units
	w.resolver = deviceid.New(deviceid.Options{Units: units, Slices: w.opt.Slices, Resources: w.opt.Resources})
	w.tracker.units = make(map[string]uint64, len(units))
	for i := range units {
		w.tracker.units[units[i].ID] = units[i].Added + 1
	}
	return true
}

// answered takes a list over.
func (w *Watcher) answered(s *Snapshot) {
	if w.failing {
		w.failing = false
		w.opt.Log.Info("the kubelet answers again", "socket", w.opt.Socket)
	}
	if w.snapshot == nil || w.snapshot.Epoch != s.Epoch {
		w.counters.epochs.Add(1)
	}
	if s.Dropped > 0 && !w.overfull {
		w.opt.Log.Warn("the kubelet lists more than there is room for: no holding ends by not being listed", "dropped", s.Dropped)
	}
	w.snapshot, w.overfull = s, s.Dropped > 0
	w.counters.lists.Add(1)
	w.counters.dropped.Add(uint64(s.Dropped))
	w.counters.last.Store(w.opt.Now())
	if w.checkpoint == nil {
		return
	}
	grants, changed, err := w.checkpoint.Read()
	if err != nil {
		w.counters.checkpoint.Add(1)
		if !w.unreadable {
			w.opt.Log.Warn("the device manager's checkpoint can't be read: what init containers hold is as it was", "error", err)
		}
		w.unreadable = true
	}
	if changed {
		w.grants, w.unreadable = grants, false
	}
}

// failed counts an error; only the first of a row is logged.
func (w *Watcher) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.counters.errors[kindOf(err)].Add(1)
	if !w.failing && !errors.Is(err, ErrRestarted) {
		w.failing = true
		w.opt.Log.Warn("the kubelet does not answer: holdings stay as they are", "error", err)
	}
}

// look compares what is said to be held with what is. While the driver has no
// devices, as before it has found them, nothing can be told.
func (w *Watcher) look(at int64) {
	if len(w.units) == 0 {
		return
	}
	view := w.opt.Pods.View()
	w.tracker.view = view
	w.wanter.begin(w.resolver, view, w.grants, at)
	if w.snapshot != nil {
		w.tracker.list(w.wanter.list(w.snapshot), w.snapshot.Epoch, w.snapshot.Dropped == 0, at)
	}
	w.tracker.grant(w.wanter.initial(), at)
	w.wanter.end()
}

// step lets time pass, and yields what has changed.
func (w *Watcher) step(p sampler.Producer) {
	at := w.opt.Now()
	if w.wanter.since != nil && w.snapshot != nil {
		w.look(at) // what was waited for may be over
	}
	w.tracker.settle(at)
	if w.tracker.missing() > 0 {
		living, complete := w.living()
		w.tracker.expire(living, complete, at)
	}
	w.tracker.flush(at, p.Yield)
	w.publish()
}

// living asks which pods have processes, if it is time to. complete: no others
// have.
func (w *Watcher) living() (living map[string]bool, complete bool) {
	now := time.Now()
	if w.opt.Living == nil || now.Sub(w.asked) < livingEvery {
		return nil, false
	}
	w.asked = now
	living, err := w.opt.Living()
	if err != nil {
		w.counters.living.Add(1)
		if !w.blind {
			w.opt.Log.Warn("not all pods that have processes are known: holdings of before a restart stay", "error", err)
		}
	}
	w.blind = err != nil
	return living, err == nil
}

// stop states what still waits for its pod, so that the next run knows of it.
func (w *Watcher) stop(p sampler.Producer) {
	at := w.opt.Now()
	for _, h := range w.tracker.holdings {
		if h.owner == nil {
			w.tracker.settleOwner(h, at, true)
		}
	}
	w.tracker.flush(at, p.Yield)
	w.publish()
}

// publish makes visible how the watcher stands.
func (w *Watcher) publish() {
	if w.tracker.changed {
		m := w.tracker.holders()
		w.current.Store(&m)
		w.tracker.changed = false
	}
	waiting := 0
	for _, h := range w.tracker.holdings {
		if h.owner == nil {
			waiting++
		}
	}
	w.counters.holdings.Store(int64(len(w.tracker.holdings)))
	w.counters.waiting.Store(int64(waiting))
	w.counters.unconfirmed.Store(int64(w.tracker.missing()))
	w.counters.unresolvedNow.Store(int64(len(w.wanter.unresolved)))
}
