package exporter_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

const start = exportertest.Start

func newExporter(t interface {
	Helper()
	Fatal(args ...any)
}, o exporter.Options,
) *exporter.Exporter {
	t.Helper()
	o.Cluster, o.Node = exportertest.Cluster, exportertest.Node
	e, err := exporter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetRateCard(1, "USD"); err != nil {
		t.Fatal(err)
	}
	return e
}

// one is a second in which one owner used all of one device.
func one(second attribution.Second, device string, o attribution.Owner, p attribution.Price) *attribution.Chunk {
	basis := attribution.Used
	if o.Kind == attribution.Nobody {
		basis = attribution.Unallocated
	}
	return exportertest.Chunk(second, []exportertest.Window{{
		Device: exportertest.GPU(device), Price: p, Energy: 100, Cuts: []exportertest.Cut{{Owner: o, Basis: basis, Time: 1e9, SMActive: 5e8, Memory: 7}},
	}}, nil)
}

// sums are what a law speaks of.
type sums struct {
	time, unpriced, sm, memory, energy int64
	cost                               money.Amount
}

func sum(s *exporter.Snapshot) (x sums) {
	for i := range s.Series {
		y := &s.Series[i]
		x.time, x.unpriced, x.sm, x.memory, x.energy, x.cost = x.time+y.Time, x.unpriced+y.Unpriced, x.sm+y.SMActive, x.memory+y.Memory,
			x.energy+y.Energy, x.cost+y.Cost
	}
	return x
}

func (x *sums) add(c *attribution.Chunk) {
	for i := range c.Windows {
		for _, s := range c.Windows[i].Slices {
			x.time, x.sm, x.memory, x.energy, x.cost = x.time+s.Time, x.sm+s.SMActive, x.memory+s.Memory, x.energy+s.Energy, x.cost+s.Cost
			if !c.Windows[i].Price.Known() {
				x.unpriced += s.Time
			}
		}
	}
}

func TestLaw1SeriesSumToTheWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := newExporter(t, exporter.Options{
			MaxSeries: rapid.IntRange(1, 40).Draw(t, "limit"), MaxProcesses: rapid.IntRange(1, 3).Draw(t, "processes"), Labels: []string{"app"},
		})
		owners := rapid.SampledFrom([]attribution.Owner{
			{},
			exportertest.Pod("a"), exportertest.Pod("b"), exportertest.Pod("c"), exportertest.Pod(strings.Repeat("\xff", 400)),
			exportertest.Process(attribution.HostProcess, 1, "x"), exportertest.Process(attribution.HostProcess, 2, "x"),
			exportertest.Process(attribution.HostProcess, 2, "y"), exportertest.Process(attribution.UnknownProcess, 3, "x"),
			exportertest.Process(attribution.UnknownProcess, 3, "z"),
		})
		var want sums
		windows := 0
		for i := range rapid.IntRange(1, 30).Draw(t, "seconds") {
			var ws []exportertest.Window
			for d := range rapid.IntRange(1, 4).Draw(t, "devices") {
				w := exportertest.Window{Device: exportertest.GPU(fmt.Sprint(d)), Energy: rapid.Int64Range(0, 1e9).Draw(t, "energy")}
				if rapid.Bool().Draw(t, "priced") {
					w.Price = exportertest.Price(money.Amount(rapid.Int64Range(0, 1e10).Draw(t, "price")))
				}
				left := attribution.WindowNanos
				for left > 0 {
					time := rapid.Int64Range(1, left).Draw(t, "time")
					o := owners.Draw(t, "owner")
					basis := attribution.Unobserved
					if o.Kind == attribution.Container {
						basis = rapid.SampledFrom([]attribution.Basis{attribution.Used, attribution.Reserved}).Draw(t, "basis")
					}
					w.Cuts = append(w.Cuts, exportertest.Cut{Owner: o, Basis: basis, Time: time, SMActive: time / 2, Memory: time})
					left -= time
				}
				ws = append(ws, w)
				windows++
			}
			c := exportertest.Chunk(start+attribution.Second(i), ws, nil)
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			want.add(c)
			e.Add(c)
			got := e.Snapshot()
			if sum(got) != want || sum(got).time != int64(windows)*attribution.WindowNanos {
				t.Fatalf("second %d: series sum to %+v, want %+v", i, sum(got), want)
			}
			distinct := map[string]bool{}
			for _, s := range got.Series {
				key := fmt.Sprintf("%q", fmt.Sprint(*s.Owner, s.Device, s.Basis))
				if distinct[key] {
					t.Fatalf("%s is there twice", key)
				}
				distinct[key] = true
			}
		}
	})
}

