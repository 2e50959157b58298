package nvml

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// now is the machine's wall clock in µs.
func wallNow() uint64 { return uint64(time.Now().UnixMicro()) }

// busyWith makes processes use so many percent, at every question.
func busyWith(percents map[uint32]uint32) func(uint64) ([]processShare, error) {
	return func(uint64) (out []processShare, err error) {
		for pid, p := range percents {
			out = append(out, processShare{pid, wallNow(), p})
		}
		return out, nil
	}
}

func listed(pids ...uint32) (out []running) {
	for _, pid := range pids {
		out = append(out, running{pid: pid, memory: int64(pid) << 20})
	}
	return out
}

func process1(e sampler.Event, pid uint32) *sampler.Process {
	for i := range e.Sample.Processes {
		if e.Sample.Processes[i].PID == pid {
			return &e.Sample.Processes[i]
		}
	}
	return nil
}

// Step 1: each device has its own cursor, the newest time that was returned.
func TestStep1EachDeviceHasItsCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := map[string][]uint64{}
		answer := func(id string, ahead uint64) func(uint64) ([]processShare, error) {
			return func(after uint64) ([]processShare, error) {
				asked[id] = append(asked[id], after)
				return []processShare{{1, wallNow() + ahead, 10}}, nil
			}
		}
		a, b := &fakeHandle{running: listed(1)}, &fakeHandle{running: listed(1)}
		a.shares, b.shares = answer("A", 0), answer("B", 1_000_000)
		second := whole("B", b, true)
		second.index = 1
		r := newRig(t, whole("A", a, true), second)
		wait(3500 * time.Millisecond)
		r.end()
		for id, ahead := range map[string]uint64{"A": 0, "B": 1_000_000} {
			if asked[id][0] != 0 || len(asked[id]) < 4 {
				t.Fatalf("%s was asked %v", id, asked[id])
			}
			last := asked[id][len(asked[id])-1]
			before := asked[id][len(asked[id])-2]
			if last <= before || last < wallNow()+ahead-2_000_000 {
				t.Fatalf("%s's cursor goes %v", id, asked[id])
			}
		}
	})
}

// Step 2: what a process has had counts no more, even where the device's
// cursor was lost or an answer holds it twice.
func TestStep2ASampleCountsOnce(t *testing.T) {
	p := newProcesses(&fakeOwners{ids: map[uint32]sampler.Identity{1: {Start: 1}, 2: {Start: 2}}})
	p.list(listed(1, 2))
	p.share([]processShare{{1, 50, 100}, {1, 50, 100}, {2, 40, 30}, {2, 45, 50}, {2, 42, 100}}, second, 60)
	if got := active(p); got[1] != second || got[2] != 60*second/100 {
		t.Fatalf("active = %v", got)
	}
	if n := p.dropped.stale.Load(); n != 1 {
		t.Fatalf("%d repeated samples dropped, want the one that came twice in a row", n)
	}
	p.list(listed(1, 2))
	p.cursor = 0 // as with a driver that returns its whole buffer
	p.share([]processShare{{1, 50, 100}, {2, 45, 50}, {2, 40, 30}}, second, 60)
	if got := active(p); got[1] != second || got[2] != 60*second/100 {
		t.Fatalf("a second time they count: %v", got)
	}
}

// Step 3: nothing newer is zero, and no failure.
func TestStep3NothingNewerIsZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 400_000, running: listed(1)}
		a.shares = func(uint64) ([]processShare, error) { return nil, nil }
		r := newRig(t, whole("A", a, true))
		wait(3500 * time.Millisecond)
		s := r.last("A")
		if s.Sample.Gap || !s.Sample.ProcessSM || process1(s, 1) == nil || process1(s, 1).SMActive != 0 || s.Sample.SMActive == 0 {
			t.Fatalf("sample: %+v", s.Sample)
		}
		if n := r.s.Stats().FailedReadings; n != 0 {
			t.Fatalf("%d readings failed", n)
		}
		r.end()
	})
}

// Step 4: a hundred entries of garbage, 37100 %, the past and the future.
func TestStep4GarbageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 1_000_000, running: listed(1)}
		a.shares = func(after uint64) ([]processShare, error) {
			out := make([]processShare, 100) // the driver's count, mostly not filled
			out[0] = processShare{1, wallNow(), 25}
			out[1] = processShare{1, wallNow() - 1, 37100}
			out[2] = processShare{1, after, 90}
			out[3] = processShare{1, wallNow() + 3600e6, 90}
			out[4] = processShare{77, wallNow(), 90}
			return out, nil
		}
		r := newRig(t, whole("A", a, true))
		wait(4500 * time.Millisecond)
		s := r.seen("A", sampler.Sampled)
		x, y := s[len(s)-2], s[len(s)-1]
		if got := process1(y, 1).SMActive - process1(x, 1).SMActive; got != second/4 {
			t.Fatalf("a second of 25 %% counts %d ns", got)
		}
		d, n := r.s.Stats().Dropped, uint64(len(s))
		if d.Percent != n || d.Future != n || d.Unlisted != n || d.Stale != 96*n {
			t.Fatalf("dropped in %d readings: %+v", n, d)
		}
		r.end()
	})
}

