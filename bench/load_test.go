package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/gpuledger/gpuledger/attribution"
)

// What BenchmarkLoad does unless the environment says otherwise:
// GPULEDGER_LOAD is how long each fleet is live, GPULEDGER_LOAD_AGENTS how large
// the fleets are, GPULEDGER_LOAD_BACKLOG what they catch up with: of each size, in
// their order, where there are several. GPULEDGER_LOAD_MEMORY is the collector's
// memory limit in MiB, a container's, where cgroups can be made.
const (
	loadFor     = 20 * time.Second
	loadAgents  = "200"
	loadBacklog = 5 * time.Minute
	bareFor     = 2 * time.Minute // at most, of a server that has nothing to pile up
	loadMemory  = "2048"          // deploy/collector has half as much again
)

// BenchmarkLoad holds a collector under whole fleets of agents, made by
// `gpuledger loadgen`, and has Prometheus and an OpenTelemetry Collector take in
// the same facts on the same machine in the same run. It prints a table. Of all
// programs the processor time is utime + stime, as the kernel counts it; what
// the receivers take and what the senders take is told apart.
//
//	make load-test
func BenchmarkLoad(b *testing.B) {
	span, err := time.ParseDuration(or(os.Getenv("GPULEDGER_LOAD"), loadFor.String()))
	if err != nil {
		b.Fatal(err)
	}
	backlogs := strings.Split(or(os.Getenv("GPULEDGER_LOAD_BACKLOG"), loadBacklog.String()), ",")
	sizes := strings.Split(or(os.Getenv("GPULEDGER_LOAD_AGENTS"), loadAgents), ",")
	for b.Loop() {
		var rows []borne
		note := func(r borne) {
			rows = append(rows, r)
			// A run takes an hour: tell what is there.
			fmt.Fprintf(os.Stderr, "%s: %d slices, %v of CPU there, %v here, %.0f MiB %s\n", r.what, r.slices, r.receiver, r.sender, r.peak/mib, r.skipped)
		}
		for i, backlog := range backlogs[:min(len(backlogs), len(sizes))] {
			note(loaded(b, sizes[i], "catching up", "--backlog", backlog, "--for", "0s"))
		}
		note(prometheusBears(b))
		note(otelcolBears(b))
		for _, n := range sizes {
			if span == 0 { // catching up is all that is asked for
				break
			}
			note(loaded(b, n, "live", "--for", span.String()))
			note(bareBears(b, n, min(span, bareFor)))
		}
		fmt.Fprint(os.Stdout, loadMarkdown(rows))
	}
	b.ReportMetric(0, "ns/op")
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// borne is what one receiver did with one load.
type borne struct {
	what             string
	slices           int64
	wall             time.Duration
	receiver, sender time.Duration // of processor time
	peak             float64       // bytes
	skipped          string        // why there is nothing to tell
	load             *loadStats    // of agents
}

// loadStats is what loadgen says of itself.
type loadStats struct {
	SlicesAcked int64         `json:"slices_acked"`
	Bytes       int64         `json:"bytes"`
	AckP50      time.Duration `json:"ack_p50_ns"`
	AckP99      time.Duration `json:"ack_p99_ns"`
	FreshP50    time.Duration `json:"fresh_p50_ns"`
	FreshP99    time.Duration `json:"fresh_p99_ns"`
	FreshOnes   int64         `json:"fresh_samples"`
}

func (r *borne) perSlice(d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1000 / float64(r.slices)
}

// loadFleet is how large one is, and how often its agents send what is live.
type loadFleet struct {
	agents          int
	devices, owners string
	every           time.Duration
}

// fleetOf reads the size of a fleet: "1000" agents have 8 devices that 4 owners
// share, those of "1000x4" 4 devices, and those of "1000x8x64" 8 with 64 owners.
// Those of "1000/2s" send two live seconds together.
func fleetOf(b *testing.B, size string) loadFleet {
	of, every, ok := strings.Cut(size, "/")
	f := loadFleet{every: time.Second}
	var err error
	if ok {
		f.every, err = time.ParseDuration(every)
	}
	parts := strings.Split(of, "x")
	agents, wrong := strconv.Atoi(parts[0])
	if err != nil || wrong != nil || len(parts) > 3 {
		b.Fatalf("%q is no fleet: want AGENTS, AGENTSxDEVICES or AGENTSxDEVICESxOWNERS, and /2s behind it for live seconds every two", size)
	}
	parts = append(parts, []string{"8", "4"}[len(parts)-1:]...)
	f.agents, f.devices, f.owners = agents, parts[1], parts[2]
	return f
}

func (f *loadFleet) String() string {
	how := ""
	if f.every != time.Second {
		how = fmt.Sprintf(" every %v", f.every)
	}
	return fmt.Sprintf("%d agents of %s devices with %s owners%s", f.agents, f.devices, f.owners, how)
}

func number(b *testing.B, text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// rampOf is the time over which so many agents connect.
func rampOf(agents int) time.Duration {
	return max(5*time.Second, time.Duration(agents)*5*time.Millisecond)
}

// loaded has a collector bear a fleet.
func loaded(b *testing.B, size, how string, args ...string) borne {
	f := fleetOf(b, size)
	dir := b.TempDir()
	group, err := memoryGroup(b, int64(number(b, or(os.Getenv("GPULEDGER_LOAD_MEMORY"), loadMemory)))<<20)
	if err != nil {
		fmt.Fprintf(os.Stderr, "the collector's memory has no limit: %v\n", err)
	}
	c := startCollectorIn(b, group, dir, fmt.Sprintf("live_every: %v\n", f.every))
	load := exec.Command(ours(b, "gpuledger"), append([]string{
		"loadgen", "--collector", c.GRPC, "--agents", strconv.Itoa(f.agents), "--devices", f.devices, "--owners", f.owners, "--ramp", rampOf(f.agents).String(),
		"--settle", "30m", "--seed", "1", "--output", "json",
	}, args...)...)
	load.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The agents of a whole fleet are one process on the receiver's machine: its
	// garbage may lie about, so that collecting it takes little of the processor.
	load.Env = append(os.Environ(), "GOGC=400")
	var out, progress bytes.Buffer
	load.Stdout, load.Stderr = &out, &progress
	before, began := c.cpu(b), time.Now()
	if err := load.Run(); err != nil {
		b.Fatalf("loadgen: %v\n%s\n%s", err, progress.String(), c.tail())
	}
	r := borne{
		what: fmt.Sprintf("gpuledger, %v, %s", &f, how), wall: time.Since(began),
		receiver: c.cpu(b) - before, sender: load.ProcessState.UserTime() + load.ProcessState.SystemTime(),
		peak: c.memory(b, "VmHWM"),
	}
	var answer struct {
		Stats loadStats `json:"stats"`
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		b.Fatalf("%v\n%s", err, out.String())
	}
	r.load, r.slices = &answer.Stats, answer.Stats.SlicesAcked
	if text, err := exec.Command(ours(b, "gpuledger"), "verify", "--collector", c.GRPC).CombinedOutput(); err != nil {
		b.Fatalf("verify after %s: %v\n%s", r.what, err, text)
	}
	c.stop(b)
	return r
}

// prometheusBears has Prometheus take in the same facts by remote write.
func prometheusBears(b *testing.B) borne {
	r := borne{what: "Prometheus, remote write"}
	if _, err := exec.LookPath("prometheus"); err != nil {
		r.skipped = "not installed"
		return r
	}
	encoding := selfCPU(b)
	requests, slices := promRequests(1 + promSeconds)
	encoding = selfCPU(b) - encoding
	p := startPrometheus(b, b.TempDir())
	p.take(b, requests[:1]) // makes the series, which the others do not pay for
	before, sending, began := p.cpu(b), selfCPU(b), time.Now()
	p.take(b, requests[1:])
	r.wall, r.receiver = time.Since(began), p.cpu(b)-before
	r.sender = selfCPU(b) - sending + encoding*promSeconds/(1+promSeconds)
	r.slices, r.peak = int64(slices)*promSeconds, p.memory(b, "VmHWM")
	if got, want := p.appended(b), len(sliceMetrics)*slices*(1+promSeconds); got != want {
		b.Fatalf("%d samples are there, %d were sent", got, want)
	}
	p.stop(b)
	return r
}

// otelcolBears has an OpenTelemetry Collector take in the same facts as OTLP over
// gRPC, and write them to a file as protobuf, the cheapest that it has.
func otelcolBears(b *testing.B) borne {
	r := borne{what: "OpenTelemetry Collector, OTLP"}
	path, err := exec.LookPath("otelcol")
	if err != nil {
		path = filepath.Join("..", ".tools", "otelcol")
	}
	if _, err := os.Stat(path); err != nil {
		r.skipped = "not built (make .tools/otelcol)"
		return r
	}
	encoding := selfCPU(b)
	requests, slices := otlpRequests(promSeconds)
	encoding = selfCPU(b) - encoding
	dir := b.TempDir()
	listen, config, file := freePort(b), filepath.Join(dir, "otelcol.yml"), filepath.Join(dir, "metrics")
	write(b, config, fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: %q, max_recv_msg_size_mib: 64}}}}
