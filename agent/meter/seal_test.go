package meter

import (
	"errors"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestWindowsOfAnExclusiveDevice(t *testing.T) {
	r := newRig(t, Options{})
	d, a := r.dev("G"), r.own("a")
	r.record(
		Added(d, at(0)), Hold(d, a, 1, at(0)),
		Activity(d, at(0.5), at(2.5), 1_000_000_001, 7, true),
		Use(d, a, at(0.5), at(2.5), 1_000_000_001, 9),
	)
	r.seal(3)
	// 500,000,000.25, 1,000,000,000.75 and 1,000,000,001 ns have come by the ends
	// of the windows; of the energy 1.75, 5.25 and 7; of the memory 2.25, 6.75, 9.
	r.expect(0, "\nG(H100) sm/device energy=1: [a used 250000000 sm=250000000 mem=2] [a reserved 250000000 sm=0 mem=0] [a unobserved 500000000 sm=0 mem=0]")
	r.expect(1, "\nG(H100) sm/device energy=4: [a used 500000000 sm=500000000 mem=4] [a reserved 500000000 sm=0 mem=0]")
	r.expect(2, "\nG(H100) sm/device energy=2: [a used 250000001 sm=250000001 mem=3] [a reserved 249999999 sm=0 mem=0] [a unobserved 500000000 sm=0 mem=0]")
	r.expect(3, "\nG(H100) sm energy=0: [a unobserved 1000000000 sm=0 mem=0]")
}

func TestHoldingsChangeWithinAWindow(t *testing.T) {
	r := newRig(t, Options{})
	d, a, b := r.dev("G"), r.own("a"), r.own("b")
	r.record(
		Added(d, at(0)),
		Hold(d, a, 1, at(0.25)), Hold(d, b, 3, at(0.5)), Release(d, a, at(0.75)),
		Activity(d, at(0), at(1), 0, 0, true),
	)
	r.seal(1)
	r.expect(0, "\nG(H100) sm/process energy=0: [nobody unallocated 250000000 sm=0 mem=0] [a reserved 312500000 sm=0 mem=0] [b reserved 437500000 sm=0 mem=0]")
	r.expect(1, "\nG(H100) sm energy=0: [b unobserved 1000000000 sm=0 mem=0]")
}

func TestDeviceComesAndGoesWithinAWindow(t *testing.T) {
	r := newRig(t, Options{})
	d, a := r.dev("G"), r.own("a")
	again := *testDevice("G")
	again.Model = "other"
	d2, err := r.Device(&again)
	if err != nil {
		t.Fatal(err)
	}
	r.record(
		Added(d, at(0.25)), Hold(d, a, 1, at(0.25)), Activity(d, at(0.25), at(0.5), 0, 5, true), Removed(d, at(0.5)),
		Activity(d, at(0.5), at(0.75), 100, 50, true), // of a device that is not there
		Added(d2, at(0.75)), Activity(d2, at(0.75), at(2), 0, 0, true), Removed(d2, at(2)),
	)
	r.seal(3)
	r.expect(0, "\nG(H100) sm/process energy=5: [nobody unallocated 250000000 sm=0 mem=0] [nobody unobserved 500000000 sm=0 mem=0] [a reserved 250000000 sm=0 mem=0]")
	r.expect(1, "\nG(other) sm/process energy=0: [nobody unallocated 1000000000 sm=0 mem=0]")
	r.expect(2, "")
	if s := r.Stats(); s.Stray.SMActive != 100 || s.Stray.Energy != 50 {
		t.Errorf("stray: %+v", s.Stray)
	}
}

func TestOneInstant(t *testing.T) {
	tests := map[string]struct {
		lanes [2][]kind // of changes at 0.5 s, by lane; the device exists, held by a
		held  bool
	}{
		"a release and then a holding":    {[2][]kind{{released, held}}, true},
		"a holding and then a release":    {[2][]kind{{held, released}}, false},
		"release and holding on 2 lanes":  {[2][]kind{{released}, {held}}, true},
		"holding and release on 2 lanes":  {[2][]kind{{held}, {released}}, true},
		"removed and added":               {[2][]kind{{removed, added}}, false},
		"removed, added, held":            {[2][]kind{{removed, added, held}}, true},
		"held, then removed, then added":  {[2][]kind{{held, removed, added}}, false},
		"described anew":                  {[2][]kind{{added}}, true},
		"added on one, removed elsewhere": {[2][]kind{{added, held}, {removed}}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			d, a := r.dev("G"), r.own("a")
			other, err := r.Lane()
			if err != nil {
				t.Fatal(err)
			}
			r.record(Added(d, at(0)), Hold(d, a, 1, at(0)))
			for i, l := range []*Lane{r.lane, other} {
				for _, k := range test.lanes[i] {
					x := map[kind]Record{
						added: Added(d, at(0.5)), removed: Removed(d, at(0.5)), held: Hold(d, a, 1, at(0.5)), released: Release(d, a, at(0.5)),
					}[k]
					if !l.Record(x) {
						t.Fatal("lost")
					}
				}
			}
			r.seal(1)
			who := "nobody"
			if test.held {
				who = "a"
			}
			r.expect(1, "\nG(H100) sm energy=0: ["+who+" unobserved 1000000000 sm=0 mem=0]")
		})
	}
}

