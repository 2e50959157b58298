package attribution_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

const (
	ms  = int64(1_000_000)
	gib = int64(1) << 30
)

// The golden tables below write owners as numbers: 1 and 2 are containers, 8
// is a host process, 9 an unknown one; 0 is nobody. Times are in ms, memory in
// GiB·s.
func use(owner uint32, sm, mem int64) attribution.Use {
	kind := attribution.Container
	switch owner {
	case 8:
		kind = attribution.HostProcess
	case 9:
		kind = attribution.UnknownProcess
	}
	return attribution.Use{Owner: owner, Kind: kind, SMActive: sm * ms, Memory: mem * gib}
}

func hold(owner uint32, replicas int64) attribution.Holding {
	return attribution.Holding{Owner: owner, Replicas: replicas}
}

// observed is a whole window that was looked at, on a device of 80 GiB.
func observed(sm int64, processSM bool, hs []attribution.Holding, us ...attribution.Use) attribution.Segment {
	return attribution.Segment{
		Length: attribution.WindowNanos, Observed: true, SMActive: sm * ms, MemoryBytes: 80 * gib,
		ProcessSM: processSM, Holdings: hs, Uses: us,
	}
}

func holders(hs ...attribution.Holding) []attribution.Holding { return hs }

func TestHowUsedIsDecided(t *testing.T) {
	sm, memory, dominant := attribution.PolicySM, attribution.PolicyMemory, attribution.PolicyDominant
	half := func(s attribution.Segment) attribution.Segment {
		s.Length, s.SMActive = s.Length/2, s.SMActive/2
		return s
	}
	shared := func(s attribution.Segment) attribution.Segment {
		s.SharedServer = true
		return s
	}
	unobserved := attribution.Segment{Length: attribution.WindowNanos, Holdings: holders(hold(1, 3), hold(2, 1)), Uses: []attribution.Use{use(1, 0, 4)}}
	nobody := attribution.Segment{Length: attribution.WindowNanos}

	for _, tc := range []struct {
		name   string
		policy attribution.Policy
		segs   []attribution.Segment
		method string
		want   string // owner basis time[+SM-active if it differs][ memory]
	}{
		{"exclusive, idle", sm, segs(observed(0, true, holders(hold(1, 1)))), "sm/device", "1 reserved 1000 sm 0"},
		{"exclusive, at work", sm, segs(observed(70, true, holders(hold(1, 1)), use(1, 70, 10))), "sm/device", "1 used 70 mem 10; 1 reserved 930 sm 0"},
		{"exclusive, the device's counter alone", sm, segs(observed(70, false, holders(hold(1, 1)))), "sm/device", "1 used 70; 1 reserved 930 sm 0"},
		{
			"exclusive, part of the activity is in no process", sm, segs(observed(70, true, holders(hold(1, 1)), use(1, 50, 10))), "sm/device",
			"1 used 70 mem 10; 1 reserved 930 sm 0",
		},
		{
			"exclusive, with an intruder", sm, segs(observed(300, true, holders(hold(1, 1)), use(1, 50, 0), use(9, 200, 5))), "sm/process",
			"1 used 100; 1 reserved 700 sm 0; 9 unattributed 200 mem 5",
		},
		{
			"exclusive, processes claim more than the device", sm, segs(observed(300, true, holders(hold(1, 1)), use(1, 300, 0), use(9, 300, 0))), "sm/process",
			"1 used 150; 1 reserved 700 sm 0; 9 unattributed 150",
		},
		{"exclusive, memory but no activity", sm, segs(observed(0, true, holders(hold(1, 1)), use(1, 0, 10))), "sm/device", "1 reserved 1000 sm 0 mem 10"},
		{
			"shared, each its own", sm, segs(observed(500, true, holders(hold(1, 1), hold(2, 1)), use(1, 300, 10), use(2, 200, 20))), "sm/process",
			"1 used 300 mem 10; 1 reserved 250 sm 0; 2 used 200 mem 20; 2 reserved 250 sm 0",
		},
		{
			"shared, of which a part was an MPS server's", sm, segs(shared(half(observed(500, true, holders(hold(1, 1), hold(2, 1)), use(1, 150, 0), use(2, 100, 0)))), half(observed(500, true, holders(hold(1, 1), hold(2, 1)), use(1, 150, 0), use(2, 100, 0)))), "sm/mps",
			"1 used 300; 1 reserved 250 sm 0; 2 used 200; 2 reserved 250 sm 0",
		},
		{
			"exclusive, of an MPS server", sm, segs(shared(observed(500, true, holders(hold(1, 1)), use(1, 500, 0)))), "sm/device",
			"1 used 500; 1 reserved 500 sm 0",
		},
		{
			"shared, scaled down to the device", sm, segs(observed(500, true, holders(hold(1, 1), hold(2, 1)), use(1, 600, 0), use(2, 400, 0))), "sm/process",
			"1 used 300; 1 reserved 250 sm 0; 2 used 200; 2 reserved 250 sm 0",
		},
		{
			"shared, the residual is nobody's", sm, segs(observed(500, true, holders(hold(1, 1), hold(2, 1)), use(1, 300, 0))), "sm/process",
			"0 unattributed 200; 1 used 300; 1 reserved 250 sm 0; 2 reserved 250 sm 0",
		},
		{
			"shared, idle by replicas", sm, segs(observed(200, true, holders(hold(1, 3), hold(2, 1)), use(2, 200, 0))), "sm/process",
			"1 reserved 600 sm 0; 2 used 200; 2 reserved 200 sm 0",
		},
		{
			"shared, no process counters: by memory", sm, segs(observed(400, false, holders(hold(1, 1), hold(2, 1)), use(1, 0, 30), use(2, 0, 10))), "sm/memory",
			"1 used 300 mem 30; 1 reserved 300 sm 0; 2 used 100 mem 10; 2 reserved 300 sm 0",
		},
		{
			"shared, no process counters, no memory: by replicas", sm, segs(observed(400, false, holders(hold(1, 3), hold(2, 1)))), "sm/replicas",
			"1 used 300; 1 reserved 450 sm 0; 2 used 100; 2 reserved 150 sm 0",
		},
		{"shared, idle", sm, segs(observed(0, false, holders(hold(1, 1), hold(2, 1)))), "sm", "1 reserved 500 sm 0; 2 reserved 500 sm 0"},
		{"bare process", sm, segs(observed(250, true, nil, use(8, 250, 4))), "sm/process", "0 unallocated 750 sm 0; 8 used 250 mem 4"},
		{"unknown process", sm, segs(observed(250, true, nil, use(9, 250, 4))), "sm/process", "0 unallocated 750 sm 0; 9 unattributed 250 mem 4"},
		{"bare processes, no process counters", sm, segs(observed(200, false, nil, use(8, 0, 30), use(9, 0, 10))), "sm/memory", "0 unallocated 800 sm 0; 8 used 150 mem 30; 9 unattributed 50 mem 10"},
		{"activity of nobody", sm, segs(observed(250, false, nil)), "sm", "0 unallocated 750 sm 0; 0 unattributed 250"},
		{"nobody at all", sm, segs(observed(0, true, nil)), "sm/process", "0 unallocated 1000 sm 0"},
		{
			"memory policy", memory, segs(observed(100, true, holders(hold(1, 1), hold(2, 1)), use(1, 100, 40), use(2, 0, 20))), "memory/process",
			"1 used 500 sm 100 mem 40; 1 reserved 125 sm 0; 2 used 250 sm 0 mem 20; 2 reserved 125 sm 0",
		},
		{
			"memory policy, overcommitted", memory, segs(observed(0, true, holders(hold(1, 1), hold(2, 1)), use(1, 0, 80), use(2, 0, 80))), "memory/process",
			"1 used 500 sm 0 mem 80; 2 used 500 sm 0 mem 80",
		},
		{
			"dominant policy", dominant, segs(observed(400, true, holders(hold(1, 1), hold(2, 1)), use(1, 400, 8), use(2, 0, 40))), "dominant/process",
			"1 used 400 mem 8; 1 reserved 50 sm 0; 2 used 500 sm 0 mem 40; 2 reserved 50 sm 0",
		},
		{
			"dominant policy, scaled down", dominant, segs(observed(1000, true, holders(hold(1, 1), hold(2, 1)), use(1, 1000, 8), use(2, 0, 80))), "dominant/process",
			"1 used 500 sm 1000 mem 8; 2 used 500 sm 0 mem 80",
		},
		{"unobserved by replicas", sm, segs(unobserved), "sm", "1 unobserved 750 sm 0 mem 4; 2 unobserved 250 sm 0"},
		{"unobserved, held by nobody", sm, segs(nobody), "sm", "0 unobserved 1000 sm 0"},
		{
			"handed over in mid-window", sm, segs(half(observed(500, true, holders(hold(1, 1)), use(1, 250, 1))), half(observed(0, true, holders(hold(2, 1))))), "sm/device",
			"1 used 250 mem 1; 1 reserved 250 sm 0; 2 reserved 500 sm 0",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := attribution.Splitter{Policy: tc.policy}
			got, method := s.Split(tc.segs, nil)
			if text := show(got); text != tc.want || method != tc.method {
				t.Errorf("got  %s (%s)\nwant %s (%s)", text, method, tc.want, tc.method)
			}
		})
	}
}

