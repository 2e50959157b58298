package bench

import (
	"bytes"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// binaries builds the programs once, and says where they are. GPULEDGER_BIN
// names a folder that has them already.
var binaries = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("GPULEDGER_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.MkdirTemp("", "gpuledger-bench-")
	if err != nil {
		return "", err
	}
	built = dir
	for _, name := range []string{"gpuledger", "gpuledger-agent", "gpuledger-collector"} {
		c := exec.Command("go", "build", "-ldflags=-s -w -extldflags=-Wl,-z,lazy", "-o", filepath.Join(dir, name), "../cmd/"+name)
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

// built is the folder that binaries made, to be removed at the end.
var built string

func TestMain(m *testing.M) {
	if ready := os.Getenv(bareReady); ready != "" {
		fmt.Fprintln(os.Stderr, serveBare(ready))
		os.Exit(1)
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// program is one that runs beside a benchmark. It dies with it.
type program struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// ours is the path of one of the programs.
func ours(b *testing.B, name string) string {
	b.Helper()
	dir, err := binaries()
	if err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// start starts a program that logs into dir.
func start(b *testing.B, dir, path string, args ...string) *program {
	b.Helper()
	log := filepath.Join(dir, filepath.Base(path)+".log")
	out, err := os.Create(log)
	if err != nil {
		b.Fatal(err)
	}
	p := &program{cmd: exec.Command(path, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // seen in ProcessState
		out.Close()
		close(p.done)
	}()
	b.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// stop ends a program with SIGTERM, and waits for it.
func (p *program) stop(b *testing.B) {
	b.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		b.Fatalf("%s did not stop within a minute\n%s", p.cmd.Path, p.tail())
	}
	if !p.cmd.ProcessState.Success() {
		b.Fatalf("%s: %v\n%s", p.cmd.Path, p.cmd.ProcessState, p.tail())
	}
}

// await calls ready until it is, at most a minute.
func (p *program) await(b *testing.B, ready func() bool) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ready() {
		select {
		case <-tick.C:
		case <-p.done:
			b.Fatalf("%s ended: %v\n%s", p.cmd.Path, p.cmd.ProcessState, p.tail())
		case <-deadline:
			b.Fatalf("%s is not ready after a minute\n%s", p.cmd.Path, p.tail())
		}
	}
}

func (p *program) tail() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-4000):])
}

// proc reads a file of the program's in /proc.
func (p *program) proc(b *testing.B, file string) string {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		b.Fatalf("%v\n%s", err, p.tail())
	}
	return string(text)
}

// cpu is the processor time that the program has taken so far, to 10 ms.
func (p *program) cpu(b *testing.B) time.Duration {
	b.Helper()
	ticks, err := procCPU(p.proc(b, "stat"))
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory is a line of the program's status in bytes: VmRSS (now) or VmHWM (the
// most so far).
func (p *program) memory(b *testing.B, line string) float64 {
	b.Helper()
	for text := range strings.Lines(p.proc(b, "status")) {
		if rest, ok := strings.CutPrefix(text, line+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return float64(kib << 10)
		}
	}
	b.Fatalf("%s has no %s", p.cmd.Path, line)
	return 0
}

const mib = 1 << 20

// flatCard prices every device at 2.50 an hour.
const flatCard = "currency: USD\nprices:\n  - model: \"*\"\n    per_device_hour: \"2.50\"\n"

// collector is a running collector.
type collector struct {
	*program
	GRPC string `json:"grpc"`
}

// startCollector starts a collector over dir/ledger that lets nothing expire,
// priced at 2.50 an hour.
func startCollector(b *testing.B, dir string, settings ...string) *collector {
	b.Helper()
	return startCollectorIn(b, "", dir, settings...)
}

// startCollectorIn starts one in a cgroup, unless that is "".
func startCollectorIn(b *testing.B, group, dir string, settings ...string) *collector {
	b.Helper()
	config, card, ready := filepath.Join(dir, "collector.yaml"), filepath.Join(dir, "card.yaml"), filepath.Join(dir, "ready.json")
	write(b, config, `retention: {seconds: "0", minutes: "0", hours: "0", days: "0"}`+"\n"+strings.Join(settings, ""))
	write(b, card, flatCard)
	command := []string{
		ours(b, "gpuledger-collector"), "--config", config, "--data-dir", filepath.Join(dir, "ledger"), "--rate-card", card,
		"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--ready-file", ready,
	}
	if group != "" { // from its first moment, since it asks for the limit
		command = append([]string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group}, command...)
	}
	c := &collector{program: start(b, dir, command[0], command[1:]...)}
	c.await(b, func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, c) == nil && c.GRPC != ""
	})
	return c
}

// ledger asks the collector.
func (c *collector) ledger(b *testing.B) pb.LedgerClient {
	b.Helper()
	conn, err := grpc.NewClient(c.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return pb.NewLedgerClient(conn)
}

func write(b *testing.B, path, text string) {
	b.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// prometheusServer is a running Prometheus that takes remote write.
type prometheusServer struct {
	*program
	url    string
	client *http.Client
}

// startPrometheus starts the Prometheus that is installed, or skips.
func startPrometheus(b *testing.B, dir string) *prometheusServer {
	b.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		b.Skip("no prometheus is installed to compare to (Debian: apt-get install prometheus)")
	}
	version, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := bytes.Cut(version, []byte("\n"))
	b.Logf("%s", line)
	config := filepath.Join(dir, "prometheus.yml")
	write(b, config, "global: {}\n")
	addr := freePort(b)
	// Connections are kept, as senders do.
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: promShards}}
	b.Cleanup(client.CloseIdleConnections)
	p := &prometheusServer{url: "http://" + addr, client: client, program: start(b, dir, path,
		"--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "tsdb"),
		"--web.listen-address="+addr, "--web.enable-remote-write-receiver", "--log.level=warn")}
	p.await(b, func() bool {
		_, err := p.get("/-/ready")
		return err == nil
	})
	return p
}

func freePort(b *testing.B) string {
	b.Helper()
	addr, err := loopback.Address()
	if err != nil {
		b.Fatal(err)
	}
	return addr
}