// Step 5: the lists together decide who counts, and who has just left them
// keeps its final second.
func TestStep5TheListsDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 1_000_000, running: listed(1, 2), apart: listed(3)}
		a.shares = busyWith(map[uint32]uint32{1: 10, 2: 20, 3: 30, 4: 40})
		r := newRig(t, whole("A", a, true))
		for pid := range uint32(4) {
			r.owners.set(pid+1, sampler.Identity{Start: 9, Command: "x"})
		}
		wait(2500 * time.Millisecond)
		a.with(func(h *fakeHandle) { h.running = listed(1) })
		wait(time.Second)
		s := r.seen("A", sampler.Sampled)
		x, y := s[len(s)-2], s[len(s)-1]
		for pid, want := range map[uint32]int64{1: second / 10, 2: second / 5, 3: 3 * second / 10} {
			if got := process1(y, pid).SMActive - process1(x, pid).SMActive; got != want {
				t.Fatalf("process %d counts %d ns, want %d", pid, got, want)
			}
		}
		if process1(y, 4) != nil {
			t.Fatal("a process that is in no list counts")
		}
		wait(time.Second)
		if process1(r.last("A"), 2) != nil || process1(r.last("A"), 3) == nil {
			t.Fatalf("after its final second: %+v", r.last("A").Sample.Processes)
		}
		r.end()
	})
}

// segment is a second of a device between two samples, as the meter hands it
// to the split.
func segment(x, y sampler.Event, holders ...uint32) attribution.Segment {
	g := attribution.Segment{
		Length: attribution.WindowNanos, Observed: true, MemoryBytes: 80 << 30,
		SMActive: y.Sample.SMActive - x.Sample.SMActive, ProcessSM: y.Sample.ProcessSM, SharedServer: y.Sample.SharedServer,
	}
	for _, p := range y.Sample.Processes {
		before := int64(0)
		if q := process1(x, p.PID); q != nil {
			before = q.SMActive
		}
		g.Uses = append(g.Uses, attribution.Use{Owner: p.PID, Kind: p.Owner.Kind, SMActive: p.SMActive - before, Memory: p.MemoryBytes})
	}
	for _, h := range holders {
		g.Holdings = append(g.Holdings, attribution.Holding{Owner: h, Replicas: 1})
	}
	return g
}

type part struct {
	owner uint32
	basis attribution.Basis
}

// split is a device's last second, cut; its parts always fill it.
func split(t *testing.T, r *rig, id string, holders ...uint32) (map[part]int64, string) {
	t.Helper()
	s := r.seen(id, sampler.Sampled)
	x, y := s[len(s)-2], s[len(s)-1]
	splitter := attribution.Splitter{Policy: attribution.PolicySM}
	slices, method := splitter.Split([]attribution.Segment{segment(x, y, holders...)}, nil)
	out, sum := map[part]int64{}, int64(0)
	for _, s := range slices {
		out[part{s.Owner, s.Basis}] = s.Time
		sum += s.Time
	}
	if sum != attribution.WindowNanos {
		t.Fatalf("the parts sum to %d ns: %v", sum, out)
	}
	return out, method
}

// Steps 6 and 7: shares of more than the device's activity are scaled down to
// it; what none of them accounts for is unattributed, and idle is idle.
func TestLaw2Step6And7MeetTheSplit(t *testing.T) {
	for name, test := range map[string]struct {
		sm     int64
		shares map[uint32]uint32
		want   map[part]int64
	}{
		"more than there is": {500_000, map[uint32]uint32{1: 90, 2: 60}, map[part]int64{
			{1, attribution.Used}: 300_000_000, {2, attribution.Used}: 200_000_000,
			{1, attribution.Reserved}: 250_000_000, {2, attribution.Reserved}: 250_000_000,
		}},
		"less than there is": {500_000, map[uint32]uint32{1: 10, 2: 20}, map[part]int64{
			{1, attribution.Used}: 100_000_000, {2, attribution.Used}: 200_000_000, {0, attribution.Unattributed}: 200_000_000,
			{1, attribution.Reserved}: 250_000_000, {2, attribution.Reserved}: 250_000_000,
		}},
		"idle": {0, nil, map[part]int64{
			{1, attribution.Reserved}: 500_000_000, {2, attribution.Reserved}: 500_000_000,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fakeHandle{sm: test.sm, running: listed(1, 2), shares: busyWith(test.shares)}
				r := newRig(t, whole("A", a, true))
				r.owners.set(1, sampler.Identity{Start: 1, Command: "a"})
				r.owners.set(2, sampler.Identity{Start: 2, Command: "b"})
				wait(3500 * time.Millisecond)
				got, method := split(t, r, "A", 1, 2)
				if len(got) != len(test.want) || method != "sm/process" {
					t.Fatalf("%s: %v", method, got)
				}
				for k, want := range test.want {
					if got[k] != want {
						t.Errorf("%+v = %d, want %d", k, got[k], want)
					}
				}
				r.end()
			})
		})
	}
}

