package dcgm

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestTimesOfSamples(t *testing.T) {
	var stamp string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		page200(fmt.Appendf(nil, "DCGM_FI_PROF_SM_ACTIVE{UUID=%q} 0.5 %s\nDCGM_FI_PROF_SM_ACTIVE{UUID=%q} 0.1\n", gpuA, stamp, gpuB))(w, r)
	})
	c := scrapes(t, Options{Address: server.URL})
	for _, age := range []time.Duration{0, 20 * time.Second, 75 * time.Second, -4 * time.Second} {
		stamp = fmt.Sprint(time.Unix(0, c.now).Add(-age).UnixMilli())
		c.e.rhythm = rhythm{} // the test takes no time
		c.e.step(t.Context())
		c.want(t, gpuA, -1, 500_000, age)
	}
	for _, bad := range []string{"0", "-1", "1", "9223372036854775807", "-9223372036854775808", fmt.Sprint(c.now/1e6 + 6000), fmt.Sprint(c.now/1e6 - 91_000)} {
		stamp, c.e.rhythm = bad, rhythm{}
		if !c.e.step(t.Context()) {
			t.Fatal(c.log.all())
		}
		wantUnknown(t, c.Source, gpuA, -1)
		if _, _, ok := c.SMShare(gpuB, -1); !ok {
			t.Errorf("%s: the other GPU is unknown too", bad)
		}
	}
	if st := c.Stats(); st.Drops.Time != 7 {
		t.Errorf("%+v", st)
	}
}

func TestHostileLines(t *testing.T) {
	const metric = "DCGM_FI_PROF_SM_ACTIVE"
	good := metric + `{UUID="` + gpuB + `"} 0.5` + "\n"
	for name, test := range map[string]struct {
		lines string
		drops Drops
	}{
		"not a number":       {metric + `{UUID="a"} NaN`, Drops{Value: 1}},
		"negative":           {metric + `{UUID="a"} -0.0001`, Drops{Value: 1}},
		"over 1":             {metric + `{UUID="a"} 1.5`, Drops{Value: 1}},
		"infinite":           {metric + `{UUID="a"} +Inf`, Drops{Value: 1}},
		"words":              {metric + `{UUID="a"} high`, Drops{Malformed: 1}},
		"no value":           {metric + `{UUID="a"}`, Drops{Malformed: 1}},
		"no labels":          {metric + ` 0.5`, Drops{Malformed: 1}},
		"no GPU":             {metric + `{gpu="0"} 0.5`, Drops{Malformed: 1}},
		"an empty GPU":       {metric + `{UUID=""} 0.5`, Drops{Malformed: 1}},
		"a GPU of spaces":    {metric + `{UUID="a b"} 0.5`, Drops{Malformed: 1}},
		"a long GPU":         {metric + `{UUID="` + strings.Repeat("x", 97) + `"} 0.5`, Drops{Malformed: 1}},
		"a wild instance":    {metric + `{UUID="a",GPU_I_ID="x"} 0.5`, Drops{Malformed: 1}},
		"a large instance":   {metric + `{UUID="a",GPU_I_ID="256"} 0.5`, Drops{Malformed: 1}},
		"a minus instance":   {metric + `{UUID="a",GPU_I_ID="-1"} 0.5`, Drops{Malformed: 1}},
		"the same label":     {metric + `{UUID="a",UUID="b"} 0.5`, Drops{Malformed: 1}},
		"not closed":         {metric + `{UUID="a" 0.5`, Drops{Malformed: 1}},
		"no quotes":          {metric + `{UUID=a} 0.5`, Drops{Malformed: 1}},
		"not UTF-8":          {metric + `{UUID="` + "\xff\xfe" + `"} 0.5`, Drops{Malformed: 1}},
		"many labels":        {metric + `{UUID="a"` + manyLabels(64) + `} 0.5`, Drops{Malformed: 1}},
		"a long line":        {metric + `{UUID="a",x="` + strings.Repeat("y", maxLine) + `"} 0.5`, Drops{Malformed: 1}},
		"a very long line":   {metric + `{UUID="a",x="` + strings.Repeat("y", 5*maxLine) + `"} 0.5`, Drops{Malformed: 1}},
		"a long other line":  {`other{x="` + strings.Repeat("y", 5*maxLine) + `"} 0.5`, Drops{}},
		"contradicting":      {good + metric + `{UUID="` + gpuB + `"} 0.25`, Drops{Contradicting: 1}},
		"repeated":           {good + good, Drops{}},
		"nothing":            {"", Drops{}},
		"empty lines":        {"\n\n\r\n", Drops{}},
		"a name of its own":  {metric + `_total{UUID="a"} 0.5`, Drops{}},
		"a comment":          {"# TYPE " + metric + " histogram\n# HELP " + metric + " x\n#", Drops{}},
		"an exemplar":        {metric + `{UUID="a"} 0.5 # {x="y"} 1`, Drops{Malformed: 1}},
		"two million digits": {metric + `{UUID="a"} 0.` + strings.Repeat("1", 2_000_000), Drops{Malformed: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, text := range []string{test.lines + "\n" + good, good + test.lines} {
				c := scrapes(t, Options{Address: serve(t, page200([]byte(text))).URL})
				if !c.e.step(t.Context()) {
					t.Fatal(c.log.all())
				}
				if share, _, ok := c.SMShare(gpuB, -1); !ok || share != 500_000 {
					t.Errorf("the good line: %d, %v", share, ok)
				}
				if st := c.Stats(); st.Drops != test.drops || st.Known != 1 {
					t.Errorf("%+v, want %+v", st, test.drops)
				}
			}
		})
	}
}

