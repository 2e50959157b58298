package faults

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/internal/loopback"
)

func damageFaults() []fault {
	return []fault{
		{"bits flipped in the spool", false, func(w *world) {
			w.spoilSpool(func(name string, b []byte) {
				for range 1 + w.rng.IntN(5) {
					b[w.rng.IntN(len(b))] ^= 1 << w.rng.IntN(8)
				}
				w.overwrite(name, b)
			})
		}},
		{"spool truncated", false, func(w *world) {
			w.spoilSpool(func(name string, b []byte) { w.overwrite(name, b[:w.rng.IntN(len(b))]) })
		}},
		{"spool gone", false, func(w *world) {
			w.begin()
			w.aWhile()
			w.agent.Kill()
			if err := os.RemoveAll(w.state()); err != nil {
				w.t.Fatal(err)
			}
			w.startAgent()
			w.note("the script is played again; what is there is a duplicate")
		}},
		{"ledger damaged: refused, a copy restored", false, func(w *world) {
			ledger := w.spoilLedger()
			p := w.launch(w.place, "refused", w.addr)
			if !p.Within(time.Minute) || p.Err == nil {
				w.t.Fatalf("a damaged ledger was opened: %v", p.Err)
			}
			w.sees(p, time.Second, "the ledger cannot be read")
			ledger.restore(w.t)
			w.startCollector()
		}},
		{"ledger damaged: set aside", true, setAside},
	}
}

// spoilSpool has segments of the spool damaged that hold what no collector has,
// while the agent is down.
func (w *world) spoilSpool(damage func(name string, b []byte)) {
	w.t.Helper()
	w.begin()
	w.stored()
	w.aWhile()
	w.collector.Kill()
	w.away(between(w.rng, time.Second, 3*time.Second))
	w.agent.Kill()
	files, err := filepath.Glob(filepath.Join(w.state(), "*", "*", "*.seg"))
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no spool to damage: %v", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(b) > 0 {
			damage(name, b)
		}
	}
	w.begin()
}

func (w *world) overwrite(name string, b []byte) {
	w.t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// spoilLedger damages the ledger in the middle of the play, of which the agent
// goes on; a copy of before is kept.
func (w *world) spoilLedger() filed {
	w.t.Helper()
	ledger := w.file()
	w.begin()
	w.stored()
	w.aWhile()
	w.collector.Kill()
	ledger.save(w.t)
	ledger.damage(w.t)
	w.away(between(w.rng, 0, 2*time.Second))
	return ledger
}

// setAside: what the damaged ledger held and the new one are the whole, to the
// nanosecond, second by second. What was stored, but not known to be when the
// collector ended, is in both, and the same.
func setAside(w *world) {
	ledger := w.spoilLedger()
	addr, err := loopback.Address()
	if err != nil {
		w.t.Fatal(err)
	}
	copied := w.launch(ledger.copied(), "copy", addr)
	copied.AwaitReady(w.t, filepath.Join(w.dir, "copy.ready"))
	w.before = w.read(addr, time.Second)
	copied.Stop(w.t)

	w.settings["duckdb"] = map[string]any{"on_corrupt": "set-aside"}
	w.startCollector()
	w.sees(w.collector, time.Second, "THE LEDGER IS DAMAGED AND SET ASIDE")
	if out := w.answer(w.addr, "status"); !strings.Contains(out, "a damaged ledger was set aside as ") {
		w.t.Errorf("status says nothing of it:\n%s", out)
	}
	w.note("status: `a damaged ledger was set aside as …`")
}
