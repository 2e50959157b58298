package gpu

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution/money"
)

// A recording from a GPU is as right as when it was made, by what holds today.
func TestRecordings(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skip("no GPU has been recorded yet: run capture.sh on a machine that has one (README.md)")
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			rec, err := readRecording(path)
			if err != nil {
				t.Fatal(err)
			}
			if rec.Machine.Stub {
				t.Error("it is the stub's, and not a GPU's")
			}
			t.Log("\n" + rec.String())
			for _, wrong := range rec.check() {
				t.Error(wrong)
			}
		})
	}
}

// byHand is a recording that nothing is wrong with: two loads, for 20 s.
func byHand() *recording {
	const from = 1_700_000_000
	p := phase{
		Name: "70 % and 20 %", From: from, To: from + 20, Pmon: &pmonTable{},
		Loads: []loadFacts{{Name: "heavy", PID: 7, Duty: 0.7}, {Name: "light", PID: 8, Duty: 0.2}},
	}
	for s := int64(from); s < p.To; s++ {
		price := money.SecondPrice(perHour, s)
		parts := []ledgerRow{
			{Unix: s, PID: 7, Basis: "used", DeviceNs: 700_000_000, SMNs: 700_000_000, Cost: (price / 10 * 7).String()},
			{Unix: s, PID: 8, Basis: "used", DeviceNs: 200_000_000, SMNs: 200_000_000, Cost: (price / 10 * 2).String()},
			{Unix: s, Basis: "unallocated", DeviceNs: 100_000_000, Cost: (price - price/10*9).String()},
		}
		p.Ledger = append(p.Ledger, parts...)
		for i, sm := range []int{70, 20} {
			l := &p.Loads[i]
			l.Seconds = append(l.Seconds, loadSecond{Unix: s, BusyNs: int64(sm) * 1e7, WorkNs: int64(sm) * 1e7})
			p.Pmon.Rows = append(p.Pmon.Rows, pmonRow{Unix: s + 1, PID: l.PID, SM: &sm})
		}
	}
	return &recording{
		Machine: machine{PeriodNs: 166_666_000}, PerHour: perHour, Phases: []phase{p},
		Latencies: map[string][]latency{"idle": {{Call: "x", N: 1, P50Ns: 1, P99Ns: 1, MaxNs: 1}}},
	}
}

// What is wrong with a recording is seen.
func TestLaw1RecordingsAreChecked(t *testing.T) {
	if wrong := byHand().check(); len(wrong) > 0 {
		t.Fatalf("nothing is wrong with it, but %q", wrong)
	}
	// The driver's samples may credit a process with nothing in a second. It has
	// a row all the same, for its memory, of no time and hence of no cost.
	idle := byHand()
	p := &idle.Phases[0]
	p.Ledger = append(p.Ledger, ledgerRow{Unix: p.From, PID: 9, Basis: "used"})
	if wrong := idle.check(); len(wrong) > 0 {
		t.Errorf("with a row of no time: %q", wrong)
	}
	for want, spoil := range map[string]func(*phase, *recording){
		"second 1700000003 is missing": func(p *phase, _ *recording) { p.Ledger = append(p.Ledger[:9:9], p.Ledger[12:]...) },
		"has 1000000001 ns":            func(p *phase, _ *recording) { p.Ledger[4].DeviceNs++ },
		"has 2000000000 ns":            func(p *phase, _ *recording) { p.Ledger = append(p.Ledger, p.Ledger[:3]...) },
		"costs 0.000624996, and not":   func(p *phase, _ *recording) { p.Ledger[2].Cost = "0" },
		"70 % and 20 %: {Unix:1700000000 PID:7 Basis:used Method: DeviceNs:700000000 SMNs:700000000 EnergyUJ:0 Cost:} is no row of it": func(p *phase, _ *recording) { p.Ledger[0].Cost = "" },
		"is no row of it":                    func(p *phase, _ *recording) { p.Ledger[0].Unix-- },
		"heavy: the ledger has 20.0 %":       func(p *phase, _ *recording) { p.swap() },
		"light (pid 9) is not in the ledger": func(p *phase, _ *recording) { p.Loads[1].PID = 9 },
		"light (pid 8) has done nothing":     func(p *phase, _ *recording) { p.Loads[1].Seconds = nil },
		"heavy (pid 7) is not in pmon":       func(p *phase, _ *recording) { p.Pmon.Rows = nil },
		"of what both used, pmon":            func(p *phase, _ *recording) { p.Pmon.mirror() },
		"there is no pmon, and no reason":    func(p *phase, _ *recording) { p.Pmon = nil },
		"is no distribution":                 func(_ *phase, r *recording) { r.Latencies["idle"][0].P50Ns = 2 },
		"no NVML call was timed":             func(_ *phase, r *recording) { r.Latencies["idle"][0].Error = "x" },
		"it has no phases":                   func(_ *phase, r *recording) { r.Phases = nil },
		"has no seconds":                     func(p *phase, _ *recording) { p.To = p.From },
		"there are no loads":                 func(p *phase, _ *recording) { p.Loads = nil },
	} {
		r := byHand()
		spoil(&r.Phases[0], r)
		if wrong := strings.Join(r.check(), "\n"); !strings.Contains(wrong, want) {
			t.Errorf("want %q, got %q", want, wrong)
		}
	}
}

// swap gives each load what is the other's.
func (p *phase) swap() {
	for i := range p.Ledger {
		switch r := &p.Ledger[i]; r.PID {
		case 7:
			r.PID = 8
		case 8:
			r.PID = 7
		}
	}
}

// mirror shows each load's part as the other's.
func (p *pmonTable) mirror() {
	for i := range p.Rows {
		p.Rows[i].PID = 15 - p.Rows[i].PID
	}
}

func TestRecordingsAreReadAsWritten(t *testing.T) {
	want := byHand()
	text, err := want.render()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "recording.json")
	(&rig{T: t, out: filepath.Dir(path)}).keep(filepath.Base(path), text)
	got, err := readRecording(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if lines := strings.Count(string(text), "\n"); lines > 200 {
		t.Errorf("it has %d lines: a row is to be one", lines)
	}
}