func manyLabels(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,l%d="x"`, i)
	}
	return b.String()
}

func FuzzPage(f *testing.F) {
	f.Add(testdata(f, "mig.prom"))
	f.Add(testdata(f, "plain.prom"))
	f.Add([]byte("DCGM_FI_PROF_SM_ACTIVE{UUID=\"a\",GPU_I_ID=\"3\"} 0.5 1000\nDCGM_FI_PROF_SM_ACTIVE{"))
	p := newParser([]Field{SMActive, DRAMActive}, nil)
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := p.parse(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%v of a page of %d bytes", err, len(text))
		}
		for _, r := range found.readings {
			if !isUUID(r.GPU) || r.GPUInstance < -1 || r.GPUInstance >= maxInstance || r.ComputeInstance != -1 ||
				r.Share < 0 || r.Share > 1_000_000 || r.At < 0 || (r.Field != SMActive && r.Field != DRAMActive) {
				t.Fatalf("%+v", r)
			}
		}
		again, err := p.parse(bytes.NewReader(text))
		if err != nil || again.hash != found.hash || len(again.readings) != len(found.readings) {
			t.Fatalf("another page the second time: %v", err)
		}
	})
}

// A node of 8 GPUs cut in 7, at 30 fields: the page is parsed every 10 s.
func BenchmarkPage(b *testing.B) {
	var text bytes.Buffer
	for field := range 30 {
		name := fmt.Sprintf("DCGM_FI_DEV_FIELD_%d", field)
		if field == 7 {
			name = "DCGM_FI_PROF_SM_ACTIVE"
		}
		for i := range 56 {
			fmt.Fprintf(&text, "%s{gpu=\"%d\",UUID=\"%s%d\",pci_bus_id=\"00000000:07:00.0\",device=\"nvidia0\",modelName=\"NVIDIA A100-SXM4-40GB\","+
				"GPU_I_PROFILE=\"1g.5gb\",GPU_I_ID=\"%d\",Hostname=\"node-a\",DCGM_FI_DRIVER_VERSION=\"550.54.15\",container=\"serve\",namespace=\"chat\",pod=\"llm-0\"} 0.5\n",
				name, i/7, gpuA, i/7, i%7)
		}
	}
	p := newParser([]Field{SMActive}, nil)
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if found, err := p.parse(bytes.NewReader(text.Bytes())); err != nil || len(found.readings) != 56 {
			b.Fatal(err)
		}
	}
}
