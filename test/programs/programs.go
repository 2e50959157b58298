// Package programs runs the real programs for whole-program tests: it builds
// them, starts them beside a test, and ends what it started.
package programs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The programs.
const (
	Agent     = "gpuledger-agent"
	Collector = "gpuledger-collector"
	User      = "gpuledger"
)

// All are the three programs.
var All = []string{User, Agent, Collector}

// Dir is a folder with built programs.
type Dir string

// Path is a program's file.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// Build builds programs from a checkout of the repository.
func (d Dir) Build(ctx context.Context, checkout string, names ...string) error {
	for _, name := range names {
		// NVML's symbols are resolved when a driver is there, not at the start.
		c := exec.CommandContext(ctx, "go", "build", "-ldflags=-extldflags=-Wl,-z,lazy", "-o", d.Path(name), "./cmd/"+name)
		c.Dir = checkout
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// Main is a TestMain: it builds the programs into a folder that into is given,
// runs the tests and removes the folder. GPULEDGER_BIN names a folder that has
// the programs already.
func Main(m *testing.M, checkout string, into func(Dir)) (code int) {
	if built := os.Getenv("GPULEDGER_BIN"); built != "" {
		path, err := filepath.Abs(built)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		into(Dir(path))
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "gpuledger-test-")
	if err == nil {
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		err = Dir(dir).Build(context.Background(), checkout, All...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	into(Dir(dir))
	return m.Run()
}

// Run runs one of the user's commands to its end, at most five minutes.
func (d Dir) Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return Run(t, append([]string{d.Path(User)}, args...)...)
}

// Ledger is the output of a command of the user's that must succeed.
func (d Dir) Ledger(t testing.TB, args ...string) string {
	t.Helper()
	out, errOut, code := d.Run(t, args...)
	if code != 0 {
		t.Fatalf("gpuledger %v: exit %d\n%s%s", args, code, out, errOut)
	}
	return out
}

// Run runs any command to its end, at most five minutes.
func Run(t testing.TB, command ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Env = append(os.Environ(), "GPULEDGER_DATA=", "GPULEDGER_COLLECTOR=")
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

// Proc is a program that runs beside a test. It ends with the test.
type Proc struct {
	Args []string
	Log  string        // the file that it writes to
	Done chan struct{} // closed when it has ended
	Err  error         // why, once it has

	process *os.Process
}

// Start starts a program that writes to the end of a log file.
func Start(t testing.TB, log string, command ...string) *Proc {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(context.Background(), command[0], command[1:]...) // it outlives t.Context for its cleanup
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(errors.Join(err, out.Close()))
	}
	p := &Proc{Args: command, Log: log, Done: make(chan struct{}), process: c.Process}
	go func() {
		p.Err = errors.Join(c.Wait(), out.Close())
		close(p.Done)
	}()
	t.Cleanup(p.Kill)
	return p
}

// Signal sends a signal, unless it has ended.
func (p *Proc) Signal(s syscall.Signal) { _ = p.process.Signal(s) }

// Kill is kill -9.
func (p *Proc) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.Done
}

// Stop is SIGTERM, and waits.
func (p *Proc) Stop(t testing.TB) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	if !p.Within(time.Minute) {
		p.Kill()
		t.Errorf("%v did not stop within a minute", p.Args)
	}
}

// Ended reports whether the program has exited.
func (p *Proc) Ended() bool { return p.Within(0) }

// Within waits for the program to exit and reports whether it has.
func (p *Proc) Within(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.Done:
		return true
	default:
	}
	select {
	case <-p.Done:
		return true
	case <-timer.C:
		return false
	}
}

// Logged is all that it wrote.
func (p *Proc) Logged() string {
	b, _ := os.ReadFile(p.Log) // nothing, where it can't be read
	return string(b)
}

// Tail is the end of what it wrote.
func (p *Proc) Tail() string { return Tail(p.Log) }

// Addresses are where a collector serves, as its ready file says.
type Addresses struct{ GRPC, HTTP string }

// AwaitReady waits for a collector's ready file, and removes it.
func (p *Proc) AwaitReady(t testing.TB, file string) (a Addresses) {
	t.Helper()
	for range 6000 {
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &a) == nil && a.GRPC != "" {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			return a
		}
		if p.Within(10 * time.Millisecond) {
			t.Fatalf("%v ended: %v\n%s", p.Args, p.Err, p.Tail())
		}
	}
	t.Fatal("the collector is not ready after a minute")
	return a
}

// Tail is the end of a text file, as far as it can be read.
func Tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	if st, err := f.Stat(); err == nil && st.Size() > 4000 {
		_, _ = f.Seek(-4000, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// Traces is a folder of real traces, or skips the test.
func Traces(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("GPULEDGER_TRACES")
	if dir == "" {
		t.Skip("GPULEDGER_TRACES names no folder of real traces")
	}
	return filepath.Join(dir, name)
}
