package nvml

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// withEvents makes the machine tell of events.
func withEvents(r *rig, _ *Options) { r.node.events = make(chan event, 1000) }

func TestXIDsAreCountedAndLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, withEvents, whole("GPU-1", &fakeHandle{}, true))
		wait(5 * time.Second)
		looks := r.s.Stats().Rescans
		r.node.events <- event{kind: eventXID, gpu: "GPU-1", xid: 31, gpuInstance: -1, computeInstance: -1}
		r.node.events <- event{kind: eventXID, gpu: "GPU-1", xid: 31, gpuInstance: -1, computeInstance: -1}
		wait(2 * time.Second)
		if n := r.s.Stats().Rescans; n != looks {
			t.Fatalf("an application's error made somebody look %d times", n-looks)
		}
		r.node.events <- event{kind: eventXID, gpu: "GPU-1", xid: 79, gpuInstance: -1, computeInstance: -1}
		wait(100 * time.Millisecond)
		st := r.s.Stats()
		if st.Rescans != looks+1 {
			t.Fatalf("a lost GPU made somebody look %d times", st.Rescans-looks)
		}
		want := []ErrorCount{{"GPU-1", 31, true, 2}, {"GPU-1", 79, false, 1}}
		if len(st.Errors) != 2 || st.Errors[0] != want[0] || st.Errors[1] != want[1] {
			t.Fatalf("errors: %+v", st.Errors)
		}
		r.wantLog("xid=31", 2)
		r.wantLog("xid=79", 1)
		r.end()
	})
}

func TestMIGEventIsFollowedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gpu := &fakeHandle{}
		r := newRigWith(t, withEvents, rest("GPU-1", gpu))
		wait(5 * time.Second)
		r.node.set(nil, rest("GPU-1", gpu), slice("MIG-1", "GPU-1", 1, &fakeHandle{}))
		r.node.events <- event{kind: eventMIG, gpu: "GPU-1"}
		wait(100 * time.Millisecond)
		r.wantUnits("GPU-1 (rest)", "MIG-1")
		// Many at once are followed once a second.
		looks := r.s.Stats().Rescans
		for range 500 {
			r.node.events <- event{kind: eventHealth, gpu: "GPU-1"}
		}
		wait(10 * time.Second)
		if n := r.s.Stats().Rescans - looks; n < 3 || n > 8 {
			t.Fatalf("500 events in 5 s made somebody look %d times", n)
		}
		r.end()
	})
}

func TestWithoutEventsThereIsPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, whole("GPU-1", &fakeHandle{}, true))
		wait(3 * rescanEvery)
		r.wantLog("does not tell of errors", 1)
		if n := r.s.Stats().Rescans; n < 3 {
			t.Fatalf("%d looks", n)
		}
		r.end()
	})
}

func TestFailedListeningIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, func(r *rig, o *Options) { withEvents(r, o); r.node.eventErr = errLost }, whole("GPU-1", &fakeHandle{}, true))
		wait(20 * time.Second)
		r.wantLog("can't be heard", 1)
		r.node.with(func(n *fakeNode) { n.eventErr = nil })
		wait(6 * time.Second)
		r.node.events <- event{kind: eventXID, gpu: "GPU-1", xid: 48, gpuInstance: -1, computeInstance: -1}
		wait(time.Second)
		if e := r.s.Stats().Errors; len(e) != 1 || e[0].XID != 48 {
			t.Fatalf("errors: %+v", e)
		}
		r.end()
	})
}

func TestNewGPUIsListenedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, withEvents, whole("A", &fakeHandle{}, true))
		wait(time.Second)
		b := whole("B", &fakeHandle{}, true)
		b.index = 1
		r.node.set(nil, whole("A", &fakeHandle{}, true), b)
		wait(rescanEvery + time.Second)
		if n := r.node.listened; n != 2 {
			t.Fatalf("listened %d times for two sets of GPUs", n)
		}
		if len(r.seen("B", sampler.DeviceAdded)) != 1 {
			t.Fatal("the new GPU was not added")
		}
		r.end()
	})
}

func TestLaw8CountedErrorsAreBounded(t *testing.T) {
	s := newSampler(Options{}, nil, nil)
	for gpu := range 2 * maxErrorDevices {
		for xid := range uint64(2 * maxErrorXIDs) {
			s.counts.xid(fmt.Sprintf("GPU-%03d", gpu), xid, 0)
			s.counts.xid(fmt.Sprintf("GPU-%03d", gpu), xid, 0)
		}
	}
	st := s.Stats()
	sum := st.OtherErrors
	for _, e := range st.Errors {
		sum += e.Count
	}
	if len(st.Errors) != maxErrorDevices*maxErrorXIDs || sum != 8*maxErrorDevices*maxErrorXIDs {
		t.Fatalf("%d kept, %d counted", len(st.Errors), sum)
	}
	if !strings.HasPrefix(st.Errors[0].Device, "GPU-000") || st.Errors[0].XID != 0 {
		t.Fatalf("the first is %+v", st.Errors[0])
	}
}
