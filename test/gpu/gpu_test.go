package gpu

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// workload is what runs on the GPU at once.
type workload struct {
	name  string
	loads []spec
}

var workloads = [...]workload{
	{"70 % and 20 %", []spec{{name: "heavy", duty: 0.7, size: 4096, sm: 70}, {name: "light", duty: 0.2, size: 4096, sm: 20}}},
	{"both flat out", []spec{{name: "large", duty: 1, size: 8192, sm: 100}, {name: "small", duty: 1, size: 2048, sm: 50}}},
}

// How long what is not compared takes, in s: before the loads begin, until
// what they do is steady, and after the last second compared.
const (
	lead   = 2
	settle = 2
	rest   = 1
)

// TestGPU holds the ledger against a GPU, and keeps what it has seen.
func TestGPU(t *testing.T) {
	r := open(t)
	rec := &recording{Taken: time.Now().UTC().Truncate(time.Second), Machine: r.nvml.machine(r), PerHour: perHour, Latencies: map[string][]latency{}}
	if rec.Machine.MIG {
		t.Skip("this GPU is in MIG mode: a test of sharing needs the whole of one")
	}
	rec.Latencies["idle"] = r.nvml.latencies(3 * time.Second)
	r.start()
	began := time.Now()
	for i, w := range workloads {
		p, busy := r.phase(w, i == len(workloads)-1, &rec.Machine)
		rec.Phases = append(rec.Phases, p)
		if busy != nil {
			rec.Latencies["busy"] = busy
		}
	}
	rec.Agent = r.cost(time.Since(began))
	rec.Machine.PeriodNs = cmp.Or(r.nvml.period(), rec.Machine.PeriodNs)
	text, err := rec.render()
	r.must(err)
	r.keep("recording.json", text)
	if err := r.agent.stop(); err != nil {
		t.Errorf("the agent: %v", err)
	}
	t.Log("\n" + rec.String())
	for _, wrong := range rec.check() {
		t.Error(wrong)
	}
	if log := fileText(r.agent.log); strings.Contains(log, "BUG:") || strings.Contains(log, "panic") {
		t.Errorf("the agent's log\n%s", r.agent.tail())
	}
}

// phase runs a workload and returns what was seen of it; and, if that is
// wanted, how long NVML's calls took meanwhile.
func (r *rig) phase(w workload, timeCalls bool, m *machine) (phase, []latency) {
	r.Helper()
	lasts := settle + r.seconds + rest
	var loads []load
	for _, s := range w.loads { // one after the other: each calibrates alone
		l := r.startLoad(s, lasts)
		r.show(l.pid())
		if l, ok := l.(*scripted); ok {
			m.Torch = l.ready.Torch
		}
		loads = append(loads, l)
	}
	start := time.Now().Unix() + lead
	p := phase{Name: w.name, From: start + settle, To: start + settle + r.seconds}
	watching := r.startPmon(lead + lasts + 1)
	for _, l := range loads {
		r.must(l.begin(start, lasts))
	}
	r.until(time.Unix(p.From, 0))
	var busy []latency
	if timeCalls {
		busy = r.nvml.latencies(time.Duration(r.seconds-1) * time.Second)
	}
	for _, l := range loads {
		f, err := l.facts()
		if err != nil {
			r.Error(err)
		}
		p.Loads = append(p.Loads, f)
	}
	var err error
	keep := func(text []byte) { r.keep(fmt.Sprintf("pmon-%d.txt", start), text) }
	if p.Pmon, err = watching.table(keep); err != nil {
		p.PmonError = err.Error()
		r.Errorf("pmon: %v", err)
	}
	p.Ledger = r.read(m.UUID, &p)
	return p, busy
}

// read is the ledger of a phase's seconds, once all are in it.
func (r *rig) read(uuid string, p *phase) []ledgerRow {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	r.await(r.agent, fmt.Sprintf("second %d is not in the ledger", p.To-1), func() bool {
		status, err := r.ledger.Status(ctx, &pb.StatusRequest{})
		r.must(err)
		return len(status.GetNodes()) == 1 && status.GetNodes()[0].GetVisibleThrough() >= p.To
	})
	answer, err := r.ledger.Report(ctx, &pb.ReportRequest{
		From: p.From, To: p.To, Step: 1, Filter: []string{"device=" + uuid}, GroupBy: []string{"controller", "basis", "method"},
	})
	r.must(err)
	number := func(s string) int64 {
		n, err := strconv.ParseInt(cmp.Or(s, "0"), 10, 64)
		r.must(err)
		return n
	}
	var rows []ledgerRow
	for _, row := range answer.GetRows() {
		k, sum := row.GetKeys(), row.GetSum()
		x := ledgerRow{
			Unix: row.GetTime(), Basis: k[1], Method: k[2], DeviceNs: number(sum.GetDeviceTimeNs()),
			SMNs: number(sum.GetSmActiveNs()), EnergyUJ: number(sum.GetEnergyUj()), Cost: sum.GetCost(),
		}
		if pid, ok := strings.CutPrefix(k[0], "SlurmJob/"); ok {
			x.PID = int(number(pid))
		}
		rows = append(rows, x)
	}
	return rows
}

// cost is what the agent has taken in its life, and what it says of itself.
func (r *rig) cost(wall time.Duration) agentCost {
	r.Helper()
	c := agentCost{WallNs: wall.Nanoseconds(), Metrics: map[string]float64{}}
	proc := fmt.Sprintf("/proc/%d/", r.agent.cmd.Process.Pid)
	if _, after, ok := strings.Cut(fileText(proc+"stat"), ") "); ok {
		if f := strings.Fields(after); len(f) > 21 {
			for _, ticks := range f[11:13] { // user and system time, in 1/100 s
				n, _ := strconv.ParseInt(ticks, 10, 64)
				c.CPUNs += n * 1e7
			}
			pages, _ := strconv.ParseInt(f[21], 10, 64)
			c.RSS = pages * int64(os.Getpagesize())
		}
	}
	answer, err := http.Get(r.page + "/metrics")
	r.must(err)
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	r.must(err)
	for name, f := range families {
		short, _ := strings.CutPrefix(name, "gpuledger_agent_")
		if !slices.ContainsFunc([]string{"nvml_", "device_", "process_unknown_"}, func(s string) bool { return strings.HasPrefix(short, s) }) {
			continue
		}
		for _, m := range f.GetMetric() {
			key := short
			for _, l := range m.GetLabel() {
				if n := l.GetName(); n != "cluster" && n != "node" {
					key += fmt.Sprintf(" %s=%s", n, l.GetValue())
				}
			}
			c.Metrics[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return c
}
