package simulation

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// simulate runs a seed in a bubble. Pools are empty before and after: a pooled
// compressor holds a channel, which belongs to the bubble that made it.
func simulate(t *testing.T, seed uint64, o Options) (result Result) {
	t.Helper()
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))   // one thing after the other
		defer debug.SetGCPercent(debug.SetGCPercent(400)) // the heap is small
		empty := func() {
			runtime.GC()
			runtime.GC()
		}
		empty()
		defer empty()
		synctest.Test(t, func(*testing.T) { result = Run(seed, o) })
	})
	return result
}

// regressions are seeds that once found something. They keep finding it only as
// long as what seeds mean does not change, and cost little.
func regressions() []uint64 {
	return []uint64{1, 2, 4, 7, 10, 14, 160, 277, 368, 489, 797, 1153, 1222, 5043, 46, 61, 63, 74, 3188, 10101, 20107, 61028, 700011, 720324, 720435, 1000413, 1210342, 1500146, 1600037}
}

// number is an environment variable's, or another where it is not set.
func number(t *testing.T, name string, otherwise float64) float64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return x
}

// TestSeeds runs some seeds; make simulate runs more, or tells all of one.
func TestSeeds(t *testing.T) {
	hours := number(t, "GPULEDGER_SIMULATE_HOURS", 10)
	var seeds []uint64
	var tell func(string)
	if one := number(t, "GPULEDGER_SIMULATE_SEED", 0); one > 0 {
		seeds, tell = []uint64{uint64(one)}, func(s string) { t.Log(s) }
	} else {
		first := uint64(number(t, "GPULEDGER_SIMULATE_FIRST", 11))
		seeds = regressions()
		for n := range uint64(number(t, "GPULEDGER_SIMULATE_SEEDS", 8)) {
			seeds = append(seeds, first+n)
		}
	}
	var sum Result
	sum.Stats.Faults = map[string]int{}
	began := time.Now()
	for _, seed := range seeds {
		o := Options{Hours: hours, Tell: tell}
		if seed%50 == 0 {
			o.Dir = t.TempDir()
		}
		r := simulate(t, seed, o)
		for _, b := range r.Broken {
			t.Errorf("seed %d: %s", seed, b)
		}
		if len(r.Broken) > 0 {
			t.Errorf("make simulate SEED=%d HOURS=%g", seed, hours)
		}
		sum.Elapsed += r.Elapsed
		sum.Stats.add(&r.Stats)
		t.Logf("seed %d: %.1f h, %d node seconds, %d windows observed, %d unobserved, %d questions, trace %s",
			seed, r.Elapsed.Hours(), r.Stats.Seconds, r.Stats.Observed, r.Stats.Unobserved, r.Stats.Asked, r.Trace[:16])
	}
	t.Logf("%d seeds, %.0f simulated hours, %.1f node hours stored, %d windows observed, %d unobserved, %d questions, in %v; %v",
		len(seeds), sum.Elapsed.Hours(), float64(sum.Stats.Seconds)/3600, sum.Stats.Observed, sum.Stats.Unobserved, sum.Stats.Asked,
		time.Since(began).Round(time.Second), sum.Stats.Faults)
}

func (s *Stats) add(o *Stats) {
	s.Seconds += o.Seconds
	s.Observed += o.Observed
	s.Unobserved += o.Unobserved
	s.Asked += o.Asked
	for name, n := range o.Faults {
		s.Faults[name] += n
	}
}

// TestCalmSeedLosesNothing is a run in which nothing happens: everything is seen.
func TestCalmSeedLosesNothing(t *testing.T) {
	r := simulate(t, 1, Options{Calm: true})
	for _, b := range r.Broken {
		t.Error(b)
	}
	if r.Stats.Observed == 0 || r.Stats.Unobserved > 0 {
		t.Errorf("%d windows were observed and %d were not", r.Stats.Observed, r.Stats.Unobserved)
	}
}

// TestACalmSeedRepeatsItself: the same seed stores the same chunks at the same
// nanoseconds. Under faults most seeds do so too, but not every one each time:
// Go chooses by chance among several ready cases of a select, and the order in
// which a map is gone through. Where such a choice falls at one instant of
// virtual time, what follows is drawn in another order, and the rest of the run
// is another. What is drawn, and from which seed, is the same always.
func TestACalmSeedRepeatsItself(t *testing.T) {
	for seed := uint64(1); seed <= 3; seed++ {
		a, b := simulate(t, seed, Options{Calm: true}), simulate(t, seed, Options{Calm: true})
		if a.Trace != b.Trace {
			t.Errorf("seed %d: traces %s and %s", seed, a.Trace, b.Trace)
		}
	}
}
