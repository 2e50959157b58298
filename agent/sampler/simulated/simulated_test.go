package simulated

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

func events(t interface {
	Helper()
	Fatal(...any)
}, opt Options,
) ([]sampler.Event, *Script) {
	t.Helper()
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	var out []sampler.Event
	for {
		var e sampler.Event
		if err := s.Next(&e); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return out, s
		}
		out = append(out, e)
	}
}

// record writes the events as a recording, which checks every rule that a
// source must keep: order, holdings, counters, intervals, sensors.
func record(t interface {
	Helper()
	Fatal(...any)
}, s *Script, es []sampler.Event,
) []byte {
	t.Helper()
	var b bytes.Buffer
	w := replay.NewWriter(&b)
	err := w.Begin(replay.Header{Source: "simulated", Start: s.Start(), End: s.End(), MaxInterval: s.Horizon()}, s.Nodes())
	for i := range es {
		err = errors.Join(err, w.Write(&es[i]))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSameSeedSameEvents(t *testing.T) {
	opt := FleetOptions()
	opt.Duration = 900
	one, s := events(t, opt)
	two, again := events(t, opt)
	if !bytes.Equal(record(t, s, one), record(t, again, two)) || !reflect.DeepEqual(s.Nodes(), again.Nodes()) {
		t.Fatal("the same options gave different events")
	}
	opt.Seed++
	other, otherS := events(t, opt)
	if bytes.Equal(record(t, s, one), record(t, otherS, other)) || s.Nodes()[0].Boot == otherS.Nodes()[0].Boot {
		t.Fatal("another seed gave the same events")
	}
}

// TestEventsStayUnchanged: what an event points to outlives later calls.
func TestEventsStayUnchanged(t *testing.T) {
	opt := FleetOptions()
	opt.Duration = 60
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := events(t, opt)
	for i := range kept {
		var e sampler.Event
		if err := s.Next(&e); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(kept[i], e) {
			t.Fatalf("event %d is %+v when it is new, and %+v later", i, e, kept[i])
		}
	}
}

func TestAnyOptionsKeepTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opt := Options{
			Seed: rapid.Uint64().Draw(t, "seed"), Profile: Profile(rapid.IntRange(0, 1).Draw(t, "profile")),
			Start: rapid.Int64Range(0, 4e9).Draw(t, "start"), Duration: rapid.Int64Range(1, 200).Draw(t, "duration"),
			Nodes: rapid.IntRange(1, 5).Draw(t, "nodes"), Devices: rapid.IntRange(1, 10).Draw(t, "devices"),
		}
		es, s := events(t, opt)
		record(t, s, es)
	})
}

// TestTruth: the events come to what the simulation says happened.
func TestTruth(t *testing.T) {
	opt := FleetOptions()
	opt.Start, opt.Duration = defaultStart+13*3600, 2*3600
	es, s := events(t, opt)
	record(t, s, es)
	got := Truth{Used: make(map[string]int64), Served: make(map[string]Served)}
	type state struct{ first, at, sm int64 }
	devices := make(map[string]*state)
	type process struct {
		device string
		pid    uint32
		start  uint64
	}
	last := make(map[process]int64)
	holder := make(map[string]string)
	observed := int64(0)
	for i := range es {
		e := &es[i]
		switch e.Kind {
		case sampler.DeviceAdded:
			devices[e.DeviceID] = &state{first: e.Time, at: -1}
		case sampler.Held:
			holder[e.DeviceID] = e.Owner.Controller
		case sampler.Sampled:
			d := devices[e.DeviceID]
			if e.Sample.Gap {
				got.Unobserved += e.Time - d.at
			} else if d.at >= 0 {
				grown := e.Sample.SMActive - d.sm
				observed += grown
				if !e.Sample.ProcessSM && grown > 0 {
					got.Used[holder[e.DeviceID]] += grown
				}
			}
			for _, p := range e.Sample.Processes {
				k := process{e.DeviceID, p.PID, p.Start}
				name := p.Owner.Controller
				if name == "" {
					name = p.Owner.Command
				}
				if e.Sample.ProcessSM && p.SMActive > last[k] {
					got.Used[name] += p.SMActive - last[k]
				}
				last[k] = p.SMActive
			}
			d.at, d.sm = e.Time, e.Sample.SMActive
		case sampler.Tallied:
			x := got.Served[e.Tally.Model]
			for _, v := range e.Tally.Values {
				switch {
				case v.Measure == attribution.Success:
					x.Success += attribution.Count(v.Value)
				case strings.HasPrefix(string(v.Measure), string(attribution.FailurePrefix)):
					x.Failures += attribution.Count(v.Value)
				case v.Measure == attribution.TokensInput:
					x.Input += v.Value
				case v.Measure == attribution.TokensCached:
					x.Cached += v.Value
				case v.Measure == attribution.TokensOutput:
					x.Output += v.Value
				}
			}
			got.Served[e.Tally.Model] = x
		case sampler.DeviceRemoved, sampler.Released:
		}
	}
	for _, d := range devices {
		got.DeviceTime += d.at - d.first
		if d.at != s.End() {
			t.Errorf("the last sample is at %d, the end at %d", d.at, s.End())
		}
	}
	want := s.Truth()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("events say\n%+v\nthe truth is\n%+v", got, want)
	}
	sum := int64(0)
	for _, ns := range want.Used {
		sum += ns
	}
	if sum != observed {
		t.Fatalf("apps used %d ns of %d", sum, observed)
	}
	if share := 100 * sum / want.DeviceTime; share < 15 || share > 50 {
		t.Errorf("%d %% of the fleet is used: want a picture with idle in it", share)
	}
	t.Logf("used %.1f %%, unobserved %.2f %%", 100*float64(sum)/float64(want.DeviceTime), 100*float64(want.Unobserved)/float64(want.DeviceTime))
}

