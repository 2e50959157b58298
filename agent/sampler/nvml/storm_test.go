package nvml

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Faults that last for ever, in any rhythm, are told of, but not each time.
func TestLaw8FaultsThatLastDoNotFloodTheLog(t *testing.T) {
	const minutes = 20
	for _, test := range []struct {
		name  string
		lines int // at most, in that time
		fault func(a *fakeHandle, r *rig)
	}{
		{"every other reading fails", 30, func(a *fakeHandle, _ *rig) {
			for n := range 60 * minutes {
				a.with(func(h *fakeHandle) { h.err = []error{errOdd, nil}[n%2] })
				wait(time.Second)
			}
		}},
		{"each error is another", 40, func(a *fakeHandle, _ *rig) {
			for n := range 60 * minutes {
				a.with(func(h *fakeHandle) { h.err = fmt.Errorf("%d of it", n) })
				wait(time.Second)
			}
		}},
		{"the only GPU is lost", 31, func(a *fakeHandle, _ *rig) {
			a.with(func(h *fakeHandle) { h.err = errLost })
			wait(minutes * time.Minute)
		}},
		{"each call hangs for a while", 15, func(a *fakeHandle, _ *rig) {
			a.with(func(h *fakeHandle) { h.slow = 6 * time.Second })
			wait(minutes * time.Minute)
		}},
		{"the GPU reports errors", 15, func(_ *fakeHandle, r *rig) {
			for range 20 * 60 * minutes {
				r.node.events <- event{kind: eventXID, gpu: "A", xid: 94}
				wait(50 * time.Millisecond)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fakeHandle{}
				r := newRigWith(t, withEvents, whole("A", a, true))
				wait(1500 * time.Millisecond)
				before := strings.Count(r.log.String(), "\n")
				test.fault(a, r)
				if n := strings.Count(r.log.String(), "\n") - before; n > test.lines || n == 0 {
					text := r.log.String()
					t.Errorf("%d lines in %d minutes, want at most %d:\n%s", n, minutes, test.lines, text[:min(len(text), 3000)])
				}
				a.with(func(h *fakeHandle) { h.err, h.slow = nil, 0 })
				wait(time.Minute)
				r.end()
			})
		})
	}
}
