package nvml

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// rest is what is left of a GPU in MIG mode.
func rest(id string, h *fakeHandle) unit {
	u := whole(id, h, false)
	u.remainder, u.energy = true, false
	return u
}

// slice is an instance of a GPU.
func slice(id, parent string, gi int, h *fakeHandle) unit {
	return unit{
		facts: facts{
			uuid: id, model: "H", parent: parent, profile: "1g.10gb", memoryBytes: 10 << 30,
			share: attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 1, MemoryOf: 8},
		},
		place: place{index: 0, minor: 0, gpuInstance: gi, computeInstance: 0, placement: gi - 1},
		gpm:   !h.noSM, handle: h,
	}
}

func (r *rig) ids() (ids []string) {
	for _, u := range r.s.Units() {
		id := u.ID
		if u.Remainder {
			id += " (rest)"
		}
		ids = append(ids, id)
	}
	return ids
}

func (r *rig) wantUnits(want ...string) {
	r.t.Helper()
	if got := r.ids(); !slices.Equal(got, want) {
		r.t.Fatalf("units %q, want %q", got, want)
	}
}

func (r *rig) wantLog(text string, times int) {
	r.t.Helper()
	if n := strings.Count(r.log.String(), text); n != times {
		r.t.Fatalf("%q was logged %d times, want %d:\n%s", text, n, times, r.log)
	}
}

// last is the newest sample of a device.
func (r *rig) last(id string) sampler.Event {
	r.t.Helper()
	s := r.seen(id, sampler.Sampled)
	if len(s) == 0 {
		r.t.Fatalf("%s has no samples", id)
	}
	return s[len(s)-1]
}

func TestUnitsAreWhatWasAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := whole("GPU-b", &fakeHandle{}, true)
		b.index, b.minor = 1, 5
		r := newRig(t, rest("GPU-a", &fakeHandle{}), slice("MIG-2", "GPU-a", 2, &fakeHandle{}), slice("MIG-1", "GPU-a", 1, &fakeHandle{}), b)
		if us := r.s.Units(); len(us) != 0 {
			t.Fatalf("before anything was found: %+v", us)
		}
		wait(time.Second)
		us := r.s.Units()
		want := []sampler.Unit{
			{ID: "GPU-a", Index: 0, Minor: 0, GPUInstance: -1, ComputeInstance: -1, Placement: -1, Remainder: true, Added: us[0].Added},
			{ID: "MIG-1", Parent: "GPU-a", Index: 0, Minor: 0, GPUInstance: 1, Placement: 0, Profile: "1g.10gb", Added: us[1].Added},
			{ID: "MIG-2", Parent: "GPU-a", Index: 0, Minor: 0, GPUInstance: 2, Placement: 1, Profile: "1g.10gb", Added: us[2].Added},
			{ID: "GPU-b", Index: 1, Minor: 5, GPUInstance: -1, ComputeInstance: -1, Placement: -1, Added: us[3].Added},
		}
		if !slices.Equal(us, want) {
			t.Fatalf("units\n%+v, want\n%+v", us, want)
		}
		told := func(what string, want bool) {
			t.Helper()
			select {
			case <-r.s.UnitsChanged():
				if !want {
					t.Fatalf("%s: a change is told", what)
				}
			default:
				if want {
					t.Fatalf("%s: no change is told", what)
				}
			}
		}
		told("at the start", true)
		wait(rescanEvery)
		told("nothing has changed", false)
		// An index that changes is not another device.
		b.index = 0
		r.node.set(nil, b, rest("GPU-a", &fakeHandle{}), slice("MIG-2", "GPU-a", 2, &fakeHandle{}))
		wait(rescanEvery)
		if got := r.s.Units(); len(got) != 3 || got[1].ID != "GPU-b" || got[1].Index != 0 || got[1].Added != us[3].Added {
			t.Fatalf("after a change of index: %+v", got)
		}
		told("a change of index", true)
		if n := len(r.seen("GPU-b", sampler.DeviceAdded)); n != 1 {
			t.Fatalf("GPU-b was added %d times", n)
		}
		// One that comes back is.
		r.node.set(nil, b, rest("GPU-a", &fakeHandle{}), slice("MIG-2", "GPU-a", 2, &fakeHandle{}), slice("MIG-1", "GPU-a", 1, &fakeHandle{}))
		wait(rescanEvery)
		for _, u := range r.s.Units() {
			if same := u.Added == us[1].Added; u.ID == "MIG-1" && same {
				t.Fatal("an instance that came back has its old number")
			}
		}
		if len(us) != 4 || us[1].ID != "MIG-1" {
			t.Fatal("a snapshot changed")
		}
		r.end()
	})
}

