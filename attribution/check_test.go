package attribution_test

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

// tiny is a valid chunk with something of everything: two devices over two
// seconds, one of them shared, tallies, energy, prices.
func tiny() *attribution.Chunk {
	facts := attribution.Roster{
		Devices: []attribution.Device{
			{ID: "GPU-1", Cluster: "c", Node: "n", Model: "H100", Labels: attribution.Labels{{Key: "x", Value: "1"}, {Key: "z", Value: "2"}}},
			{ID: "GPU-2", Cluster: "c", Node: "n", Model: "H100"},
		},
		Owners: []attribution.Owner{
			{},
			{Kind: attribution.Container, Cluster: "c", Node: "n", Pod: "a", Labels: attribution.Labels{{Key: "app", Value: "a"}, {Key: "env", Value: ""}}},
			{Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: 7, Command: "miner"},
		},
		Methods:  []string{"sm/device", "sm/process"},
		Subjects: []attribution.Subject{{Owner: 1, Model: "m"}, {Owner: 1, Model: "o"}},
		Measures: []attribution.Measure{"success", "tokens/input"},
	}
	price := attribution.Price{PerHour: 2_500_000_001, Revision: 4}
	var ws []attribution.DeviceWindow
	for s := attribution.Second(1_000_000_003); s < 1_000_000_005; s++ {
		ws = append(ws, attribution.DeviceWindow{Device: 0, Method: 1, Second: s, Price: price, Energy: 700_000_001, Slices: []attribution.Slice{
			{Owner: 1, Basis: attribution.Used, Time: 333_333_333, SMActive: 333_333_333, Memory: 5 * gib},
			{Owner: 1, Basis: attribution.Reserved, Time: 333_333_334},
			{Owner: 2, Basis: attribution.Unattributed, Time: 333_333_333, SMActive: 1},
		}}, attribution.DeviceWindow{Device: 1, Method: 0, Second: s, Price: price, Energy: 90, Slices: []attribution.Slice{
			{Owner: 0, Basis: attribution.Unallocated, Time: 1e9},
		}})
	}
	return attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}, Sequence: 1_000_000_003}, 2, facts.Facts(), ws,
		[]attribution.Tally{{Second: 1_000_000_003, Value: 5}, {Second: 1_000_000_003, Subject: 1, Measure: 1, Value: 5}, {Second: 1_000_000_004, Value: 0}})
}

func TestLaw1CheckPassesAWholeChunk(t *testing.T) {
	if err := tiny().Check(); err != nil {
		t.Error(err)
	}
	if err := (&attribution.Chunk{Seconds: 10, Roster: &attribution.Roster{}}).Check(); err != nil {
		t.Errorf("a node without devices: %v", err)
	}
}