func segs(gs ...attribution.Segment) []attribution.Segment { return gs }

// show writes slices in the tables' form, ordered by owner and basis.
func show(ss []attribution.Slice) string {
	ss = slices.Clone(ss)
	slices.SortFunc(ss, func(a, b attribution.Slice) int {
		return (int(a.Owner)-int(b.Owner))*8 + int(a.Basis) - int(b.Basis)
	})
	parts := make([]string, 0, len(ss))
	for _, s := range ss {
		x := fmt.Sprintf("%d %s %d", s.Owner, s.Basis, s.Time/ms)
		if s.SMActive != s.Time {
			x += fmt.Sprintf(" sm %d", s.SMActive/ms)
		}
		if s.Memory != 0 {
			x += fmt.Sprintf(" mem %d", s.Memory/gib)
		}
		parts = append(parts, x)
	}
	return strings.Join(parts, "; ")
}

func genPolicy(t *rapid.T) attribution.Policy {
	p, err := attribution.PolicyByName(rapid.SampledFrom([]string{"", "sm", "dominant", "memory"}).Draw(t, "policy"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// genSegments draws a window's segments with holders and users out of the
// owners 1 to 9, of which 7 to 9 are unknown processes.
func genSegments(t *rapid.T) []attribution.Segment {
	cuts := rapid.SliceOfNDistinct(rapid.Int64Range(0, attribution.WindowNanos), 0, 4, rapid.ID[int64]).Draw(t, "cuts")
	slices.Sort(cuts)
	cuts = append(cuts, attribution.WindowNanos)
	var out []attribution.Segment
	from := int64(0)
	for _, to := range cuts {
		g := attribution.Segment{
			Length:    to - from,
			Observed:  rapid.Bool().Draw(t, "observed"),
			ProcessSM: rapid.Bool().Draw(t, "processSM"),

			SharedServer: rapid.Bool().Draw(t, "sharedServer"),
			MemoryBytes:  rapid.SampledFrom([]int64{0, 1, 80 * gib, 1 << 50}).Draw(t, "capacity"),
		}
		g.SMActive = rapid.OneOf(rapid.Just(int64(0)), rapid.Just(g.Length), rapid.Int64Range(0, g.Length)).Draw(t, "sm")
		for _, o := range genOwners(t, "holders") {
			g.Holdings = append(g.Holdings, hold(o, rapid.Int64Range(1, 8).Draw(t, "replicas")))
		}
		for _, o := range genOwners(t, "users") {
			u := attribution.Use{
				Owner: o, Kind: attribution.Container,
				SMActive: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, g.Length), rapid.Int64()).Filter(func(x int64) bool { return x >= 0 }).Draw(t, "use sm"),
				Memory:   rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, attribution.MaxPerSecond/8)).Draw(t, "use memory"),
			}
			if o >= 7 {
				u.Kind = attribution.UnknownProcess
			}
			g.Uses = append(g.Uses, u)
		}
		out = append(out, g)
		from = to
	}
	return out
}

