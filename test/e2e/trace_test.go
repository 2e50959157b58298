package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/test/programs"
)

// TestTraceOfAProductionFleet replays a day of a production fleet, of which the
// totals were worked out apart from this code.
func TestTraceOfAProductionFleet(t *testing.T) {
	trace := programs.Traces(t, "gentd26")
	dir := t.TempDir()
	recording, data := filepath.Join(dir, "gentd26.jsonl"), filepath.Join(dir, "ledger")
	ledger(t, "import", "gentd26", trace, "-o", recording)

	var s struct {
		Devices       int                                               `json:"devices"`
		DeviceSeconds json.Number                                       `json:"device_seconds"`
		CostNano      json.Number                                       `json:"cost_nano"`
		Inferences    json.Number                                       `json:"inferences"`
		Per1k         json.Number                                       `json:"cost_per_1k_inferences_allocation"`
		Bases         map[string]struct{ Seconds, Percent json.Number } `json:"by_basis"`
		Wall          json.Number                                       `json:"wall_seconds"`
		Slices        json.Number                                       `json:"slices_per_second"`
	}
	out := ledger(t, "replay", recording, "--data", data, "--ratecard", "../../deploy/examples/flat.yaml", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("replayed in %s s, %s slices/s", s.Wall, s.Slices)
	for _, c := range []struct{ what, got, want string }{
		{"device seconds", s.DeviceSeconds.String(), "6331959"},
		{"nano-dollars", s.CostNano.String(), "4397193749977"},
		{"inferences", s.Inferences.String(), "74117"},
		{"used percent", s.Bases["used"].Percent.String(), "7.29957"},
		{"unobserved seconds", s.Bases["unobserved"].Seconds.String(), "122046"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.what, c.got, c.want)
		}
	}
	for _, c := range []struct{ what, got, prefix string }{
		{"used seconds", s.Bases["used"].Seconds.String(), "462205.82"},
		{"USD per 1k inferences", s.Per1k.String(), "59.327"},
	} {
		if !strings.HasPrefix(c.got, c.prefix) {
			t.Errorf("%s: %s, want %s…", c.what, c.got, c.prefix)
		}
	}
	if s.Devices != 96 {
		t.Errorf("%d devices, want 96", s.Devices)
	}
	if got := ledger(t, "verify", "--data", data); !strings.HasPrefix(got, "The laws hold") {
		t.Errorf("verify: %s", got)
	}

	// Playing it again changes nothing (law 4), even from an empty spool.
	before := dump(t, data, "1h")
	if err := os.RemoveAll(filepath.Join(data, "agent")); err != nil {
		t.Fatal(err)
	}
	ledger(t, "replay", recording, "--data", data, "--ratecard", "../../deploy/examples/flat.yaml")
	if dump(t, data, "1h") != before {
		t.Error("law 4: replaying the recording again changed the ledger")
	}
}