func TestCheckFindsEveryCorruption(t *testing.T) {
	type chunk = attribution.Chunk
	swap := func(i, j int, x any) { reflect.Swapper(x)(i, j) }
	for _, tc := range []struct {
		name    string
		law     int
		corrupt func(c *chunk)
	}{
		{"no seconds", 4, func(c *chunk) { c.Seconds = 0 }},
		{"eleven seconds", 4, func(c *chunk) { c.Seconds = 11 }},
		{"over the ten", 4, func(c *chunk) { c.Seconds = 8 }},
		{"fewer seconds than it has", 4, func(c *chunk) { c.Seconds = 1 }},
		{"an earlier sequence over the ten", 4, func(c *chunk) { c.Key.Sequence = 999_999_999 }},
		{"a later sequence", 4, func(c *chunk) { c.Key.Sequence++ }},
		{"beyond time", 4, func(c *chunk) { c.Key.Sequence = math.MaxInt64 - 7 }},
		{"before time", 4, func(c *chunk) { c.Key.Sequence = math.MinInt64 + 8 }},
		{"another node", 4, func(c *chunk) { c.Key.Node = "o" }},
		{"another cluster", 4, func(c *chunk) { c.Key.Cluster = "o" }},
		{"no roster", 4, func(c *chunk) { c.Roster = nil }},

		{"device without ID", 4, func(c *chunk) { c.Roster.Devices[0].ID = "" }},
		{"device of another node", 4, func(c *chunk) { c.Roster.Devices[1].Node = "o" }},
		{"device of another cluster", 4, func(c *chunk) { c.Roster.Devices[1].Cluster = "o" }},
		{"device with negative memory", 4, func(c *chunk) { c.Roster.Devices[1].MemoryBytes = -1 }},
		{"device labels out of order", 4, func(c *chunk) { swap(0, 1, c.Roster.Devices[0].Labels) }},
		{"device label without key", 4, func(c *chunk) { c.Roster.Devices[0].Labels[0].Key = "" }},
		{"devices out of order", 4, func(c *chunk) { swap(0, 1, c.Roster.Devices) }},
		{"device twice", 4, func(c *chunk) { c.Roster.Devices[1] = c.Roster.Devices[0] }},
		{"device under two facts in one second", 2, func(c *chunk) { c.Roster.Devices[1].ID = "GPU-1"; c.Roster.Devices[1].Model = "H200" }},
		{"owner of no kind", 4, func(c *chunk) { c.Roster.Owners[2].Kind = 9 }},
		{"owner of another node", 4, func(c *chunk) { c.Roster.Owners[1].Node = "o" }},
		{"owner of another cluster", 4, func(c *chunk) { c.Roster.Owners[1].Cluster = "o" }},
		{"owner labels repeated", 4, func(c *chunk) { c.Roster.Owners[1].Labels[1].Key = "app" }},
		{"owners out of order", 4, func(c *chunk) { swap(0, 1, c.Roster.Owners) }},
		{"owner twice", 4, func(c *chunk) { c.Roster.Owners[2] = c.Roster.Owners[1] }},
		{"methods out of order", 4, func(c *chunk) { swap(0, 1, c.Roster.Methods) }},
		{"method without name", 4, func(c *chunk) { c.Roster.Methods[0] = "" }},
		{"subject of no owner", 4, func(c *chunk) { c.Roster.Subjects[1].Owner = 3 }},
		{"subjects out of order", 4, func(c *chunk) { swap(0, 1, c.Roster.Subjects) }},
		{"measures out of order", 4, func(c *chunk) { swap(0, 1, c.Roster.Measures) }},
		{"measure without name", 4, func(c *chunk) { c.Roster.Measures[0] = "" }},

		{"windows out of order", 2, func(c *chunk) { swap(0, 1, c.Windows) }},
		{"window twice", 2, func(c *chunk) { c.Windows[1] = c.Windows[0] }},
		{"no device", 4, func(c *chunk) { c.Windows[3].Device = 2 }},
		{"no method", 4, func(c *chunk) { c.Windows[0].Method = 2 }},
		{"window before the chunk", 4, func(c *chunk) { c.Windows[0].Second-- }},
		{"window behind the chunk", 4, func(c *chunk) { c.Windows[1].Second++ }},
		{"another price", 1, func(c *chunk) { c.Windows[0].Price.PerHour *= 2 }},
		{"negative price", 1, func(c *chunk) { c.Windows[0].Price.PerHour *= -1 }},
		{"absurd price", 1, func(c *chunk) { c.Windows[0].Price.PerHour = math.MaxInt64 }},
		{"price of no revision", 1, func(c *chunk) { c.Windows[0].Price.Revision = 0 }},
		{"another energy", 1, func(c *chunk) { c.Windows[0].Energy++ }},
		{"negative energy", 1, func(c *chunk) { c.Windows[0].Energy = -1 }},
		{"absurd energy", 1, func(c *chunk) { c.Windows[0].Energy = math.MaxInt64 }},
		{"no slices", 1, func(c *chunk) { c.Windows[0].Slices = nil }},
		{"a slice lost", 1, func(c *chunk) { c.Windows[0].Slices = c.Windows[0].Slices[1:] }},

		{"no owner", 4, func(c *chunk) { c.Windows[0].Slices[2].Owner = 3 }},
		{"no basis", 2, func(c *chunk) { c.Windows[0].Slices[0].Basis = 0 }},
		{"sixth basis", 2, func(c *chunk) { c.Windows[0].Slices[2].Basis = 6 }},
		{"slices out of order", 2, func(c *chunk) { swap(0, 1, c.Windows[0].Slices) }},
		{"pair twice", 2, func(c *chunk) { c.Windows[0].Slices[1].Basis = attribution.Used }},
		{"used by nobody", 2, func(c *chunk) { c.Windows[0].Slices[0].Owner = 0 }},
		{"unallocated by somebody", 2, func(c *chunk) { c.Windows[0].Slices[1].Basis = attribution.Unallocated }},
		{"unattributed by a container", 2, func(c *chunk) {
			c.Windows[2].Slices[0] = attribution.Slice{Owner: 1, Basis: attribution.Unattributed, Time: 1e9}
		}},
		{"time out of nothing", 1, func(c *chunk) { c.Windows[0].Slices[0].Time++ }},
		{"negative time", 1, func(c *chunk) { c.Windows[0].Slices[0].Time = -1; c.Windows[0].Slices[1].Time = 666_666_668 }},
		{"time moved", 6, func(c *chunk) { c.Windows[0].Slices[0].Time -= 9e6; c.Windows[0].Slices[1].Time += 9e6 }},
		{"negative activity", 1, func(c *chunk) { c.Windows[0].Slices[0].SMActive = -1 }},
		{"activity beyond the second", 1, func(c *chunk) { c.Windows[0].Slices[0].SMActive = 1e9 + 1 }},
		{"negative memory", 1, func(c *chunk) { c.Windows[0].Slices[0].Memory = -1 }},
		{"absurd memory", 1, func(c *chunk) { c.Windows[0].Slices[0].Memory = math.MaxInt64 }},
		{"cost out of nothing", 1, func(c *chunk) { c.Windows[0].Slices[0].Cost++ }},
		{"cost moved", 6, func(c *chunk) { c.Windows[0].Slices[0].Cost--; c.Windows[0].Slices[1].Cost++ }},
		{"energy moved", 6, func(c *chunk) { c.Windows[0].Slices[0].Energy--; c.Windows[0].Slices[1].Energy++ }},
		{"cost of the only slice", 1, func(c *chunk) { c.Windows[2].Slices[0].Cost-- }},

		{"tally of no subject", 4, func(c *chunk) { c.Tallies[2].Subject = 2 }},
		{"tally of no measure", 4, func(c *chunk) { c.Tallies[2].Measure = 2 }},
		{"tally before the chunk", 4, func(c *chunk) { c.Tallies[0].Second-- }},
		{"tally behind the chunk", 4, func(c *chunk) { c.Tallies[2].Second++ }},
		{"negative tally", 4, func(c *chunk) { c.Tallies[0].Value = -1 }},
		{"absurd tally", 4, func(c *chunk) { c.Tallies[0].Value = math.MaxInt64 }},
		{"tally twice", 4, func(c *chunk) { c.Tallies[1] = c.Tallies[0] }},
		{"tallies out of order", 4, func(c *chunk) { swap(0, 2, c.Tallies) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := tiny()
			tc.corrupt(c)
			err := c.Check()
			var broken *attribution.Broken
			if !errors.As(err, &broken) || !errors.Is(err, attribution.ErrBroken) {
				t.Fatalf("got %v", err)
			}
			if broken.Law != tc.law || !strings.Contains(err.Error(), "node") || broken.Reason == "" {
				t.Errorf("want law %d, got %v", tc.law, err)
			}
		})
	}
}