exporters: {file: {path: %q, format: proto}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {metrics: {receivers: [otlp], exporters: [file]}}
`, listen, file))
	p := start(b, dir, path, "--config", config)
	conn, err := grpc.NewClient(listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	p.await(b, func() bool { return export(conn, nil) == nil })
	before, sending, began := p.cpu(b), selfCPU(b), time.Now()
	var g errgroup.Group
	for shard := range promShards {
		g.Go(func() error {
			for i := shard; i < len(requests); i += promShards {
				if err := export(conn, requests[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	r.wall, r.receiver, r.sender = time.Since(began), p.cpu(b)-before, selfCPU(b)-sending+encoding
	r.slices, r.peak = int64(slices), p.memory(b, "VmHWM")
	if st, err := os.Stat(file); err != nil || st.Size() < int64(slices) {
		b.Fatalf("the collector wrote nothing: %v", err)
	}
	p.stop(b)
	return r
}

// export sends one OTLP request that is encoded already.
func export(conn *grpc.ClientConn, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return conn.Invoke(ctx, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", body, nil, grpc.ForceCodecV2(exported{}))
}

// exported is like [encoded] and does not look at the answer.
type exported struct{ encoded }

func (exported) Unmarshal(mem.BufferSlice, any) error { return nil }

// otlpRequests are so many seconds of the fleet that Prometheus gets, as OTLP:
// as many nodes in a request, second by second. A MetricsData is an
// ExportMetricsServiceRequest, and two behind each other are one.
func otlpRequests(seconds int) (requests [][]byte, slices int) {
	f := defaultFleet()
	running := make([]totals, ingestNodes)
	chunks := make([]*attribution.Chunk, ingestNodes)
	for s := range seconds {
		for first := 0; first < ingestNodes; first += promNodes {
			var body []byte
			for node := first; node < min(first+promNodes, ingestNodes); node++ {
				if s%attribution.ChunkSeconds == 0 {
					chunks[node] = f.chunk(node, s/attribution.ChunkSeconds)
				}
				if running[node] == nil {
					running[node] = totals{}
				}
				body = append(body, otlpPlain(chunks[node], f.start+attribution.Second(s), running[node])...)
				slices += slicesOf(chunks[node]) / attribution.ChunkSeconds
			}
			requests = append(requests, body)
		}
	}
	return requests, slices
}

// selfCPU is the processor time that this process has taken.
func selfCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadMarkdown is the table of README.md.
func loadMarkdown(rows []borne) string {
	var w strings.Builder
	w.WriteString("\n| | slices | taken in, slices/s | receiver, µs of CPU a slice | slices/s a core | sender, µs a slice | freshness p50, p99 | ack p50, p99 | peak RSS |\n|---|---|---|---|---|---|---|---|---|\n")
	for i := range rows {
		r := &rows[i]
		if r.skipped != "" {
			fmt.Fprintf(&w, "| %s | %s |\n", r.what, r.skipped)
			continue
		}
		fresh, acks := "", ""
		if r.load != nil {
			acks = fmt.Sprintf("%.1f, %.1f s", r.load.AckP50.Seconds(), r.load.AckP99.Seconds())
			if r.load.FreshOnes > 0 {
				fresh = fmt.Sprintf("%.2f, %.2f s", r.load.FreshP50.Seconds(), r.load.FreshP99.Seconds())
			}
		}
		fmt.Fprintf(&w, "| %s | %d | %.0f | %.2f | %.0f | %.2f | %s | %s | %.0f MiB |\n", r.what, r.slices, float64(r.slices)/r.wall.Seconds(),
			r.perSlice(r.receiver), float64(r.slices)/r.receiver.Seconds(), r.perSlice(r.sender), fresh, acks, r.peak/mib)
	}
	w.WriteString("\n| times our CPU a slice | receiver | receiver and sender |\n|---|---|---|\n")
	for i := range rows {
		for j := range rows {
			us, them := &rows[i], &rows[j]
			if us.load == nil || them.load != nil || us.skipped+them.skipped != "" {
				continue
			}
			fmt.Fprintf(&w, "| %s: %s | %.2g× | %.2g× |\n", us.what, them.what, them.perSlice(them.receiver)/us.perSlice(us.receiver),
				them.perSlice(them.receiver+them.sender)/us.perSlice(us.receiver+us.sender))
		}
	}
	return w.String()
}