// An MPS server is credited and none of its clients is visible: nobody knows
// whose it is, and least of all is it the server's.
func TestLaw2MPSServerAloneClaimsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 600_000, running: listed(1), shares: busyWith(map[uint32]uint32{1: 60})}
		r := newRig(t, whole("A", a, true))
		r.owners.set(1, sampler.Identity{Start: 1, Command: mpsServer})
		wait(3500 * time.Millisecond)
		s := r.last("A")
		if s.Sample.ProcessSM || s.Sample.SharedServer || len(s.Sample.Processes) != 0 {
			t.Fatalf("sample: %+v", s.Sample)
		}
		// Two containers hold it by MPS: it is split over them.
		got, method := split(t, r, "A", 8, 9)
		if got[part{8, attribution.Used}] != 300_000_000 || got[part{9, attribution.Used}] != 300_000_000 || method != "sm/replicas" {
			t.Fatalf("%s: %v", method, got)
		}
		// A client appears, by its memory; the server's part before is not its.
		r.owners.set(5, sampler.Identity{Start: 5, Command: "infer"})
		a.with(func(h *fakeHandle) { h.apart = []running{{pid: 5, memory: 1 << 30, client: true}} })
		wait(2 * time.Second)
		s = r.last("A")
		if !s.Sample.ProcessSM || !s.Sample.SharedServer || process1(s, 1).SMActive != 0 {
			t.Fatalf("with a client: %+v", s.Sample)
		}
		got, method = split(t, r, "A", 5, 9)
		if got[part{5, attribution.Used}] != 600_000_000 || method != "sm/mps" {
			t.Fatalf("%s: %v", method, got)
		}
		// Somebody beside MPS is active, and the client is gone.
		r.owners.set(6, sampler.Identity{Start: 6, Command: "train"})
		a.with(func(h *fakeHandle) { h.shares = busyWith(map[uint32]uint32{1: 40, 6: 20}) })
		a.with(func(h *fakeHandle) { h.running, h.apart = listed(1, 6), nil })
		wait(3 * time.Second)
		s = r.last("A")
		if !s.Sample.ProcessSM || process1(s, 1) != nil {
			t.Fatalf("beside another: %+v", s.Sample)
		}
		got, _ = split(t, r, "A", 6, 9)
		if got[part{6, attribution.Used}] != 200_000_000 || got[part{0, attribution.Unattributed}] != 400_000_000 {
			t.Fatalf("beside another: %v", got)
		}
		r.end()
	})
}

// The server may be credited without being in any list.
func TestUnlistedMPSServerIsSharedByItsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 600_000, shares: busyWith(map[uint32]uint32{1: 60})}
		a.apart = []running{{5, 3 << 30, true}, {6, 1 << 30, true}}
		r := newRig(t, whole("A", a, true))
		r.owners.set(1, sampler.Identity{Start: 1, Command: mpsServer})
		r.owners.set(5, sampler.Identity{Start: 5, Command: "x"})
		r.owners.set(6, sampler.Identity{Start: 6, Command: "y"})
		wait(3500 * time.Millisecond)
		got, method := split(t, r, "A", 5, 6)
		if got[part{5, attribution.Used}] != 450_000_000 || got[part{6, attribution.Used}] != 150_000_000 || method != "sm/mps" {
			t.Fatalf("%s: %v", method, got)
		}
		if process1(r.last("A"), 1) != nil {
			t.Fatal("a process in no list is in the sample")
		}
		r.end()
	})
}

// Clients that the driver credits themselves are as any other process.
func TestMPSClientsThatAreCreditedKeepTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 600_000, running: listed(1), shares: busyWith(map[uint32]uint32{5: 50, 6: 10})}
		a.apart = []running{{5, 1 << 30, true}, {6, 3 << 30, true}}
		r := newRig(t, whole("A", a, true))
		r.owners.set(1, sampler.Identity{Start: 1, Command: mpsServer})
		r.owners.set(5, sampler.Identity{Start: 5, Command: "x"})
		r.owners.set(6, sampler.Identity{Start: 6, Command: "y"})
		wait(3500 * time.Millisecond)
		if got, method := split(t, r, "A", 5, 6); got[part{5, attribution.Used}] != 500_000_000 || method != "sm/process" {
			t.Fatalf("%s: %v", method, got)
		}
		r.end()
	})
}

