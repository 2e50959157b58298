package serving

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

const second = int64(1e9)

// reading is of one model, with a series for each value.
func reading(m attribution.Measure, values ...int64) *Reading {
	r := &Reading{Format: "test", Rules: 1}
	for i, v := range values {
		r.Counts = append(r.Counts, Count{Measure: m, Series: uint64(i + 1), Value: v})
	}
	return r
}

func success(values ...int64) *Reading { return reading(attribution.Success, values...) }

// sum is what was found of a measure; -1 where nothing is said.
func sum(values []Value, m attribution.Measure) int64 {
	total := int64(-1)
	for _, v := range values {
		if v.Measure == m {
			total = max(total, 0) + v.Value
		}
	}
	return total
}

// watch observes readings a second apart and checks what each yields.
type watch struct {
	*testing.T
	*Tracker
	now int64
}

func newWatch(t *testing.T) *watch {
	return &watch{T: t, Tracker: NewTracker(100*second, DefaultLimits()), now: 100 * second}
}

func (w *watch) see(to Target, r *Reading, want int64) Note {
	w.Helper()
	w.now += second
	values, note := w.Observe(to, w.now, r)
	if got := sum(values, attribution.Success); got != want {
		w.Errorf("at %d: %d, want %d (%+v)", w.now/second, got, want, note)
	}
	return note
}

var server = Target{Name: "pod:8000"}

func TestAnOldServerBeginsWithABaseline(t *testing.T) {
	w := newWatch(t)
	if n := w.see(server, success(50), -1); !n.First {
		t.Errorf("%+v", n)
	}
	w.see(server, success(53), 3)
	w.see(server, success(53), 0) // measured: none
	w.see(server, &Reading{}, -1) // not measured
	w.see(server, success(60), 7)
}

func TestAServerThatBeginsUnderWatchCountsFromItsStart(t *testing.T) {
	w := newWatch(t)
	young := success(5)
	young.Started = 101 * second
	if n := w.see(server, young, 5); n.First {
		t.Errorf("%+v", n)
	}
	w.see(Target{Name: "b", Started: 102 * second}, success(7), 7)
	w.see(Target{Name: "c", Started: 99 * second}, success(7), -1)
}

// Trap 12: a container's restart resets counters.
func TestRestarts(t *testing.T) {
	w := newWatch(t)
	w.see(server, success(50), -1)
	w.see(server, success(60), 10)
	if n := w.see(server, success(4), 4); n.Fallen != 1 || n.Restarted {
		t.Errorf("by a fall: %+v", n)
	}
	// Another start is a restart even where the counts have risen.
	told := success(10)
	told.Started = 200 * second
	w.see(server, told, 6)
	again := success(30)
	again.Started = 300 * second
	if n := w.see(server, again, 30); !n.Restarted {
		t.Errorf("by its start: %+v", n)
	}
	again.Started = 0 // the page does not say it this time
	w.see(server, again, 0)
	outside := Target{Name: server.Name, Started: 300 * second}
	w.see(outside, again, 0)
	outside.Started = 400 * second
	w.see(outside, success(1), 1)
	if s := w.Stats(); s.Restarts != 2 || s.Fallen != 1 {
		t.Errorf("%+v", s)
	}
}

func TestOneOfSeveralEnginesBeginsAnew(t *testing.T) {
	w := newWatch(t)
	w.see(server, success(100, 100), -1)
	w.see(server, success(3, 110), 13) // their sum has fallen by 87
}

func TestSeriesComeAndGo(t *testing.T) {
	w := newWatch(t)
	w.see(server, success(10), -1)
	w.see(server, success(10, 4), 4)  // a second one begins
	w.see(server, success(11), 1)     // and is cut off the page
	w.see(server, success(11, 9), 5)  // and returns
	w.see(server, &Reading{}, -1)     // everything is
	w.see(server, success(12, 12), 4) // and returns
}

// Of a first page that was cut, what is missing may be old.
func TestAPageThatWasCutIsNoBaseline(t *testing.T) {
	w := newWatch(t)
	cut := success(10)
	cut.Partial = true
	w.see(server, cut, -1)
	cut = success(12, 1000)
	cut.Partial = true
	w.see(server, cut, 2)
	w.see(server, success(12, 1001, 5000), 1)
	w.see(server, success(12, 1001, 5000, 3), 3)
}

