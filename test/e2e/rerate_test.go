package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLaw6RerateAndUndo prices a stretch of a real ledger anew, by hand, and
// takes it back: every figure is what it was, and the laws hold all along.
func TestLaw6RerateAndUndo(t *testing.T) {
	w := newWorld(t, t.TempDir(), play{minutes: 3})
	w.startCollector()
	w.startAgent()
	w.finish()
	data := []string{"--data", w.ledger()}
	do := func(args ...string) string { return ledger(t, append(args, data...)...) }
	before := dump(t, w.ledger(), "1s")
	from, to := extent(t, before)

	card := filepath.Join(w.dir, "free.yaml")
	if err := os.WriteFile(card, []byte("currency: USD\nprices: [{model: \"*\", per_device_hour: 0}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stretch := []string{"rerate", "--from", from, "--to", to, "--ratecard", card}
	preview := do(append(stretch, "--preview")...)
	if !strings.Contains(preview, "Nothing was changed") || dump(t, w.ledger(), "1s") != before {
		t.Errorf("a preview:\n%s", preview)
	}
	if _, errOut, code := tryLedger(t, append(stretch, data...)...); code == 0 || !strings.Contains(errOut, "--yes") {
		t.Errorf("without a yes: exit %d, %s", code, errOut)
	}
	if out := do(append(stretch, "--yes", "--reason", "a gift")...); !strings.Contains(out, "Rerating 1 is in force") {
		t.Errorf("rerated:\n%s", out)
	}
	for line := range strings.Lines(do("report", "--from", from, "--to", to, "--by", "device", "-o", "csv")) {
		if cells := strings.Split(strings.TrimSpace(line), ","); cells[0] != "time" && cells[len(cells)-2] != "0.00" {
			t.Errorf("not free: %s", line)
		}
	}
	do("verify")
	if out := do("rerate", "list"); !strings.Contains(out, "a gift") {
		t.Errorf("list:\n%s", out)
	}
	if out := do("rerate", "undo", "1", "--yes"); !strings.Contains(out, "Rerating 1 is undone, by entry 2.") {
		t.Errorf("undone:\n%s", out)
	}
	w.same(before, "1s")
}

// extent is a stretch within what a dump tells of: all but its first and last
// seconds.
func extent(t *testing.T, dump string) (from, to string) {
	t.Helper()
	var times []string
	for line := range strings.Lines(dump) {
		cell, _, ok := strings.Cut(line, ",")
		if !ok || cell == "time" || !strings.HasPrefix(cell, "20") {
			continue
		}
		if n := len(times); n == 0 || times[n-1] != cell {
			times = append(times, cell)
		}
	}
	if len(times) < 100 {
		t.Fatalf("%d seconds in the dump", len(times))
	}
	return times[7], times[len(times)-5]
}