// The parts of a GPU never overlap, whatever is done to it: as the meter has
// it, a device has the second that it goes in, and is described anew from the
// next one on.
func TestLaw1PartsOfAGPUNeverOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gpu, m := &fakeHandle{}, &fakeHandle{sm: 1_000_000}
		r := newRig(t, whole("GPU-1", gpu, true))
		wait(time.Second)
		r.wantUnits("GPU-1")

		r.node.set(nil, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, m), slice("MIG-2", "GPU-1", 2, m))
		wait(rescanEvery)
		r.wantUnits("GPU-1 (rest)", "MIG-1", "MIG-2")
		turned := r.seen("GPU-1", sampler.DeviceAdded)
		first := r.seen("MIG-1", sampler.DeviceAdded)
		if len(turned) != 2 || !turned[1].Device.Remainder || attribution.SecondOf(first[0].Time) != attribution.SecondOf(turned[1].Time)+1 {
			t.Fatalf("MIG on: the GPU at %d, the instance at %d", turned[1].Time, first[0].Time)
		}
		if d := first[0].Device; d.Parent != "GPU-1" || d.Share.Compute != 1 || d.Sensors&attribution.SensorEnergy != 0 {
			t.Fatalf("the instance: %+v", d)
		}

		r.node.set(nil, rest("GPU-1", gpu), slice("MIG-2", "GPU-1", 2, m), slice("MIG-3", "GPU-1", 3, m))
		wait(rescanEvery)
		r.wantUnits("GPU-1 (rest)", "MIG-2", "MIG-3")
		went, came := r.seen("MIG-1", sampler.DeviceRemoved), r.seen("MIG-3", sampler.DeviceAdded)
		if len(went) != 1 || len(came) != 1 || attribution.SecondOf(came[0].Time) != attribution.SecondOf(went[0].Time)+1 {
			t.Fatalf("re-partitioned: %+v, %+v", went, came)
		}
		if n := len(r.seen("MIG-2", sampler.DeviceAdded)); n != 1 {
			t.Fatalf("an instance that stayed was added %d times", n)
		}

		r.node.set(nil, whole("GPU-1", gpu, true))
		wait(rescanEvery)
		r.wantUnits("GPU-1")
		back := r.seen("GPU-1", sampler.DeviceAdded)
		gone := r.seen("MIG-2", sampler.DeviceRemoved)
		if len(back) != 3 || back[2].Device.Remainder || len(gone) != 1 || gone[0].Time != back[2].Time {
			t.Fatalf("MIG off: %+v, %+v", back, gone)
		}
		wait(2 * time.Second)
		if s := r.last("GPU-1"); s.Sample.Gap || s.Time < back[2].Time+second {
			t.Fatalf("the GPU is not read any more: %+v", s)
		}
		from := slices.IndexFunc(r.events, func(e sampler.Event) bool { return e.Device == back[2].Device })
		for _, e := range r.events[from:] {
			if e.Kind == sampler.Sampled && e.DeviceID == "GPU-1" {
				if !e.Sample.Gap {
					t.Fatalf("the first sample under a new description covers time under the old one: %+v", e)
				}
				break
			}
		}
		r.end()
	})
}

func TestHungInstanceKeepsItsGPUAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		gpu, m := &fakeHandle{}, &fakeHandle{}
		r := newRig(t, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, m))
		wait(1500 * time.Millisecond)
		m.with(func(h *fakeHandle) { h.hang = hang })
		r.node.set(nil, whole("GPU-1", gpu, true))
		wait(rescanEvery + 10*time.Second)
		r.wantUnits("GPU-1 (rest)", "MIG-1")
		m.with(func(h *fakeHandle) { h.hang = nil })
		close(hang)
		wait(time.Second)
		r.wantUnits("GPU-1")
		r.end()
	})
}

