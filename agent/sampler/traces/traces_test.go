package traces

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

// totals is what a recording says, worked out from its events alone.
type totals struct {
	devices, owners        int
	device, gap, active    int64 // ns
	success, input, output int64
	failures               int64
	header                 replay.Header
	events                 []sampler.Event
}

func imported(t *testing.T, name, dir string, options map[string]string) []byte {
	t.Helper()
	i, err := ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := replay.NewWriter(&b)
	if err := errors.Join(i.Import(t.Context(), dir, options, w, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func total(t *testing.T, recording []byte) (x totals) {
	t.Helper()
	r, err := replay.NewReader(bytes.NewReader(recording), "test")
	if err != nil {
		t.Fatal(err)
	}
	x.header = r.Header()
	type state struct{ added, at, sm int64 }
	devices := make(map[string]*state)
	for {
		var e sampler.Event
		if err := r.Next(&e); err != nil {
			if errors.Is(err, io.EOF) {
				break
			}
			t.Fatal(err)
		}
		x.events = append(x.events, e)
		d := devices[e.DeviceID]
		switch e.Kind {
		case sampler.DeviceAdded:
			devices[e.DeviceID] = &state{added: e.Time, at: -1}
		case sampler.DeviceRemoved:
			x.device += e.Time - d.added
			if d.at != e.Time {
				t.Errorf("device %s: last sample at %d, removed at %d", e.DeviceID, d.at, e.Time)
			}
		case sampler.Sampled:
			if e.Sample.Gap {
				x.gap += e.Time - d.at
			} else if d.at >= 0 {
				x.active += e.Sample.SMActive - d.sm
			}
			d.at, d.sm = e.Time, e.Sample.SMActive
		case sampler.Tallied:
			for _, v := range e.Tally.Values {
				switch v.Measure {
				case attribution.Success:
					x.success += v.Value
				case attribution.TokensInput:
					x.input += v.Value
				case attribution.TokensOutput:
					x.output += v.Value
				default:
					_, latency := attribution.BucketOf(v.Measure, attribution.LatencyPrefix)
					switch {
					case strings.HasPrefix(string(v.Measure), string(attribution.FailurePrefix)):
						x.failures += v.Value
					case !latency:
						t.Errorf("measure %q", v.Measure)
					}
				}
			}
		case sampler.Held, sampler.Released:
		}
	}
	s := r.Summary()
	x.devices, x.owners = s.Devices, s.Owners
	return x
}

// shared is the folder of a real trace, which is not part of this repository.
func shared(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("GPULEDGER_TRACES")
	if dir == "" {
		t.Skip("GPULEDGER_TRACES does not name the folder of the real traces")
	}
	return filepath.Join(dir, name)
}

// TestGenTD26Totals holds the import against totals that were worked out apart
// from any of this code.
func TestGenTD26Totals(t *testing.T) {
	x := total(t, imported(t, "gentd26", shared(t, "gentd26"), nil))
	switch {
	case x.devices != 96 || x.device != 6_331_959*second || x.gap != 122_046*second:
		t.Fatalf("%d devices, %d ns, %d ns unobserved", x.devices, x.device, x.gap)
	case x.active/10_000_000 != 46_220_582: // 462,205.82 s
		t.Fatalf("used %d ns", x.active)
	case attribution.Count(x.success).Whole() != 74_117 || x.success < 74_117_384_900 || x.success > 74_117_385_000:
		t.Fatalf("%d millionths of an inference", x.success)
	}
	if mean := float64(x.active) / float64(x.device) * 100; mean < 7.299565 || mean > 7.299575 {
		t.Fatalf("mean activity %f %%", mean)
	}
}

func TestAzureLLMTotals(t *testing.T) {
	x := total(t, imported(t, "azure-llm", shared(t, "azure-llm-2023"), nil))
	if x.devices != 8 || x.success != 19_366*int64(attribution.One) || x.input != 22_361_870 || x.output != 4_088_665 {
		t.Fatalf("%d devices, %d successes, %d tokens in, %d out", x.devices, x.success, x.input, x.output)
	}
}

func TestOpenbPlacesItsBusiestHour(t *testing.T) {
	dir := shared(t, "alibaba-gpu-2023")
	x := total(t, imported(t, "openb", dir, nil))
	if x.owners != 96 || !strings.Contains(x.header.Notes, "96 of 96 pods fit") || !strings.Contains(x.header.Notes, "SYNTHETIC") || x.active == 0 {
		t.Fatalf("%d owners, %d ns active: %s", x.owners, x.active, x.header.Notes)
	}
	x = total(t, imported(t, "openb", dir, map[string]string{"activity": "none", "nodes": "2"}))
	if x.active != 0 || strings.Contains(x.header.Source+x.header.Notes, "96 of 96") {
		t.Fatalf("%d ns active: %s", x.active, x.header.Notes)
	}
}

// line is an event as the tests below read it.
func line(e *sampler.Event, start int64) string {
	at := fmt.Sprintf("%g ", float64(e.Time-start)/1e9)
	switch e.Kind {
	case sampler.DeviceAdded:
		return at + "device " + e.Device.Model
	case sampler.DeviceRemoved:
		return at + "end"
	case sampler.Held:
		return fmt.Sprintf("%s%s holds %d", at, e.Owner.Pod, e.Replicas)
	case sampler.Released:
		return at + e.Owner.Pod + " releases"
	case sampler.Tallied:
		return fmt.Sprintf("%s%s served %v in %d", at, e.Tally.Owner.Pod, e.Tally.Values, e.Tally.Seconds)
	case sampler.Sampled:
	}
	s := fmt.Sprintf("%ssample %d", at, e.Sample.SMActive)
	if e.Sample.Gap {
		s += " gap"
	}
	for _, p := range e.Sample.Processes {
		s += fmt.Sprintf(" %s:%d:%d", p.Owner.Pod, p.SMActive, p.MemoryBytes)
	}
	return s
}

func expect(t *testing.T, got []string, want string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.TrimSpace(want); g != w {
		t.Fatalf("got\n%s\nwant\n%s", g, w)
	}
}

func TestGenTD26Rules(t *testing.T) {
	x := total(t, imported(t, "gentd26", "testdata/gentd26", nil))
	var alpha, other, served []string
	for i := range x.events {
		switch e := &x.events[i]; {
		case e.Kind == sampler.Tallied:
			served = append(served, line(e, x.header.Start))
		case e.DeviceID == "GPU-00112233-4455-6677-8899-aabbccddeeff":
			other = append(other, line(e, x.header.Start))
		default:
			alpha = append(alpha, line(e, x.header.Start))
		}
	}
	// 50 % of 57 s; then 12.33…34 % of 120 s, floored; then nobody looked; then
	// 100 % of the last step. The memory of the gap's end is none of ours.
	expect(t, alpha, `
0 device generative-image-gpu
0 generative-image-alpha holds 1
0 sample 0
57 sample 28500000000 generative-image-alpha:0:1024
177 sample 43300000000 generative-image-alpha:0:1024
285 sample 43300000000 gap
342 sample 100300000000 generative-image-alpha:0:2048
342 generative-image-alpha releases
342 end`)
	expect(t, other, `
0 device generative-image-gpu
0 generative-image-00112233445566778899aabbccddeeff holds 1
0 sample 0
57 sample 0
114 sample 19000000000
114 generative-image-00112233445566778899aabbccddeeff releases
114 end`)
	// 0.00000001 × 57 is 0.57 millionths: the fractions of two rows make one.
	expect(t, served, `
57 generative-image-unnamed served [{success 0}] in 57
57 generative-image-alpha served [{success 0}] in 57
114 generative-image-alpha served [{success 5130000}] in 57
171 generative-image-alpha served [{success 1}] in 57
457 generative-image-stranger served [{success 57000000}] in 57`)
	if x.header.End != 1_000_457*second {
		t.Fatalf("end %d", x.header.End)
	}
}

func TestAzureLLMRules(t *testing.T) {
	x := total(t, imported(t, "azure-llm", "testdata/azure", map[string]string{"devices": "2"}))
	got := make(map[string][]string)
	for i := range x.events {
		e := &x.events[i]
		if e.Kind == sampler.Sampled || (e.Kind == sampler.Tallied && e.Tally.Values[0].Value > 0) {
			id := e.DeviceID
			if e.Kind == sampler.Tallied {
				id = "served"
			}
			got[id] = append(got[id], line(e, x.header.Start))
		}
	}
	// The first and third request take 0.2 s and 0.1 s of the first replica;
	// the second takes 2 s of the other, from .9 on.
	ids := make([]string, 0, 2)
	for i := range x.events {
		if x.events[i].Kind == sampler.DeviceAdded {
			ids = append(ids, x.events[i].DeviceID)
		}
	}
	expect(t, got[ids[0]], `
0 sample 0
1 sample 200000000
2 sample 300000000
3 sample 300000000`)
	expect(t, got[ids[1]], `
0 sample 0
1 sample 100000000
2 sample 1100000000
3 sample 2000000000`)
	expect(t, got["served"], `
1 azure-conversation-0 served [{success 1000000} {tokens/input 800} {tokens/output 60}] in 1
2 azure-conversation-0 served [{success 1000000} {tokens/input 400} {tokens/output 30}] in 1
3 azure-conversation-1 served [{success 1000000} {tokens/input 8000} {tokens/output 600}] in 1`)
}

func TestOpenbRules(t *testing.T) {
	options := map[string]string{"from": "100", "duration": "1m", "activity": "none"}
	x := total(t, imported(t, "openb", "testdata/openb", options))
	var got []string
	for i := range x.events {
		if e := &x.events[i]; e.Kind != sampler.Sampled {
			got = append(got, line(e, x.header.Start))
		}
	}
	// part-a runs already, as does whole, which takes node-0; part-b asks for a
	// T4 and finds none; part-c joins part-a where there is the least room.
	expect(t, got, `
0 device T4
0 device T4
0 device A10
0 device A10
0 whole holds 1000
0 whole holds 1000
0 part-a holds 300
20 part-c holds 300
50 part-a releases`)
	if !strings.Contains(x.header.Notes, "3 of 5 pods fit") {
		t.Fatal(x.header.Notes)
	}
	options["activity"] = "synthetic"
	one, two := imported(t, "openb", "testdata/openb", options), imported(t, "openb", "testdata/openb", options)
	options["seed"] = "2"
	if three := imported(t, "openb", "testdata/openb", options); !bytes.Equal(one, two) || bytes.Equal(one, three) {
		t.Fatal("activity does not follow from the seed")
	}
	if x := total(t, one); x.active == 0 || x.header.Source != "openb with synthetic activity" {
		t.Fatalf("%d ns active of %q", x.active, x.header.Source)
	}
}

func TestBadTraces(t *testing.T) {
	const duty, qps = "pod_gpu_duty_cycle_anon.csv", "qps.csv"
	for _, c := range []struct{ name, trace, dir, file, old, new, want string }{
		{"wrong folder", "gentd26", "openb", "", "", "", "no pod_gpu_duty_cycle_anon.csv or pod_gpu_duty_cycle_anon.csv.gz in"},
		{"another file gone", "gentd26", "gentd26", qps, "*", "gone", "no qps.csv or qps.csv.gz"},
		{"empty", "gentd26", "gentd26", duty, "*", "", duty + " line 1: the file is empty"},
		{"column", "gentd26", "gentd26", duty, "value", "valeu", duty + ` line 1: no column "value": is it the right trace?`},
		{"fields", "gentd26", "gentd26", duty, "50.0,", "", duty + " line 3: wrong number of fields"},
		{"not a number", "gentd26", "gentd26", duty, "50.0", "NaN", duty + ` line 3: value "NaN": want a decimal number`},
		{"negative", "gentd26", "gentd26", duty, "50.0", "-50.0", duty + ` line 3: value "-50.0": the number is negative`},
		{"impossible", "gentd26", "gentd26", duty, "50.0", "100.1", duty + ` line 3: value "100.1": more than 100 is impossible`},
		{"time", "gentd26", "gentd26", duty, "50.0,1000000.0", "50.0,99999999999", duty + ` line 3: timestamp_anon "99999999999": the number is too large`},
		{"row twice", "gentd26", "gentd26", duty, "1000285.0", "1000057.0", duty + ` line 4: container "alpha" has a row of this time on line 2 already`},
		{"no containers", "gentd26", "gentd26", duty, "*", "value,timestamp_anon,container_ip\n", "names no container"},
		{"gzip", "gentd26", "gentd26", duty, "*", "\x1f\x8b\x00", duty + ": "},
		{"time of azure", "azure-llm", "azure", azureFile, "18:15:46.9", "18:75:46.9", azureFile + " line 3: TIMESTAMP"},
		{"tokens", "azure-llm", "azure", azureFile, "800,60", "800,-60", azureFile + ` line 2: "-60" is not a number of tokens`},
		{"order", "azure-llm", "azure", azureFile, "18:15:46.9", "18:15:40.9", azureFile + " line 3: the request comes before"},
		{"no requests", "azure-llm", "azure", azureFile, "*", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"},
		{"time of a request", "gentd26-lora", "gentd26-lora", loraFile, "2024-11-15 16:57:55", "yesterday", loraFile + ` line 3: gmt_create "yesterday"`},
		{"work", "gentd26-lora", "gentd26-lora", loraFile, "32.0", "-32.0", loraFile + ` line 2: exec_time_seconds "-32.0": the number is negative`},
		{"long work", "gentd26-lora", "gentd26-lora", loraFile, "32.0", "86401", loraFile + ` line 2: exec_time_seconds "86401": the number is too large`},
		{"status", "gentd26-lora", "gentd26-lora", loraFile, "FAILED", "", loraFile + ` line 3: the request has no predict_status`},
		{"order of requests", "gentd26-lora", "gentd26-lora", loraFile, "16:58:10", "16:57:10", loraFile + " line 5: the request comes before"},
		{"gpus", "openb", "openb", openbNodes, "2,T4", "99,T4", openbNodes + ` line 2: gpu "99"`},
		{"node twice", "openb", "openb", openbNodes, "node-1", "node-0", openbNodes + ` line 3: node "node-0"`},
		{"milli", "openb", "openb", openbPods, "1,600", "1,1600", openbPods + " line 4: 1 GPUs of 1600 thousandths"},
		{"pod time", "openb", "openb", openbPods, "500,0", "500,x", openbPods + ` line 2: scheduled_time "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", c.dir))); err != nil {
				t.Fatal(err)
			}
			if c.file != "" {
				breakFile(t, filepath.Join(dir, c.file), c.old, c.new)
			}
			i, err := ByName(c.trace)
			if err != nil {
				t.Fatal(err)
			}
			w := replay.NewWriter(io.Discard)
			options := map[string]string{}
			if c.trace == "openb" {
				options["from"] = "100"
			}
			if err := i.Import(t.Context(), dir, options, w, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v\nwant %s", err, c.want)
			}
			if w.Close() == nil {
				t.Fatal("a recording was completed")
			}
		})
	}
}

func breakFile(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := new
	if old != "*" {
		if changed = strings.Replace(string(text), old, new, 1); changed == string(text) {
			t.Fatalf("%q is not in %s", old, path)
		}
	}
	err = os.Remove(path)
	if new != "gone" {
		err = os.WriteFile(path, []byte(changed), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, c := range []struct{ trace, option, value string }{
		{"gentd26", "colour", "red"},
		{"gentd26", "model", ""},
		{"azure-llm", "devices", "0"},
		{"azure-llm", "prefill", "fast"},
		{"gentd26-lora", "devices", "-1"},
		{"openb", "duration", "1.5s"},
		{"openb", "activity", "real"},
		{"openb", "epoch", "today"},
		{"openb", "nodes", "-1"},
	} {
		i, err := ByName(c.trace)
		if err != nil {
			t.Fatal(err)
		}
		err = i.Import(t.Context(), "testdata/"+c.trace, map[string]string{c.option: c.value}, replay.NewWriter(io.Discard), nil)
		if err == nil || !strings.Contains(err.Error(), "option") || !strings.Contains(err.Error(), c.option) {
			t.Errorf("%s %s=%q: %v", c.trace, c.option, c.value, err)
		}
	}
	if _, err := ByName("gentd"); err == nil || !strings.Contains(err.Error(), "gentd26, gentd26-lora, azure-llm, openb") {
		t.Error(err)
	}
}

func TestImportStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := gentd26().Import(ctx, "testdata/gentd26", nil, replay.NewWriter(io.Discard), func(Progress) {})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestDecimalsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[0-9]{1,12}(\.[0-9]{1,17})?(e-?0?[0-9])?`).Draw(t, "decimal")
		got, err := parseScaled(s)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := new(big.Rat).SetString(s)
		if want.Mul(want, new(big.Rat).SetInt(unit)).Cmp(new(big.Rat).SetInt(got)) != 0 {
			t.Fatalf("%s became %s", s, got)
		}
	})
	for _, s := range []string{"", ".", "1.", ".5", "+1", "1e", "e5", "1e999999999999", "0x1", "1_0", "Inf", "NaN", " 1", "-1", "1e-31", strings.Repeat("1", 41)} {
		if v, err := parseScaled(s); err == nil {
			t.Errorf("%q became %s", s, v)
		}
	}
}

func TestFractionsAreCarried(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c carried
		sum, out := new(big.Int), new(big.Int)
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			v := new(big.Int).Mul(big.NewInt(rapid.Int64Range(0, 1<<50).Draw(t, "v")), big.NewInt(1_000_000_007))
			times := rapid.Int64Range(0, 120*second).Draw(t, "times")
			sum.Add(sum, new(big.Int).Mul(v, big.NewInt(times)))
			out.Add(out, big.NewInt(c.take(v, times, 100)))
			if want := new(big.Int).Quo(sum, new(big.Int).Mul(unit, big.NewInt(100))); out.Cmp(want) != 0 {
				t.Fatalf("handed out %s of %s", out, want)
			}
		}
	})
}