// TestFleetHasEverything that a ledger must cope with.
func TestFleetHasEverything(t *testing.T) {
	opt := FleetOptions()
	opt.Start, opt.Duration = defaultStart+14*3600, 2*3600
	es, _ := events(t, opt)
	seen := make(map[string]int)
	starts := make(map[string]map[uint64]bool)
	born := make(map[*attribution.Owner]int64)
	for i := range es {
		e := &es[i]
		switch e.Kind {
		case sampler.DeviceAdded:
			seen["model "+e.Device.Model]++
			seen["capacity "+e.Device.CapacityType]++
			seen["profile "+e.Device.Profile]++
			if e.Device.Remainder {
				seen["remainder"]++
			}
		case sampler.Held:
			born[e.Owner] = e.Time
			team, _ := e.Owner.Labels.Get("team")
			seen["team "+team]++
			if e.Replicas > 1 {
				seen["replicas"]++
			}
		case sampler.Released:
			if e.Time-born[e.Owner] < 6*second {
				seen["short-lived"]++
			}
		case sampler.Sampled:
			if e.Sample.Gap {
				seen["gap"]++
			}
			for _, p := range e.Sample.Processes {
				seen["owner "+p.Owner.Kind.String()]++
				k := e.DeviceID + string(rune(p.PID))
				if starts[k] == nil {
					starts[k] = make(map[uint64]bool)
				}
				starts[k][p.Start] = true
				if len(starts[k]) > 1 {
					seen["pid used again"]++
				}
			}
		case sampler.Tallied:
			seen["served "+e.Tally.Model]++
			seen["tier "+e.Tally.Tier]++
			for _, v := range e.Tally.Values {
				if v.Value > 0 || v.Measure == attribution.Success {
					seen[string(v.Measure)]++
				}
				if v.Value == 0 && v.Measure == attribution.Success {
					seen["measured none"]++
				}
			}
		case sampler.DeviceRemoved:
		}
	}
	for _, want := range []string{
		"model " + h100.name, "model " + a100.name, "model " + l40s.name, "capacity spot", "capacity reserved",
		"profile 1g.10gb", "profile 2g.20gb", "profile 3g.40gb", "remainder",
		"team search", "team media", "team speech", "team research", "team assist", "replicas", "short-lived", "gap",
		"owner container", "owner host-process", "owner unknown-process", "pid used again",
		"served llama-3-70b", "served sdxl", "served whisper-large", "served mistral-7b", "served bge-m3",
		"tier gold", "tier silver", "tier free", "success", "failure/client-abort", "failure/out-of-memory", "failure/timeout",
		"tokens/input", "tokens/cached", "tokens/output", "latency/46", "queue", "measured none",
	} {
		if seen[want] == 0 {
			t.Errorf("no %s", want)
		}
	}
}

func TestNodeHas64Processes(t *testing.T) {
	opt := NodeOptions()
	opt.Duration = 3
	es, _ := events(t, opt)
	processes, devices := 0, make(map[string]bool)
	for i := range es {
		if e := &es[i]; e.Kind == sampler.Sampled && e.Time == (defaultStart+3)*second {
			processes += len(e.Sample.Processes)
			devices[e.DeviceID] = true
		}
	}
	if processes != 64 || len(devices) != 8 {
		t.Fatalf("%d processes on %d devices", processes, len(devices))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, opt := range []Options{
		{Start: -1}, {Duration: -1}, {Start: 4e9, Duration: 4e9}, {Nodes: -1}, {Nodes: 10_001}, {Devices: 65}, {Profile: 9},
	} {
		if _, err := New(opt); err == nil {
			t.Errorf("%+v was taken", opt)
		}
	}
}

func BenchmarkSecond(b *testing.B) {
	for name, opt := range map[string]Options{"node": NodeOptions(), "fleet": FleetOptions()} {
		b.Run(name, func(b *testing.B) {
			s, err := New(opt)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				s.generate()
			}
		})
	}
}
