package gpu

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution/money"
)

// recording is what one run has seen.
type recording struct {
	Taken   time.Time `json:"taken"`
	Machine machine   `json:"machine"`
	// PerHour is the price of a GPU-hour, in nano units.
	PerHour   int64                `json:"per_hour"`
	Phases    []phase              `json:"phases"`
	Latencies map[string][]latency `json:"latencies"` // by what the GPU did meanwhile
	Agent     agentCost            `json:"agent"`
}

// machine is where it was.
type machine struct {
	Stub         bool   `json:"stub"`
	Driver       string `json:"driver"`
	GPU          string `json:"gpu"`
	UUID         string `json:"uuid"`
	MemoryBytes  uint64 `json:"memory_bytes"`
	MIG          bool   `json:"mig"`
	PeriodNs     int64  `json:"sample_period_ns"` // of the driver's samples; 0: unknown
	Kernel       string `json:"kernel"`
	PIDNamespace string `json:"pid_namespace"`
	CPUs         int    `json:"cpus"`
	Torch        string `json:"torch,omitempty"`
}

// agentCost is what the agent took from its start to the end of the last phase,
// and what it counted.
type agentCost struct {
	WallNs  int64              `json:"wall_ns"`
	CPUNs   int64              `json:"cpu_ns"`
	RSS     int64              `json:"rss_bytes"`
	Metrics map[string]float64 `json:"metrics"`
}

// phase is a workload, and what was seen of it in the seconds [From, To).
type phase struct {
	Name   string      `json:"name"`
	From   int64       `json:"from"`
	To     int64       `json:"to"`
	Loads  []loadFacts `json:"loads"`
	Ledger []ledgerRow `json:"ledger"`
	Pmon   *pmonTable  `json:"pmon"`
	// PmonError says why there is no Pmon.
	PmonError string `json:"pmon_error,omitempty"`
}

// loadFacts are a process, and what it measured.
type loadFacts struct {
	Name     string       `json:"name"`
	PID      int          `json:"pid"`
	Duty     float64      `json:"duty"` // 1: flat out
	Size     int          `json:"size"` // of its matrices
	KernelNs int64        `json:"kernel_ns"`
	Seconds  []loadSecond `json:"seconds"`
}

// loadSecond is what a process measured in a second: BusyNs between CUDA events,
// WorkNs what it did, in the time that it takes alone.
type loadSecond struct {
	Unix    int64 `json:"unix"`
	BusyNs  int64 `json:"busy_ns"`
	WorkNs  int64 `json:"work_ns"`
	Kernels int64 `json:"kernels"`
}

// ledgerRow is what one owner has of a second: a load by its pid, anybody else
// with 0.
type ledgerRow struct {
	Unix     int64  `json:"unix"`
	PID      int    `json:"pid"`
	Basis    string `json:"basis"`
	Method   string `json:"method"`
	DeviceNs int64  `json:"device_ns"`
	SMNs     int64  `json:"sm_ns"`
	EnergyUJ int64  `json:"energy_uj"`
	Cost     string `json:"cost"`
}

// render is the recording as a file, a line for each row.
func (r *recording) render() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	text = regexp.MustCompile(`\{[^{}\[\]]*\}`).ReplaceAllFunc(text, func(row []byte) []byte {
		if one := regexp.MustCompile(`\n\s*`).ReplaceAll(row, nil); len(one) < 300 {
			return one
		}
		return row
	})
	return append(text, '\n'), nil
}