// A window with more slices than the stack has room for is judged alike.
func TestLaw1CheckOfAWideWindow(t *testing.T) {
	facts := attribution.Roster{Devices: []attribution.Device{{ID: "GPU-1", Cluster: "c", Node: "n"}}, Methods: []string{"sm"}}
	w := attribution.DeviceWindow{Second: 7, Price: attribution.Price{PerHour: 2_500_000_000, Revision: 1}, Energy: 700_000_000}
	left := attribution.WindowNanos
	for i := range 200 {
		facts.Owners = append(facts.Owners, attribution.Owner{Kind: attribution.HostProcess, Cluster: "c", Node: "n", PID: uint32(1000 - i)})
		t := int64(i * i * 100)
		left -= t
		w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(i), Basis: attribution.Used, Time: t})
	}
	w.Slices[0].Time = left
	c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: 7}, 1, facts.Facts(), []attribution.DeviceWindow{w}, nil)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	c.Windows[0].Slices[9].Cost--
	c.Windows[0].Slices[11].Cost++
	if err := c.Check(); !errors.Is(err, attribution.ErrBroken) {
		t.Errorf("got %v", err)
	}
}

// Whatever a chunk holds, Check answers and does not panic.
func TestCheckSurvivesAnything(t *testing.T) {
	interesting := []int64{0, 1, -1, 2, 7, 10, math.MaxInt64, math.MinInt64, 1e9, 1 << 31, 1 << 32}
	rapid.Check(t, func(t *rapid.T) {
		c := tiny()
		for range rapid.IntRange(1, 6).Draw(t, "mutations") {
			v := reflect.ValueOf(c).Elem()
			for {
				switch v.Kind() {
				case reflect.Pointer:
					if v.IsNil() || rapid.IntRange(0, 20).Draw(t, "nil") == 0 {
						v.SetZero()
						break
					}
					v = v.Elem()
					continue
				case reflect.Struct:
					v = v.Field(rapid.IntRange(0, v.NumField()-1).Draw(t, "field"))
					continue
				case reflect.Slice, reflect.Array:
					if v.Len() == 0 {
						break
					}
					if v.Kind() == reflect.Slice && rapid.IntRange(0, 6).Draw(t, "cut") == 0 {
						v.SetLen(rapid.IntRange(0, v.Len()-1).Draw(t, "len"))
						break
					}
					v = v.Index(rapid.IntRange(0, v.Len()-1).Draw(t, "index"))
					continue
				case reflect.String:
					v.SetString(rapid.SampledFrom([]string{"", "a", "GPU-2", "\xff"}).Draw(t, "text"))
				case reflect.Bool:
					v.SetBool(!v.Bool())
				case reflect.Int, reflect.Int32, reflect.Int64:
					v.SetInt(rapid.SampledFrom(interesting).Draw(t, "int"))
				default:
					v.SetUint(uint64(rapid.SampledFrom(interesting).Draw(t, "uint")))
				}
				break
			}
		}
		if err := c.Check(); err != nil && !errors.Is(err, attribution.ErrBroken) {
			t.Fatal(err)
		}
	})
}

