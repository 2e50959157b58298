package traces

import (
	"strconv"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// events of one replica, and what was served, as lines.
func loraLines(x *totals, pod string) []string {
	var out []string
	for i := range x.events {
		switch e := &x.events[i]; {
		case e.Kind == sampler.Tallied && e.Tally.Owner.Pod == pod:
			out = append(out, line(e, x.header.Start)+" to "+e.Tally.Tenant+", model "+strconv.Quote(e.Tally.Model))
		case e.Kind == sampler.Sampled && e.DeviceID == "GPU-"+uuid("gentd26-lora/"+pod):
			out = append(out, line(e, x.header.Start))
		}
	}
	return out
}

func TestGenTD26LoraRules(t *testing.T) {
	if x := total(t, imported(t, "gentd26-lora", "testdata/gentd26-lora", nil)); x.devices != 3 {
		t.Fatalf("%d devices: %s", x.devices, x.header.Notes) // three requests run at 16:57:56
	}
	x := total(t, imported(t, "gentd26-lora", "testdata/gentd26-lora", map[string]string{"devices": "2"}))
	if x.devices != 2 || !strings.Contains(x.header.Notes, "2 replicas") || x.header.End-x.header.Start != 32*second {
		t.Fatalf("%d devices over %d ns: %s", x.devices, x.header.End-x.header.Start, x.header.Notes)
	}
	// The first replica has work for 32 s. The second one fails one request in
	// 2.5 s from second 5 on, which counts in second 7; the next has come at 6,
	// waits until 7.5 and takes 10 s: 11.5 s in all. What is pending did nothing.
	expect(t, loraLines(&x, "lora-serving-0"), `
0 sample 0
32 sample 32000000000
32 lora-serving-0 served [{success 1000000} {failure/failed 0} {latency/60 1000000}] in 1 to G0000, model "M0000"`)
	expect(t, loraLines(&x, "lora-serving-1"), `
0 sample 0
5 sample 0
7.5 sample 2500000000
8 lora-serving-1 served [{success 0} {failure/failed 1000000}] in 1 to G0001, model "M0001"
17.5 sample 12500000000
18 lora-serving-1 served [{success 1000000} {failure/failed 0} {latency/54 1000000}] in 1 to G0001, model "M0001"
20 sample 12500000000
21 lora-serving-1 served [{success 0} {failure/pending 1000000}] in 1 to G0002, model ""
32 sample 12500000000`)
	// One replica does them one after another.
	x = total(t, imported(t, "gentd26-lora", "testdata/gentd26-lora", map[string]string{"devices": "1"}))
	if x.devices != 1 || x.active != 44_500_000_000 || x.success != 2*int64(attribution.One) || x.header.End-x.header.Start != 45*second {
		t.Fatalf("%d devices, %d ns active, %d succeeded, over %d ns", x.devices, x.active, x.success, x.header.End-x.header.Start)
	}
}

// Totals that were worked out apart from any of this code.
func TestGenTD26LoraTotals(t *testing.T) {
	x := total(t, imported(t, "gentd26-lora", shared(t, "gentd26"), nil))
	if x.devices != 12 || x.active != 356_493*second || x.success != 13_171*int64(attribution.One) || x.failures != 240*int64(attribution.One) {
		t.Fatalf("%d devices, %d ns active, %d succeeded, %d failed", x.devices, x.active, x.success, x.failures)
	}
}
