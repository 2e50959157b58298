// Package node runs the real agent on the stub of NVIDIA's driver, under a
// kubelet that tests hold in their hands, and compares what the ledger says
// with what was true.
//
// # The model
//
// A test describes a [node]: its GPUs, the pods that the kubelet lists, and
// the processes that run in them. These are real processes (gpuload), which
// the stub finds and lets use a GPU as much as the test says; so the truth is
// known to the nanosecond (nvmlstub.Scenario.TrueSM). The agent reads a proc
// file system of the node's own, in which they are in the cgroups of
// containers, and reports to a collector that all tests share. What the
// collector's API answers, by second, device, owner and basis, is the ledger.
//
//	gpuload ◀── libnvidia-ml.so.1 (stub) ──▶ gpuledger-agent ──▶ gpuledger-collector
//	   └─ a proc file system ──────────────────┤                         │
//	kubelet (kubelettest) ─────────────────────┘            a test ◀─────┘
//
// # What is exact, and what is not
//
// Conservation is exact, and is checked for every second that an agent has
// ever sealed, when its test ends: each second of each device is there once,
// shares out 1,000,000,000 ns, and costs what the rate card says.
//
// Shares are as good as the driver's samples. Where the stub answers exactly,
// each process's share of a second is rounded to a whole percent, hence half a
// percent-point off at most; where they exceed the device's activity, which
// itself may be rounded, all are scaled, which takes from one what was rounded
// up at another. So with p processes a second is off by at most
//
//	(p + 1) · 0.5 % of a second
//
// for each owner, and as much for what is left idle. What a process did between
// two readings in which it began, ended or paused is spread evenly between
// these: that moves at most a second of its share over an end of what is
// compared. The stub itself finds a process up to a tenth of a second late.
//
// Where the stub answers as the driver does, it credits one process at a time
// with what the device did in a period of 1/6 s. In n periods, a process with
// the part q of the device's activity a is credited a/6 s times a binomial
// number of periods, whose standard deviation is √(n·q·(1−q)). Tests allow four
// and a half of these, which one in 150,000 comparisons exceeds.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// rig is what all tests share.
type rig struct {
	dir    string // of everything
	bin    string // of the programs
	addr   string // of the collector
	ledger pb.LedgerClient
	lacks  error // why nothing can be run here
}

var shared rig

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait: many can at once.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("32")
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gpuledger-node-")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	shared.dir = dir
	_, shared.lacks = nvmlstub.Build(context.Background(), filepath.Join(dir, "lib"), nvmlstub.Variant{})
	if errors.Is(shared.lacks, nvmlstub.ErrNoCompiler) {
		return m.Run() // each test says so
	}
	if shared.lacks != nil {
		return failed(shared.lacks)
	}
	if err := build(); err != nil {
		return failed(err)
	}
	stop, err := startCollector()
	if err != nil {
		return failed(err)
	}
	defer stop()
	code := m.Run()
	checked, err := verify()
	if err != nil {
		return failed(err)
	}
	if testing.Verbose() {
		fmt.Fprintf(os.Stdout, "the collector has verified %d windows of devices, %d slices and %d sums\n",
			checked.GetWindows(), checked.GetSlices(), checked.GetRows())
	}
	return code
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// build builds the programs. GPULEDGER_BIN names a folder that has those of
// gpuledger already.
func build() error {
	shared.bin = filepath.Join(shared.dir, "bin")
	packages := []string{"../nvmlstub/cmd/gpuload"}
	if dir := os.Getenv("GPULEDGER_BIN"); dir != "" {
		for _, name := range []string{"gpuledger-agent", "gpuledger-collector"} {
			path, err := filepath.Abs(filepath.Join(dir, name))
			if err == nil {
				err = os.MkdirAll(shared.bin, 0o700)
			}
			if err == nil {
				err = os.Symlink(path, filepath.Join(shared.bin, name))
			}
			if err != nil {
				return err
			}
		}
	} else {
		packages = append(packages, "../../cmd/gpuledger-agent", "../../cmd/gpuledger-collector")
	}
	args := append([]string{"build", "-buildvcs=false", "-ldflags=-extldflags=-Wl,-z,lazy", "-o", shared.bin + "/"}, packages...)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	// The kernel calls a process after the file that was executed.
	return os.Symlink("gpuload", filepath.Join(shared.bin, mpsServer))
}

// perHour is the price of a GPU-hour in nano-dollars; no second of it is a
// whole number of them.
const perHour = 2_500_000_000

const card = `currency: USD
prices:
  - model: "*"
    per_device_hour: "2.50"
`

// startCollector starts the collector of all tests.
func startCollector() (stop func(), err error) {
	dir := filepath.Join(shared.dir, "collector")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"collector.yaml": `retention: {seconds: "0", minutes: "0", hours: "0", days: "0"}` + "\n", "card.yaml": card,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	ready := filepath.Join(dir, "ready.json")
	p, err := launch(filepath.Join(dir, "log"), nil, filepath.Join(shared.bin, "gpuledger-collector"),
		"--config", filepath.Join(dir, "collector.yaml"), "--data-dir", filepath.Join(dir, "ledger"),
		"--rate-card", filepath.Join(dir, "card.yaml"), "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--ready-file", ready)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var r struct{ GRPC string }
		if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &r) == nil && r.GRPC != "" {
			shared.addr = r.GRPC
			break
		}
		if p.ended() || time.Now().After(deadline) {
			p.kill()
			return nil, fmt.Errorf("the collector does not get ready\n%s", p.tail())
		}
	}
	conn, err := grpc.NewClient(shared.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.kill()
		return nil, err
	}
	shared.ledger = pb.NewLedgerClient(conn)
	return func() {
		_ = conn.Close()
		p.kill()
	}, nil
}

// verify has the collector check the laws over all that it has stored.
func verify() (checked *pb.VerifyProgress, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := shared.ledger.Verify(ctx, &pb.VerifyRequest{})
	for err == nil && !checked.GetDone() {
		checked, err = stream.Recv()
		if checked.GetBroken() != "" {
			return nil, fmt.Errorf("the ledger breaks law %d: %s", checked.GetLaw(), checked.GetBroken())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("verify the ledger: %w", err)
	}
	return checked, nil
}

// program is one of ours that runs beside the tests. It dies with them.
type program struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// launch starts a program that appends to a log, with an environment beside
// the tests' own.
func launch(log string, env []string, path string, args ...string) (*program, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &program{cmd: exec.Command(path, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startFirst(p.cmd); err != nil {
		out.Close()
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // seen in ProcessState
		out.Close()
		close(p.done)
	}()
	return p, nil
}

// startFirst starts a program that goes before others on the processor, where that
// is permitted: on a node the agent does not compete with a machine full of tests.
func startFirst(cmd *exec.Cmd) error {
	runtime.LockOSThread() // which has a priority of its own, and its children after it
	defer runtime.UnlockOSThread()
	if syscall.Setpriority(syscall.PRIO_PROCESS, 0, -15) == nil {
		defer func() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 0) }()
	}
	return cmd.Start()
}

// kill is kill -9.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM; false if that takes more than a minute, or is no success.
func (p *program) stop() bool {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.cmd.ProcessState.Success()
	case <-time.After(time.Minute):
		p.kill()
		return false
	}
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
	return string(text[max(0, len(text)-6000):])
}
