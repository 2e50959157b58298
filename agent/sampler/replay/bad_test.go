package replay

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// good is a small recording; the cases below break one thing in it.
const good = `{"kind":"recording","version":1,"source":"hand","start":100,"end":200.5,"max_interval_s":60}
{"kind":"node","node":"n1","cluster":"c"}
{"kind":"owner","ref":"a","node":"n1","namespace":"ns","pod":"p","uid":"u","container":"c","labels":{"team":"x"}}
{"kind":"owner","ref":"b","node":"n1","type":"host-process","pid":7,"command":"blender"}
{"kind":"device","t":100,"device":"GPU-1","node":"n1","model":"m","memory_bytes":1000,"sensors":["energy","memory"]}
{"kind":"hold","t":100.25,"device":"GPU-1","owner":"a","replicas":2}
{"kind":"sample","t":101,"device":"GPU-1","sm_active_ns":5,"energy_uj":9,"process_sm":true,"processes":[{"pid":3,"start":1,"owner":"a","sm_active_ns":4,"memory_bytes":6}]}
{"kind":"tally","t":110,"owner":"a","seconds":10,"model":"m","success":1.5,"failures":{"oom":1},"tokens":{"input":5,"output":6},"latency":{"4":1.5},"queue":0}
{"kind":"sample","t":120.000000001,"device":"GPU-1","sm_active_ns":1005,"energy_uj":19}
{"kind":"release","t":130,"device":"GPU-1","owner":"a"}
{"kind":"device_end","t":140,"device":"GPU-1"}
{"kind":"end","records":10}
`

func parse(text string) error {
	r, err := NewReader(strings.NewReader(text), "f.jsonl")
	if err == nil {
		_, err = readAll(r)
	}
	return err
}