func TestFingerprintsTellFactsApart(t *testing.T) {
	devices := []attribution.Device{
		{},
		{ID: "a"},
		{Cluster: "a"},
		{Node: "a"},
		{Model: "a"},
		{CapacityType: "a"},
		{MemoryBytes: 1},
		{Parent: "a"},
		{Profile: "a"},
		{Share: attribution.MIGShare{Compute: 1}},
		{Share: attribution.MIGShare{ComputeOf: 1}},
		{Share: attribution.MIGShare{Memory: 1}},
		{Share: attribution.MIGShare{MemoryOf: 1}},
		{Remainder: true},
		{Sensors: 1},
		{Sensors: 2},
		{Labels: attribution.Labels{{Key: "a"}}},
		{Labels: attribution.Labels{{Key: "a", Value: "b"}}},
		{Labels: attribution.Labels{{Key: "a"}, {Key: "b"}}},
	}
	owners := []attribution.Owner{
		{},
		{Kind: 1},
		{Cluster: "a"},
		{Node: "a"},
		{Namespace: "a"},
		{Pod: "a"},
		{PodUID: "a"},
		{Container: "a"},
		{ControllerKind: "a"},
		{Controller: "a"},
		{PID: 1},
		{Command: "a"},
		{Labels: attribution.Labels{{Key: "a"}}},
		{Labels: attribution.Labels{{Key: "a", Value: "b"}}},
		{Namespace: "ab", Pod: "c"},
		{Namespace: "a", Pod: "bc"},
	}
	seen := map[attribution.Fingerprint]bool{}
	note := func(f attribution.Fingerprint, what any) {
		if seen[f] {
			t.Errorf("%+v has another's fingerprint", what)
		}
		seen[f] = true
	}
	for i := range devices {
		note(devices[i].Fingerprint(), devices[i])
		note((&attribution.Roster{Devices: devices[i : i+1]}).Fingerprint(), devices[i])
		for j := range devices {
			if c, d := attribution.CompareDevices(&devices[i], &devices[j]), attribution.CompareDevices(&devices[j], &devices[i]); (c == 0) != (i == j) || c != -d {
				t.Errorf("%+v and %+v compare as %d and %d", devices[i], devices[j], c, d)
			}
		}
	}
	for i := range owners {
		note(owners[i].Fingerprint(), owners[i])
		note((&attribution.Roster{Owners: owners[i : i+1]}).Fingerprint(), owners[i])
		for j := range owners {
			if c, d := attribution.CompareOwners(&owners[i], &owners[j]), attribution.CompareOwners(&owners[j], &owners[i]); (c == 0) != (i == j) || c != -d {
				t.Errorf("%+v and %+v compare as %d and %d", owners[i], owners[j], c, d)
			}
		}
	}
	for _, r := range []attribution.Roster{
		{Methods: []string{"a"}},
		{Methods: []string{"a", "b"}},
		{Measures: []attribution.Measure{"a"}},
		{Subjects: make([]attribution.Subject, 1)},
		{Subjects: []attribution.Subject{{Model: "a"}}},
		{Subjects: []attribution.Subject{{Tenant: "a"}}},
		{Subjects: []attribution.Subject{{Tier: "a"}}},
		{Subjects: []attribution.Subject{{Owner: 1}}},
	} {
		note(r.Fingerprint(), r)
	}
}

func TestSecondsAndBases(t *testing.T) {
	for s, want := range map[attribution.Second]attribution.Second{0: 0, 9: 0, 10: 10, -1: -10, -10: -10, -11: -20} {
		if got := s.ChunkStart(); got != want {
			t.Errorf("ChunkStart(%d) = %d, want %d", s, got, want)
		}
	}
	for ns, want := range map[int64]attribution.Second{0: 0, 999_999_999: 0, 1e9: 1, -1: -1, -1e9: -1, -1e9 - 1: -2} {
		if got := attribution.SecondOf(ns); got != want {
			t.Errorf("SecondOf(%d) = %d, want %d", ns, got, want)
		}
	}
	for _, b := range attribution.Bases {
		if got, err := attribution.ParseBasis(b.String()); got != b || err != nil {
			t.Errorf("%v: %v, %v", b, got, err)
		}
	}
	if _, err := attribution.ParseBasis("basis(0)"); err == nil || slices.Contains(attribution.Bases[:], 0) {
		t.Error("the zero basis passes for one")
	}
}