func TestDescriptionChangesFromTheNextWindow(t *testing.T) {
	r := newRig(t, Options{})
	anew := *testDevice("G")
	anew.Model = "relabelled"
	d := r.dev("G")
	d2, err := r.Device(&anew)
	if err != nil {
		t.Fatal(err)
	}
	r.record(Added(d, at(0)), Hold(d, r.own("a"), 1, at(0)), Added(d2, at(0.5)))
	r.seal(1)
	r.expect(0, "\nG(H100) sm energy=0: [a unobserved 1000000000 sm=0 mem=0]")
	r.expect(1, "\nG(relabelled) sm energy=0: [a unobserved 1000000000 sm=0 mem=0]")
}

func TestLateReadings(t *testing.T) {
	r := newRig(t, Options{})
	d, a, b := r.dev("G"), r.own("a"), r.own("b")
	r.record(Added(d, at(0)), Hold(d, a, 1, at(0)))
	r.seal(1)
	r.record(
		Activity(d, at(0), at(4), 2*ns, 400, true), Use(d, a, at(0), at(4), 2*ns, 40),
		Activity(d, at(0), at(1), 77, 1, true),
		Release(d, a, at(0.5)), Hold(d, b, 1, at(0.5)),
	)
	r.seal(4)
	r.expect(1, "\nG(H100) sm energy=0: [a unobserved 1000000000 sm=0 mem=0]")
	r.expect(2, "\nG(H100) sm/process energy=100: [a used 500000000 sm=500000000 mem=10] [b reserved 500000000 sm=0 mem=0]")
	r.expect(4, "\nG(H100) sm energy=0: [b unobserved 1000000000 sm=0 mem=0]")
	if s := r.Stats().Late; s != (Amounts{Records: 3, SMActive: ns + 77, Used: ns, Energy: 201, Memory: 20}) {
		t.Errorf("late: %+v", s)
	}
}

func TestTalliesAreSpreadAndNeverLate(t *testing.T) {
	r := newRig(t, Options{})
	subject, err := r.Subject(r.own("a"), "llama", "", "")
	if err != nil {
		t.Fatal(err)
	}
	ok, err := r.Measure(attribution.Success)
	if err != nil {
		t.Fatal(err)
	}
	r.record(Tallied(subject, ok, at(0), at(3), 10), Tallied(subject, ok, at(4), at(5), 0))
	r.seal(5)
	for second, want := range []string{"\na llama success=3", "\na llama success=3", "\na llama success=4", "", "\na llama success=0", ""} {
		r.expect(attribution.Second(second), want)
	}
	r.record(
		Tallied(subject, ok, at(0), at(8), 9), // 6 and 7 are left
		Tallied(subject, ok, at(0), at(3), 5), // nothing is left: goes to 6
		Tallied(subject, ok, at(0), at(3), 0), // none: is on record
	)
	r.seal(7)
	r.expect(6, "\na llama success=9")
	r.expect(7, "\na llama success=5")
	if n := r.Stats().ShiftedTallies; n != 2 {
		t.Errorf("%d tallies shifted, want 2", n)
	}
}

