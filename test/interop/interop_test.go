// Package interop_test shows the agent's metrics to the programs that they are
// for: a real Prometheus scrapes them, and a real OpenTelemetry Collector is
// pushed them; what arrived there is compared with the ledger's integers.
//
// The programs are /usr/bin/prometheus as Debian packages it, or another on the
// PATH, and .tools/otelcol, which make interop builds from test/otelcol. Where
// one is missing its test is skipped, unless GPULEDGER_INTEROP=1 demands it.
package interop_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/internal/loopback"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a program may take for anything.
const patience = time.Minute

// program finds a program, or skips the test.
func program(t *testing.T, name, hint string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("GPULEDGER_INTEROP") == "1" {
		t.Fatalf("GPULEDGER_INTEROP=1 demands %s: %v (%s)", name, err, hint)
	}
	t.Skipf("no %s here: %s; GPULEDGER_INTEROP=1 makes this a failure", name, hint)
	return ""
}

// start runs a program until stop is called or the test ends, whichever comes
// first. stop interrupts it and awaits its end.
func start(t *testing.T, path string, args ...string) (stop func()) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
		case <-timer.C:
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("%s did not end when it was told to", path)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", path, &output)
		}
	}
	t.Cleanup(stop)
	return stop
}

// address is a loopback address that nobody listens on.
func address(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// await asks until the answer is yes.
func await(t *testing.T, what string, yes func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !yes() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// node is an exporter of a node that has lived for a number of seconds.
func node(t *testing.T, o exporter.Options, seconds int) *exporter.Exporter {
	t.Helper()
	o.Cluster, o.Node, o.Labels = exportertest.Cluster, exportertest.Node, []string{"app"}
	e, err := exporter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetRateCard(1, "USD"); err != nil {
		t.Fatal(err)
	}
	for i := range seconds {
		e.Add(exportertest.Episode(i))
	}
	return e
}

// series names one of a snapshot by what both programs keep of it.
type series struct{ kind, pod, process, gpu, basis string }

func keyOf(x *exporter.Series) series {
	return series{x.Owner.Kind, x.Owner.Pod, x.Owner.Process, x.Device, x.Basis.String()}
}

// compare compares a counter with a snapshot: every series, to the last bit,
// and their sum in whole units.
func compare(t *testing.T, name string, got map[series]float64, s *exporter.Snapshot, unit float64, of func(*exporter.Series) (int64, bool)) {
	t.Helper()
	sum, want, n := int64(0), int64(0), 0
	for i := range s.Series {
		x := &s.Series[i]
		v, ok := of(x)
		if !ok {
			continue
		}
		n++
		want += v
		f, ok := got[keyOf(x)]
		if !ok || f != float64(v)/unit {
			t.Errorf("%s of %+v is %v (there: %v), want %v", name, keyOf(x), f, ok, float64(v)/unit)
		}
		sum += int64(f*unit + 0.5)
	}
	if len(got) != n || sum != want || n == 0 {
		t.Errorf("%s: %d series sum to %d, want %d that sum to %d", name, len(got), sum, n, want)
	}
	t.Logf("%-40s %2d series sum to %v, as in the ledger", name, n, float64(sum)/unit)
}
