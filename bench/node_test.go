package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	nodeWarmUp = 10 * time.Second
	// nodeScrape is how often the agent's /metrics is read, as a Prometheus does.
	nodeScrape = 15 * time.Second
	// nodeTrace is how long system calls are counted, after all else.
	nodeTrace = 10 * time.Second
)

// BenchmarkNode watches the real agent on a node of 8 GPUs, as far as a machine
// without any can be one: the real dlopen path on the stub driver, a kubelet
// whose pods share the GPUs, real processes, a real collector, a scrape of its
// metrics every 15 s. Beside it, at the same time on the same node, run
// programs that find the processes' pods as today's exporters do: podmapper. The first ten
// seconds do not count.
func BenchmarkNode(b *testing.B) {
	watch := max(restTime(b), time.Minute)
	for _, load := range []nodeLoad{{pods: 4, processes: 2}, {pods: 8, processes: 8}} {
		b.Run(fmt.Sprintf("processes=%d", load.total()), func(b *testing.B) {
			for b.Loop() {
				watchNode(b, load, watch)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// watched is a program whose cost is reported under a name.
type watched struct {
	*program
	name string
	cpu  time.Duration
}

func watchNode(b *testing.B, load nodeLoad, watch time.Duration) {
	b.StopTimer()
	dir := b.TempDir()
	m := startMachine(b, dir, load)
	c := startCollector(b, dir)
	a, metrics := startNodeAgent(b, dir, m, c)
	mappers := []*watched{
		startMapper(b, dir, m, "mapper-1s", "--every", "1s", "--pids", filepath.Join(dir, "pids")),
		startMapper(b, dir, m, "walker-1s", "--every", "1s", "--walk"),
		startMapper(b, dir, m, "walker-30s", "--every", "30s", "--walk"),
	}
	all := append([]*watched{{program: a, name: "agent"}}, mappers...)
	a.lasts(b, nodeWarmUp)
	before := metrics.read(b)
	for _, w := range all {
		w.cpu = w.program.cpu(b)
	}
	began := time.Now()
	b.StartTimer()
	metrics.scrape(b, a, watch)
	b.StopTimer()
	wall := time.Since(began).Seconds()
	for _, w := range all {
		b.ReportMetric(100*(w.program.cpu(b)-w.cpu).Seconds()/wall, w.name+"-%-of-a-core")
		b.ReportMetric(w.memory(b, "VmRSS")/mib, w.name+"-RSS-MiB")
	}
	b.ReportMetric(a.memory(b, "RssAnon")/mib, "agent-anon-MiB")
	b.ReportMetric(a.memory(b, "VmHWM")/mib, "agent-peak-RSS-MiB")
	after := metrics.read(b)
	for name, unit := range map[string]string{"go_memstats_mallocs_total": "agent-allocs/s", "go_memstats_alloc_bytes_total": "agent-alloc-B/s"} {
		b.ReportMetric((after[name]-before[name])/wall, unit)
	}
	traceSyscalls(b, dir, all[:3])
	checkNode(b, c, load, watch)
	a.stop(b)
	for _, w := range mappers {
		w.stop(b)
		w.check(b, load)
	}
	c.stop(b)
	b.StartTimer()
}

// startNodeAgent starts the agent on the stub driver, as it is when nobody has
// tuned it.
func startNodeAgent(b *testing.B, dir string, m *machine, c *collector) (*program, *page) {
	b.Helper()
	listen, config := freePort(b), filepath.Join(dir, "agent.yaml")
	pprof := os.Getenv("GPULEDGER_PPROF") != ""
	write(b, config, fmt.Sprintf("cluster: bench\nnode: n\nsource: nvml\nstate_dir: %q\ncollector: {address: %q}\nhttp_listen: %q\npprof: %v\nlog: {level: warn}\n%s",
		filepath.Join(dir, "state"), c.GRPC, listen, pprof, m.Settings(fmt.Sprintf("library: %q", m.library))))
	a := start(b, dir, ours(b, "gpuledger-agent"), "--config", config)
	p := &page{url: "http://" + listen, client: &http.Client{Timeout: 10 * time.Second}}
	b.Cleanup(p.client.CloseIdleConnections)
	a.await(b, func() bool {
		r, err := p.client.Get(p.url + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	return a, p
}

// page is an agent's /metrics.
type page struct {
	url    string
	client *http.Client
}

// read reads the sums of all that are one number.
func (p *page) read(b *testing.B) map[string]float64 {
	b.Helper()
	r, err := p.client.Get(p.url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r.Body)
	if err != nil {
		b.Fatal(err)
	}
	out := make(map[string]float64)
	for name, f := range families {
		for _, m := range f.GetMetric() {
			out[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// scrape scrapes for a while, and fails where the program ends.
func (p *page) scrape(b *testing.B, a *program, d time.Duration) {
	b.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		a.lasts(b, min(nodeScrape, time.Until(end)))
		p.read(b)
	}
}

// mapperBinary builds podmapper once.
var mapperBinary = sync.OnceValues(func() (string, error) {
	if _, err := binaries(); err != nil {
		return "", err
	}
	if built == "" { // the programs are somebody's
		dir, err := os.MkdirTemp("", "gpuledger-bench-")
		if err != nil {
			return "", err
		}
		built = dir
	}
	dir, err := os.MkdirTemp(built, "podmapper-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "podmapper")
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./podmapper").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build podmapper: %w\n%s", err, out)
	}
	return path, nil
})

func startMapper(b *testing.B, dir string, m *machine, name string, args ...string) *watched {
	b.Helper()
	path, err := mapperBinary()
	if err != nil {
		b.Fatal(err)
	}
	logs := filepath.Join(dir, name)
	if err := os.Mkdir(logs, 0o700); err != nil {
		b.Fatal(err)
	}
	return &watched{name: name, program: start(b, logs, path, append([]string{"--socket", m.PodResources(), "--proc", m.ProcFS()}, args...)...)}
}

// check makes sure that a mapper, which has ended, found what there is.
func (w *watched) check(b *testing.B, load nodeLoad) {
	b.Helper()
	text, err := os.ReadFile(w.log)
	if err != nil {
		b.Fatal(err)
	}
	var did struct{ Collections, Devices, Processes, Failed int }
	if err := json.Unmarshal(text, &did); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	// The GPUs and their replicas.
	if want := nodeDevices * (1 + load.pods); did.Failed > 0 || did.Collections == 0 || did.Devices != want || did.Processes != load.total() {
		b.Fatalf("%s: %+v: want %d devices and %d processes", w.name, did, want, load.total())
	}
}

// traceSyscalls counts the programs' system calls one after the other, where
// strace is installed. Traced programs are slower, so it comes last.
func traceSyscalls(b *testing.B, dir string, programs []*watched) {
	b.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		b.Log("no strace: system calls are not counted (Debian: apt-get install strace)")
		return
	}
	for _, w := range programs {
		out := filepath.Join(dir, w.name+".strace")
		c := exec.Command(strace, "-c", "-f", "-o", out, "-p", strconv.Itoa(w.cmd.Process.Pid))
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		w.lasts(b, nodeTrace)
		took := time.Since(began)
		_ = c.Process.Signal(syscall.SIGINT)
		_ = c.Wait() // its signal is its exit status
		text, err := os.ReadFile(out)
		if err != nil {
			b.Fatal(err)
		}
		calls, err := straceTotal(text)
		if err != nil {
			b.Log(err)
			return
		}
		b.ReportMetric(float64(calls)/took.Seconds(), w.name+"-syscalls/s")
		if os.Getenv("GPULEDGER_PPROF") != "" {
			b.Logf("%s\n%s", w.name, text)
		}
	}
}

// straceTotal is the number of calls in the last line of strace's table:
// percent, seconds, microseconds a call, calls, errors if any, "total".
func straceTotal(table []byte) (int64, error) {
	lines := bytes.Split(bytes.TrimSpace(table), []byte("\n"))
	f := strings.Fields(string(lines[len(lines)-1]))
	if len(f) < 5 || f[len(f)-1] != "total" {
		return 0, fmt.Errorf("strace may not look, or says something else: %q", lines[len(lines)-1])
	}
	return strconv.ParseInt(f[3], 10, 64)
}

// checkNode makes sure that the agent did its work: every pod has used its
// device, nobody else has, and no second is missing.
func checkNode(b *testing.B, c *collector, load nodeLoad, watched time.Duration) {
	b.Helper()
	answer, err := c.ledger(b).Report(context.Background(), &pb.ReportRequest{GroupBy: []string{"pod"}})
	if err != nil {
		b.Fatal(err)
	}
	total, ours, basis := int64(0), 0, make(map[string]int64)
	for _, row := range answer.GetRows() {
		sum, used := int64(0), int64(0)
		for _, x := range row.GetByBasis() {
			ns, err := strconv.ParseInt(x.GetDeviceTimeNs(), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += ns
			basis[x.GetBasis()] += ns
			if x.GetBasis() == "used" {
				used = ns
			}
		}
		total += sum
		if strings.HasPrefix(row.GetKeys()[0], "model-") && used > 0 {
			ours++
		}
	}
	if want := nodeDevices * watched.Nanoseconds(); total < want || ours != nodeDevices*load.pods || basis["unattributed"] > total/1000 {
		b.Fatalf("the ledger has %d ns of device time (want %d), %d pods that used theirs (want %d), by basis %v",
			total, want, ours, nodeDevices*load.pods, basis)
	}
}
