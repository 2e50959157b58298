package workload

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ns                       = attribution.WindowNanos
	start attribution.Second = 1_700_000_000
)

func at(seconds float64) int64 { return start.Nanos() + int64(seconds*1e9) }

func owner(pod string) *attribution.Owner {
	return &attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Pod: pod}
}

func added(seconds float64, id string) *sampler.Event {
	return &sampler.Event{Kind: sampler.DeviceAdded, Time: at(seconds), Device: &attribution.Device{ID: id, Cluster: "c", Node: "n", MemoryBytes: 1000}}
}

func sampled(seconds float64, s sampler.Sample) *sampler.Event {
	s.ProcessSM = true
	return &sampler.Event{Kind: sampler.Sampled, Time: at(seconds), DeviceID: "G", Sample: &s}
}

func reading(pid uint32, pod string, smActive, memory int64) sampler.Process {
	p := sampler.Process{PID: pid, Start: 1, SMActive: smActive, MemoryBytes: memory}
	if pod != "" {
		p.Owner = owner(pod)
	}
	return p
}

// show seals up to a second and lists the slices of each window.
func show(t *testing.T, m *meter.Meter, through attribution.Second) []string {
	t.Helper()
	var out []string
	err := m.Seal(start+through, func(s *meter.Sealed) error {
		line := ""
		for _, w := range s.Windows {
			line += fmt.Sprintf("%s %d µJ:", s.Facts.Device(w.Device).ID, w.Energy)
			slices.SortFunc(w.Slices, func(a, b attribution.Slice) int {
				return cmp.Or(strings.Compare(s.Facts.Owner(a.Owner).Pod, s.Facts.Owner(b.Owner).Pod), cmp.Compare(a.Basis, b.Basis))
			})
			for _, x := range w.Slices {
				line += fmt.Sprintf(" %s/%s=%d,%d,%d", s.Facts.Owner(x.Owner).Pod, x.Basis, x.Time, x.SMActive, x.Memory)
			}
		}
		for _, x := range s.Tallies {
			subject := s.Facts.Subject(x.Subject)
			line += fmt.Sprintf(" %s/%s/%s/%s %s=%d", s.Facts.Owner(subject.Owner).Pod, subject.Model, subject.Tenant, subject.Tier, s.Facts.Measure(x.Measure), x.Value)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newFeed(t *testing.T) (*meter.Meter, *Feed) {
	t.Helper()
	m := meter.New(meter.Options{From: start})
	f, err := NewFeed(m)
	if err != nil {
		t.Fatal(err)
	}
	return m, f
}

func TestSamplesBecomeSlices(t *testing.T) {
	const ms = int64(1_000_000)
	rest := func(used int64) int64 { return ns - used }
	tests := map[string]struct {
		events []*sampler.Event
		want   []string // from second 0 on
	}{
		"the first sample covers nothing": {
			[]*sampler.Event{sampled(1, sampler.Sample{SMActive: 500 * ms, Energy: 99})},
			[]string{"G 0 µJ: /unobserved=1000000000,0,0"},
		},
		"increases count": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{SMActive: 7 * ns, Energy: 100, Processes: []sampler.Process{reading(1, "a", 5*ns, 0)}}),
				sampled(1, sampler.Sample{SMActive: 7*ns + 300*ms, Energy: 140, Processes: []sampler.Process{reading(1, "a", 5*ns+200*ms, 64)}}),
			},
			[]string{fmt.Sprintf("G 40 µJ: /unallocated=%d,0,0 /unattributed=%d,%d,0 a/used=%d,%d,64", rest(300*ms), 100*ms, 100*ms, 200*ms, 200*ms)},
		},
		"a gap is unobserved, and counters start anew": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{SMActive: 7 * ns, Energy: 100}),
				sampled(1, sampler.Sample{SMActive: 8 * ns, Energy: 101, Gap: true, Processes: []sampler.Process{reading(1, "a", 100*ms, 0)}}),
				sampled(2, sampler.Sample{SMActive: 8*ns + 20*ms, Energy: 103, Processes: []sampler.Process{reading(1, "a", 110*ms, 0)}}),
			},
			[]string{"G 0 µJ: /unobserved=1000000000,0,0", fmt.Sprintf("G 2 µJ: /unallocated=%d,0,0 /unattributed=%d,%d,0 a/used=%d,%d,0", rest(20*ms), 10*ms, 10*ms, 10*ms, 10*ms)},
		},
		"a counter that went back was reset": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{SMActive: 70 * ns, Energy: 100, Processes: []sampler.Process{reading(1, "a", 50*ns, 0), reading(2, "b", 50*ns, 0)}}),
				sampled(1, sampler.Sample{SMActive: 3 * ns, Energy: 60, Processes: []sampler.Process{reading(1, "a", 300*ms, 0), reading(2, "b", 700*ms, 0)}}),
			},
			[]string{fmt.Sprintf("G 60 µJ: a/used=%d,%d,0 b/used=%d,%d,0", 300*ms, 300*ms, 700*ms, 700*ms)},
		},
		"a new process counts from its start if that fits": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{}),
				sampled(1, sampler.Sample{SMActive: ns, Processes: []sampler.Process{reading(1, "a", 400*ms, 0), reading(2, "b", ns+1, 0)}}),
				sampled(2, sampler.Sample{SMActive: 2 * ns, Processes: []sampler.Process{reading(1, "a", 400*ms, 0), reading(2, "b", ns+1+250*ms, 0)}}),
			},
			[]string{
				fmt.Sprintf("G 0 µJ: /unattributed=%d,%d,0 a/used=%d,%d,0", 600*ms, 600*ms, 400*ms, 400*ms),
				fmt.Sprintf("G 0 µJ: /unattributed=%d,%d,0 b/used=%d,%d,0", 750*ms, 750*ms, 250*ms, 250*ms),
			},
		},
		"a pid that is used again is another process": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{Processes: []sampler.Process{reading(1, "a", 100*ms, 0)}}),
				sampled(1, sampler.Sample{SMActive: ns, Processes: []sampler.Process{{PID: 1, Start: 2, SMActive: 150 * ms, Owner: owner("b")}}}),
			},
			[]string{fmt.Sprintf("G 0 µJ: /unattributed=%d,%d,0 b/used=%d,%d,0", 850*ms, 850*ms, 150*ms, 150*ms)},
		},
		"processes of an owner add up, and a process without one is unattributed": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{Processes: []sampler.Process{reading(1, "a", 0, 0), reading(2, "a", 0, 0), reading(3, "", 0, 0)}}),
				sampled(0.5, sampler.Sample{SMActive: 60 * ms, Processes: []sampler.Process{reading(1, "a", 10*ms, 10), reading(2, "a", 20*ms, 20), reading(3, "", 30*ms, 40)}}),
				sampled(1, sampler.Sample{SMActive: 60 * ms, Processes: []sampler.Process{reading(1, "a", 10*ms, 30)}}),
			},
			[]string{fmt.Sprintf("G 0 µJ: /unallocated=%d,0,0 /unattributed=%d,%d,20 a/used=%d,%d,30", rest(60*ms), 30*ms, 30*ms, 30*ms, 30*ms)},
		},
		"removed and added again it starts anew": {
			[]*sampler.Event{
				sampled(0, sampler.Sample{SMActive: 0}),
				{Kind: sampler.DeviceRemoved, Time: at(0.5), DeviceID: "G"},
				added(0.5, "G"),
				sampled(1, sampler.Sample{SMActive: 400 * ms}),
			},
			[]string{"G 0 µJ: /unobserved=1000000000,0,0"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, f := newFeed(t)
			for _, e := range append([]*sampler.Event{added(0, "G")}, test.events...) {
				if err := f.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
			for i, got := range show(t, m, attribution.Second(len(test.want)-1)) {
				if got != test.want[i] {
					t.Errorf("second %d:\n got %s\nwant %s", i, got, test.want[i])
				}
			}
		})
	}
}

