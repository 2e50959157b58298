package meter

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sums adds up what windows were given.
type sums struct {
	smActive, energy, memory, value int64
	windows                         int
}

func (x *sums) add(c *attribution.Chunk) {
	for i := range c.Windows {
		w := &c.Windows[i]
		x.windows++
		x.energy += w.Energy
		for _, s := range w.Slices {
			x.smActive += s.SMActive
			x.memory += s.Memory
		}
	}
	for _, t := range c.Tallies {
		x.value += t.Value
	}
}

// produce records random facts about all devices through one lane, forward in
// time with gaps, and returns what it recorded.
func produce(seed uint64, l *Lane, ds []DeviceHandle, os []OwnerHandle, s SubjectHandle, measure MeasureHandle, n int) (x sums) {
	rng := rand.New(rand.NewPCG(seed, 1))
	t := at(0) + rng.Int64N(ns)
	for range n {
		d, o := ds[rng.IntN(len(ds))], os[rng.IntN(len(os))]
		from, to := t, t+1+rng.Int64N(2*ns)
		switch rng.IntN(12) {
		case 0:
			l.Record(Hold(d, o, 1+rng.Int64N(3), t))
		case 1:
			l.Record(Release(d, o, t))
		case 2:
			if rng.IntN(4) == 0 {
				l.Record(Removed(d, t))
			}
			l.Record(Added(d, t))
		case 3, 4, 5, 6:
			sm, energy := rng.Int64N(to-from+1), rng.Int64N(1000)
			l.Record(Activity(d, from, to, sm, energy, rng.IntN(2) == 0))
			x.smActive += sm
			x.energy += energy
		case 7:
			v := rng.Int64N(100)
			l.Record(Tallied(s, measure, from, to, v))
			x.value += v
		default:
			memory := rng.Int64N(1 << 30)
			l.RecordAll([]Record{Use(d, o, from, to, rng.Int64N(to-from+1), memory), Hold(d, o, 1, t)})
			x.memory += memory
		}
		t += rng.Int64N(ns / 50)
	}
	return x
}