func TestBadRecordings(t *testing.T) {
	if err := parse(good); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		name, old, new string
		line           int
		want           string
	}{
		{"empty", good, "", 1, "the file is empty"},
		{"csv", good, "a,b\n1,2\n", 1, "this is not a recording"},
		{"other json", good, "{\"a\":1}\n", 1, "this is not a recording"},
		{"version", `"version":1`, `"version":2`, 1, "version 2 of the format"},
		{"no source", `"source":"hand",`, ``, 1, `key "source" is missing`},
		{"end before start", `"end":200.5`, `"end":99`, 1, "start 100 and end 99"},
		{"too long", `"end":200.5`, `"end":99999999`, 1, "longer than 400 days"},
		{"no interval", `"max_interval_s":60`, `"max_interval_s":0`, 1, "max_interval_s 0"},
		{"long interval", `"max_interval_s":60`, `"max_interval_s":3601`, 1, "max_interval_s 3601"},
		{"header key", `"source"`, `"sauce":1,"source"`, 1, `unknown key "sauce"`},
		{"boot", `"version":1`, `"version":1,"boot":"zz"`, 1, "boot of 2 characters"},
		{"boot digits", `"version":1`, `"version":1,"boot":"` + strings.Repeat("z", 32) + `"`, 1, "malformed boot"},
		{"no nodes", `{"kind":"node","node":"n1","cluster":"c"}` + "\n", "", 2, "without nodes"},
		{"node twice", `{"kind":"owner","ref":"a"`, `{"kind":"node","node":"n1"}` + "\n" + `{"kind":"owner","ref":"a"`, 3, "declared twice"},
		{"node late", `{"kind":"release"`, `{"kind":"node","node":"n2"}` + "\n" + `{"kind":"release"`, 10, "node line in the middle"},
		{"nameless node", `"node":"n1","cluster"`, `"node":"","cluster"`, 2, "without a name"},
		{"unknown kind", `"kind":"release"`, `"kind":"relax"`, 10, `unknown kind "relax"`},
		{"kind not first", `{"kind":"release","t":130`, `{"t":130,"kind":"release"`, 10, `the first key is "t"`},
		{"unknown key", `"replicas":2`, `"replica":2`, 6, `unknown key "replica"`},
		{"key twice", `"replicas":2`, `"replicas":2,"replicas":3`, 6, `key "replicas" is there twice`},
		{"missing key", `"owner":"a","replicas":2`, `"replicas":2`, 6, `key "owner" is missing`},
		{"unterminated", `"replicas":2}`, `"replicas":2`, 6, "want ,"},
		{"after the object", `"replicas":2}`, `"replicas":2} {}`, 6, "want the line's end"},
		{"empty line", `{"kind":"release"`, "\n" + `{"kind":"release"`, 10, "want {"},
		{"trailing comma", `"replicas":2}`, `"replicas":2,}`, 6, "want a string"},
		{"negative", `"replicas":2`, `"replicas":-2`, 6, "negative number"},
		{"NaN", `"sm_active_ns":1005`, `"sm_active_ns":NaN`, 9, "want a number"},
		{"null", `"sm_active_ns":1005`, `"sm_active_ns":null`, 9, "want a number"},
		{"float counter", `"sm_active_ns":1005`, `"sm_active_ns":1005.5`, 9, "too fine"},
		{"exponent", `"sm_active_ns":1005`, `"sm_active_ns":1e5`, 9, "exponent"},
		{"leading zero", `"sm_active_ns":1005`, `"sm_active_ns":01005`, 9, "leading zeros"},
		{"overflow", `"sm_active_ns":1005`, `"sm_active_ns":99999999999999999999999`, 9, "too large"},
		{"fine time", `120.000000001`, `120.0000000001`, 9, "too fine"},
		{"far time", `"t":140`, `"t":9223372036854775807`, 11, "too large"},
		{"no share replicas", `"replicas":2`, `"replicas":0`, 6, "0 replicas"},
		{"time goes back", `"t":130`, `"t":119`, 10, "time goes back"},
		{"before start", `"t":100,"device"`, `"t":99,"device"`, 5, "outside the recording"},
		{"after end", `"t":140`, `"t":201`, 11, "outside the recording"},
		{"owner undeclared", `"t":130,"device":"GPU-1","owner":"a"`, `"t":130,"device":"GPU-1","owner":"z"`, 10, `owner "z" is not declared`},
		{"owner ref twice", `"ref":"b"`, `"ref":"a"`, 4, `ref "a" is empty or declared twice`},
		{"owner twice", `"type":"host-process","pid":7,"command":"blender"`, `"namespace":"ns","pod":"p","uid":"u","container":"c","labels":{"team":"x"}`, 4, "same owner is declared twice"},
		{"owner type", `host-process`, `ghost`, 4, `unknown value "ghost"`},
		{"gateway with a pid", `"type":"host-process"`, `"type":"gateway"`, 4, "malformed gateway owner"},
		{"owner node", `"ref":"b","node":"n1"`, `"ref":"b","node":"n2"`, 4, `unknown node "n2"`},
		{"container without pod", `"pod":"p",`, ``, 3, "malformed container owner"},
		{"process without pid", `"pid":7,`, ``, 4, "malformed process owner"},
		{"label twice", `{"team":"x"}`, `{"team":"x","team":"y"}`, 3, "empty, repeated"},
		{"control character", `"team":"x"`, "\"team\":\"\x01\"", 3, "control characters"},
		{"escaped control", `"team":"x"`, `"team":"\u001b"`, 3, "control character"},
		{"terminal escape", `"team":"x"`, "\"team\":\"\u009b\"", 3, "control character"},
		{"not UTF-8", `"team":"x"`, "\"team\":\"\xff\"", 3, "not UTF-8"},
		{"bad escape", `"team":"x"`, `"team":"\x"`, 3, `escape \x`},
		{"lone surrogate", `"team":"x"`, `"team":"\ud800"`, 3, "malformed escape"},
		{"long text", `"team":"x"`, `"team":"` + strings.Repeat(long, 20) + `"`, 3, "text of 6000 bytes"},
		{"long line", `"team":"x"`, `"team":"` + strings.Repeat(long, 4000) + `"`, 3, "longer than"},
		{"device twice", `{"kind":"hold"`, `{"kind":"device","t":100,"device":"GPU-1","node":"n1","model":"m"}` + "\n" + `{"kind":"hold"`, 6, "is there already"},
		{"device undeclared", `"t":120.000000001,"device":"GPU-1"`, `"t":120.000000001,"device":"GPU-2"`, 9, `device "GPU-2" is not declared`},
		{"device removed", `{"kind":"end"`, `{"kind":"sample","t":141,"device":"GPU-1","sm_active_ns":1}` + "\n" + `{"kind":"end"`, 12, "has been removed"},
		{"removed while held", `{"kind":"release","t":130,"device":"GPU-1","owner":"a"}` + "\n", "", 10, "ns/p/c holds it"},
		{"unknown sensor", `["energy","memory"]`, `["energy","smell"]`, 5, `unknown value "smell"`},
		{"share of nothing", `"memory_bytes":1000`, `"share":[1,7,1,8]`, 5, "a part of nothing"},
		{"share missing", `"memory_bytes":1000`, `"parent":"GPU-0"`, 5, "share of 0/0"},
		{"share too large", `"memory_bytes":1000`, `"parent":"GPU-0","share":[8,7,1,8]`, 5, "share of 8/7"},
		{"share short", `"memory_bytes":1000`, `"parent":"GPU-0","share":[1,7,1]`, 5, "malformed share"},
		{"share long", `"memory_bytes":1000`, `"parent":"GPU-0","share":[1,7,1,8,9]`, 5, "malformed share"},
		{"held twice", `{"kind":"sample","t":101`, `{"kind":"hold","t":101,"device":"GPU-1","owner":"a"}` + "\n" + `{"kind":"sample","t":101`, 7, "holds device GPU-1 already"},
		{"process holds", `"owner":"a","replicas"`, `"owner":"b","replicas"`, 6, "host-process 7 blender cannot hold"},
		{"not held", `"t":130,"device":"GPU-1","owner":"a"`, `"t":130,"device":"GPU-1","owner":"b"`, 10, "does not hold"},
		{"counter falls", `"sm_active_ns":1005`, `"sm_active_ns":4`, 9, "falls"},
		{"energy falls", `"energy_uj":19`, `"energy_uj":8`, 9, "falls"},
		{"faster than time", `"sm_active_ns":1005`, `"sm_active_ns":19000000007`, 9, "was active 19000000002 ns in 19000000001 ns"},
		{"too much power", `"energy_uj":19`, `"energy_uj":9000000000000`, 9, "µJ in"},
		{"interval", `"max_interval_s":60`, `"max_interval_s":19`, 9, "more than max_interval_s"},
		{"same time twice", `"t":120.000000001`, `"t":110`, 0, ""}, // 110 > 101: still in order
		{"sample twice", `{"kind":"tally"`, `{"kind":"sample","t":101,"device":"GPU-1","sm_active_ns":5,"energy_uj":9}` + "\n" + `{"kind":"tally"`, 8, "second sample of device GPU-1 at 101"},
		{"energy missing", `,"energy_uj":19`, ``, 9, "energy_uj is missing"},
		{"energy not measured", `["energy","memory"]`, `["memory"]`, 7, "energy_uj was not measured"},
		{"memory not measured", `["energy","memory"]`, `["energy"]`, 7, "memory_bytes of a process was not measured"},
		{"memory missing", `,"memory_bytes":6`, ``, 7, "memory_bytes of a process is missing"},
		{"process sm missing", `"owner":"a","sm_active_ns":4`, `"owner":"a"`, 7, "sm_active_ns of a process is missing"},
		{"process sm not measured", `"process_sm":true`, `"process_sm":false`, 7, "sm_active_ns of a process was not measured"},
		{"no pid", `"pid":3`, `"pid":0`, 7, "without a pid"},
		{"processes out of order", `"processes":[`, `"processes":[{"pid":9,"start":1,"owner":"b","sm_active_ns":0,"memory_bytes":0},`, 7, "process 3 is there twice or out of order"},
		{"process counter falls", `"energy_uj":19`, `"energy_uj":19,"process_sm":true,"processes":[{"pid":3,"start":1,"owner":"a","sm_active_ns":3,"memory_bytes":6}]`, 9, "process 3 falls"},
		{"too much memory", `"memory_bytes":6`, `"memory_bytes":9999999999999`, 7, "too large"},
		{"tally too long", `"seconds":10`, `"seconds":61`, 8, "tally over 61 s"},
		{"tally before start", `"seconds":10`, `"seconds":11`, 8, "begins before the recording"},
		{"tally of nothing", `,"success":1.5,"failures":{"oom":1},"tokens":{"input":5,"output":6},"latency":{"4":1.5},"queue":0`, ``, 8, "counts nothing"},
		{"fine count", `"success":1.5`, `"success":1.0000001`, 8, "too fine"},
		{"half a token", `"input":5`, `"input":5.5`, 8, "too fine"},
		{"unknown token", `"input":5`, `"inputs":5`, 8, `unknown value "inputs"`},
		{"token twice", `"input":5`, `"output":5`, 8, "there twice"},
		{"no reason", `"oom":1`, `"":1`, 8, "without a reason"},
		{"bucket", `"4":1.5`, `"128":1`, 8, `unknown latency bucket "128"`},
		{"huge count", `"success":1.5`, `"success":1000000001`, 8, "too large"},
		{"no end", `{"kind":"end","records":10}` + "\n", "", 12, "truncated: it has no end line"},
		{"cut", `{"kind":"end","records":10}` + "\n", `{"kind":"en`, 12, "truncated within a line"},
		{"line lost", `{"kind":"device_end","t":140,"device":"GPU-1"}` + "\n", "", 11, "the end counts 10 records, but there are 9"},
		{"after the end", `"records":10}` + "\n", `"records":10}` + "\n{}\n", 13, "something follows the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if text == good {
				t.Fatalf("%q is not in the recording", c.old)
			}
			err := parse(text)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("no error, or not an Error: %v", err)
			}
			if e.File != "f.jsonl" || e.Line != c.line || !strings.Contains(e.What, c.want) || e.Hint == "" {
				t.Fatalf("%v\nwant line %d: %s, and a hint", err, c.line, c.want)
			}
		})
	}
}

