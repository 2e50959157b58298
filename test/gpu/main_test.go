// Package gpu holds the ledger against a real NVIDIA GPU: two processes of
// different weight share one, and what the ledger says of each second is
// compared with what nvidia-smi pmon shows and with what the processes measure
// themselves.
//
// # The model
//
//	load.py (PyTorch) ──▶ GPU ──▶ driver ──┬─▶ gpuledger-agent ──▶ gpuledger-collector ──▶ ledger, by second
//	   │                                   ├─▶ nvidia-smi pmon ──▶ sm % by process
//	   │                                   └─▶ NVML, timed call by call
//	   └─ CUDA events: busy time by second
//
// A run is one [recording]: all that was seen, in one JSON file. [recording.check]
// finds what is wrong with one, so that a recording from a GPU, once it is in
// testdata, is a test on every machine.
//
// The collector's API has no dimension for processes. So each load is shown to
// the agent (setting nvml.proc_fs) as in a Slurm job of its own, whose number is
// its pid: an owner that the API can tell. What the driver and the kernel say of
// the process is real.
//
// # What is exact, and what is not
//
// Conservation is exact: each second compared is there, shares out
// 1,000,000,000 ns, and costs what the rate card says.
//
// Shares are as good as the driver's process samples. Each of these credits one
// process with what the GPU did in a period p (1/6 s to 1 s by product; it is
// measured, and in the recording). In T seconds a process with the part q of an
// activity a is credited a binomial number of n = T/p samples. So its share of
// the GPU may be off by
//
//	4.5 · a · √(q·(1−q)/n) + 10 %
//
// where the first term is exceeded in one of 150,000 comparisons, and the 10 %
// are for what the two sides mean: SM activity is a mean over all SMs, while a
// product that leaves some idle at its end is busy for CUDA's events; kernels
// calibrated alone run at other clocks than two programs' together; and a
// sample's mean hides where in its period the GPU was idle. Truth is the work
// done (products, times what one takes alone), because the time between two CUDA
// events has the other process's time slices in it. Both are recorded.
//
// Against pmon only the split between the two is compared, as both read the same
// samples, over windows that differ by up to a second: within half of the first
// term, and 5 %.
//
// # Running it
//
// GPULEDGER_GPU=1 runs it where there is a GPU, GPULEDGER_GPU_STUB=1 besides on
// the stub of NVIDIA's driver (package nvmlstub): then gpuload is the load, the
// scenario its truth, and this program, run again, is nvidia-smi. Everything but
// PyTorch and nvidia-smi is thus proven without a GPU. See README.md for the
// rest.
package gpu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

