// Package e2e runs the real programs as a user would, on loopback, and looks at
// what comes out. It starts nothing that it does not stop.
package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gpuledger/gpuledger/internal/loopback"
	"github.com/gpuledger/gpuledger/test/programs"
)

// bin is where TestMain puts the programs.
var bin programs.Dir

func TestMain(m *testing.M) {
	os.Exit(programs.Main(m, "../..", func(d programs.Dir) { bin = d }))
}

// ledger runs one command of the user's program and returns its output.
func ledger(t *testing.T, args ...string) string {
	t.Helper()
	return bin.Ledger(t, args...)
}

func tryLedger(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return bin.Run(t, args...)
}

func startProc(t *testing.T, log, name string, args ...string) *programs.Proc {
	t.Helper()
	return programs.Start(t, log, append([]string{bin.Path(name)}, args...)...)
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

func awaitReady(t *testing.T, dir string, p *programs.Proc) {
	t.Helper()
	p.AwaitReady(t, filepath.Join(dir, "ready.json"))
}