func TestHoldingsAndTallies(t *testing.T) {
	m, f := newFeed(t)
	other, err := NewFeed(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(added(0, "G")); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*sampler.Event{
		{Kind: sampler.Held, Time: at(0), DeviceID: "G", Owner: owner("a"), Replicas: 3}, // of a device that another feed samples
		{Kind: sampler.Held, Time: at(0), DeviceID: "G", Owner: owner("b"), Replicas: 1},
		{Kind: sampler.Released, Time: at(1), DeviceID: "G", Owner: owner("a")},
		{Kind: sampler.Tallied, Time: at(2), Tally: &sampler.Tally{Owner: owner("a"), Model: "m", Tenant: "t", Tier: "gold", Seconds: 2, Values: []sampler.Value{{Measure: attribution.Success, Value: 5}, {Measure: "failure/oom", Value: 0}}}},
	} {
		if err := other.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"G 0 µJ: a/unobserved=750000000,0,0 b/unobserved=250000000,0,0 a/m/t/gold success=2 a/m/t/gold failure/oom=0",
		"G 0 µJ: b/unobserved=1000000000,0,0 a/m/t/gold success=3 a/m/t/gold failure/oom=0",
	}
	if got := show(t, m, 1); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	f.Close()
	other.Close()
	m.Drain()
	if n := m.Stats().Lanes; n != 0 {
		t.Errorf("%d lanes are left", n)
	}
}

func TestBadEventsAreRefusedWhole(t *testing.T) {
	many := make([]sampler.Process, MaxProcesses+1)
	for i := range many {
		many[i] = reading(uint32(i), "a", 0, 0)
	}
	tally := func(tally sampler.Tally) *sampler.Event {
		return &sampler.Event{Kind: sampler.Tallied, Time: at(1), Tally: &tally}
	}
	tests := map[string]*sampler.Event{
		"no kind":             {Time: at(1)},
		"before 1970":         {Kind: sampler.Sampled, Time: -1},
		"after 2255":          {Kind: sampler.Sampled, Time: math.MaxInt64},
		"no device":           {Kind: sampler.DeviceAdded, Time: at(1)},
		"no device id":        added(1, ""),
		"unknown device":      {Kind: sampler.Sampled, Time: at(1), DeviceID: "H", Sample: &sampler.Sample{}},
		"unknown is held":     {Kind: sampler.Held, Time: at(1), DeviceID: "H", Owner: owner("a"), Replicas: 1},
		"unknown is removed":  {Kind: sampler.DeviceRemoved, Time: at(1), DeviceID: "H"},
		"no sample":           {Kind: sampler.Sampled, Time: at(1), DeviceID: "G"},
		"the same time":       sampled(0.5, sampler.Sample{}),
		"back in time":        sampled(0.25, sampler.Sample{}),
		"added back in time":  added(0.25, "G"),
		"held back in time":   {Kind: sampler.Held, Time: at(0.25), DeviceID: "G", Owner: owner("a"), Replicas: 1},
		"held by nobody":      {Kind: sampler.Held, Time: at(1), DeviceID: "G", Replicas: 1},
		"no replicas":         {Kind: sampler.Held, Time: at(1), DeviceID: "G", Owner: owner("a")},
		"too many replicas":   {Kind: sampler.Held, Time: at(1), DeviceID: "G", Owner: owner("a"), Replicas: MaxReplicas + 1},
		"negative activity":   sampled(1, sampler.Sample{SMActive: -1}),
		"negative energy":     sampled(1, sampler.Sample{Energy: -1}),
		"too many processes":  sampled(1, sampler.Sample{Processes: many}),
		"negative process":    sampled(1, sampler.Sample{Processes: []sampler.Process{reading(1, "a", -1, 0)}}),
		"negative memory":     sampled(1, sampler.Sample{Processes: []sampler.Process{reading(1, "a", 0, -1)}}),
		"impossible memory":   sampled(1, sampler.Sample{Processes: []sampler.Process{reading(1, "a", 0, MaxMemoryBytes+1)}}),
		"a process twice":     sampled(1, sampler.Sample{Processes: []sampler.Process{reading(1, "a", 0, 0), reading(1, "b", 0, 0)}}),
		"one of many twice":   sampled(1, sampler.Sample{Processes: append(many[:100:100], many[50])}),
		"no tally":            {Kind: sampler.Tallied, Time: at(1)},
		"a tally of no time":  tally(sampler.Tally{}),
		"a tally too long":    tally(sampler.Tally{Seconds: MaxTallySeconds + 1}),
		"a tally before 1970": {Kind: sampler.Tallied, Time: ns, Tally: &sampler.Tally{Seconds: 2}},
		"a tally too wide":    tally(sampler.Tally{Seconds: 1, Values: make([]sampler.Value, MaxTallyValues+1)}),
		"a negative tally":    tally(sampler.Tally{Seconds: 1, Values: []sampler.Value{{Measure: "x", Value: -1}}}),
		"a nameless tally":    tally(sampler.Tally{Seconds: 1, Values: []sampler.Value{{Value: 1}}}),
	}
	for name, e := range tests {
		t.Run(name, func(t *testing.T) {
			m, f := newFeed(t)
			for _, good := range []*sampler.Event{added(0, "G"), sampled(0.5, sampler.Sample{SMActive: 100})} {
				if err := f.Apply(good); err != nil {
					t.Fatal(err)
				}
			}
			err := f.Apply(e)
			if !errors.Is(err, ErrEvent) {
				t.Fatalf("got %v", err)
			}
			// The feed goes on as if the event had not been.
			if err := f.Apply(sampled(1.5, sampler.Sample{SMActive: 200})); err != nil {
				t.Fatal(err)
			}
			want := []string{"G 0 µJ: /unallocated=499999950,0,0 /unattributed=50,50,0 /unobserved=500000000,0,0", "G 0 µJ: /unallocated=499999950,0,0 /unattributed=50,50,0 /unobserved=500000000,0,0"}
			if got := show(t, m, 1); !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
}

// A change that a full lane has no room for is an error, and counts when it is
// applied again.
func TestLaw8ChangesAreNotLostInAFullLane(t *testing.T) {
	m := meter.New(meter.Options{From: start, LaneRecords: 1})
	f, err := NewFeed(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(added(0, "G")); err != nil {
		t.Fatal(err)
	}
	held := 0
	for ; err == nil; held++ {
		err = f.Apply(&sampler.Event{Kind: sampler.Held, Time: at(0), DeviceID: "G", Owner: owner(fmt.Sprintf("%03d", held)), Replicas: 1})
	}
	if !errors.Is(err, meter.ErrFull) || held > 1000 {
		t.Fatalf("after %d: %v", held, err)
	}
	m.Drain()
	if err := f.Apply(&sampler.Event{Kind: sampler.Held, Time: at(0), DeviceID: "G", Owner: owner(fmt.Sprintf("%03d", held-1)), Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(show(t, m, 0)[0], "unobserved"); got != held {
		t.Errorf("%d holders, want %d", got, held)
	}
}

// Whatever counters do, the windows have exactly the increases.
func TestLaw1CountersAreConserved(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, f := newFeed(t)
		if err := f.Apply(added(0, "G")); err != nil {
			rt.Fatal(err)
		}
		time := at(0)
		var s sampler.Sample
		var wantSM, wantEnergy int64
		for i := range rapid.IntRange(1, 20).Draw(rt, "samples") {
			length := rapid.Int64Range(1, 3*ns).Draw(rt, "length")
			gap := rapid.IntRange(0, 4).Draw(rt, "gap") == 0
			reset := rapid.IntRange(0, 4).Draw(rt, "reset") == 0
			sm, energy := rapid.Int64Range(0, length).Draw(rt, "sm"), rapid.Int64Range(0, 1000).Draw(rt, "energy")
			time += length
			if reset && sm < s.SMActive && energy < s.Energy {
				s.SMActive, s.Energy = 0, 0
			}
			s = sampler.Sample{SMActive: s.SMActive + sm, Energy: s.Energy + energy, Gap: gap}
			e := &sampler.Event{Kind: sampler.Sampled, Time: time, DeviceID: "G", Sample: &s}
			if err := f.Apply(e); err != nil {
				rt.Fatal(err)
			}
			if i > 0 && !gap {
				wantSM += sm
				wantEnergy += energy
			}
		}
		var gotSM, gotEnergy int64
		err := m.Seal(start+61, func(s *meter.Sealed) error {
			for _, w := range s.Windows {
				gotEnergy += w.Energy
				for _, x := range w.Slices {
					gotSM += x.SMActive
				}
			}
			return nil
		})
		if err != nil || gotSM != wantSM || gotEnergy != wantEnergy {
			rt.Errorf("%d ns, %d µJ; want %d, %d (%v)", gotSM, gotEnergy, wantSM, wantEnergy, err)
		}
	})
}

// Where an MPS server's activity was split over its clients, the windows that
// it lies in say so by their method, and no others.
func TestSharedServerIsInTheMethod(t *testing.T) {
	m, f := newFeed(t)
	events := []*sampler.Event{added(0, "G")}
	for _, pod := range []string{"a", "b"} {
		events = append(events, &sampler.Event{Kind: sampler.Held, Time: at(0), DeviceID: "G", Owner: owner(pod), Replicas: 1})
	}
	for i := range int64(4) {
		events = append(events, sampled(float64(i), sampler.Sample{SMActive: i * 1000, SharedServer: i == 2, Processes: []sampler.Process{
			reading(1, "a", i*600, 0), reading(2, "b", i*400, 0),
		}}))
	}
	for _, e := range events {
		if err := f.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := m.Seal(start+2, func(s *meter.Sealed) error {
		got = append(got, s.Facts.Method(s.Windows[0].Method))
		return nil
	})
	if want := []string{"sm/process", "sm/mps", "sm/process"}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("methods %v, want %v; %v", got, want, err)
	}
}