func TestAnEpisodeByHand(t *testing.T) {
	e := newExporter(t, exporter.Options{Labels: []string{"app", "team"}})
	for i := range 10 {
		c := exportertest.Episode(i)
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		e.Add(c)
	}
	s := e.Snapshot()
	if s.Second != start+9 || s.Currency != "USD" || len(s.Devices) != 2 || s.Stats.Series != 8 || s.Stats.Owners != 5 {
		t.Errorf("snapshot of second %d in %q: %d devices, %+v", s.Second, s.Currency, len(s.Devices), s.Stats)
	}
	for _, x := range s.Series {
		switch {
		case x.Owner.Pod == "chat-2":
			if x.Time != 4*200_000_000 || x.Since != start || x.Last != start+9 || x.Memory != 4*2<<30 || x.Cost == 0 {
				t.Errorf("chat-2: %+v", x)
			}
			if l := x.Owner.Labels; l[0] != "chat" || l[1] != "" {
				t.Errorf("labels %v", l)
			}
		case x.Owner.Process == "Xorg":
			if x.Time != 10*33_333_333 || x.Owner.Kind != "host-process" {
				t.Errorf("Xorg, over ten pids: %+v", x)
			}
		}
	}
	for _, x := range s.Tallies {
		if x.Type == "success" && x.Value != 80_000_000 {
			t.Errorf("successes of both tenants: %d millionths", x.Value)
		}
	}
	if len(s.Tallies) != 5 {
		t.Errorf("%d tallies, want success, failure, two tokens, queue", len(s.Tallies))
	}
}

func TestLaw9ZeroIsNotUnknown(t *testing.T) {
	e := newExporter(t, exporter.Options{})
	e.Add(exportertest.Episode(0))
	e.Add(exportertest.Episode(4))
	for _, x := range e.Snapshot().Series {
		if unpriced := x.Device == "MIG-b1"; unpriced == x.Priced || (x.Unpriced != 0) != unpriced {
			t.Errorf("%s: priced %v, %d ns unpriced", x.Device, x.Priced, x.Unpriced)
		}
		if x.HasEnergy != (x.Device == "GPU-a") && x.Basis != attribution.Unobserved {
			t.Errorf("%s %s: has energy: %v", x.Device, x.Basis, x.HasEnergy)
		}
		if x.Basis == attribution.Unobserved && (x.HasSMActive || x.HasMemory) {
			t.Errorf("%s: measured while nobody looked: %+v", x.Device, x)
		}
		if x.Basis == attribution.Reserved && x.HasSMActive {
			t.Errorf("%s: activity of reserved time: %+v", x.Device, x)
		}
	}
	e = newExporter(t, exporter.Options{})
	e.Add(one(start, "GPU-a", exportertest.Pod("a"), attribution.Price{}))
	if s := e.Snapshot(); s.Currency != "" || len(s.Tallies) != 0 || s.Devices[0].Now.Priced {
		t.Errorf("nothing is priced or tallied: %+v", s)
	}
	// Free is a price: a cost of 0 is known.
	e.Add(one(start+1, "GPU-a", exportertest.Pod("a"), exportertest.Price(0)))
	if x := e.Snapshot().Series[0]; !x.Priced || x.Cost != 0 || x.CostSince != start+1 || x.Unpriced != 1e9 || x.Time != 2e9 {
		t.Errorf("a free second after an unpriced one: %+v", x)
	}
}

