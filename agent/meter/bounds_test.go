package meter

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

// Pods come and go for ever. Their numbers stay bounded, and each resolves to
// its owner for a minute of sealed seconds after it last appeared.
func TestLaw8NumbersAreGivenAgainAfterAMinute(t *testing.T) {
	const limit = 100
	r := newRig(t, Options{Owners: limit, Subjects: limit, Devices: limit})
	d := r.dev("G")
	measure, err := r.Measure(attribution.Success)
	if err != nil {
		t.Fatal(err)
	}
	r.record(Added(d, at(0)))
	type seen struct {
		second         attribution.Second
		owner, subject uint32
		device         uint32
		name           string
	}
	var recent []seen
	highest := uint32(0)
	for second := range attribution.Second(2000) {
		name := fmt.Sprintf("pod-%d", second)
		t0 := at(float64(second))
		o, mig := r.own(name), r.dev("MIG-"+name)
		subject, err := r.Subject(o, "m", "", "")
		if err != nil {
			t.Fatal(err)
		}
		r.record(
			Hold(d, o, 1, t0), Release(d, o, t0+ns), Added(mig, t0), Removed(mig, t0+ns),
			Tallied(subject, measure, t0, t0+ns, 1),
		)
		err = r.Seal(start+second, func(s *Sealed) error {
			if len(s.Windows) != 2 || len(s.Windows[0].Slices) != 1 || len(s.Tallies) != 1 {
				t.Fatalf("second %d: %+v", second, s)
			}
			x := seen{second, s.Windows[0].Slices[0].Owner, s.Tallies[0].Subject, s.Windows[1].Device, name}
			recent = append(recent, x)
			highest = max(highest, x.owner, x.subject, x.device)
			for len(recent) > 0 && second-recent[0].second > KeepSeconds {
				recent = recent[1:]
			}
			for _, x := range recent {
				subject := s.Facts.Subject(x.subject)
				if s.Facts.Owner(x.owner).Pod != x.name || s.Facts.Owner(subject.Owner).Pod != x.name || s.Facts.Device(x.device).ID != "MIG-"+x.name {
					t.Fatalf("second %d: the numbers of second %d are no longer %s", second, x.second, x.name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if highest > limit {
		t.Errorf("numbers up to %d with %d allowed", highest, limit)
	}
	if s := r.Stats(); s.RefusedOwners+s.RefusedSubjects+s.RefusedDevices > 0 || len(r.order) > limit {
		t.Errorf("refused with room left, or %d slots: %+v", len(r.order), s)
	}
}

// A handle stays good however long nothing is recorded with it, also when its
// owner was registered anew meanwhile.
func TestHandlesOutliveTheirNumbers(t *testing.T) {
	r := newRig(t, Options{})
	d, a := r.dev("G"), r.own("a")
	r.record(Added(d, at(0)))
	r.seal(200)
	if n := r.Stats().Owners; n != 0 {
		t.Fatalf("%d owners are known, want none", n)
	}
	again := r.own("a")
	r.record(Hold(d, a, 1, at(201)), Hold(d, again, 2, at(202)), Use(d, a, at(201), at(203), 0, 8), Use(d, again, at(202), at(203), 0, 8))
	r.seal(202)
	r.expect(202, "\nG(H100) sm energy=0: [a unobserved 1000000000 sm=0 mem=12]")
	r.record(Release(d, a, at(203)))
	r.seal(400)
	r.record(Hold(d, a, 1, at(401)))
	r.seal(401)
	r.expect(401, "\nG(H100) sm energy=0: [a unobserved 1000000000 sm=0 mem=0]")
}

func TestLaw8WhatALimitRefusesIsCounted(t *testing.T) {
	r := newRig(t, Options{Owners: 1, Subjects: 1, Devices: 1, Measures: 2, Lanes: 1})
	d, a := r.dev("G"), r.own("a")
	if _, err := r.Device(testDevice("H")); !errors.Is(err, ErrFull) {
		t.Errorf("a second device: %v", err)
	}
	if _, err := r.Lane(); !errors.Is(err, ErrFull) {
		t.Errorf("a second lane: %v", err)
	}
	if _, err := r.Subject(a, "m", "", ""); err != nil {
		t.Error(err)
	}
	if _, err := r.Subject(a, "n", "", ""); !errors.Is(err, ErrFull) {
		t.Errorf("a second subject: %v", err)
	}
	if _, err := r.Measure(attribution.Success); err != nil { // beside failure/other
		t.Error(err)
	}
	if _, err := r.Measure(attribution.Queue); !errors.Is(err, ErrFull) {
		t.Errorf("a third measure: %v", err)
	}
	if h, err := r.Measure("failure/odd"); err != nil || facts.Measure(facts{r.Meter}, uint16(h)) != failureOther {
		t.Errorf("another failure: %v, %v", h, err)
	}
	b := r.own("b")
	if b != (OwnerHandle{}) {
		t.Error("a second owner was registered")
	}
	r.record(Added(d, at(0)), Hold(d, b, 1, at(0)), Activity(d, at(0), at(1), ns/2, 0, true), Use(d, b, at(0), at(1), ns/2, 7))
	r.seal(0)
	r.expect(0, "\nG(H100) sm/process energy=0: [nobody unallocated 500000000 sm=0 mem=0] [nobody unattributed 500000000 sm=500000000 mem=7]")
	s := r.Stats()
	if s.RefusedDevices != 1 || s.RefusedOwners != 1 || s.RefusedSubjects != 1 || s.RefusedMeasures != 2 || s.RefusedLanes != 1 {
		t.Errorf("%+v", s)
	}
}

// A full lane loses neither activity nor, within its table, any statement.
func TestLaw8FullLaneJoinsTheNewestOfItsKey(t *testing.T) {
	r := newRig(t, Options{LaneRecords: 4})
	d, a, b := r.dev("G"), r.own("a"), r.own("b")
	r.record(Added(d, at(0)), Hold(d, a, 1, at(0)), Activity(d, at(0), at(0.5), 10, 1, true), Use(d, a, at(0), at(0.5), 10, 1))
	for i := range 100 {
		from, to := at(0.5)+int64(i)*ns/100, at(0.5)+int64(i+1)*ns/100
		r.record(Activity(d, from, to, 10, 1, true), Use(d, a, from, to, 10, 1))
	}
	r.record(Hold(d, b, 1, at(1.25)), Release(d, a, at(1)), Release(d, b, at(1.5)), Hold(d, b, 2, at(1.5)))
	r.seal(1)
	r.expect(0, "\nG(H100) sm/device energy=51: [a used 510 sm=510 mem=51] [a reserved 999999490 sm=0 mem=0]")
	// b is known to hold from 1.5 only: its earlier statements were joined.
	r.expect(1, "\nG(H100) sm/process energy=50: [nobody unallocated 499999500 sm=0 mem=0] [a used 500 sm=500 mem=50] [b unobserved 500000000 sm=0 mem=0]")
	if s := r.Stats(); s.MergedRecords != 198+2 || s.Lost != (Amounts{}) {
		t.Errorf("%d merged, lost %+v", s.MergedRecords, s.Lost)
	}
	if n := r.lane.Room(); n != 4 {
		t.Errorf("room for %d after draining, want 4", n)
	}
}

// More keys than a full lane has places for are lost, and counted; holdings
// have places of their own.
func TestLaw8FullLaneCountsWhatItLoses(t *testing.T) {
	r := newRig(t, Options{LaneRecords: 1})
	d := r.dev("G")
	r.record(Added(d, at(0)))
	lost := 0
	for i := range 100 {
		if !r.lane.Record(Use(d, r.own(fmt.Sprint(i)), at(0), at(1), 3, 5)) {
			lost++
		}
	}
	if s := r.Stats().Lost; lost != 100-(spillRecords-spillReserved) || s.Memory != int64(5*lost) || s.Used != int64(3*lost) || s.Records != uint64(lost) {
		t.Errorf("%d lost, counted %+v", lost, s)
	}
	for i := range spillReserved {
		r.record(Hold(d, r.own(fmt.Sprint(i)), 1, at(0)))
	}
	if r.lane.Record(Hold(d, r.own("one more"), 1, at(0))) {
		t.Error("a holding was taken that there is no place for")
	}
	r.record(Release(d, r.own("0"), at(0)))
	r.seal(0)
	var x sums
	x.add(r.out[0])
	if x.memory != 5*(spillRecords-spillReserved) || len(r.out[0].Windows[0].Slices) != spillRecords-spillReserved {
		t.Errorf("%s", show(r.out[0]))
	}
}

// What lies ahead is bounded; what is beyond is joined, and nothing is lost.
func TestLaw8WhatLiesAheadIsBounded(t *testing.T) {
	r := newRig(t, Options{Intervals: 16, Changes: 8, Tallies: 4})
	d, a := r.dev("G"), r.own("a")
	s, err := r.Subject(a, "m", "", "")
	if err != nil {
		t.Fatal(err)
	}
	measure, err := r.Measure(attribution.Success)
	if err != nil {
		t.Fatal(err)
	}
	r.record(Added(d, at(0)))
	const n = 1000
	for i := range n {
		from, to := at(float64(i)/10), at(float64(i+1)/10)
		r.record(
			Activity(d, from, to, 1000, 10, true), Use(d, a, from, to, 1000, 10), Tallied(s, measure, from, to, 3),
			Hold(d, a, 1, from), Release(d, a, from+1),
		)
		r.Drain()
	}
	slot := r.order[0]
	if len(slot.activity.all()) > 16 || len(slot.uses.all()) > 16 || len(slot.changes) > 8 || len(r.tallies.all()) > 4 {
		t.Errorf("kept: %d activities, %d uses, %d changes, %d tallies", len(slot.activity.all()), len(slot.uses.all()), len(slot.changes), len(r.tallies.all()))
	}
	r.seal(n / 10)
	var x sums
	for _, c := range r.out {
		x.add(c)
	}
	if x.smActive != n*1000 || x.energy != n*10 || x.memory != n*10 || x.value != n*3 {
		t.Errorf("sums %+v", x)
	}
	if m := r.Stats().MergedIntervals; m < 3*(n-20) {
		t.Errorf("%d joined", m)
	}
	last := r.out[n/10]
	if got := show(last); got != "\nG(H100) sm energy=0: [nobody unobserved 1000000000 sm=0 mem=0]" {
		t.Errorf("the last release did not come through: %s", got)
	}
}

func TestClosedLaneIsForgottenOnceDrained(t *testing.T) {
	r := newRig(t, Options{Lanes: 1})
	d := r.dev("G")
	r.record(Added(d, at(0)))
	r.lane.Close()
	r.seal(0)
	r.expect(0, "\nG(H100) sm energy=0: [nobody unobserved 1000000000 sm=0 mem=0]")
	if _, err := r.Lane(); err != nil {
		t.Errorf("no room for another lane: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a record on a closed lane did not panic")
		}
	}()
	r.lane.Record(Added(d, at(1)))
}