// What fails to be listed is not gone, and hides nothing else.
func TestIncompleteListTakesNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gpu, m := &fakeHandle{}, &fakeHandle{}
		b := whole("GPU-2", &fakeHandle{}, true)
		b.index = 1
		r := newRig(t, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, m), slice("MIG-2", "GPU-1", 2, m), b)
		wait(time.Second)
		r.node.set(errOdd, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, m), b)
		r.node.with(func(n *fakeNode) { n.gpus[0].complete = false })
		wait(rescanEvery)
		r.wantUnits("GPU-1 (rest)", "MIG-1", "MIG-2", "GPU-2")
		// A lost GPU does not keep another's instances.
		r.node.set(errLost, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, m))
		wait(rescanEvery)
		r.wantUnits("GPU-1 (rest)", "MIG-1", "GPU-2")
		wait(2 * goneAfter)
		r.wantUnits("GPU-1 (rest)", "MIG-1", "GPU-2")
		r.wantLog("not all GPUs can be listed", 2)
		r.end()
	})
}

func TestGPUThatIsTakenOutIsUnobservedThenGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, m := &fakeHandle{}, &fakeHandle{}, &fakeHandle{}
		other := whole("GPU-0", a, true)
		r := newRig(t, other, rest("GPU-1", b), slice("MIG-1", "GPU-1", 1, m))
		wait(time.Second)
		for _, h := range []*fakeHandle{b, m} {
			h.with(func(h *fakeHandle) { h.err = errLost })
		}
		r.node.set(nil, other)
		wait(goneAfter - 5*time.Second)
		r.wantUnits("GPU-0", "GPU-1 (rest)", "MIG-1")
		if s := r.last("MIG-1"); !s.Sample.Gap {
			t.Fatalf("a GPU that is taken out is observed: %+v", s)
		}
		wait(rescanEvery + 10*time.Second)
		r.wantUnits("GPU-0")
		x, y := r.seen("GPU-1", sampler.DeviceRemoved), r.seen("MIG-1", sampler.DeviceRemoved)
		if len(x) != 1 || len(y) != 1 || x[0].Time != y[0].Time {
			t.Fatalf("removed: %+v, %+v", x, y)
		}
		if n := r.open.Load(); n != 1 {
			t.Fatalf("%d producers are open for one device", n)
		}
		if st := r.s.Stats(); len(st.Devices) != 1 || st.Reloads != 0 || st.FailedReadings < 1000 {
			t.Fatalf("stats: %+v", st)
		}
		r.wantLog("no longer lists", 1)
		r.end()
	})
}

// A GPU that was lost is read again by the handle of a newer look.
func TestLostGPUGetsANewHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost, again, other := &fakeHandle{}, &fakeHandle{sm: 500_000}, &fakeHandle{}
		b := whole("B", other, true)
		b.index = 1
		r := newRig(t, whole("A", lost, true), b)
		wait(1500 * time.Millisecond)
		looks := r.s.Stats().Rescans
		lost.with(func(h *fakeHandle) { h.err = errLost })
		wait(2 * time.Second)
		if n := r.s.Stats().Rescans; n == looks {
			t.Fatal("a lost GPU did not make anybody look")
		}
		r.node.set(nil, whole("A", again, true), b)
		wait(rescanEvery + 3*time.Second)
		if s := r.last("A"); s.Sample.Gap {
			t.Fatalf("the GPU is still not read: %+v", s.Sample)
		}
		if n := len(r.seen("A", sampler.DeviceAdded)); n != 1 || r.s.Stats().Reloads != 0 {
			t.Fatalf("added %d times, reloads %d", n, r.s.Stats().Reloads)
		}
		r.end()
	})
}

func TestReloadedDriverIsOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fakeHandle{sm: 500_000, mJ: 1 << 30}, &fakeHandle{busy: 10}
		us := []unit{whole("A", a, true), whole("B", b, false)}
		us[1].index = 1
		r := newRig(t, us...)
		wait(90500 * time.Millisecond) // past the time in which a driver proves itself
		before := r.last("A").Sample
		for _, h := range []*fakeHandle{a, b} {
			h.with(func(h *fakeHandle) { h.err = fmt.Errorf("nvmlDeviceGetX: %w", errGone) })
		}
		r.node.with(func(n *fakeNode) { n.err, n.gpus, n.openErr = errGone, nil, ErrNoDriver })
		wait(2 * rescanEvery)
		count := len(r.seen("A", sampler.Sampled))
		wait(2 * rescanEvery)
		if n := len(r.seen("A", sampler.Sampled)); n != count {
			t.Fatalf("%d samples without a driver", n-count)
		}
		r.wantUnits("A", "B")
		r.wantLog("can't be opened", 1)
		for _, d := range r.s.Stats().Devices {
			if !d.Failing {
				t.Fatalf("without a driver: %+v", d)
			}
		}
		for _, h := range []*fakeHandle{a, b} {
			h.with(func(h *fakeHandle) { h.err, h.mJ = nil, 5 })
		}
		r.node.with(func(n *fakeNode) { n.openErr = nil })
		r.node.set(nil, us...)
		wait(rescanEvery + 3*time.Second)
		s := r.seen("A", sampler.Sampled)[count:]
		if len(s) < 2 || !s[0].Sample.Gap || s[1].Sample.Gap {
			t.Fatalf("%d samples after the driver came back", len(s))
		}
		if e := s[len(s)-1].Sample.Energy; e != before.Energy {
			t.Fatalf("the counter of a reloaded driver counts %d µJ", e-before.Energy)
		}
		if st := r.s.Stats(); st.Reloads != 1 || r.node.opened != 2 {
			t.Fatalf("%d reloads, %d openings", st.Reloads, r.node.opened)
		}
		for _, id := range []string{"A", "B"} {
			if n := len(r.seen(id, sampler.DeviceAdded)); n != 1 {
				t.Fatalf("%s was added %d times", id, n)
			}
		}
		r.end()
	})
}

// Shutting down under a call that hangs would take the process along.
func TestDriverIsNotShutDownUnderAHungCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		a, b := &fakeHandle{}, &fakeHandle{}
		us := []unit{whole("A", a, true), whole("B", b, true)}
		us[1].index = 1
		r := newRig(t, us...)
		wait(1500 * time.Millisecond)
		a.with(func(h *fakeHandle) { h.hang = hang })
		b.with(func(h *fakeHandle) { h.err = errLost })
		wait(3 * rescanEvery)
		if r.node.open == nil || r.node.open.closed || r.node.opened != 1 {
			t.Fatal("the driver was shut down")
		}
		a.with(func(h *fakeHandle) { h.hang, h.err = nil, errLost })
		close(hang)
		wait(rescanEvery + 5*time.Second)
		for _, h := range []*fakeHandle{a, b} {
			h.with(func(h *fakeHandle) { h.err = nil })
		}
		wait(rescanEvery + 5*time.Second)
		if r.node.opened < 2 || r.last("A").Sample.Gap || r.last("B").Sample.Gap {
			t.Fatalf("%d openings; A %+v, B %+v", r.node.opened, r.last("A").Sample, r.last("B").Sample)
		}
		r.end()
	})
}

func TestDriverIsOpenedAgainWhileNoDeviceCanBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{err: errLost}
		r := newRig(t, whole("A", a, true))
		wait(10 * rescanEvery)
		if n := r.node.opened; n < 4 || n > 11 {
			t.Fatalf("opened %d times in 10 looks", n)
		}
		r.wantLog("can't be read", 1)
		a.with(func(h *fakeHandle) { h.err = nil })
		wait(rescanEvery + 3*time.Second)
		if r.last("A").Sample.Gap {
			t.Fatal("the device is still not read")
		}
		r.end()
	})
}

// A MIG instance that nothing can measure is no reason to open the driver
// again.
func TestUnmeasuredInstanceIsAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rest("GPU-1", &fakeHandle{}), slice("MIG-1", "GPU-1", 1, &fakeHandle{noSM: true}))
		wait(4 * rescanEvery)
		if r.node.opened != 1 || !r.last("MIG-1").Sample.Gap || r.last("GPU-1").Sample.Gap {
			t.Fatalf("%d openings; %+v", r.node.opened, r.last("MIG-1").Sample)
		}
		if d := r.s.Stats().Devices[1]; d.ID != "MIG-1" || !d.Failing || d.Activity != "" {
			t.Fatalf("stats: %+v", d)
		}
		r.end()
	})
}

// The rest of a GPU that is lost is not idle.
func TestLaw9LostRemainderIsUnobserved(t *testing.T) {
	for _, noJ := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			gpu := &fakeHandle{noJ: noJ}
			r := newRig(t, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, &fakeHandle{}))
			wait(1500 * time.Millisecond)
			if r.last("GPU-1").Sample.Gap {
				t.Fatal("the rest is not observed")
			}
			gpu.with(func(h *fakeHandle) { h.err = errLost })
			wait(5 * time.Second)
			if !r.last("GPU-1").Sample.Gap {
				t.Fatal("the rest of a lost GPU passes for idle")
			}
			r.end()
		})
	}
}

