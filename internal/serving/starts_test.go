package serving

import (
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

// A container's start may be told later than the page tells the process's.
func TestARestartThatIsToldTwiceIsOne(t *testing.T) {
	at := func(page, outside int64) (Target, *Reading) {
		r := success(7)
		r.Started = page * second
		r.Partial = page == 0
		return Target{Name: "x", Started: outside * second}, r
	}
	for name, then := range map[string][][2]int64{ // the first has 7 from a new process
		"the container's start is late":               {{110, 50}, {110, 109}},
		"the container's start is early":              {{0, 109}, {110, 109}},
		"late, and the page is not whole":             {{110, 50}, {0, 109}, {110, 109}},
		"the page is not whole, and nothing tells it": {{0, 50}, {110, 50}},
		"nothing tells it, then both do":              {{0, 50}, {110, 109}},
	} {
		w := newWatch(t)
		to, r := at(60, 50)
		r.Counts[0].Value = 9
		w.see(to, r, -1)
		w.now = 111 * second
		for i, starts := range then {
			want := int64(0)
			if i == 0 {
				want = 7
			}
			to, r := at(starts[0], starts[1])
			w.see(to, r, want)
		}
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// Two that live at once are no restarts of each other, however often they
// answer by turns.
func TestTwoProcessesUnderOneNameAreNotCounted(t *testing.T) {
	page := func(r *Reading, start int64) (Target, *Reading) {
		r.Started = start * second
		return Target{Name: "x"}, r
	}
	outside := func(r *Reading, start int64) (Target, *Reading) {
		return Target{Name: "x", Started: start * second}, r
	}
	for _, start := range []func(*Reading, int64) (Target, *Reading){page, outside} {
		w := newWatch(t)
		w.now = 300 * second
		to, r := start(success(1000), 10)
		w.see(to, r, -1)
		for i := range int64(20) {
			to, r = start(success(900+i), 20)
			if n := w.see(to, r, -1); !n.Mixed || !n.First || n.Restarted || n.Fallen > 0 {
				t.Errorf("%+v", n)
			}
			to, r = start(success(1000+i, 500), 10)
			w.see(to, r, -1)
		}
		to, r = start(success(1022, 501), 10) // the other one is gone
		w.see(to, r, 4)
		if s := w.Stats(); s.Mixed != 40 || s.Restarts != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// A clock that was put back must not make a history that grows for ever.
func TestLaw8AHistoryIsBoundedWhateverTheClock(t *testing.T) {
	tr := NewTracker(0, DefaultLimits())
	year := 365 * 24 * 3600 * second
	tr.Observe(server, 2*year, success(1))
	for i := range int64(3 * mostSteps) {
		tr.Observe(server, year+i*second, success(1))
		if n := len(tr.targets[server.Name].steps); n > mostSteps {
			t.Fatalf("%d steps", n)
		}
	}
	if v, _ := tr.Observe(server, year, success(5)); sum(v, attribution.Success) != 4 {
		t.Errorf("%v", v)
	}
}

// A server from before the tracker stays known when its readings are undone,
// also if it had no series yet: what it counts then is new.
func TestABaselineWithoutSeriesStaysOne(t *testing.T) {
	w := newWatch(t)
	w.see(server, &Reading{Rules: 1}, -1)
	w.see(server, success(5), 5)
	back, err := RestoreTracker(w.State(), 0, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	w.Tracker = back
	w.see(server, success(6), 6)
}
