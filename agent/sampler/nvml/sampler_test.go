package nvml

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig runs a Sampler over a fake driver inside a synctest bubble.
type rig struct {
	t      *testing.T
	node   *fakeNode
	s      *Sampler
	owners *fakeOwners
	log    *safeLog
	stop   context.CancelFunc
	done   chan error
	open   atomic.Int32 // producers

	mu     sync.Mutex
	events []sampler.Event
	at     []int64 // when each was yielded
}

func newRig(t *testing.T, us ...unit) *rig { return newRigWith(t, nil, us...) }

// newRigWith is newRig with a change of what it is made of.
func newRigWith(t *testing.T, change func(*rig, *Options), us ...unit) *rig {
	r := &rig{t: t, node: &fakeNode{}, owners: &fakeOwners{ids: map[uint32]sampler.Identity{}}, log: &safeLog{}, done: make(chan error, 1)}
	r.node.set(nil, us...)
	o := Options{Cluster: "c", Node: "n", Owners: r.owners, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	if change != nil {
		change(r, &o)
	}
	d, err := r.node.openDriver()
	if err != nil {
		t.Fatal(err)
	}
	r.s = newSampler(o, d, r.node.openDriver)
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.done <- r.s.Run(ctx, r.producer) }()
	return r
}

// safeLog is a log that goroutines write and the test reads.
type safeLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *safeLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (r *rig) producer() sampler.Producer {
	r.open.Add(1)
	return rigProducer{r}
}

type rigProducer struct{ *rig }

func (p rigProducer) Close() { p.open.Add(-1) }

func (p rigProducer) Yield(e *sampler.Event) {
	kept := *e
	if e.Sample != nil {
		s := *e.Sample
		s.Processes = append([]sampler.Process(nil), s.Processes...)
		kept.Sample = &s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events, p.at = append(p.events, kept), append(p.at, time.Now().UnixNano())
}

// seen is the events of a device so far.
func (r *rig) seen(id string, kind sampler.Kind) (out []sampler.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.DeviceID == id && e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func (r *rig) end() {
	r.stop()
	if err := <-r.done; err != nil {
		r.t.Fatalf("Run: %v", err)
	}
	if r.node.open != nil {
		r.t.Fatal("the driver is not closed")
	}
	if len(r.node.misuse) > 0 {
		r.t.Fatalf("misuse of the driver: %v", r.node.misuse)
	}
	if n := r.open.Load(); n != 0 {
		r.t.Fatalf("%d producers are not closed", n)
	}
}

// wait lets virtual time pass.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func whole(id string, h *fakeHandle, gpm bool) unit {
	return unit{
		facts: facts{uuid: id, model: "H", memoryBytes: 80 << 30, energy: !h.noJ}, gpm: gpm, handle: h,
		place: place{index: 0, minor: 0, gpuInstance: -1, computeInstance: -1, placement: -1},
	}
}

func TestSamplesAreAlignedCumulativeCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait(300 * time.Millisecond) // not on a second
		a, b := &fakeHandle{sm: 250_000, mJ: 7}, &fakeHandle{busy: 40}
		b.running = []running{{pid: 5, memory: 1 << 30}}
		b.shares = func(uint64) ([]processShare, error) {
			return []processShare{{5, uint64(time.Now().UnixMicro()), 20}}, nil
		}
		r := newRig(t, whole("A", a, true), whole("B", b, false))
		r.owners.set(5, sampler.Identity{Start: 9, Command: "train"})
		wait(1500 * time.Millisecond)
		a.with(func(h *fakeHandle) { h.mJ = 1007 })
		wait(2 * time.Second)
		for _, id := range []string{"A", "B"} {
			added := r.seen(id, sampler.DeviceAdded)
			if len(added) != 1 || added[0].Device.ID != id || added[0].Device.Cluster != "c" || added[0].Device.Node != "n" {
				t.Fatalf("%s: added %+v", id, added)
			}
		}
		sa, sb := r.seen("A", sampler.Sampled), r.seen("B", sampler.Sampled)
		if len(sa) < 4 || len(sb) < 4 {
			t.Fatalf("%d and %d samples", len(sa), len(sb))
		}
		first, last := sa[0], sa[len(sa)-1]
		if first.Sample.Gap || first.Sample.SMActive != 0 || first.Sample.Energy != 0 {
			t.Fatalf("the first sample covers something: %+v", first.Sample)
		}
		if want := (last.Time - first.Time) / 4; last.Sample.SMActive != want || last.Sample.Energy != 1_000_000 {
			t.Fatalf("A: %d ns active of %d, %d µJ", last.Sample.SMActive, want, last.Sample.Energy)
		}
		if off := last.Time % period; off != 0 {
			t.Fatalf("A ticks %d ns off the second", off)
		}
		first, last = sb[0], sb[len(sb)-1]
		if off := last.Time % period; off != maxStagger/2 {
			t.Fatalf("B ticks %d ns off the second", off)
		}
		p := last.Sample.Processes
		if want := (last.Time - first.Time) / 100; last.Sample.SMActive != want*40 || !last.Sample.ProcessSM ||
			len(p) != 1 || p[0].SMActive != want*20 || p[0].MemoryBytes != 1<<30 || p[0].Start != 9 || p[0].Owner.Command != "train" {
			t.Fatalf("B: %+v, want %d and %d ns", last.Sample, want*40, want*20)
		}
		r.end()
	})
}

func TestHungDeviceStallsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		a, b := &fakeHandle{hang: hang}, &fakeHandle{}
		r := newRig(t, whole("A", a, true), whole("B", b, true))
		wait(20 * time.Second)
		if n := len(r.seen("A", sampler.Sampled)); n != 0 {
			t.Fatalf("the hung device has %d samples", n)
		}
		if n := len(r.seen("B", sampler.Sampled)); n < 20 {
			t.Fatalf("the other has only %d", n)
		}
		if n := strings.Count(r.log.String(), "hangs"); n != 1 {
			t.Fatalf("the hang was logged %d times:\n%s", n, r.log)
		}
		r.stop()
		if err := <-r.done; !errors.Is(err, ErrHung) || !strings.Contains(err.Error(), "A") {
			t.Fatalf("Run with a hung call: %v", err)
		}
		close(hang)
		synctest.Wait()
	})
}

// A wedged driver hangs whoever opens it: that is said.
func TestOpeningThatHangsIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &safeLog{}
		for _, takes := range []time.Duration{hungAfter / 2, 4 * hungAfter} {
			s, err := openWith(Options{Log: slog.New(slog.NewTextHandler(log, nil))}, func() (driver, error) {
				<-time.After(takes)
				return (&fakeNode{}).openDriver()
			})
			if err != nil || s.Close() != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := strings.Count(log.String(), "hangs"); n != map[bool]int{true: 1}[takes > hungAfter] {
				t.Fatalf("in %v: logged %d times", takes, n)
			}
		}
	})
}

func TestFailuresBecomeGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 500_000}
		r := newRig(t, whole("A", a, true))
		wait(2500 * time.Millisecond)
		before := len(r.seen("A", sampler.Sampled))
		a.with(func(h *fakeHandle) { h.err = errLost })
		wait(time.Second) // two failures: bridged
		a.with(func(h *fakeHandle) { h.err = nil })
		wait(time.Second)
		s := r.seen("A", sampler.Sampled)
		if len(s) != before+1 || s[before].Sample.Gap || s[before].Sample.SMActive-s[before-1].Sample.SMActive != 2*second/2 {
			t.Fatalf("two failures: %d samples more, %+v", len(s)-before, s[len(s)-1].Sample)
		}
		a.with(func(h *fakeHandle) { h.err = errLost })
		wait(5 * time.Second)
		a.with(func(h *fakeHandle) { h.err = nil })
		wait(2 * time.Second)
		var gaps []bool
		for _, e := range r.seen("A", sampler.Sampled)[before+1:] {
			gaps = append(gaps, e.Sample.Gap)
		}
		// Failures three to six, the first success after them, and one more.
		if len(gaps) != 6 || !gaps[0] || !gaps[4] || gaps[5] {
			t.Fatalf("six failures: gaps %v", gaps)
		}
		if n := strings.Count(r.log.String(), "can't be read"); n != 2 {
			t.Fatalf("two outages were logged %d times:\n%s", n, r.log)
		}
		r.end()
	})
}

func TestDriverReloadNeverTakesBackEnergy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{mJ: 1 << 40}
		r := newRig(t, whole("A", a, true))
		wait(1500 * time.Millisecond)
		for _, mJ := range []uint64{1<<40 + 5, 3, 8, 1 << 63, 1<<63 + 1} {
			a.with(func(h *fakeHandle) { h.mJ = mJ })
			wait(time.Second)
		}
		s := r.seen("A", sampler.Sampled)
		if got := s[len(s)-1].Sample.Energy; got != (5+5+1)*1000 {
			t.Fatalf("%d µJ, want 11000", got)
		}
		r.end()
	})
}