func TestPolicyChangesFromTheNextWindow(t *testing.T) {
	r := newRig(t, Options{})
	d, a := r.dev("G"), r.own("a")
	r.record(Added(d, at(0)), Hold(d, a, 1, at(0)), Activity(d, at(0), at(2), 0, 0, true), Use(d, a, at(0), at(2), 0, 80<<30))
	r.seal(0)
	r.SetPolicy(attribution.PolicyMemory)
	r.seal(1)
	r.expect(0, "\nG(H100) sm/device energy=0: [a reserved 1000000000 sm=0 mem=42949672960]")
	r.expect(1, "\nG(H100) memory/device energy=0: [a used 500000000 sm=0 mem=42949672960] [a reserved 500000000 sm=0 mem=0]")
}

// A second whose emission failed is emitted again, the same.
func TestLaw3FailedEmissionIsRepeated(t *testing.T) {
	r := newRig(t, Options{})
	d := r.dev("G")
	r.record(Added(d, at(0)), Activity(d, at(0), at(3), ns, 0, true))
	full := errors.New("disk full")
	var first *attribution.Chunk
	err := r.Seal(start+2, func(s *Sealed) error {
		first = chunkOf(t, s)
		return full
	})
	if !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	r.record(Removed(d, at(2)))
	r.seal(2)
	if len(r.out) != 3 || show(r.out[0]) != show(first) {
		t.Errorf("%d seconds; again %s, first %s", len(r.out), show(r.out[0]), show(first))
	}
	r.expect(2, "")
}

func TestMalformedRecordsAreCounted(t *testing.T) {
	r := newRig(t, Options{})
	d, a := r.dev("G"), r.own("a")
	r.record(
		Activity(d, at(1), at(1), 0, 0, true), Activity(d, at(1), at(0), 0, 0, true), Use(d, a, -5, at(0), 0, 0),
		Use(d, a, at(0), at(1), -1, 0), Use(d, a, at(0), at(1), 0, -1), Hold(d, a, -1, at(0)), Added(d, 1<<63-1), Record{},
	)
	r.seal(0)
	if s := r.Stats(); s.Malformed != 8 {
		t.Errorf("malformed: %d, want 8", s.Malformed)
	}
	r.expect(0, "")
}

// What a counter claims beyond what its time can hold is counted, and cannot
// overflow anything.
func TestLaw8HostileAmountsAreHeldToTheirTime(t *testing.T) {
	r := newRig(t, Options{})
	d := r.dev("G")
	const huge = 1<<63 - 1
	r.record(Added(d, at(0)))
	for _, name := range []string{"a", "b", "c"} {
		r.record(Hold(d, r.own(name), huge, at(0)))
		for range 3 {
			r.record(Activity(d, at(0), at(1), huge, huge, true), Use(d, r.own(name), at(0), at(1), huge, huge))
		}
	}
	s, err := r.Subject(r.own("a"), "m", "", "")
	if err != nil {
		t.Fatal(err)
	}
	measure, err := r.Measure("x")
	if err != nil {
		t.Fatal(err)
	}
	r.record(Tallied(s, measure, at(0), at(1), huge), Tallied(s, measure, at(0), at(1), huge))
	r.seal(0)
	c := r.out[0]
	if c.Windows[0].Energy != attribution.MaxPerSecond || c.Tallies[0].Value != attribution.MaxPerSecond {
		t.Errorf("energy %d, tally %d", c.Windows[0].Energy, c.Tallies[0].Value)
	}
	if n := r.Stats().Clamped.Records; n != 20 {
		t.Errorf("clamped %d records, want 20", n)
	}
}

// Uses that began at different times still come in the owners' canonical
// order, each owner once: of equal remainders the first owner's is rounded up.
func TestUsesComeInCanonicalOrder(t *testing.T) {
	r := newRig(t, Options{})
	d, a, b := r.dev("G"), r.own("a"), r.own("b")
	r.record(
		Added(d, at(0)), Hold(d, b, 1, at(0)), Hold(d, a, 1, at(0)), Activity(d, at(0), at(1), 3, 0, true),
		Use(d, b, at(0), at(1), 2, 0), Use(d, a, at(0.25), at(1), 4, 0), Use(d, b, at(0.5), at(1), 2, 0),
	)
	r.seal(0)
	// Half of 3 each: the odd one is a's.
	r.expect(0, "\nG(H100) sm/process energy=0: [a used 2 sm=2 mem=0] [a reserved 499999999 sm=0 mem=0] [b used 1 sm=1 mem=0] [b reserved 499999998 sm=0 mem=0]")
}
