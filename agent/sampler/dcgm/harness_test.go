package dcgm

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/test/dcgmstub"
)

// journal keeps what is logged.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}

// open is a source whose log is kept.
func open(t *testing.T, opt Options) (*Source, *journal) {
	t.Helper()
	j := &journal{}
	opt.Log = slog.New(j)
	s, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	return s, j
}

const stubbed = "GPULEDGER_DCGM_STUBBED"

// underStub runs body in a child process that finds the stub library, without
// the symbols in omit. body may replace the scenario at path.
func underStub(t *testing.T, scenario string, body func(t *testing.T, path string), omit ...string) {
	t.Helper()
	if os.Getenv(stubbed) == t.Name() {
		defer goleak.VerifyNone(t)
		body(t, os.Getenv(dcgmstub.Scenario))
		return
	}
	dir, err := dcgmstub.Build(t.Context(), filepath.Join(os.TempDir(), "gpuledger-stubs"), omit...)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "scenario")
	if err := dcgmstub.Write(path, scenario); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=60s")
	child.Env = append(os.Environ(), append(dcgmstub.Env(dir, path), stubbed+"="+t.Name())...)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func rewrite(t *testing.T, path, scenario string) {
	t.Helper()
	if err := dcgmstub.Write(path, scenario); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