func TestReplacedDriverEndsRun(t *testing.T) {
	replaced := (&library{}).check("nvmlInit", 18)
	if !errors.Is(replaced, ErrDriverReplaced) {
		t.Fatalf("LIB_RM_VERSION_MISMATCH: %v", replaced)
	}
	for name, change := range map[string]func(*fakeNode){
		"listing": func(n *fakeNode) { n.err = replaced },
		"opening": func(n *fakeNode) { n.err, n.openErr = errGone, replaced },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fakeHandle{}
				r := newRig(t, whole("A", a, true))
				wait(40500 * time.Millisecond)
				a.with(func(h *fakeHandle) { h.err = replaced })
				r.node.with(change)
				select {
				case err := <-r.done:
					if !errors.Is(err, ErrDriverReplaced) || !strings.Contains(err.Error(), "start this process again") {
						t.Fatalf("Run: %v", err)
					}
				case <-time.After(5 * time.Second):
					t.Fatal("Run goes on")
				}
				if r.node.open != nil || len(r.node.misuse) > 0 || r.open.Load() != 0 {
					t.Fatalf("open: %v, misuse: %v, producers: %d", r.node.open, r.node.misuse, r.open.Load())
				}
			})
		})
	}
}

// The energy of a GPU in MIG mode is counted, but on no device of the ledger.
func TestLaw9EnergyUnderMIGIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gpu, m := &fakeHandle{}, &fakeHandle{sm: 1_000_000}
		r := newRig(t, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, m))
		wait(1500 * time.Millisecond)
		gpu.with(func(h *fakeHandle) { h.mJ = 700 })
		m.with(func(h *fakeHandle) { h.mJ = 700 })
		wait(2 * time.Second)
		for _, id := range []string{"GPU-1", "MIG-1"} {
			if d := r.seen(id, sampler.DeviceAdded)[0].Device; d.Sensors&attribution.SensorEnergy != 0 || r.last(id).Sample.Energy != 0 {
				t.Fatalf("%s measures energy: %+v, %d µJ", id, d, r.last(id).Sample.Energy)
			}
		}
		st := r.s.Stats()
		if st.Devices[0].ID != "GPU-1" || st.Devices[0].EnergyMicroJoules != 700_000 || st.Devices[1].EnergyMicroJoules != 0 {
			t.Fatalf("stats: %+v", st.Devices)
		}
		r.end()
	})
}

// While a call hangs the driver can't be shut down: nobody lets go of it then,
// and who can be read again is.
func TestLaw2HangingGPUKeepsNoOtherWaiting(t *testing.T) {
	for name, test := range map[string]struct {
		list   error
		before time.Duration // the look that finds it
	}{
		"stuck": {nil, 20 * time.Second}, "gone": {errGone, 20 * time.Second},
		"stuck, just now": {nil, time.Second}, "gone, just now": {errGone, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hang := make(chan struct{})
				a, b := &fakeHandle{}, &fakeHandle{}
				r := newRigWith(t, withEvents, whole("A", a, true), whole("B", b, true))
				wait(1500 * time.Millisecond)
				for _, h := range []*fakeHandle{a, b} {
					h.with(func(h *fakeHandle) { h.err = errOdd })
				}
				r.node.set(test.list, whole("A", a, true), whole("B", b, true))
				wait(rescanEvery - test.before - 1500*time.Millisecond)
				a.with(func(h *fakeHandle) { h.hang = hang })
				wait(test.before + rescanEvery)
				b.with(func(h *fakeHandle) { h.err = nil })
				r.node.set(nil, whole("A", a, true), whole("B", b, true))
				wait(rescanEvery + 5*time.Second)
				if s := r.last("B"); s.Sample.Gap || time.Now().UnixNano()-s.Time > 2*second {
					t.Errorf("B is not read: %+v, %v ago", s.Sample, time.Duration(time.Now().UnixNano()-s.Time))
				}
				r.node.events <- event{kind: eventXID, gpu: "B", xid: 13}
				wait(time.Second)
				if n := len(r.s.Stats().Errors); n != 1 {
					t.Errorf("nobody listens: %d XIDs", n)
				}
				a.with(func(h *fakeHandle) { h.hang = nil })
				close(hang)
				wait(5 * time.Second)
				r.end()
			})
		})
	}
}
