package simulation

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// simulate runs a seed in a bubble.
func simulate(t *testing.T, seed uint64, o Options) (result Result) {
	t.Helper()
	t.Run("seed", func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		empty := func() { runtime.GC(); runtime.GC() }
		empty()
		defer empty()
		synctest.Test(t, func(*testing.T) { result = Run(seed, o) })
	})
	return result
}

func TestCalm(t *testing.T) {
	began := time.Now()
	var tell func(string)
	if testing.Verbose() {
		tell = func(s string) { t.Log(s) }
	}
	r := simulate(t, 1, Options{Calm: true, Tell: tell})
	for _, b := range r.Broken {
		t.Error(b)
	}
	t.Logf("%+v in %v", r, time.Since(began))
}

// TestSeed runs the seed in GPULEDGER_SIMULATE_SEED and tells all of it.
func TestSeed(t *testing.T) {
	from, to := uint64(1), uint64(3)
	if x := os.Getenv("GPULEDGER_SIMULATE_SEED"); x != "" {
		if n, _ := fmt.Sscanf(x, "%d-%d", &from, &to); n == 1 {
			to = from
		}
	}
	if os.Getenv("GPULEDGER_SIMULATE_SEED") == "" {
		t.Skip("set GPULEDGER_SIMULATE_SEED to one seed, or to the first and last of many: 7 or 1-100")
	}
	hours := 100.0
	_, _ = fmt.Sscan(os.Getenv("GPULEDGER_SIMULATE_HOURS"), &hours)
	for seed := from; seed <= to; seed++ {
		began := time.Now()
		var tell func(string)
		if from == to && testing.Verbose() {
			tell = func(s string) { t.Log(s) }
		}
		r := simulate(t, seed, Options{Hours: hours, Tell: tell})
		for i, b := range r.Broken {
			if i < 4 {
				t.Errorf("seed %d: %s", seed, b)
			}
		}
		t.Logf("seed %d: %.1f h, %d s, %d+%d windows, %d asked, in %v, %s", r.Seed, r.Elapsed.Hours(), r.Stats.Seconds, r.Stats.Observed, r.Stats.Unobserved, r.Stats.Asked, time.Since(began), r.Trace[:8])
	}
}