func TestLaw8BeyondTheLimitNamesMergeAndSumsStay(t *testing.T) {
	e := newExporter(t, exporter.Options{MaxSeries: 10})
	var want sums
	for i := range 100 {
		c := one(start+attribution.Second(i), fmt.Sprint("GPU-", i%20), exportertest.Pod(fmt.Sprint(i)), exportertest.Price(3_600_000_001))
		want.add(c)
		e.Add(c)
	}
	s := e.Snapshot()
	if sum(s) != want || want.time != 100e9 {
		t.Errorf("sums %+v, want %+v", sum(s), want)
	}
	if n := len(s.Series) + len(s.Devices); n > 10+1+11 || s.Stats.OverflowedSlices == 0 {
		t.Errorf("%d series and devices, %+v", n, s.Stats)
	}
	overflowed := int64(0)
	for _, x := range s.Series {
		if x.Owner.Kind == exporter.OverflowKind {
			overflowed += x.Time
			if x.Owner.Pod != exporter.Overflow {
				t.Errorf("the overflow owner's pod is %q", x.Owner.Pod)
			}
		}
	}
	if overflowed != int64(s.Stats.OverflowedSlices)*1e9 {
		t.Errorf("%d ns overflowed, of %d slices", overflowed, s.Stats.OverflowedSlices)
	}
}

func TestLaw8CommandsAndTalliesAreBounded(t *testing.T) {
	e := newExporter(t, exporter.Options{MaxProcesses: 3, MaxSeries: 12})
	served := []exportertest.Served{}
	for i := range 50 {
		e.Add(one(start+attribution.Second(i), "GPU-a", exportertest.Process(attribution.HostProcess, 1, fmt.Sprint("job-", i)), attribution.Price{}))
		served = append(served, exportertest.Served{Owner: exportertest.Pod("a"), Model: fmt.Sprint(i), Measure: attribution.FailurePrefix + "x", Value: 2})
	}
	e.Add(exportertest.Chunk(start+50, []exportertest.Window{{
		Device: exportertest.GPU("GPU-a"), Cuts: []exportertest.Cut{{Owner: attribution.Owner{}, Basis: attribution.Unallocated, Time: 1e9}},
	}}, served))
	s := e.Snapshot()
	processes, tallied := map[string]int64{}, int64(0)
	for _, x := range s.Series {
		processes[x.Owner.Process] += x.Time
	}
	for _, x := range s.Tallies {
		tallied += x.Value
	}
	if len(processes) != 5 || processes[exporter.Other] != 47e9 || s.Stats.OverflowedCommands == 0 {
		t.Errorf("processes %v, %+v", processes, s.Stats)
	}
	if tallied != 100 || len(s.Tallies) > 13 || s.Stats.OverflowedTallies == 0 {
		t.Errorf("%d tallied in %d, %+v", tallied, len(s.Tallies), s.Stats)
	}
}

func TestOwnersThatLookTheSameAreOne(t *testing.T) {
	e := newExporter(t, exporter.Options{})
	for i, name := range []string{"p\xff", "p\xfe", strings.Repeat("é", 300), strings.Repeat("é", 300) + "x"} {
		e.Add(one(start+attribution.Second(i), "GPU-a", attribution.Owner{
			Kind: attribution.Container, Cluster: exportertest.Cluster, Node: exportertest.Node, Pod: name,
		}, attribution.Price{}))
	}
	s := e.Snapshot()
	if len(s.Series) != 2 {
		t.Fatalf("%d series, want 2", len(s.Series))
	}
	for _, x := range s.Series {
		if len(x.Owner.Pod) > exporter.MaxText || x.Time != 2e9 {
			t.Errorf("pod %q of %d ns", x.Owner.Pod, x.Time)
		}
	}
}