// Rules that read more of a page than before find what is not new.
func TestOtherRulesBeginWithABaseline(t *testing.T) {
	w := newWatch(t)
	w.see(server, success(10), -1)
	other := success(11, 500)
	other.Rules = 2
	w.see(server, other, 1)
	other = success(11, 502)
	other.Rules = 2
	w.see(server, other, 2)
}

func TestADifferenceIsNeverTakenBack(t *testing.T) {
	pair := func(plus, minus, hold int64) *Reading {
		r := &Reading{Rules: 1, Counts: []Count{
			{Measure: attribution.Success, Series: 1, Value: plus},
			{Measure: attribution.Success, Series: 2, Value: minus, Minus: true},
		}}
		if hold > 0 {
			r.Unsettled = []Value{{Measure: attribution.Success, Value: hold}}
		}
		return r
	}
	w := newWatch(t)
	young := pair(100, 90, 10) // all of it in flight
	young.Started = 101 * second
	w.see(server, young, 0)
	w.see(server, pair(120, 105, 10), 5)
	w.see(server, pair(120, 112, 0), 3) // 8 in all, exactly
	w.see(server, pair(130, 126, 0), 0) // the sum falls to 4
	w.see(server, pair(140, 131, 0), 1) // and rises to 9
	w.see(server, pair(200, 131, math.MaxInt64), 0)
	w.see(server, pair(200, 191, 0), 0)
}

func TestStill(t *testing.T) {
	w := newWatch(t)
	busy := success(10)
	busy.Gauges = []Value{{Measure: attribution.Running, Value: 1}}
	w.see(server, busy, -1)
	w.see(server, busy, 0)
	if n := w.see(server, busy, 0); n.Still != 3 {
		t.Errorf("%+v", n)
	}
	busy.Counts[0].Value++
	if n := w.see(server, busy, 1); n.Still != 0 {
		t.Errorf("%+v", n)
	}
}

func TestLaw8TheTrackerIsBounded(t *testing.T) {
	tr := NewTracker(0, Limits{Targets: 2, Series: 3, History: 10 * second, Undo: 5})
	young := Target{Name: "a", Started: 1}
	if v, n := tr.Observe(young, second, success(1, 1, 1, 1, 1)); sum(v, attribution.Success) != 3 || n.Refused != 2 {
		t.Errorf("%v %+v", v, n)
	}
	tr.Observe(Target{Name: "b"}, second, success(1))
	if _, n := tr.Observe(Target{Name: "c"}, second, success(1)); n.Refused != 1 {
		t.Errorf("%+v", n)
	}
	for i := range int64(100) {
		tr.Observe(young, (i+2)*second, success(i, i, i))
	}
	if a := tr.targets["a"]; a.undo > 5 || len(a.steps) > 10 {
		t.Errorf("%d changes in %d steps", a.undo, len(a.steps))
	}
	tr.Forget("a")
	if s := tr.Stats(); s.Targets != 1 || s.Series != 1 || s.Refused != 3 || !slices.Equal(tr.Targets(), []string{"b"}) {
		t.Errorf("%+v", s)
	}
}

func TestHugeValuesDoNotWrap(t *testing.T) {
	w := newWatch(t)
	w.see(server, success(0, 0, 0), -1)
	w.see(server, success(math.MaxInt64, math.MaxInt64, math.MaxInt64), math.MaxInt64)
}

