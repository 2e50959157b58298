package nvml

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// share is the part of a device's last second that was active, in millionths.
func (r *rig) share(id string) int64 {
	s := r.seen(id, sampler.Sampled)
	return (s[len(s)-1].Sample.SMActive - s[len(s)-2].Sample.SMActive) / 1000
}

func (r *rig) source(id string) string {
	for _, d := range r.s.Stats().Devices {
		if d.ID == id {
			return d.Activity
		}
	}
	return "no such device"
}

func TestActivityIsMeasuredByTheBestThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dcgm := &fakeActivity{
			shares: map[string]int64{"A -1": 111_111, "B -1": 300_000, "GPU-1 2": 700_000},
			at:     func() int64 { return time.Now().UnixNano() },
		}
		b := &fakeHandle{busy: 90, samples: func(uint64) []busySample { return []busySample{{wallNow(), 50}} }}
		older := whole("B", b, false)
		older.index = 1
		rate := whole("C", &fakeHandle{busy: 20}, false)
		rate.index = 2
		mig := rest("GPU-1", &fakeHandle{})
		mig.index = 3
		r := newRigWith(t, func(_ *rig, o *Options) { o.Activity = dcgm },
			whole("A", &fakeHandle{sm: 250_000}, true), older, rate,
			mig, slice("MIG-1", "GPU-1", 1, &fakeHandle{noSM: true}), slice("MIG-2", "GPU-1", 2, &fakeHandle{noSM: true}))
		wait(5500 * time.Millisecond)
		for id, want := range map[string]struct {
			by    string
			share int64
		}{"A": {"gpm", 250_000}, "B": {"dcgm", 300_000}, "C": {"rate", 200_000}, "MIG-2": {"dcgm", 700_000}} {
			if by, share := r.source(id), r.share(id); by != want.by || share != want.share || r.last(id).Sample.Gap {
				t.Errorf("%s: %d millionths by %q, want %d by %s", id, share, by, want.share, want.by)
			}
		}
		if r.source("MIG-1") != "" || !r.last("MIG-1").Sample.Gap {
			t.Errorf("an instance that nothing measures: %+v", r.last("MIG-1").Sample)
		}
		// DCGM ends: what it said goes stale, and the driver's samples take over.
		end := time.Now().UnixNano()
		dcgm.mu.Lock()
		dcgm.at = func() int64 { return end }
		dcgm.mu.Unlock()
		wait(55 * time.Second)
		if r.source("B") != "dcgm" {
			t.Errorf("after 55 s: %s", r.source("B"))
		}
		wait(8 * time.Second)
		if r.source("B") != "samples" || r.share("B") != 500_000 {
			t.Errorf("after 63 s: %s, %d", r.source("B"), r.share("B"))
		}
		if !r.last("MIG-2").Sample.Gap {
			t.Error("an instance without DCGM is measured")
		}
		r.wantLog("device=B by=dcgm", 1)
		r.wantLog("device=B by=samples before=dcgm", 1)
		r.end()
	})
}

// A source that comes and goes is not logged each time.
func TestChangingSourceIsNotLoggedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dcgm := &fakeActivity{shares: map[string]int64{"A -1": 0}, at: func() int64 {
			return time.Now().Add(-time.Minute * time.Duration(time.Now().Second()%2*2)).UnixNano()
		}}
		r := newRigWith(t, func(_ *rig, o *Options) { o.Activity = dcgm }, whole("A", &fakeHandle{busy: 20}, false))
		wait(5 * time.Minute)
		r.wantLog("SM activity is measured", paceLines)
		r.end()
	})
}

// GPM that turns out not to work is not asked again; the next best takes over.
func TestGPMThatDoesNotWorkIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{noSM: true}
		r := newRigWith(t, func(_ *rig, o *Options) {
			o.Activity = &fakeActivity{shares: map[string]int64{"A -1": 2_000_000}, at: func() int64 { return time.Now().UnixNano() }}
		}, whole("A", a, true))
		wait(3500 * time.Millisecond)
		if r.source("A") != "dcgm" || r.share("A") != 1_000_000 || r.last("A").Sample.Gap {
			t.Fatalf("%s, %d", r.source("A"), r.share("A"))
		}
		r.end()
	})
}

// GPM that fails and goes on failing is no reason to see nothing: the next best
// takes over until it works.
func TestGPMThatFailsIsReplacedWhileItDoes(t *testing.T) {
	for name, err := range map[string]error{"odd": errOdd, "no data": errNoData, "denied": errDenied} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fakeHandle{sm: 250_000, busy: 80}
				r := newRigWith(t, nil, whole("A", a, true))
				wait(2500 * time.Millisecond)
				a.with(func(h *fakeHandle) { h.smErr = err })
				wait(5 * time.Second)
				if r.source("A") != "rate" || r.share("A") != 800_000 || r.last("A").Sample.Gap {
					t.Errorf("%s, %d", r.source("A"), r.share("A"))
				}
				wait(2 * rescanEvery)
				if n := r.s.Stats().Reloads; n != 0 {
					t.Errorf("the driver was opened again %d times", n)
				}
				a.with(func(h *fakeHandle) { h.smErr = nil })
				wait(2 * time.Second)
				if want := map[bool]string{true: "rate", false: "gpm"}[name == "denied"]; r.source("A") != want {
					t.Errorf("%s, want %s", r.source("A"), want)
				}
				r.end()
			})
		})
	}
}