func TestACounterOutOfRangeBeginsAgain(t *testing.T) {
	e := newExporter(t, exporter.Options{})
	huge := func(i int) *attribution.Chunk {
		c := one(start+attribution.Second(i), "GPU-a", exportertest.Pod("a"), attribution.Price{})
		c.Windows[0].Slices[0].Memory = math.MaxInt64/2 + 1
		return c
	}
	e.Add(huge(0))
	e.Add(huge(1))
	s := e.Snapshot()
	if x := s.Series[0]; x.Since != start+1 || x.Time != 1e9 || x.Memory < 0 || s.Stats.Restarted != 1 {
		t.Errorf("%+v, %+v", x, s.Stats)
	}
}

func TestCurrenciesNeverAddUp(t *testing.T) {
	e := newExporter(t, exporter.Options{})
	add := func(i int, revision uint32) exporter.Series {
		e.Add(one(start+attribution.Second(i), "GPU-a", exportertest.Pod("a"), attribution.Price{PerHour: 3600e9, Revision: revision}))
		return e.Snapshot().Series[0]
	}
	add(0, 1)
	if x := add(1, 2); x.Cost != 1e9 || x.Unpriced != 1e9 {
		t.Errorf("a revision that was never told: %+v", x)
	}
	if err := e.SetRateCard(2, "EUR"); err != nil {
		t.Fatal(err)
	}
	if x := add(2, 2); x.Cost != 1e9 || x.CostSince != start+2 || x.Time != 3e9 || e.Snapshot().Currency != "EUR" {
		t.Errorf("after the change: %+v in %s", x, e.Snapshot().Currency)
	}
	for r := range uint32(100) {
		if err := e.SetRateCard(r+3, "EUR"); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "usd", "US", "DOLL", "U$D"} {
		if e.SetRateCard(9, bad) == nil {
			t.Errorf("currency %q was taken", bad)
		}
	}
}

func TestOptionsAreJudged(t *testing.T) {
	for name, o := range map[string]exporter.Options{
		"no node":         {},
		"negative limit":  {Node: "n", MaxSeries: -1},
		"short linger":    {Node: "n", Linger: time.Millisecond},
		"limit below":     {Node: "n", Linger: time.Hour, LingerLimit: time.Minute},
		"empty label":     {Node: "n", Labels: []string{""}},
		"label twice":     {Node: "n", Labels: []string{"a", "a"}},
		"not a label":     {Node: "n", Labels: []string{"\xff"}},
		"too many labels": {Node: "n", Labels: make([]string, 33)},
	} {
		if _, err := exporter.New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A node of 8 GPUs with 8 owners each, and one at the limit of series.
func BenchmarkAdd(b *testing.B) {
	for _, lingering := range []int{0, 4800} {
		b.Run(fmt.Sprint(lingering), func(b *testing.B) {
			e := newExporter(b, exporter.Options{})
			for i := range lingering / 10 {
				var cuts []exportertest.Cut
				for j := range 10 {
					cuts = append(cuts, exportertest.Cut{Owner: exportertest.Pod(fmt.Sprint(i, "-", j)), Basis: attribution.Used, Time: 1e8})
				}
				e.Add(exportertest.Chunk(start, []exportertest.Window{{Device: exportertest.GPU("GPU-a"), Price: exportertest.Price(25e8), Cuts: cuts}}, nil))
			}
			var ws []exportertest.Window
			for d := range 8 {
				w := exportertest.Window{Device: exportertest.GPU(fmt.Sprint("GPU-", d)), Price: exportertest.Price(25e8)}
				for p := range 8 {
					w.Cuts = append(w.Cuts, exportertest.Cut{Owner: exportertest.Pod(fmt.Sprint(d, p)), Basis: attribution.Used, Time: 1e9 / 16},
						exportertest.Cut{Owner: exportertest.Pod(fmt.Sprint(d, p)), Basis: attribution.Reserved, Time: 1e9 / 16})
				}
				ws = append(ws, w)
			}
			c := exportertest.Chunk(start, ws, nil)
			b.ReportAllocs()
			for b.Loop() {
				e.Add(c)
			}
		})
	}
}