func readRecording(path string) (*recording, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &recording{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// part is what a load has of a phase's seconds, as shares of these: by each
// that measured it.
type part struct {
	used, sm    float64 // the ledger
	pmon        float64 // sm %, as a share
	busy, work  float64 // the load itself
	mayBe       float64 // how far the ledger may be from work
	maySplit    float64 // how far its part of both loads may be from pmon's
	split, want float64 // its part of both loads: the ledger's, and pmon's
}

// parts measures every load.
func (p *phase) parts(period int64) []part {
	seconds := float64(p.To - p.From)
	all := seconds * 1e9
	parts := make([]part, len(p.Loads))
	var sum part
	for i, l := range p.Loads {
		x := &parts[i]
		for _, r := range p.Ledger {
			if r.PID == l.PID && r.Basis == "used" {
				x.used += float64(r.DeviceNs) / all
				x.sm += float64(r.SMNs) / all
			}
		}
		for _, s := range l.Seconds {
			if s.Unix >= p.From && s.Unix < p.To {
				x.busy += float64(s.BusyNs) / all
				x.work += float64(s.WorkNs) / all
			}
		}
		x.pmon = p.Pmon.mean(l.PID, p.From, p.To) / 100
		sum.used, sum.work, sum.pmon = sum.used+x.used, sum.work+x.work, sum.pmon+x.pmon
	}
	if period <= 0 {
		period = 1e9 // the longest that a driver has
	}
	n := seconds * 1e9 / float64(period)
	for i := range parts {
		x := &parts[i]
		q := 0.0
		if sum.work > 0 {
			q = x.work / sum.work
		}
		x.mayBe = 4.5*min(sum.work, 1)*math.Sqrt(q*(1-q)/n) + 0.1
		x.maySplit = 2.25*math.Sqrt(q*(1-q)/n) + 0.05
		if sum.used > 0 && sum.pmon > 0 {
			x.split, x.want = x.used/sum.used, x.pmon/sum.pmon
		}
	}
	return parts
}

// check says all that is wrong with a recording.
func (r *recording) check() (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if len(r.Phases) == 0 {
		bad("it has no phases")
	}
	for i := range r.Phases {
		p := &r.Phases[i]
		of := func(format string, args ...any) { bad("%s: %s", p.Name, fmt.Sprintf(format, args...)) }
		p.conserved(r.PerHour, of)
		p.shares(r.Machine.PeriodNs, of)
	}
	for while, calls := range r.Latencies {
		answered := 0
		for _, c := range calls {
			if c.Error == "" {
				answered++
			}
			if c.Error == "" && (c.N == 0 || c.P50Ns <= 0 || c.P50Ns > c.P99Ns || c.P99Ns > c.MaxNs) {
				bad("%s, %s: %+v is no distribution", while, c.Call, c)
			}
		}
		if answered == 0 {
			bad("%s: no NVML call was timed", while)
		}
	}
	return wrong
}

// conserved checks laws 1 to 3 for every second, exactly.
func (p *phase) conserved(perHour int64, bad func(string, ...any)) {
	type window struct {
		ns   int64
		cost money.Amount
	}
	windows := map[int64]window{}
	for _, r := range p.Ledger {
		var cost money.Amount
		var err error
		if r.Cost != "" || r.DeviceNs != 0 { // of no time nothing is priced
			cost, err = money.Parse(r.Cost)
		}
		if err != nil || r.DeviceNs < 0 || r.Unix < p.From || r.Unix >= p.To {
			bad("%+v is no row of it: %v", r, err)
			continue
		}
		w := windows[r.Unix]
		windows[r.Unix] = window{w.ns + r.DeviceNs, w.cost + cost}
	}
	if p.To <= p.From {
		bad("[%d, %d) has no seconds", p.From, p.To)
	}
	for s := p.From; s < p.To; s++ {
		w, ok := windows[s]
		price := money.SecondPrice(money.Amount(perHour), s)
		switch {
		case !ok:
			bad("second %d is missing", s)
		case w.ns != 1e9:
			bad("second %d has %d ns", s, w.ns)
		case w.cost != price:
			bad("second %d costs %v, and not %v", s, w.cost, price)
		}
	}
}

// shares checks who used how much, within what the package's doc says.
func (p *phase) shares(period int64, bad func(string, ...any)) {
	if len(p.Loads) == 0 {
		bad("there are no loads")
	}
	if p.Pmon == nil && p.PmonError == "" {
		bad("there is no pmon, and no reason why")
	}
	for i, x := range p.parts(period) {
		l := &p.Loads[i]
		switch off := x.used - x.work; {
		case x.work == 0:
			bad("%s (pid %d) has done nothing", l.Name, l.PID)
		case x.used == 0:
			bad("%s (pid %d) is not in the ledger: does the driver name other pids than this machine (see unattributed)?", l.Name, l.PID)
		case math.Abs(off) > x.mayBe:
			bad("%s: the ledger has %.1f %%, of %.1f %%: off by more than %.1f", l.Name, 100*x.used, 100*x.work, 100*x.mayBe)
		}
		if p.Pmon == nil {
			continue
		}
		switch off := x.split - x.want; {
		case x.pmon == 0:
			bad("%s (pid %d) is not in pmon", l.Name, l.PID)
		case math.Abs(off) > x.maySplit:
			bad("%s: the ledger gives it %.1f %% of what both used, pmon %.1f %%: off by more than %.1f", l.Name, 100*x.split, 100*x.want, 100*x.maySplit)
		}
	}
}

// String shows the recording as people read it.
func (r *recording) String() string {
	var b strings.Builder
	m := &r.Machine
	fmt.Fprintf(&b, "%s, driver %s, samples every %v, %d cores, Linux %s\n", m.GPU, m.Driver, time.Duration(m.PeriodNs), m.CPUs, m.Kernel)
	for i := range r.Phases {
		r.Phases[i].show(&b, m.PeriodNs)
	}
	for _, while := range []string{"idle", "busy"} {
		if calls := r.Latencies[while]; calls != nil {
			fmt.Fprintf(&b, "\nNVML calls, GPU %s\n%s", while, latencyTable(calls))
		}
	}
	if a := &r.Agent; a.WallNs > 0 {
		fmt.Fprintf(&b, "\nagent: %.2f %% of a core over %.0f s, %.1f MiB RSS\n", 100*float64(a.CPUNs)/float64(a.WallNs), float64(a.WallNs)/1e9, float64(a.RSS)/(1<<20))
	}
	return b.String()
}

func (p *phase) show(b *strings.Builder, period int64) {
	seconds := float64(p.To - p.From)
	fmt.Fprintf(b, "\n%s, %.0f s\n%-28s %9s %9s %7s %9s %9s %9s %9s %9s\n", p.Name, seconds,
		"process", "ledger", "SM", "pmon", "CUDA", "work", "off work", "may be", "off pmon")
	for i, x := range p.parts(period) {
		l := &p.Loads[i]
		pmon, off := "-", "-"
		if p.Pmon != nil {
			pmon, off = strconv.FormatFloat(100*x.pmon, 'f', 1, 64)+"%", fmt.Sprintf("%+.1f%%", 100*(x.split-x.want))
		}
		fmt.Fprintf(b, "%-28s %8.3fs %8.3fs %7s %8.3fs %8.3fs %+8.3fs %8.3fs %9s\n",
			fmt.Sprintf("%s (%d, %.0f%% of %d)", l.Name, l.PID, 100*l.Duty, l.Size), seconds*x.used, seconds*x.sm, pmon,
			seconds*x.busy, seconds*x.work, seconds*(x.used-x.work), seconds*x.mayBe, off)
	}
	others := map[string]int64{}
	for _, r := range p.Ledger {
		if r.PID == 0 {
			others[r.Basis] += r.DeviceNs
		}
	}
	for _, basis := range []string{"used", "reserved", "unallocated", "unattributed", "unobserved"} {
		if others[basis] > 0 {
			fmt.Fprintf(b, "%-28s %8.3fs\n", "("+basis+")", float64(others[basis])/1e9)
		}
	}
}
