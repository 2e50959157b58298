package nvmlstub_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

func checker(t *testing.T) string {
	t.Helper()
	check, err := nvmlstub.BuildCheck(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return check
}

var (
	anyID    = rapid.StringMatching(`(GPU|MIG)-[0-9a-f]{8}`)
	anyText  = rapid.StringMatching(`[a-zA-Z0-9#"\\= _.-]{1,40}`)
	anyDelay = rapid.Custom(func(t *rapid.T) time.Duration {
		unit := rapid.SampledFrom([]time.Duration{1, time.Microsecond, time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(t, "unit")
		return unit * time.Duration(rapid.IntRange(1, 5000).Draw(t, "n"))
	})
	anySize = rapid.Custom(func(t *rapid.T) int64 {
		return rapid.Int64Range(0, 5000).Draw(t, "n") << rapid.SampledFrom([]int{0, 10, 20, 30}).Draw(t, "shift")
	})
	anySpan = rapid.Custom(func(t *rapid.T) nvmlstub.Span {
		s := nvmlstub.Span{At: anyDelay.Draw(t, "at"), For: anyDelay.Draw(t, "for")}
		if rapid.Bool().Draw(t, "always") {
			s = nvmlstub.Span{}
		}
		return s
	})
)

func anyScenario(t *rapid.T) *nvmlstub.Scenario {
	n := func(max int, name string) int { return rapid.IntRange(0, max).Draw(t, name) }
	s := &nvmlstub.Scenario{Sampling: rapid.SampledFrom([]nvmlstub.Sampling{"", "exact", "driver", "raw"}).Draw(t, "sampling")}
	s.Excess = rapid.Bool().Draw(t, "excess")
	s.Start = time.Unix(rapid.Int64Range(1, 1<<32).Draw(t, "s"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns"))
	if rapid.Bool().Draw(t, "has settings") {
		s.Clock, s.Version, s.ProcFS = s.Start.Add(anyDelay.Draw(t, "clock")), anyText.Draw(t, "version"), "/"+anyText.Draw(t, "proc")
		s.Period, s.Scan = time.Millisecond+anyDelay.Draw(t, "period"), time.Millisecond+anyDelay.Draw(t, "scan")
	}
	device := anyID.Draw(t, "device")
	s.Devices = []nvmlstub.Device{{
		Span: anySpan.Draw(t, "span"), UUID: device, Name: anyText.Draw(t, "name"), Minor: n(9, "minor"), Memory: anySize.Draw(t, "memory"),
		Slices: n(7, "slices"), GPM: rapid.Bool().Draw(t, "gpm"), Energy: rapid.Bool().Draw(t, "energy"), Idle: n(100, "idle"), Full: 100 + n(600, "full"),
		CreditServer: rapid.Bool().Draw(t, "credit"), Bus: rapid.SampledFrom([]string{"", "0000:3b:00"}).Draw(t, "bus"),
	}}
	for range n(2, "instances") {
		s.MIG = append(s.MIG, nvmlstub.MIG{Span: anySpan.Draw(t, "span"), Device: device})
		s.Instances = append(s.Instances, nvmlstub.Instance{
			Span: anySpan.Draw(t, "span"), UUID: anyID.Draw(t, "uuid"), Device: device, GI: n(9, "gi"), CI: n(9, "ci"), Profile: "1g.10gb",
			ProfileID: n(19, "id"), Start: n(7, "start"), Size: n(8, "size"), Slices: 1 + n(6, "slices"), Compute: n(1, "compute"), Memory: anySize.Draw(t, "memory"),
		})
	}
	for range n(3, "processes") {
		p := nvmlstub.Process{Span: anySpan.Draw(t, "span"), PID: 1 + n(1<<22, "pid"), Device: device, SM: n(100, "sm"), Memory: nvmlstub.Unavailable}
		if rapid.Bool().Draw(t, "matches") {
			p.PID, p.Match, p.Memory, p.Kind = 0, anyText.Draw(t, "match"), anySize.Draw(t, "memory"), nvmlstub.MPSServer
			p.On, p.Off = anyDelay.Draw(t, "on"), anyDelay.Draw(t, "off")
		}
		s.Processes = append(s.Processes, p)
	}
	for range n(2, "faults") {
		s.Faults = append(s.Faults, nvmlstub.Fault{Span: anySpan.Draw(t, "span"), Function: "*", Target: device})
		s.Faults = append(s.Faults, nvmlstub.Fault{Function: "GetSamples", Target: "*", Error: "NOT_FOUND"}, nvmlstub.Fault{Function: "nvmlInit_v2", Target: "*", Delay: anyDelay.Draw(t, "delay")})
		s.Samples = append(s.Samples, nvmlstub.Sample{Span: anySpan.Draw(t, "span"), Device: device, PID: n(99, "pid"), SM: n(40000, "sm"), Ago: anyDelay.Draw(t, "ago")})
		s.Counts = append(s.Counts, nvmlstub.Count{Span: anySpan.Draw(t, "span"), Device: device, Count: n(200, "count")})
		s.Losses = append(s.Losses, nvmlstub.Loss{Span: anySpan.Draw(t, "span"), Device: device})
		s.Unloaded = append(s.Unloaded, anySpan.Draw(t, "span"))
		s.Events = append(s.Events, nvmlstub.Event{At: anyDelay.Draw(t, "at"), Device: device, XID: n(99, "xid"), Type: 256, MIG: rapid.Bool().Draw(t, "mig")})
	}
	return s
}

// What the builder writes, the library's parser reads, and prints again.
func TestScenarioIsReadAsWritten(t *testing.T) {
	check, path := checker(t), filepath.Join(t.TempDir(), "scenario")
	rapid.Check(t, func(t *rapid.T) {
		s := anyScenario(t)
		if err := s.Write(path); err != nil {
			t.Fatal(err)
		}
		want, err := s.Render()
		if err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command(check, path).CombinedOutput()
		if err != nil || string(got) != want {
			t.Fatalf("%v\nwritten:\n%sread:\n%s", err, want, got)
		}
	})
}

func TestWordsThatCannotBeReadBackAreErrors(t *testing.T) {
	for name, s := range map[string]nvmlstub.Scenario{
		"newline":  {Devices: []nvmlstub.Device{{UUID: "GPU-a", Name: "a\nlost GPU-a"}}},
		"blank":    {Devices: []nvmlstub.Device{{UUID: "GPU a", Name: "a"}}},
		"no id":    {Losses: []nvmlstub.Loss{{}}},
		"negative": {Processes: []nvmlstub.Process{{PID: -1, Device: "GPU-a"}}},
		"earlier":  {Unloaded: []nvmlstub.Span{{At: -1}}},
	} {
		if text, err := s.Render(); err == nil {
			t.Errorf("%s: rendered as %q", name, text)
		}
	}
}

func TestBrokenScenariosAreToldByLine(t *testing.T) {
	check := checker(t)
	device := "device GPU-a name \"H100\" minor 0 memory 80GiB\n"
	for name, test := range map[string]struct{ text, want string }{
		"unknown verb":     {"# fine\n\ndevise GPU-a", `:3: unknown word "devise"`},
		"unknown key":      {"device GPU-a nam x", `:1: device: unknown word "nam"`},
		"missing":          {"device GPU-a minor 1", ":1: device: name is missing"},
		"twice":            {"device GPU-a name x name y", ":1: name twice"},
		"open quote":       {`device GPU-a name "x`, ":1: a quote is not closed"},
		"no value":         {"device GPU-a name", ":1: name: its value is missing"},
		"bad size":         {"device GPU-a name x memory 80", `:1: memory: "80" is no size`},
		"bad duration":     {device + "at soon lost GPU-a", `:2: at: "soon" is no duration`},
		"huge":             {device + "at 99999999999999h lost GPU-a", ":2: at: "},
		"bad number":       {"device GPU-a name x minor -1 memory 1GiB", `:1: minor: "-1" is no number`},
		"setting at":       {"at 1s sampling driver", ":1: sampling holds for the whole scenario"},
		"unknown sampling": {"sampling guess", `:1: no sampling "guess"`},
		"unknown device":   {device + "process pid 1 device GPU-b sm 1", `:2: no device "GPU-b"`},
		"both pid, match":  {device + "process pid 1 match x device GPU-a", ":2: process: give either"},
		"neither":          {device + "process device GPU-a", ":2: process: give either"},
		"over 100 %":       {device + "process pid 1 device GPU-a sm 101", ":2: process: sm 101"},
		"half a duty":      {device + "process pid 1 device GPU-a sm 1 on 1s", ":2: process: on and off"},
		"unknown function": {device + "error GetSample GPU-a NOT_FOUND", `:2: no function "GetSample"`},
		"unknown code":     {device + "error GetSamples GPU-a OOPS", `:2: no error "OOPS"`},
		"instance's slice": {device + "instance MIG-a device GPU-a gi 1 profile 1g placement 0:1 slices 1 compute 2 memory 1GiB", ":2: instance: 2 of 1 slices"},
		"no pair":          {device + "instance MIG-a device GPU-a gi 1 profile 1g placement 0 slices 1 memory 1GiB", ":2: placement: "},
		"a time alone":     {"at 1s", ":1: a time for nothing"},
		"start":            {"start", ":1: start: one Unix time"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "scenario")
			if err := os.WriteFile(path, []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(check, path).CombinedOutput()
			if err == nil || !strings.Contains(string(out), path+test.want) {
				t.Fatalf("%v: %s, want %s", err, out, test.want)
			}
		})
	}
}

// By hand: two processes want 60 and 80 % of a device, the second for half of
// each second only.
func TestTruth(t *testing.T) {
	s := nvmlstub.Scenario{
		Start:   time.Unix(1_700_000_000, 0),
		Devices: []nvmlstub.Device{{UUID: "GPU-a"}},
		Processes: []nvmlstub.Process{
			{PID: 1, Device: "GPU-a", SM: 60},
			{PID: 2, Device: "GPU-a", SM: 80, On: time.Second / 2, Off: time.Second / 2, Span: nvmlstub.Span{At: time.Second, For: 2 * time.Second}},
			{PID: 3, Device: "GPU-b", SM: 100},
		},
	}
	at := func(d time.Duration) time.Time { return s.Start.Add(d) }
	// Alone for a second, then half a second of 140 % and half a second alone.
	if got, want := s.TrueSM(0, at(0), at(2*time.Second)), 600*time.Millisecond+60*time.Second/280+300*time.Millisecond; got != want {
		t.Errorf("the first: %v, want %v", got, want)
	}
	if got, want := s.TrueSM(1, at(0), at(4*time.Second)), 2*(80*time.Second/280); got != want {
		t.Errorf("the second: %v, want %v", got, want)
	}
	if got, want := s.TrueDeviceSM("GPU-a", at(time.Second), at(1500*time.Millisecond)), 500*time.Millisecond; got < want-2 || got > want {
		t.Errorf("the device: %v, want %v", got, want)
	}
}