func TestMain(m *testing.M) {
	if os.Getenv(envPmon) != "" {
		os.Exit(pretendPmon(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// rig is where a run happens. Its test's goroutine alone uses it.
type rig struct {
	*testing.T
	stub    *stub // nil: there is a GPU
	dir     string
	out     string // where results are kept; "": nowhere
	library string // the driver's; "" is the system's
	index   int    // of the GPU
	seconds int64  // compared, of each workload
	nvml    *driver
	agent   *program
	page    string // of the agent
	ledger  pb.LedgerClient
}

// perHour is the price of a GPU-hour; no second of it is a whole number of
// nano-dollars.
const perHour = 2_500_000_000

const card = "currency: USD\nprices:\n  - model: \"*\"\n    per_device_hour: \"2.50\"\n"

// open makes a rig, or skips.
func open(t *testing.T) *rig {
	t.Helper()
	if os.Getenv("GPULEDGER_GPU") != "1" {
		t.Skip("GPULEDGER_GPU is not 1: this needs an NVIDIA GPU, or GPULEDGER_GPU_STUB=1 as well (see README.md)")
	}
	r := &rig{T: t, dir: t.TempDir(), library: os.Getenv("GPULEDGER_GPU_LIBRARY"), out: os.Getenv("GPULEDGER_GPU_OUT")}
	r.index = r.number("GPULEDGER_GPU_INDEX", 0, 0, 63)
	r.seconds = int64(r.number("GPULEDGER_GPU_SECONDS", 10, 5, 600))
	if r.out != "" {
		r.must(os.MkdirAll(r.out, 0o755))
	}
	if os.Getenv("GPULEDGER_GPU_STUB") == "1" {
		r.stub = newStub(r)
	}
	r.nvml = openDriver(r)
	return r
}

func (r *rig) number(name string, without, least, most int) int {
	r.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(without)))
	if err != nil || n < least || n > most {
		r.Fatalf("%s=%q: want a number from %d to %d", name, os.Getenv(name), least, most)
	}
	return n
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// binary is the path of one of our programs: of the folder that GPULEDGER_BIN
// names, else built.
func (r *rig) binary(pkg string) string {
	r.Helper()
	name := filepath.Base(pkg)
	if dir := os.Getenv("GPULEDGER_BIN"); dir != "" {
		if path, err := filepath.Abs(filepath.Join(dir, name)); err == nil {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	path := filepath.Join(r.dir, name)
	c := exec.CommandContext(r.Context(), "go", "build", "-ldflags=-extldflags=-Wl,-z,lazy", "-o", path, "github.com/gpuledger/gpuledger/"+pkg)
	if out, err := c.CombinedOutput(); err != nil {
		r.Fatalf("%s is neither in GPULEDGER_BIN, nor can it be built: %v\n%s", name, err, out)
	}
	return path
}

// start starts the collector and the agent, and waits until both are ready.
func (r *rig) start() {
	r.Helper()
	for name, text := range map[string]string{
		"collector.yaml": "retention: {seconds: \"0\", minutes: \"0\", hours: \"0\", days: \"0\"}\n", "card.yaml": card,
	} {
		r.must(os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
	}
	ready := filepath.Join(r.dir, "ready.json")
	c := r.launch("gpuledger-collector", r.binary("cmd/gpuledger-collector"), nil,
		"--config", filepath.Join(r.dir, "collector.yaml"), "--data-dir", filepath.Join(r.dir, "ledger"),
		"--rate-card", filepath.Join(r.dir, "card.yaml"), "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--ready-file", ready)
	var at struct{ GRPC string }
	r.await(c, "the collector is not ready", func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &at) == nil && at.GRPC != ""
	})
	conn, err := grpc.NewClient(at.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	r.must(err)
	r.Cleanup(func() { _ = conn.Close() })
	r.ledger = pb.NewLedgerClient(conn)

	r.makeProc()
	listen := freePort(r.T)
	r.page = "http://" + listen
	config := filepath.Join(r.dir, "agent.yaml")
	r.must(os.WriteFile(config, fmt.Appendf(nil,
		"cluster: test\nnode: gpu\nsource: nvml\nstate_dir: %q\ncollector: {address: %q}\nhttp_listen: %q\nnvml: {library: %q, proc_fs: %q}\nkubernetes: {enabled: \"off\"}\n",
		filepath.Join(r.dir, "state"), at.GRPC, listen, r.library, r.procFS()), 0o600))
	r.agent = r.launch("gpuledger-agent", r.binary("cmd/gpuledger-agent"), nil, "--config", config)
	r.await(r.agent, "the agent is not ready", func() bool {
		answer, err := http.Get(r.page + "/readyz")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
}

// procFS is the proc file system that the agent is shown. It says that it is
// the host's, whatever this is in: the loads are in the same pid namespace, and
// the driver translates pids to that of whom it answers.
func (r *rig) procFS() string { return filepath.Join(r.dir, "proc") }

func (r *rig) makeProc() {
	r.Helper()
	ns := filepath.Join(r.procFS(), "self", "ns")
	r.must(os.MkdirAll(ns, 0o700))
	r.must(os.Symlink("pid:[4026531836]", filepath.Join(ns, "pid")))
}

// show shows a process to the agent, as a Slurm job with its pid for number.
func (r *rig) show(pid int) {
	r.Helper()
	id := strconv.Itoa(pid)
	at := filepath.Join(r.dir, "process-"+id)
	r.must(os.Mkdir(at, 0o700))
	r.must(os.WriteFile(filepath.Join(at, "cgroup"), []byte("0::/system.slice/slurmstepd.scope/job_"+id+"/step_0/user/task_0\n"), 0o600))
	r.must(os.Symlink(filepath.Join("/proc", id, "stat"), filepath.Join(at, "stat")))
	r.must(os.Rename(at, filepath.Join(r.procFS(), id)))
}

// await waits for something, at most a minute, while a program lives.
func (r *rig) await(p *program, not string, is func() bool) {
	r.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if p.ended() || time.Now().After(deadline) {
			r.Fatalf("%s (ended: %v)\n%s", not, p.ended(), p.tail())
		}
	}
}

// until waits for a time, while the agent lives.
func (r *rig) until(at time.Time) {
	r.Helper()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.agent.done:
		r.Fatalf("the agent has ended: %v\n%s", r.agent.cmd.ProcessState, r.agent.tail())
	}
}

// keep puts a file beside the recording.
func (r *rig) keep(name string, text []byte) {
	r.Helper()
	if r.out != "" {
		r.must(os.WriteFile(filepath.Join(r.out, name), text, 0o644))
	}
}

// program is one that runs beside the test, and dies with it.
type program struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// launch starts a program that writes a log, with an environment besides.
func (r *rig) launch(name, path string, env []string, args ...string) *program {
	r.Helper()
	dir := cmp.Or(r.out, r.dir)
	out, err := os.Create(filepath.Join(dir, name+".log"))
	r.must(err)
	p := &program{cmd: exec.Command(path, args...), log: out.Name(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.begin(r, env)
	go func() {
		_ = p.cmd.Wait() // seen in ProcessState
		out.Close()
		close(p.done)
	}()
	return p
}

func (p *program) begin(r *rig, env []string) {
	r.Helper()
	p.cmd.Env = append(append(os.Environ(), "KUBERNETES_SERVICE_HOST=", "NODE_NAME="), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.must(p.cmd.Start())
	r.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
}

// stop is SIGTERM; an error if that takes more than a minute, or is no success.
func (p *program) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		return errors.New("it does not stop")
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("%v\n%s", p.cmd.ProcessState, p.tail())
	}
	return nil
}

func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *program) tail() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-4000):])
}

func freePort(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// stub is the GPU where there is none.
type stub struct {
	scenario nvmlstub.Scenario
	file     string
	load     string // gpuload's path
}

const stubUUID = "GPU-aaaaaaaa-0000-4000-8000-000000000001"

func newStub(r *rig) *stub {
	r.Helper()
	library, err := nvmlstub.Build(context.Background(), "", nvmlstub.Variant{})
	if errors.Is(err, nvmlstub.ErrNoCompiler) {
		r.Skip(err)
	}
	r.must(err)
	r.library, r.index = library, 0
	s := &stub{file: filepath.Join(r.dir, "scenario"), load: r.binary("test/nvmlstub/cmd/gpuload")}
	s.scenario = nvmlstub.Scenario{
		Start: time.Now().Round(0), Version: "0.0-stub", Sampling: nvmlstub.Driver,
		Devices: []nvmlstub.Device{{
			UUID: stubUUID, Name: "NVIDIA H100 80GB HBM3", Memory: 80 * nvmlstub.GiB, GPM: true, Energy: true, Idle: 70, Full: 700,
		}},
	}
	r.Setenv(nvmlstub.EnvScenario, s.file)
	r.must(s.scenario.Write(s.file))
	return s
}

// fileText is a file, "" where there is none.
func fileText(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}