func genOwners(t *rapid.T, label string) []uint32 {
	os := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 9), 0, 5, rapid.ID[uint32]).Draw(t, label)
	slices.Sort(os)
	return os
}

func genPrice(t *rapid.T) attribution.Price {
	if rapid.Bool().Draw(t, "priced") {
		return attribution.Price{
			PerHour:  money.Amount(rapid.Int64Range(0, int64(attribution.MaxPerHour)).Draw(t, "price")),
			Revision: rapid.Uint32Range(1, 9).Draw(t, "revision"),
		}
	}
	return attribution.Price{}
}

// ruleOfSplit checks a window against laws 1 and 2 and against the segments
// that it was split from.
func ruleOfSplit(t *rapid.T, segs []attribution.Segment, ss []attribution.Slice) {
	var time, sm, memory, wantSM, wantMemory, dark, wantDark int64
	seen := map[[2]uint32]bool{}
	for _, s := range ss {
		pair := [2]uint32{s.Owner, uint32(s.Basis)}
		if seen[pair] || !s.Basis.Valid() || s.Time < 0 || s.SMActive < 0 || s.Memory < 0 {
			t.Fatalf("law 2: %+v in %s", s, show(ss))
		}
		seen[pair] = true
		switch nobody := s.Owner == 0; s.Basis {
		case attribution.Used, attribution.Reserved:
			if nobody {
				t.Fatalf("law 2: nobody has %s time", s.Basis)
			}
		case attribution.Unallocated:
			if !nobody {
				t.Fatalf("law 2: owner %d has unallocated time", s.Owner)
			}
		case attribution.Unobserved:
			dark += s.Time
		case attribution.Unattributed:
			if s.Owner != 0 && s.Owner < 7 {
				t.Fatalf("law 2: container %d has unattributed time", s.Owner)
			}
		}
		time, sm, memory = time+s.Time, sm+s.SMActive, memory+s.Memory
	}
	for _, g := range segs {
		if g.Observed {
			wantSM += g.SMActive
		} else {
			wantDark += g.Length
		}
		for _, u := range g.Uses {
			wantMemory += u.Memory
		}
	}
	if time != attribution.WindowNanos || sm != wantSM || memory != wantMemory || dark != wantDark {
		t.Fatalf("law 1: time %d, SM %d of %d, memory %d of %d, unobserved %d of %d",
			time, sm, wantSM, memory, wantMemory, dark, wantDark)
	}
}