// A counter that fails to read once, and is as before, has not counted since
// the driver was loaded: no GPU takes more than 10 kW.
func TestEnergyThatNoGPUTakesIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{mJ: 9_000_000_000}
		r := newRig(t, whole("A", a, true))
		wait(1500 * time.Millisecond)
		for _, mJ := range []uint64{9_000_700_000, 0, 9_001_400_000, 9_002_100_000} {
			a.with(func(h *fakeHandle) { h.mJ = mJ })
			wait(time.Second)
		}
		s := r.seen("A", sampler.Sampled)
		if got := s[len(s)-1].Sample.Energy; got != 2*700_000*1000 {
			t.Fatalf("%d µJ, want two seconds of 700 W", got)
		}
		r.end()
	})
}

// A device whose facts changed and changed back while a call hung is read on
// once the call returns, as what it was.
func TestChangeThatWasTakenBackIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		h := &fakeHandle{}
		before := whole("A", h, true)
		after := before
		after.remainder, after.energy = true, false
		r := newRig(t, before)
		wait(1500 * time.Millisecond)
		h.with(func(h *fakeHandle) { h.hang = hang })
		r.node.set(nil, after)
		wait(rescanEvery + 3*time.Second)
		if st := r.s.Stats(); st.Hung != 1 || !st.Devices[0].Hung {
			t.Fatalf("stats while it hangs: %+v", st)
		}
		r.node.set(nil, before)
		wait(rescanEvery)
		n := len(r.seen("A", sampler.Sampled))
		h.with(func(h *fakeHandle) { h.hang = nil })
		close(hang)
		wait(5 * time.Second)
		s := r.seen("A", sampler.Sampled)[n:] // the first is of before the hang
		if len(s) < 5 || !s[1].Sample.Gap || s[len(s)-1].Sample.Gap {
			t.Fatalf("%d samples after the call returned", len(s))
		}
		if added := r.seen("A", sampler.DeviceAdded); len(added) != 1 {
			t.Fatalf("added: %+v", added)
		}
		if st := r.s.Stats(); st.Hung != 0 {
			t.Fatalf("stats after it: %+v", st)
		}
		r.end()
	})
}

// What the driver does not tell is not 0: the device says so before the first
// sample that lacks it.
func TestLaw9HiddenMemoryIsNotZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{running: []running{{pid: 5, memory: 1 << 30}}}
		r := newRig(t, whole("A", a, true))
		wait(2500 * time.Millisecond)
		a.with(func(h *fakeHandle) { h.running = []running{{pid: 5, memory: 1 << 30}, {pid: 6, memory: -1}} })
		wait(5 * time.Second)
		added, sampled := r.seen("A", sampler.DeviceAdded), r.seen("A", sampler.Sampled)
		if len(added) != 2 || added[0].Device.Sensors&attribution.SensorMemory == 0 || added[1].Device.Sensors&attribution.SensorMemory != 0 {
			t.Fatalf("added: %+v", added)
		}
		hidden := 0
		for _, e := range sampled {
			for _, p := range e.Sample.Processes {
				if e.Time > added[1].Time && p.MemoryBytes != 0 {
					t.Fatalf("memory of a device that does not measure it: %+v", p)
				}
				if p.PID == 6 {
					hidden++
					if e.Time <= added[1].Time {
						t.Fatal("a sample without memory came first")
					}
				}
			}
		}
		if n := strings.Count(r.log.String(), "not measured"); n != 1 || hidden < 4 {
			t.Fatalf("logged %d times, %d samples:\n%s", n, hidden, r.log)
		}
		r.end()
	})
}

func TestBusySamplesAreAveragedAndOldOnesIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{busy: 99}
		a.samples = func(uint64) []busySample {
			now := uint64(time.Now().UnixMicro())
			return []busySample{{now - 2e6, 100}, {now - 400_000, 20}, {now - 100_000, 40}, {now, 4_000_000}, {now + 3600e6, 100}}
		}
		r := newRig(t, whole("A", a, false))
		wait(3500 * time.Millisecond)
		s := r.seen("A", sampler.Sampled)
		if got := s[3].Sample.SMActive - s[2].Sample.SMActive; got != second*30/100 {
			t.Fatalf("a second of 20 %% and 40 %% counts %d ns", got)
		}
		r.end()
	})
}
