package nvml

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// fakeNode is a machine whose driver misbehaves on request. Each opening of it
// is a fakeDriver; calls into one that was shut down are noted as misuse, as
// they would crash the process.
type fakeNode struct {
	mu       sync.Mutex
	gpus     []gpu
	err      error      // of listing
	openErr  error      // of opening
	eventErr error      // of listening
	events   chan event // nil: there are none
	closing  chan struct{}
	open     *fakeDriver
	opened   int
	listened int
	misuse   []string
}

type fakeDriver struct {
	node   *fakeNode
	closed bool
}

var errOdd = errors.New("NVML error 999")

func (n *fakeNode) with(f func(*fakeNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// set makes the machine have these devices: each GPU is followed by its
// instances.
func (n *fakeNode) set(err error, us ...unit) {
	n.with(func(n *fakeNode) {
		n.gpus, n.err = nil, err
		for _, u := range us {
			if u.parent == "" {
				n.gpus = append(n.gpus, gpu{complete: true})
			}
			g := &n.gpus[len(n.gpus)-1]
			g.units = append(g.units, u)
		}
	})
}

func (n *fakeNode) openDriver() (driver, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil {
		n.misuse = append(n.misuse, "opened while open")
	}
	if n.openErr != nil {
		return nil, n.openErr
	}
	n.opened++
	n.open = &fakeDriver{node: n}
	return n.open, nil
}

// used notes a call into a driver that is shut down.
func (d *fakeDriver) used(what string) {
	if d.closed {
		d.node.misuse = append(d.node.misuse, what+" after shutdown")
	}
}

func (d *fakeDriver) list() listing {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	d.used("list")
	l := listing{err: d.node.err}
	for _, g := range d.node.gpus {
		us := append([]unit(nil), g.units...)
		for i := range us {
			us[i].handle = &opened{fakeHandle: us[i].handle.(*fakeHandle), driver: d}
		}
		l.gpus = append(l.gpus, gpu{units: us, complete: g.complete})
	}
	return l
}

func (d *fakeDriver) close() error {
	d.node.mu.Lock()
	closing := d.node.closing
	d.node.mu.Unlock()
	if closing != nil {
		<-closing
	}
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	d.used("close")
	d.closed, d.node.open = true, nil
	return nil
}

func (d *fakeDriver) events() (events, error) {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	d.used("events")
	if d.node.events == nil {
		return nil, errNotSupported
	}
	d.node.listened++
	return &fakeEvents{d}, nil
}

type fakeEvents struct{ *fakeDriver }

func (e *fakeEvents) wait(d time.Duration) (event, error) {
	e.node.mu.Lock()
	e.used("wait")
	err, queue := e.node.eventErr, e.node.events
	e.node.mu.Unlock()
	if err != nil {
		return event{}, err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case x := <-queue:
		return x, nil
	case <-t.C:
		return event{}, errNoData
	}
}

func (e *fakeEvents) close() {
	e.node.mu.Lock()
	defer e.node.mu.Unlock()
	e.used("events close")
}

// fakeHandle answers as its fields say. A call waits while hang is set.
type fakeHandle struct {
	handle  // nil: an opened one reads
	mu      sync.Mutex
	hang    chan struct{}
	err     error         // of every call
	slow    time.Duration // that every call takes
	mJ      uint64
	noJ     bool
	sm      int64 // millionths
	smErr   error // of smShare alone
	noSM    bool  // no GPM, no utilization: a MIG instance of an older GPU
	samples func(after uint64) []busySample
	busy    uint32
	shares  func(after uint64) ([]processShare, error)
	running []running
	apart   []running // in the other lists
	asked   int       // for them
	calls   int
	handles int // that were closed
}

// opened is a fakeHandle as one opening of the driver returns it.
type opened struct {
	*fakeHandle
	driver *fakeDriver
}

func (h *fakeHandle) with(f func(*fakeHandle)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

// call is what every call does first.
func (h *opened) call() error {
	h.driver.node.mu.Lock()
	h.driver.used("read")
	h.driver.node.mu.Unlock()
	h.mu.Lock()
	hang, slow := h.hang, h.slow
	h.mu.Unlock()
	if slow > 0 {
		<-time.After(slow)
	}
	if hang != nil {
		<-hang
		h.driver.node.mu.Lock()
		h.driver.used("a hung read")
		h.driver.node.mu.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	return h.err
}

func (h *opened) present() error { return h.call() }

func (h *opened) energy() (uint64, error) {
	err := h.call()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noJ && err == nil {
		err = errNotSupported
	}
	return h.mJ, err
}

func (h *opened) smShare() (int64, error) {
	err := h.call()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		err = h.smErr
	}
	if h.noSM && err == nil {
		err = errNotSupported
	}
	return h.sm, err
}

func (h *opened) busyShare() (uint32, error) {
	err := h.call()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noSM && err == nil {
		err = errNotSupported
	}
	return h.busy, err
}

func (h *opened) close() {
	h.driver.node.mu.Lock()
	h.driver.used("handle close")
	h.driver.node.mu.Unlock()
	h.with(func(h *fakeHandle) { h.handles++ })
}

func (h *opened) busySamples(dst []busySample, after uint64) ([]busySample, error) {
	if h.samples == nil {
		return dst, errNotSupported
	}
	return append(dst, h.samples(after)...), h.call()
}

func (h *opened) processShares(dst []processShare, after uint64) ([]processShare, error) {
	if err := h.call(); err != nil {
		return dst, err
	}
	h.mu.Lock()
	shares := h.shares
	h.mu.Unlock()
	if shares == nil {
		return dst, nil
	}
	got, err := shares(after)
	return append(dst, got...), err
}

func (h *opened) computing(dst []running) ([]running, error) {
	err := h.call()
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(dst, h.running...), err
}

func (h *opened) others(dst []running) ([]running, error) {
	err := h.call()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return append(dst, h.apart...), err
}

// fakeOwners knows processes by pid. A pid owns itself, unless it was given to
// somebody.
type fakeOwners struct {
	mu    sync.Mutex
	ids   map[uint32]sampler.Identity
	given map[uint32]*attribution.Owner
	asked map[string]int
}

func (o *fakeOwners) set(pid uint32, id sampler.Identity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[pid] = id
}

// give makes a container answer for a process.
func (o *fakeOwners) give(pid uint32, container string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.given == nil {
		o.given = make(map[uint32]*attribution.Owner)
	}
	o.given[pid] = &attribution.Owner{Kind: attribution.Container, Node: "n", Namespace: "ns", Pod: "p", Container: container}
}

// times is how often Owner was asked, by device and pid.
func (o *fakeOwners) times(who string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked[who]
}

func (o *fakeOwners) Identify(pid uint32) (sampler.Identity, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id, ok := o.ids[pid]
	return id, ok
}

func (o *fakeOwners) Owner(device string, pid uint32, id sampler.Identity) *attribution.Owner {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked == nil {
		o.asked = make(map[string]int)
	}
	o.asked[fmt.Sprint(device, " ", pid)]++
	if owner := o.given[pid]; owner != nil {
		return owner
	}
	kind := attribution.HostProcess
	if id == (sampler.Identity{}) {
		kind = attribution.UnknownProcess
	}
	return &attribution.Owner{Kind: kind, Node: "n", PID: pid, Command: id.Command}
}

// fakeActivity is a sampler.Activity that knows some shares.
type fakeActivity struct {
	mu     sync.Mutex
	shares map[string]int64 // by GPU and instance
	at     func() int64
}

func (a *fakeActivity) SMShare(gpu string, instance int) (share, at int64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	share, ok = a.shares[fmt.Sprint(gpu, " ", instance)]
	return share, a.at(), ok
}
