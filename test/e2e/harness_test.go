// Package e2e runs the real programs as a user would, on loopback, and looks at
// what comes out. It starts nothing that it does not stop.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/internal/loopback"
)

// bin is where TestMain puts the programs.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gpuledger-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	code := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(dir string) error {
	for _, name := range []string{"gpuledger", "gpuledger-agent", "gpuledger-collector"} {
		c := exec.Command("go", "build", "-ldflags=-extldflags=-Wl,-z,lazy", "-o", filepath.Join(dir, name), "../../cmd/"+name)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// ledger runs one command of the user's program and returns its output.
func ledger(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, code := tryLedger(t, args...)
	if code != 0 {
		t.Fatalf("gpuledger %v: exit %d\n%s%s", args, code, out, errOut)
	}
	return out
}

func tryLedger(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "gpuledger"), args...)
	c.Env = append(os.Environ(), "GPULEDGER_DATA=", "GPULEDGER_COLLECTOR=")
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// proc is a program of ours that runs beside the test.
type proc struct {
	cmd  *exec.Cmd
	out  *os.File
	done chan struct{}
	err  error
}

func startProc(t *testing.T, log string, name string, args ...string) *proc {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := &proc{cmd: exec.Command(filepath.Join(bin, name), args...), out: out, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		out.Close()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM, and waits.
func (p *proc) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.kill()
		t.Errorf("%v did not stop within a minute", p.cmd.Args)
	}
}

// ended reports whether the program has exited by itself.
func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// collectorArgs are the arguments of a collector on a fixed address that lets
// nothing expire.
func collectorArgs(t *testing.T, dir, addr, card string) []string {
	t.Helper()
	conf := filepath.Join(dir, "collector.yaml")
	const keepAll = "retention: {seconds: \"0\", minutes: \"0\", hours: \"0\", days: \"0\"}\n"
	if err := os.WriteFile(conf, []byte(keepAll), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{
		"--config", conf, "--data-dir", filepath.Join(dir, "ledger"), "--grpc-listen", addr, "--http-listen", "127.0.0.1:0",
		"--rate-card", card, "--ready-file", filepath.Join(dir, "ready.json"),
	}
}

func awaitReady(t *testing.T, dir string, p *proc) {
	t.Helper()
	file := filepath.Join(dir, "ready.json")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var r struct{ GRPC string }
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &r) == nil && r.GRPC != "" {
			os.Remove(file)
			return
		}
		if p.ended() {
			t.Fatalf("the collector ended: %v\n%s", p.err, tail(p.out.Name()))
		}
	}
	t.Fatal("the collector is not ready after a minute")
}

func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 4000 {
		_, _ = f.Seek(-4000, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// traces is the folder of real traces, or skips the test.
func traces(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("GPULEDGER_TRACES")
	if dir == "" {
		t.Skip("GPULEDGER_TRACES names no folder of real traces")
	}
	return filepath.Join(dir, name)
}