func TestLaw1TimeAndCostOfAWindowAreConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		segs := genSegments(t)
		s := attribution.Splitter{Policy: genPolicy(t)}
		ss, _ := s.Split(segs, nil)
		ruleOfSplit(t, segs, ss)
		w := attribution.DeviceWindow{
			Second: attribution.Second(rapid.Int64Range(-4e9, 4e9).Draw(t, "second")),
			Price:  genPrice(t), Energy: rapid.Int64Range(0, attribution.MaxPerSecond).Draw(t, "energy"), Slices: ss,
		}
		attribution.Rate(&w)
		want := money.Amount(0)
		if w.Price.Known() {
			want = money.SecondPrice(w.Price.PerHour, int64(w.Second))
		}
		var cost money.Amount
		var energy int64
		for _, s := range w.Slices {
			if s.Cost < 0 || s.Energy < 0 {
				t.Fatalf("negative: %+v", s)
			}
			cost, energy = cost+s.Cost, energy+s.Energy
		}
		if cost != want || energy != w.Energy {
			t.Fatalf("cost %v of %v, energy %d of %d", cost, want, energy, w.Energy)
		}
	})
}

// What integer division leaves over is no stranger's, what is more is.
func TestRoundingIsNotUnattributed(t *testing.T) {
	for over, want := range map[int64]string{0: "1/used 300", 12: "1/used 312", 13: "0/unattributed 13"} {
		var s attribution.Splitter
		s.Policy = attribution.PolicySM
		got, method := s.Split([]attribution.Segment{{
			Length: attribution.WindowNanos, Observed: true, SMActive: 400 + over, ProcessSM: true,
			Holdings: []attribution.Holding{{Owner: 1, Replicas: 1}, {Owner: 2, Replicas: 1}},
			Uses:     []attribution.Use{{Owner: 1, Kind: attribution.Container, SMActive: 300}, {Owner: 2, Kind: attribution.Container, SMActive: 100}},
		}}, nil)
		found := false
		for _, x := range got {
			found = found || fmt.Sprintf("%d/%s %d", x.Owner, x.Basis, x.Time) == want
			if over < 13 && x.Basis == attribution.Unattributed {
				t.Errorf("%d ns over: %d ns are unattributed", over, x.Time)
			}
		}
		if !found || method != "sm/process" {
			t.Errorf("%d ns over: %s (%s), want %s in it", over, show(got), method, want)
		}
	}
}