// Under MIG there are no counters of processes: memory decides, and an MPS
// server's is not in it.
func TestMPSServerHasNoPartOfAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeHandle{sm: 400_000, running: []running{{pid: 1, memory: 2 << 30}}}
		m.apart = []running{{5, 3 << 30, true}, {6, 1 << 30, true}}
		m.shares = func(uint64) ([]processShare, error) { return nil, errNotSupported }
		r := newRig(t, rest("GPU-1", &fakeHandle{}), slice("MIG-1", "GPU-1", 1, m))
		r.owners.set(1, sampler.Identity{Start: 1, Command: mpsServer})
		r.owners.set(5, sampler.Identity{Start: 5, Command: "x"})
		r.owners.set(6, sampler.Identity{Start: 6, Command: "y"})
		wait(3500 * time.Millisecond)
		if got, method := split(t, r, "MIG-1", 5, 6); got[part{5, attribution.Used}] != 300_000_000 || method != "sm/memory" {
			t.Fatalf("%s: %v", method, got)
		}
		r.wantLog("split by memory", 1)
		r.end()
	})
}

// An owner may be known late, or change its labels: the counters go on, and
// the question is asked at every reading, of one that has ended too.
func TestOwnerMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 1_000_000, running: listed(1), shares: busyWith(map[uint32]uint32{1: 50})}
		r := newRig(t, whole("A", a, true))
		r.owners.set(1, sampler.Identity{Start: 1, Command: "x"})
		wait(2500 * time.Millisecond)
		before := *process1(r.last("A"), 1)
		if again := process1(r.seen("A", sampler.Sampled)[1], 1); again.Owner != before.Owner {
			t.Fatal("an answer that says the same became another pointer")
		}
		a.with(func(h *fakeHandle) { h.running = nil })
		r.owners.give(1, "main")
		asked := r.owners.times("A 1")
		wait(time.Second)
		after := process1(r.last("A"), 1)
		if after == nil || after.Owner.Container != "main" || after.SMActive != before.SMActive+second/2 {
			t.Fatalf("before %+v, after %+v", before, after)
		}
		if n := r.owners.times("A 1") - asked; n != 1 {
			t.Fatalf("asked %d times in its final second", n)
		}
		wait(2 * time.Second)
		if n := r.owners.times("A 1") - asked; n != 1 {
			t.Fatalf("asked %d times after it", n)
		}
		r.end()
	})
}

// The lists that are mostly empty are taken when there is a reason to.
func TestSeldomListsAreTakenWhenTheyMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 1_000_000, running: listed(1), shares: busyWith(map[uint32]uint32{1: 50})}
		r := newRig(t, whole("A", a, true))
		wait(3500 * time.Millisecond)
		a.with(func(h *fakeHandle) { h.asked = 0 })
		wait(30 * time.Second)
		if a.asked != 3 {
			t.Fatalf("taken %d times in 30 s of one compute process", a.asked)
		}
		// A graphics process counts from its first active second.
		a.with(func(h *fakeHandle) { h.apart = listed(2) })
		a.with(func(h *fakeHandle) { h.shares = busyWith(map[uint32]uint32{1: 50, 2: 30}) })
		wait(time.Second)
		if p := process1(r.last("A"), 2); p == nil || p.SMActive != 3*second/10 {
			t.Fatalf("an active graphics process: %+v", p)
		}
		// While the lists have somebody they are taken each time.
		a.with(func(h *fakeHandle) { h.asked = 0 })
		wait(5 * time.Second)
		if a.asked != 5 {
			t.Fatalf("taken %d times in 5 s of a graphics process", a.asked)
		}
		r.end()
	})
}

func TestCountsThatDisagreeAreAFailedReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeHandle{sm: 1_000_000}
		odd := false
		a.shares = func(uint64) ([]processShare, error) {
			if odd = !odd; odd {
				return nil, errOdd
			}
			return nil, nil
		}
		r := newRig(t, whole("A", a, true))
		wait(6500 * time.Millisecond)
		for _, e := range r.seen("A", sampler.Sampled) {
			if e.Sample.Gap {
				t.Fatal("single failures make a gap")
			}
		}
		if n := r.s.Stats().FailedReadings; n < 3 {
			t.Fatalf("%d failed readings", n)
		}
		r.end()
	})
}