func TestADamagedStateIsRefused(t *testing.T) {
	w := newWatch(t)
	w.see(server, success(1, 2, 3), -1)
	w.see(server, success(2, 2, 4), 2)
	state := w.State()
	for i := range state {
		bad := slices.Clone(state)
		bad[i] ^= 0x40
		if _, err := RestoreTracker(bad, math.MaxInt64, DefaultLimits()); !errors.Is(err, ErrState) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, err := RestoreTracker(state[:i], math.MaxInt64, DefaultLimits()); !errors.Is(err, ErrState) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
}

// crashing is an agent that is killed and continues at what its ledger has,
// and the servers that it reads.
type crashing struct {
	tracker *Tracker
	now     int64
	ledger  []entry // in the order of time
	servers [3]counting
	served  int64
	lost    int64 // with the ledger's end, of lives that have ended since
}

type entry struct {
	at, value int64
	server    int
	life      int64
}

type counting struct {
	started int64 // 0: not yet
	counts  [4]int64
}

func (c *crashing) scrape(i int) {
	s := &c.servers[i]
	c.now += second
	if s.started == 0 {
		return
	}
	r := &Reading{Started: s.started, Rules: 1}
	for k, v := range s.counts {
		if v > 0 { // a series appears with its first request
			r.Counts = append(r.Counts, Count{Measure: attribution.Success, Series: uint64(k), Value: v})
		}
	}
	values, _ := c.tracker.Observe(Target{Name: fmt.Sprint(i)}, c.now, r)
	c.ledger = append(c.ledger, entry{c.now, max(0, sum(values, attribution.Success)), i, s.started})
}

func (c *crashing) restart(i int) {
	c.scrape(i) // what it served since would be lost with it
	c.now += 10 * second
	c.servers[i] = counting{started: c.now}
}

// kill loses the ledger's end from an entry on, but not the tracker's state,
// which was written before.
func (c *crashing) kill(t *rapid.T, keep int) {
	through := c.now
	if keep < len(c.ledger) {
		through = c.ledger[keep].at - 1
	}
	for _, e := range c.ledger[keep:] {
		if c.servers[e.server].started != e.life {
			c.lost += e.value
		}
	}
	c.ledger = c.ledger[:keep]
	var err error
	if c.tracker, err = RestoreTracker(c.tracker.State(), through, c.tracker.limits); err != nil {
		t.Fatal(err)
	}
}

// However often the agent is killed, and whatever of its ledger's end is lost
// with it, the sum is what the servers served.
func TestLaw3RestartsOfTheAgentLoseAndRepeatNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &crashing{tracker: NewTracker(0, Limits{Targets: 9, Series: 9, History: math.MaxInt64, Undo: 1 << 20}), now: second}
		server := rapid.IntRange(0, len(c.servers)-1)
		t.Repeat(map[string]func(*rapid.T){
			"serve": func(t *rapid.T) {
				s := &c.servers[server.Draw(t, "server")]
				if s.started == 0 {
					c.now += second
					s.started = c.now
				}
				n := rapid.Int64Range(1, 100).Draw(t, "n")
				s.counts[rapid.IntRange(0, 3).Draw(t, "series")] += n
				c.served += n
			},
			"scrape":  func(t *rapid.T) { c.scrape(server.Draw(t, "server")) },
			"restart": func(t *rapid.T) { c.restart(server.Draw(t, "server")) },
			"kill":    func(t *rapid.T) { c.kill(t, rapid.IntRange(max(0, len(c.ledger)-5), len(c.ledger)).Draw(t, "kept")) },
		})
		for i := range c.servers {
			c.scrape(i)
		}
		var counted int64
		for _, e := range c.ledger {
			counted += e.value
		}
		if counted != c.served-c.lost {
			t.Fatalf("counted %d, served %d, of which %d are lost", counted, c.served, c.lost)
		}
		for name, tg := range c.tracker.targets {
			n := 0
			for _, s := range tg.steps {
				n += len(s.changes)
			}
			if n != tg.undo {
				t.Fatalf("server %s: %d changes to undo, %d said", name, n, tg.undo)
			}
		}
	})
}

// The same state gives the same bytes, and comes back as it was.
func TestStateComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := NewTracker(rapid.Int64Range(0, 100).Draw(t, "since"), DefaultLimits())
		for i := range rapid.IntRange(0, 20).Draw(t, "readings") {
			values := rapid.SliceOfN(rapid.Int64Range(0, 1000), 0, 5).Draw(t, "values")
			r := success(values...)
			r.Partial = rapid.Bool().Draw(t, "partial")
			r.Started = rapid.Int64Range(0, 1).Draw(t, "started") * 50 * second
			tr.Observe(Target{Name: rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "name")}, int64(i)*second, r)
		}
		state := tr.State()
		back, err := RestoreTracker(state, math.MaxInt64, DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(back.State(), state) {
			t.Fatal("the state of the restored tracker differs")
		}
	})
}

func FuzzRestoreTracker(f *testing.F) {
	tr := NewTracker(1, DefaultLimits())
	tr.Observe(server, second, success(1, 2))
	tr.Observe(server, 2*second, success(2, 3))
	state := tr.State()
	f.Add(state[:len(state)-4], int64(0))
	f.Fuzz(func(t *testing.T, body []byte, through int64) {
		state := binary.BigEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
		tr, err := RestoreTracker(state, through, DefaultLimits())
		if err != nil {
			return
		}
		if again, err := RestoreTracker(tr.State(), through, DefaultLimits()); err != nil || len(again.targets) != len(tr.targets) {
			t.Fatalf("%v", err)
		}
	})
}