// The numbers that owners go by, and what the splitter did before, change
// nothing.
func TestLaw2SplitDependsOnItsArgumentsAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := genPolicy(t)
		used := attribution.Splitter{Policy: policy}
		used.Split(genSegments(t), nil)
		segs := genSegments(t)
		fresh := attribution.Splitter{Policy: policy}
		want, wantMethod := fresh.Split(segs, nil)

		renamed := make([]attribution.Segment, len(segs))
		offset := rapid.Uint32Range(0, 1<<20).Draw(t, "offset")
		for i, g := range segs {
			g.Holdings, g.Uses = slices.Clone(g.Holdings), slices.Clone(g.Uses)
			for j := range g.Holdings {
				g.Holdings[j].Owner += offset
			}
			for j := range g.Uses {
				g.Uses[j].Owner += offset
			}
			renamed[i] = g
		}
		prefix := []attribution.Slice{{Owner: 1 + offset, Basis: attribution.Used, Time: 7}}
		got, method := used.Split(renamed, prefix)
		if got[0] != prefix[0] {
			t.Fatalf("what was in dst before became %+v", got[0])
		}
		got = got[1:]
		for i := range got {
			if got[i].Owner != 0 {
				got[i].Owner -= offset
			}
		}
		if !slices.Equal(got, want) || method != wantMethod {
			t.Fatalf("got %s (%s), want %s (%s)", show(got), method, show(want), wantMethod)
		}
	})
}

func TestSplitRefusesImpossibleSegments(t *testing.T) {
	for name, segs := range map[string][]attribution.Segment{
		"too short":        {{Length: 1}},
		"too long":         {{Length: attribution.WindowNanos + 1}},
		"too active":       {{Length: attribution.WindowNanos, Observed: true, SMActive: attribution.WindowNanos + 1}},
		"negative":         {{Length: -1}, {Length: attribution.WindowNanos + 1}},
		"negative process": {observed(0, true, nil, attribution.Use{Owner: 1, SMActive: -1})},
		"negative memory":  {observed(0, true, nil, attribution.Use{Owner: 1, Memory: -1})},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "BUG: ") {
					t.Errorf("recovered %v", r)
				}
			}()
			s := attribution.Splitter{Policy: attribution.PolicySM}
			s.Split(segs, nil)
		})
	}
}

func TestSplitAndRateDoNotAllocate(t *testing.T) {
	s := attribution.Splitter{Policy: attribution.PolicySM}
	segs := segs(observed(500, true, holders(hold(1, 1), hold(2, 1)), use(1, 300, 10), use(2, 100, 20)))
	dst := make([]attribution.Slice, 0, 16)
	w := attribution.DeviceWindow{Price: attribution.Price{PerHour: 2_500_000_000, Revision: 1}, Energy: 700_000_000}
	if n := testing.AllocsPerRun(100, func() {
		w.Slices, _ = s.Split(segs, dst)
		attribution.Rate(&w)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSplitAndRate(b *testing.B) {
	for name, segs := range map[string][]attribution.Segment{
		"exclusive-idle": segs(observed(0, true, holders(hold(1, 1)))),
		"exclusive-busy": segs(observed(300, true, holders(hold(1, 1)), use(1, 300, 10))),
		"shared-4": segs(observed(800, true, holders(hold(1, 1), hold(2, 1), hold(3, 1), hold(4, 1)),
			use(1, 300, 10), use(2, 100, 10), use(3, 200, 10), use(4, 150, 10))),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			s := attribution.Splitter{Policy: attribution.PolicySM}
			dst := make([]attribution.Slice, 0, 16)
			w := attribution.DeviceWindow{Price: attribution.Price{PerHour: 2_500_000_000, Revision: 1}, Energy: 700_000_000}
			for b.Loop() {
				w.Slices, _ = s.Split(segs, dst)
				attribution.Rate(&w)
			}
		})
	}
}
