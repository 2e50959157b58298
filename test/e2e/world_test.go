package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/test/programs"
)

// world is one collector and one agent that plays something. Both may be killed
// and started again.
type world struct {
	t           *testing.T
	dir         string
	addr        string
	agentConfig string
	collector   *programs.Proc
	agent       *programs.Proc
}

// play is what a world's agent plays: minutes of two simulated nodes as fast as
// it goes, or a recording at a speed (0: likewise).
type play struct {
	minutes   int
	recording string
	speed     float64
}

// newWorld prepares a folder for a play.
func newWorld(t *testing.T, dir string, p play) *world {
	t.Helper()
	for _, d := range []string{"ledger", "agent"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, dir: dir, addr: freePort(t), agentConfig: filepath.Join(dir, "agent.yaml")}
	conf := map[string]any{
		"source": "simulated", "state_dir": filepath.Join(dir, "agent"),
		"collector": map[string]any{"address": w.addr},
		"simulated": map[string]any{"speed": 0, "nodes": 2, "devices": 4, "duration": fmt.Sprintf("%dm", p.minutes)},
		"log":       map[string]any{"level": "warn"},
	}
	if p.recording != "" {
		conf["source"] = "replay"
		conf["replay"] = map[string]any{"file": p.recording, "speed": p.speed}
	}
	b, err := yaml.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.agentConfig, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) ledger() string { return filepath.Join(w.dir, "ledger") }

func (w *world) startCollector() {
	w.t.Helper()
	w.collector = startProc(w.t, filepath.Join(w.dir, "collector.log"), "gpuledger-collector", collectorArgs(w.t, w.dir, w.addr, flatCard(w.t))...)
	awaitReady(w.t, w.dir, w.collector)
}

func (w *world) startAgent() {
	w.t.Helper()
	w.agent = startProc(w.t, filepath.Join(w.dir, "agent.log"), "gpuledger-agent", "--config", w.agentConfig)
}

// wait lets both run for a while and reports whether the agent has played to
// the end. Anything else that ends is a failure.
func (w *world) wait(d time.Duration) (finished bool) {
	w.t.Helper()
	select {
	case <-w.agent.Done:
		if w.agent.Err != nil {
			w.t.Fatalf("the agent failed: %v\n%s", w.agent.Err, w.agent.Tail())
		}
		return true
	case <-w.collector.Done:
		w.t.Fatalf("the collector ended: %v\n%s", w.collector.Err, w.collector.Tail())
	case <-time.After(d):
	}
	return false
}

// finish waits for the end of the play and stops the collector.
func (w *world) finish() {
	w.t.Helper()
	if !w.wait(5 * time.Minute) {
		w.t.Fatalf("not done in 5 minutes\n%s\n%s", w.agent.Tail(), w.collector.Tail())
	}
	w.collector.Stop(w.t)
}

// undisturbed is the dump of a play in which nothing happens.
func undisturbed(t *testing.T, p play, step string) string {
	t.Helper()
	p.speed = 0
	w := newWorld(t, t.TempDir(), p)
	w.startCollector()
	w.startAgent()
	w.finish()
	return dump(t, w.ledger(), step)
}

// same compares a ledger with the undisturbed one, and verifies it.
func (w *world) same(want, step string) {
	w.t.Helper()
	if got := dump(w.t, w.ledger(), step); got != want {
		w.t.Errorf("the ledger differs from the undisturbed one\n%s", firstDifference(want, got))
	}
	// Whatever was killed, a node's chunks are one chain.
	heads := filepath.Join(w.t.TempDir(), "heads.json")
	for range 2 {
		got := ledger(w.t, "verify", "--data", w.ledger(), "--heads", heads)
		if !strings.Contains(got, "Chained: ") || strings.Contains(got, "chain begins anew") || strings.Contains(got, "no longer kept, or outside") {
			w.t.Errorf("verify says\n%s", got)
		}
	}
}

// dump is every bucket of a ledger, by everything that it tells apart.
func dump(t *testing.T, data, step string) string {
	t.Helper()
	return ledger(t, "report", "--data", data, "--step", step, "--by", "node,device,namespace,pod,container,basis,method", "-o", "csv") +
		ledger(t, "inferences", "--data", data, "--by", "pod,model,tier", "-o", "csv")
}

// firstDifference shows where two dumps part.
func firstDifference(want, got string) string {
	for i := 0; i < len(want) && i < len(got); i++ {
		if want[i] != got[i] {
			from := max(0, i-300)
			return fmt.Sprintf("at byte %d\nwant …%s\ngot  …%s", i, want[from:min(len(want), i+200)], got[from:min(len(got), i+200)])
		}
	}
	return fmt.Sprintf("one is longer: %d and %d bytes", len(want), len(got))
}

func flatCard(t *testing.T) string {
	t.Helper()
	p, err := filepath.Abs("../../deploy/examples/flat.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return p
}
