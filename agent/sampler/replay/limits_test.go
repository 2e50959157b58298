package replay

import (
	"fmt"
	"testing"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload"
	"github.com/gpuledger/gpuledger/attribution"
)

// What a recording may hold, a meter takes: one that was found good must not
// fail half way through.
func TestLimitsAreWithinTheMeters(t *testing.T) {
	m := meter.New(meter.Options{From: 100})
	feed, err := workload.NewFeed(m)
	if err != nil {
		t.Fatal(err)
	}
	apply := func(e sampler.Event) {
		t.Helper()
		e.Time, e.Node = 200*attribution.WindowNanos, "n"
		if err := feed.Apply(&e); err != nil {
			t.Fatal(err)
		}
		m.Drain()
	}
	for i := range maxDevices {
		id := fmt.Sprint("GPU-", i)
		apply(sampler.Event{Kind: sampler.DeviceAdded, DeviceID: id, Device: &attribution.Device{ID: id, Node: "n"}})
	}
	tally := func(x attribution.Measure) {
		t.Helper()
		apply(sampler.Event{Kind: sampler.Tallied, Tally: &sampler.Tally{Seconds: 1, Values: []sampler.Value{{Measure: x, Value: 1}}}})
	}
	for i := range maxReasons {
		tally(attribution.FailurePrefix + attribution.Measure(fmt.Sprint(i)))
	}
	for i := range attribution.Buckets {
		tally(attribution.BucketMeasure(attribution.LatencyPrefix, i))
		tally(attribution.BucketMeasure(attribution.FirstTokenPrefix, i))
	}
	for _, x := range []attribution.Measure{
		attribution.Success, attribution.TokensInput, attribution.TokensCached, attribution.TokensOutput, attribution.TokensAborted,
		attribution.Queue, attribution.Running, attribution.KVCache, attribution.Observed, attribution.Checkpoint,
	} {
		tally(x)
	}
	if err := m.Seal(300, func(*meter.Sealed) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if s := m.Stats(); s.RefusedDevices+s.RefusedMeasures+s.RefusedOwners+s.RefusedSubjects != 0 || s.Lost.Records != 0 {
		t.Fatalf("the meter refuses what a recording may hold: %+v", s)
	}
}
