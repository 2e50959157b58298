package nvml

import (
	"errors"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
)

// fakeDriver is a driver whose devices misbehave on request.
type fakeDriver struct {
	mu     sync.Mutex
	list   []unit
	err    error
	closed bool
}

func (d *fakeDriver) units() ([]unit, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]unit(nil), d.list...), d.err
}

func (d *fakeDriver) set(err error, us ...unit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list, d.err = us, err
}

func (d *fakeDriver) close() error { d.closed = true; return nil }

// fakeHandle answers as its fields say. A call waits while hang is set.
type fakeHandle struct {
	mu      sync.Mutex
	hang    chan struct{}
	err     error // of every call
	mJ      uint64
	noJ     bool
	sm      int64 // millionths
	samples func(after uint64) []busySample
	busy    uint32
	shares  func(after uint64) ([]processShare, error)
	running []running
}

var errLost = errors.New("the GPU is lost")

func (h *fakeHandle) with(f func(*fakeHandle)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

// call is what every call does first.
func (h *fakeHandle) call() error {
	h.mu.Lock()
	hang := h.hang
	h.mu.Unlock()
	if hang != nil {
		<-hang
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

func (h *fakeHandle) energy() (uint64, error)    { return h.mJ, h.call() }
func (h *fakeHandle) smShare() (int64, error)    { return h.sm, h.call() }
func (h *fakeHandle) busyShare() (uint32, error) { return h.busy, h.call() }
func (h *fakeHandle) close()                     {}

func (h *fakeHandle) busySamples(after uint64) ([]busySample, error) {
	if h.samples == nil {
		return nil, errNotSupported
	}
	return h.samples(after), h.call()
}

func (h *fakeHandle) processShares(after uint64) ([]processShare, error) {
	if err := h.call(); err != nil {
		return nil, err
	}
	if h.shares == nil {
		return nil, nil
	}
	return h.shares(after)
}

func (h *fakeHandle) processes(dst []running) ([]running, error) {
	err := h.call()
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(dst, h.running...), err
}

// fakeOwners knows processes by pid.
type fakeOwners struct {
	mu  sync.Mutex
	ids map[uint32]Identity
}

func (o *fakeOwners) set(pid uint32, id Identity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[pid] = id
}

func (o *fakeOwners) Identify(pid uint32) (Identity, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id, ok := o.ids[pid]
	return id, ok
}

func (o *fakeOwners) Owner(pid uint32, id Identity) *attribution.Owner {
	return HostProcesses{Node: "n"}.Owner(pid, id)
}