func TestGapAllowsWhatRulesForbid(t *testing.T) {
	text := strings.Replace(good, `"sm_active_ns":1005,"energy_uj":19`, `"sm_active_ns":0,"energy_uj":0,"gap":true`, 1)
	text = strings.Replace(text, `"t":120.000000001`, `"t":180`, 1)
	text = strings.Replace(strings.Replace(text, `"t":130`, `"t":190`, 1), `"t":140`, `"t":200.5`, 1)
	if err := parse(text); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenGzip(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, good); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-6] ^= 1
	for name, in := range map[string][]byte{
		"magic only": whole[:2], "cut": whole[:len(whole)/2], "no checksum": whole[:len(whole)-8],
		"wrong checksum": flipped, "garbage behind": append(bytes.Clone(whole), "garbage"...),
	} {
		r, err := NewReader(bytes.NewReader(in), "f.gz")
		if err == nil {
			_, err = readAll(r)
		}
		var e *Error
		if !errors.As(err, &e) || e.Err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, "1.5", "1e5", 1)))
	f.Add([]byte(strings.Replace(good, `"team":"x"`, `"te\u0061m\"":"\ud83d\ude00"`, 1)))
	f.Add([]byte(good[:len(good)/2]))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := NewReader(bytes.NewReader(in), "fuzz")
		var events []sampler.Event
		if err == nil {
			events, err = readAll(r)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.What == "" {
				t.Fatalf("not a proper error: %v", err)
			}
			return
		}
		// What is read can be written, and what is written again is the same.
		again := script{r.Header(), r.Nodes(), events}
		var one, two bytes.Buffer
		again.write(t, &one)
		back, err := NewReader(bytes.NewReader(one.Bytes()), "again")
		if err != nil {
			t.Fatal(err)
		}
		if again.events, err = readAll(back); err != nil {
			t.Fatal(err)
		}
		again.write(t, &two)
		if !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Fatalf("%s\nbecame\n%s", one.Bytes(), two.Bytes())
		}
	})
}

// TestDocumentedRecording: the example that users read is a recording.
func TestDocumentedRecording(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/recording.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(doc), "```json\n")
	example, _, _ = strings.Cut(example, "```")
	if err := parse(example); err != nil {
		t.Fatal(err)
	}
}