// Producers and the sealer run at once, with lanes that overflow, gaps, late
// readings and devices that come and go. Every window is a whole second
// (chunkOf checks it), and what was recorded is in the windows or in the
// counters of what did not count.
func TestLaw1ConservationUnderConcurrentProducers(t *testing.T) {
	const producers, records = 8, 3000
	m := New(Options{From: start, LaneRecords: 32, Intervals: 256, Changes: 64})
	var ds []DeviceHandle
	var os []OwnerHandle
	for i := range 5 {
		d, err := m.Device(testDevice(fmt.Sprintf("G%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		ds, os = append(ds, d), append(os, m.Owner(testOwner(fmt.Sprintf("o%d", i))))
	}
	subject, err := m.Subject(os[0], "m", "", "")
	if err != nil {
		t.Fatal(err)
	}
	measure, err := m.Measure(attribution.Success)
	if err != nil {
		t.Fatal(err)
	}
	first, err := m.Lane()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ds {
		first.Record(Added(d, at(0)))
	}
	first.Close()

	var wg sync.WaitGroup
	recorded := make([]sums, producers)
	for i := range producers {
		l, err := m.Lane()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			recorded[i] = produce(uint64(i), l, ds, os, subject, measure, records)
			l.Close()
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	var got, want sums
	emit := func(s *Sealed) error { got.add(chunkOf(t, s)); return nil }
	rng := rand.New(rand.NewPCG(1, 2))
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		// Mostly only drain: some readings are late, some not.
		through := m.Next() - 1
		if rng.IntN(40) == 0 {
			through++
		}
		if err := m.Seal(min(through, start+30), emit); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Seal(start+100, emit); err != nil {
		t.Fatal(err)
	}
	for _, r := range recorded {
		want.smActive, want.energy, want.memory, want.value = want.smActive+r.smActive, want.energy+r.energy, want.memory+r.memory, want.value+r.value
	}
	s := m.Stats()
	for _, a := range []Amounts{s.Lost, s.Late, s.Stray, s.Clamped} {
		got.smActive, got.energy, got.memory, got.value = got.smActive+a.SMActive, got.energy+a.Energy, got.memory+a.Memory, got.value+a.Value
	}
	want.windows = got.windows
	if got != want {
		t.Errorf("accounted for %+v, recorded %+v (%+v)", got, want, s)
	}
	if s.Lanes != 0 {
		t.Errorf("%d closed lanes are still there", s.Lanes)
	}
	t.Logf("%+v", s)
	if s.Malformed != 0 || s.MergedRecords == 0 {
		t.Errorf("malformed %d, merged %d: the test should overflow lanes with good records", s.Malformed, s.MergedRecords)
	}
}

// A state, written and read, continues where it was taken.
func TestLaw3StateContinuesWhereItWasTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cut := attribution.Second(rapid.IntRange(1, modelSeconds-1).Draw(t, "cut"))
		edge := (start + cut).Nanos()
		var facts []fact
		for _, f := range drawFacts(t, false) {
			// Intervals over the edge are lost to a restart; here none is.
			if f.kind.control() || f.from >= edge || f.to <= edge {
				facts = append(facts, f)
			}
		}
		want := play(t, facts, Options{From: start}, 0)

		got := map[attribution.Second]*attribution.Chunk{}
		tell := func(m *Meter, after bool) {
			var lanes []*Lane
			for range 4 {
				l, err := m.Lane()
				if err != nil {
					t.Fatal(err)
				}
				lanes = append(lanes, l)
			}
			var ds []DeviceHandle
			for i := range 2 * modelIDs {
				d, err := m.Device(modelDevice(i))
				if err != nil {
					t.Fatal(err)
				}
				ds = append(ds, d)
			}
			os := []OwnerHandle{{}}
			for i := 1; i <= modelOwners; i++ {
				os = append(os, m.Owner(modelOwner(i)))
			}
			for _, f := range facts {
				if (f.from >= edge) == after && (!after || f.kind != added) {
					lanes[f.lane].Record(f.record(ds, os))
				}
			}
		}
		for _, f := range facts {
			if f.kind == added && f.from >= edge {
				t.Skip("a device that is added again states its holdings afresh")
			}
		}
		m := New(Options{From: start})
		tell(m, false)
		if err := m.Seal(start+cut-1, into(t, got)); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(m.State())
		if err != nil {
			t.Fatal(err)
		}
		var st State
		if err := json.Unmarshal(text, &st); err != nil {
			t.Fatal(err)
		}
		m = New(Options{})
		if err := m.Restore(st, st.Next); err != nil {
			t.Fatal(err)
		}
		tell(m, true)
		if err := m.Seal(start+modelSeconds+7, into(t, got)); err != nil {
			t.Fatal(err)
		}
		same(t, "restored", got, want)
	})
}

// The time that nobody looked at is unobserved and the restored holders', until
// the device's source states who holds it now.
func TestLaw3GapIsBilledToTheRestoredHolders(t *testing.T) {
	before := newRig(t, Options{})
	d := before.dev("G")
	before.record(Added(d, at(0)), Hold(d, before.own("old"), 1, at(0)), Hold(d, before.own("kept"), 1, at(0)), Activity(d, at(0), at(1), 0, 0, true))
	before.seal(0)

	r := newRig(t, Options{})
	if err := r.Restore(before.State(), start+1); err != nil {
		t.Fatal(err)
	}
	d = r.dev("G")
	r.record(Added(d, at(3.5)), Hold(d, r.own("kept"), 1, at(3.5)), Activity(d, at(3.75), at(6), 0, 0, true))
	r.seal(4)
	for _, second := range []attribution.Second{1, 2} {
		r.expect(second, "\nG(H100) sm energy=0: [kept unobserved 500000000 sm=0 mem=0] [old unobserved 500000000 sm=0 mem=0]")
	}
	r.expect(3, "\nG(H100) sm/device energy=0: [kept reserved 250000000 sm=0 mem=0] [kept unobserved 500000000 sm=0 mem=0] [old unobserved 250000000 sm=0 mem=0]")
	r.expect(4, "\nG(H100) sm/device energy=0: [kept reserved 1000000000 sm=0 mem=0]")

	r = newRig(t, Options{KeepRestored: true})
	if err := r.Restore(before.State(), start+1); err != nil {
		t.Fatal(err)
	}
	d = r.dev("G")
	r.record(Added(d, at(1.5)), Release(d, r.own("old"), at(3)))
	r.seal(3)
	r.expect(2, "\nG(H100) sm energy=0: [kept unobserved 500000000 sm=0 mem=0] [old unobserved 500000000 sm=0 mem=0]")
	r.expect(3, "\nG(H100) sm energy=0: [kept unobserved 1000000000 sm=0 mem=0]")
}

func TestRestoreRefusesNonsense(t *testing.T) {
	device := DeviceState{Device: *testDevice("G"), Holdings: []HoldingState{{*testOwner("a"), 1}}}
	tests := map[string]State{
		"a device twice": {Devices: []DeviceState{device, device}},
		"no id":          {Devices: []DeviceState{{}}},
		"no replicas":    {Devices: []DeviceState{{Device: *testDevice("G"), Holdings: []HoldingState{{*testOwner("a"), 0}}}}},
		"held by nobody": {Devices: []DeviceState{{Device: *testDevice("G"), Holdings: []HoldingState{{attribution.Owner{}, 1}}}}},
		"one too many":   {Devices: []DeviceState{device, {Device: *testDevice("H")}}},
	}
	for name, st := range tests {
		t.Run(name, func(t *testing.T) {
			if err := New(Options{Devices: 1}).Restore(st, start); err == nil {
				t.Error("no error")
			}
		})
	}
	m := New(Options{})
	if err := m.Restore(State{Devices: []DeviceState{device}}, start); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(State{}, start); err == nil {
		t.Error("a state was restored over another")
	}
}
