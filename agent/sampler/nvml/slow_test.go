package nvml

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// covered is how much of each device second samples cover by the time that it
// is sealed, a second after its end.
func (r *rig) covered(id string, from, to int64) (covered int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := int64(-1)
	for i, e := range r.events {
		if e.DeviceID != id || e.Kind != sampler.Sampled {
			continue
		}
		if last >= 0 && !e.Sample.Gap {
			sealed := r.at[i]/second*second - second // what is sealed when it comes
			covered += max(min(e.Time, to)-max(last, from, sealed), 0)
		}
		last = e.Time
	}
	return covered
}

// A driver under load answers late. What it says is about the time until it
// said it, so that little of what slow readings cover is told too late.
func TestSlowReadingsAreInTime(t *testing.T) {
	for _, test := range []struct {
		each   time.Duration // of the calls of a reading: four, and five of each tenth
		unseen time.Duration // of ten seconds, at most
	}{
		{50 * time.Millisecond, 0},
		{175 * time.Millisecond, 100 * time.Millisecond},
		{240 * time.Millisecond, 600 * time.Millisecond},
		{375 * time.Millisecond, 1500 * time.Millisecond},
	} {
		t.Run(test.each.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := &fakeHandle{sm: 500_000}, &fakeHandle{sm: 500_000, slow: test.each, running: []running{{pid: 5}}}
				b.shares = func(uint64) ([]processShare, error) {
					return []processShare{{5, uint64(time.Now().UnixMicro()), 20}}, nil
				}
				r := newRig(t, whole("A", a, true), whole("B", b, true))
				wait(20 * time.Second)
				begin := time.Now().UnixNano()/second*second - 12*second
				for _, id := range []string{"A", "B"} {
					if unseen := 10*second - r.covered(id, begin, begin+10*second); unseen > int64(test.unseen) || (id == "A" && unseen != 0) {
						t.Errorf("%s: %v of 10 s are unobserved, at most %v may be", id, time.Duration(unseen), test.unseen)
					}
				}
				s := r.seen("B", sampler.Sampled)
				first, last := s[2], s[len(s)-1]
				length := last.Time - first.Time
				if got := last.Sample.SMActive - first.Sample.SMActive; got != length/2 {
					t.Errorf("%d ns active of %d", got, length)
				}
				if got := last.Sample.Processes[0].SMActive - first.Sample.Processes[0].SMActive; got != length/5 {
					t.Errorf("the process: %d ns active of %d", got, length)
				}
				r.end()
			})
		})
	}
}

// A failed reading is tried again before what it would have covered is sealed.
func TestSingleFailuresLoseNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 500_000}
		r := newRig(t, whole("A", a, true))
		begin := time.Now().UnixNano() + 2*second
		wait(1500 * time.Millisecond)
		for range 5 {
			a.with(func(h *fakeHandle) { h.err = errOdd })
			wait(600 * time.Millisecond) // one reading
			a.with(func(h *fakeHandle) { h.err = nil })
			wait(1400 * time.Millisecond)
		}
		if n := r.s.Stats().FailedReadings; n != 5 {
			t.Fatalf("%d failed readings", n)
		}
		if unseen := 9*second - r.covered("A", begin, begin+9*second); unseen != 0 {
			t.Fatalf("%v of 9 s are unobserved", time.Duration(unseen))
		}
		r.end()
	})
}
