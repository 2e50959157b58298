package inference

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// A server in a pod that holds a GPU is found by its port, and counted under
// the very owner that device time goes to.
func TestServerIsCounted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(2 * time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		s.served.Store(7)
		wait(10 * time.Second)
		s.served.Add(5)
		s.prompt.Store(100)
		s.tokens.Store(40)
		wait(12 * time.Second)
		if got := w.successes(); got != 12 {
			t.Errorf("%d successes, want 12", got)
		}
		if in, out := w.counted(attribution.TokensInput), w.counted(attribution.TokensOutput); in != 100 || out != 40 {
			t.Errorf("%d and %d tokens", in, out)
		}
		for _, e := range w.life.events {
			if e.Tally.Owner != w.held[0] || e.Tally.Seconds != 1 || e.Time%int64(time.Second) != 0 || e.Tally.Model != "m" && e.Tally.Model != "" {
				t.Fatalf("%+v %+v", e, e.Tally)
			}
		}
		// Two ran all the time: what they were is integrated over it.
		running, observed := w.counted(attribution.Running), w.counted(attribution.Observed)
		if observed < 10*int64(attribution.One) || running != 2*observed {
			t.Errorf("running %d in %d", running, observed)
		}
		if st := w.sampler.Stats(); len(st.Targets) != 1 || st.Targets[0].State != Counting || st.Targets[0].Format != "vllm" {
			t.Errorf("%+v", st)
		}
	})
}

// What a server served before anybody looked is not counted.
func TestBaseline(t *testing.T) {
	inWorld(t, func(w *world) {
		p := llm("a", "10.0.0.1", 1)
		p.Containers[0].Started -= 3600
		s := w.serve("10.0.0.1:8000", &server{started: time.Now().Unix() - 3600})
		s.served.Store(1000)
		w.pod(p, "llm")
		wait(5 * time.Second)
		w.start()
		wait(8 * time.Second)
		s.served.Add(3)
		wait(8 * time.Second)
		if got := w.successes(); got != 3 {
			t.Errorf("%d successes, want 3", got)
		}
		if st := w.sampler.Stats(); st.Firsts != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// The agent is killed at any moment, also between writing down and yielding;
// servers are restarted after they were read. What is counted is what was
// served.
func TestLaw4CountsAreExactThroughKills(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inWorld(t, func(w *world) {
				r := rand.New(rand.NewPCG(seed, 1))
				w.options.Interval = time.Duration(1+r.IntN(4)) * time.Second
				w.start()
				wait(time.Second)
				const addr = "10.0.0.1:8000"
				life, total := 1, int64(0)
				w.pod(llm("a", "10.0.0.1", life), "llm")
				s := w.serve(addr, &server{})
				for range 40 {
					n := r.Int64N(50)
					total += n
					s.served.Add(n)
					s.prompt.Add(3 * n)
					wait(time.Duration(r.IntN(3000)) * time.Millisecond)
					switch r.IntN(8) {
					case 0, 1:
						w.kill()
						wait(time.Duration(r.IntN(8000)) * time.Millisecond)
						w.start()
					case 2: // its last words are heard, and last, before it goes
						wait(3*w.options.Interval + 5*time.Second)
						w.end(addr, s)
						life++
						wait(time.Duration(r.IntN(3000)) * time.Millisecond)
						w.directory.Put(llm("a", "10.0.0.1", life))
						s = w.serve(addr, &server{})
					case 3: // killed between the two
						w.die()
						wait(time.Duration(r.IntN(2000)) * time.Millisecond)
						w.kill()
						w.start()
					}
				}
				wait(3*w.options.Interval + 70*time.Second)
				if got := w.successes(); got != total {
					t.Errorf("%d successes are counted, %d were served", got, total)
				}
				if got := w.counted(attribution.TokensInput); got != 3*total {
					t.Errorf("%d tokens are counted, %d were read", got, 3*total)
				}
				if st := w.sampler.Stats(); st.Damaged+st.Unkept+st.Dropped.Tally > 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// A damaged file is a new beginning: nothing is counted twice.
func TestDamagedState(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		s.served.Store(10)
		wait(10 * time.Second)
		w.kill()
		if err := os.WriteFile(filepath.Join(w.dir, "servers"), []byte("\xffnonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		wait(10 * time.Second)
		s.served.Add(4)
		wait(10 * time.Second)
		if got := w.successes(); got != 14 || w.sampler.Stats().Damaged != 1 {
			t.Errorf("%d successes, want 14; %+v", got, w.sampler.Stats())
		}
	})
}

// Servers that hang harm only themselves.
func TestHangingServers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.options.Concurrency = 4
		w.start()
		wait(time.Second)
		for i := range 20 {
			ip := fmt.Sprintf("10.0.1.%d", i+1)
			w.pod(llm(fmt.Sprint("bad", i), ip, 1), "llm")
			w.serve(ip+":8000", &server{handler: func(out http.ResponseWriter, q *http.Request) {
				_, _ = out.Write([]byte("vllm:")) // and then a byte now and then
				out.(http.Flusher).Flush()
				<-q.Context().Done()
			}})
		}
		wait(30 * time.Second)
		w.pod(llm("good", "10.0.0.1", 1), "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		for range 10 {
			s.served.Add(10)
			before := w.successes()
			wait(12 * time.Second)
			if got := w.successes(); got < before+10 {
				t.Fatalf("%d successes after %d", got, before)
			}
		}
		st := w.sampler.Stats()
		if st.Readings[TimedOut] == 0 || st.Readings[TimedOut] > 400 {
			t.Errorf("%+v", st)
		}
	})
}

// Pages that hold anything but counts count nothing, and ask nobody else.
func TestHostilePages(t *testing.T) {
	pages := map[string]http.HandlerFunc{
		"redirect": func(out http.ResponseWriter, q *http.Request) {
			http.Redirect(out, q, "http://10.9.9.9:8000/metrics", http.StatusFound)
		},
		"endless": func(out http.ResponseWriter, _ *http.Request) {
			line := []byte(strings.Repeat("x", 1000) + " 1\n")
			for {
				if _, err := out.Write(line); err != nil {
					return
				}
			}
		},
		"error":   func(out http.ResponseWriter, _ *http.Request) { out.WriteHeader(http.StatusInternalServerError) },
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"other":   func(out http.ResponseWriter, _ *http.Request) { _, _ = out.Write([]byte("node_load1 3\n")) },
		"negative": func(out http.ResponseWriter, _ *http.Request) {
			_, _ = out.Write([]byte("vllm:num_requests_running 1\nvllm:prompt_tokens_total -5\nvllm:request_success_total{finished_reason=\"stop\"} NaN\n"))
		},
	}
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		n := 0
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for k := range pages {
				if !yield(k) {
					return
				}
			}
		}) {
			n++
			ip := fmt.Sprintf("10.0.1.%d", n)
			w.pod(llm(name, ip, 1), "llm")
			w.serve(ip+":8000", &server{handler: pages[name]})
		}
		wait(5 * time.Minute)
		if got := w.successes(); got != 0 {
			t.Errorf("%d successes", got)
		}
		if n := w.dials("10.9.9.9:8000"); n != 0 {
			t.Errorf("another host was asked %d times", n)
		}
	})
}

// A place that does not answer is tried less and less, and at once when the pod
// changes.
func TestBackOff(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		wait(10 * time.Minute)
		places := 0
		for _, s := range w.sampler.sites {
			places = len(s.places)
		}
		if n := w.dials("10.0.0.1:8000"); n < 10 || n > 18*places {
			t.Errorf("%d dials for %d places in ten minutes", n, places)
		}
		s := w.serve("10.0.0.1:8000", &server{})
		w.directory.Put(llm("a", "10.0.0.1", 2))
		s.served.Add(3)
		wait(3 * time.Second)
		if got := w.successes(); got != 3 {
			t.Errorf("%d successes, want 3", got)
		}
	})
}

// A server that is about to go is read at once, and every second.
func TestLastWords(t *testing.T) {
	inWorld(t, func(w *world) {
		w.options.Interval = 30 * time.Second
		w.start()
		wait(time.Second)
		p := llm("a", "10.0.0.1", 1)
		w.pod(p, "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		wait(70 * time.Second)
		going := *p
		going.Terminating = true
		w.directory.Put(&going)
		for range 5 {
			s.served.Add(2)
			wait(1500 * time.Millisecond)
		}
		w.end("10.0.0.1:8000", s)
		wait(2 * time.Second)
		if got := w.successes(); got < 8 {
			t.Errorf("%d of 10 successes", got)
		}
	})
}

// A gateway's page counts what others served: it is left to the collector.
func TestGatewayIsNotCounted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		w.serve("10.0.0.1:8000", &server{handler: func(out http.ResponseWriter, _ *http.Request) {
			_, _ = out.Write([]byte("litellm_proxy_total_requests_metric_total{status_code=\"200\",model=\"m\"} 5\nlitellm_total_tokens_metric_total{model=\"m\"} 5\n"))
		}})
		wait(time.Minute)
		st := w.sampler.Stats()
		if got := len(w.life.events); got != 0 || st.Readings[AGateway] == 0 || st.Targets[0].State != AGateway {
			t.Errorf("%d events; %+v", got, st)
		}
	})
}

// An ensemble counts what its models count too: they are left out. Without an
// answer all are counted, and that is said.
func TestTritonEnsembles(t *testing.T) {
	for name, test := range map[string]struct {
		configured bool
		models     string
		want       int64
	}{
		"it tells": {true, "", 10 + 3}, "it does not": {false, "", 10 + 10 + 10 + 3}, "restricted": {false, "pre, alone", 13},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start()
				wait(time.Second)
				p := llm("a", "10.0.0.1", 1)
				p.Ports = []pods.Port{{Name: "http", Number: 8000}, {Name: "grpc", Number: 8001}, {Name: "metrics", Number: 8002}}
				if test.models != "" {
					p.Annotations = attribution.Labels{{Key: annotationModels, Value: test.models}}
				}
				w.pod(p, "llm")
				w.serve("10.0.0.1:8002", &server{handler: func(out http.ResponseWriter, q *http.Request) {
					if q.URL.Path != "/metrics" {
						http.NotFound(out, q)
						return
					}
					for model, n := range map[string]int{"all": 10, "pre": 10, "net": 10, "alone": 3} {
						fmt.Fprintf(out, "nv_inference_request_success{model=%q,version=\"1\"} %d\n", model, n)
					}
				}})
				config := w.serve("10.0.0.1:8000", &server{handler: func(out http.ResponseWriter, q *http.Request) {
					switch {
					case !test.configured:
						http.NotFound(out, q)
					case q.URL.Path == "/v2/models/all/config":
						_, _ = out.Write([]byte(`{"name":"all","platform":"ensemble","ensemble_scheduling":{"step":[{"model_name":"pre"},{"model_name":"net"}]}}`))
					default:
						_, _ = out.Write([]byte(`{"platform":"onnxruntime_onnx"}`))
					}
				}})
				wait(time.Minute)
				if got := w.successes(); got != test.want {
					t.Errorf("%d successes, want %d", got, test.want)
				}
				if unsure := w.sampler.Stats().Unsure > 0; unsure == test.configured {
					t.Errorf("unsure: %v", unsure)
				}
				if n := config.pages.Load(); n > 12 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// However many pods there are, only so many are read: holders first.
func TestTargetsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.options.Targets = 3
		w.start()
		wait(time.Second)
		for i := range 10 {
			p := llm(fmt.Sprint("asks", i), fmt.Sprintf("10.0.2.%d", i+1), 1)
			p.Annotations = attribution.Labels{{Key: annotationScrape, Value: "true"}}
			w.pod(p)
		}
		w.pod(llm("zz", "10.0.0.1", 1), "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		s.served.Store(4)
		wait(10 * time.Second)
		if got := w.successes(); got != 4 || len(w.sampler.sites) != 3 || w.sampler.Stats().Refused == 0 {
			t.Errorf("%d successes, %d sites", got, len(w.sampler.sites))
		}
	})
}

// find describes the sites of a pod.
func find(p *pods.Pod, rules []Rule, holders ...string) string {
	d := pods.NewDirectory("c", "n")
	d.Put(p)
	f := finder{rules: rules, endpoints: testFormats().Endpoints(), counts: &counts{}, holders: map[siteKey]bool{}}
	for _, c := range holders {
		f.holders[siteKey{p.UID, c}] = true
	}
	var b strings.Builder
	for _, w := range f.find(d.View()) {
		fmt.Fprintf(&b, "%s for %s:", w.key.container, w.owner.Container)
		for _, x := range w.places {
			fmt.Fprintf(&b, " %s:%d%s", x.scheme, x.port, x.path)
			if x.format != "" {
				fmt.Fprintf(&b, "(%s)", x.format)
			}
		}
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestDiscovery(t *testing.T) {
	two := func(annotations map[string]string) *pods.Pod {
		return &pods.Pod{
			Namespace: "prod", Name: "p", UID: "u", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			Labels:      attribution.Labels{{Key: "app", Value: "x"}},
			Containers:  []pods.Container{{Name: "init", ID: "0", Init: true, Ended: true}, {Name: "proxy", ID: "1"}, {Name: "llm", ID: "2"}},
			Ports:       []pods.Port{{Container: 1, Name: "http-metrics", Number: 9100}, {Container: 2, Name: "triton", Number: 8002}, {Container: 2, Name: "other", Number: 5555}},
			Annotations: attribution.MakeLabels(annotations),
		}
	}
	rule := []Rule{{Namespace: "pro*", Labels: map[string]string{"app": "x"}, PortName: "other", Format: "vllm"}}
	for name, c := range map[string]struct {
		annotations map[string]string
		rules       []Rule
		change      func(*pods.Pod)
		holders     []string
		want        string
	}{
		"a known port of the holder": {holders: []string{"llm"}, want: "llm for llm: http:8002/metrics"},
		"no device":                  {},
		"it asks":                    {annotations: map[string]string{annotationScrape: "true"}, want: "llm for llm: http:8002/metrics; proxy for proxy: http:9100/metrics"},
		"it asks not to be":          {annotations: map[string]string{annotationScrape: "false"}, holders: []string{"llm"}},
		"our own port": {
			annotations: map[string]string{annotationPort: "5555", annotationPath: "/x?a=b", annotationFormat: "vllm"}, holders: []string{"llm"},
			want: "llm for llm: http:5555/x?a=b(vllm)",
		},
		"a port by name":              {annotations: map[string]string{annotationPort: "other"}, holders: []string{"llm"}, want: "llm for llm: http:5555/metrics"},
		"a port that nobody declares": {annotations: map[string]string{annotationPort: "7777"}, holders: []string{"llm"}, want: "llm for llm: http:7777/metrics"},
		"a neighbour's port":          {annotations: map[string]string{annotationPort: "9100"}, holders: []string{"llm"}, want: "proxy for llm: http:9100/metrics"},
		"nobody holds":                {annotations: map[string]string{annotationPort: "7777", annotationScrape: "true"}, want: "proxy for proxy: http:7777/metrics"},
		"Prometheus' port":            {annotations: map[string]string{"prometheus.io/port": "5555", "prometheus.io/path": "/p"}, holders: []string{"llm"}, want: "llm for llm: http:5555/p http:8002/metrics"},
		"not for Prometheus":          {annotations: map[string]string{"prometheus.io/port": "5555", "prometheus.io/scrape": "false"}, holders: []string{"llm"}, want: "llm for llm: http:8002/metrics"},
		"KServe's before it": {
			annotations: map[string]string{"prometheus.io/port": "5555", "prometheus.kserve.io/port": "8002", "prometheus.kserve.io/path": "/k"}, holders: []string{"llm"},
			want: "llm for llm: http:8002/k http:5555/metrics http:8002/metrics",
		},
		"a rule beats guesses":     {rules: rule, annotations: map[string]string{"prometheus.io/port": "1"}, want: "llm for llm: http:5555/metrics(vllm)"},
		"its own word beats rules": {rules: rule, annotations: map[string]string{annotationPort: "8002"}, holders: []string{"llm"}, want: "llm for llm: http:8002/metrics"},
		"a rule that does not fit": {rules: []Rule{{Namespace: "other", Port: 1}}, holders: []string{"llm"}, want: "llm for llm: http:8002/metrics"},
		"ignored":                  {rules: []Rule{{Ignore: true}}, holders: []string{"llm"}},
		"another host's path":      {annotations: map[string]string{annotationPort: "5555", annotationPath: "//evil/x"}, holders: []string{"llm"}},
		"no path":                  {annotations: map[string]string{annotationPort: "5555", annotationPath: "@evil/x"}, holders: []string{"llm"}},
		"a scheme of its own":      {annotations: map[string]string{annotationPort: "5555", annotationScheme: "file"}, holders: []string{"llm"}},
		"port 0":                   {annotations: map[string]string{annotationPort: "0"}, holders: []string{"llm"}},
		"port 65536":               {annotations: map[string]string{annotationPort: "65536"}, holders: []string{"llm"}},
		"host network, declared":   {annotations: map[string]string{annotationPort: "5555"}, change: func(p *pods.Pod) { p.HostNetwork = true }, holders: []string{"llm"}, want: "llm for llm: http:5555/metrics"},
		"host network, undeclared": {annotations: map[string]string{annotationPort: "10250"}, change: func(p *pods.Pod) { p.HostNetwork = true }, holders: []string{"llm"}},
		"metadata's address":       {change: func(p *pods.Pod) { p.IPs[0] = netip.MustParseAddr("169.254.169.254") }, holders: []string{"llm"}},
		"the agent's own address":  {change: func(p *pods.Pod) { p.IPs[0] = netip.MustParseAddr("127.0.0.1") }, holders: []string{"llm"}},
		"no address yet":           {change: func(p *pods.Pod) { p.IPs = nil }, holders: []string{"llm"}},
		"over":                     {change: func(p *pods.Pod) { p.Terminal = true }, holders: []string{"llm"}},
		"not running yet":          {change: func(p *pods.Pod) { p.Containers[2].ID = "" }, holders: []string{"llm"}},
	} {
		p := two(c.annotations)
		if c.change != nil {
			c.change(p)
		}
		if got := find(p, c.rules, c.holders...); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// vLLM, NIM and trtllm-serve have one port and three paths.
func TestDiscoveryOfSharedPorts(t *testing.T) {
	got := find(llm("a", "10.0.0.1", 1), nil, "llm")
	for _, path := range []string{"/metrics", "/prometheus/metrics", "/v1/metrics"} {
		if !strings.Contains(got+" ", ":8000"+path+" ") {
			t.Errorf("%q has no %s", got, path)
		}
	}
}

// The first agent of a node dies before any second has lasted: all that it read
// is counted again.
func TestLaw4NothingHasLastedYet(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		s.served.Store(9)
		wait(2 * time.Second)
		if w.successes() != 9 {
			t.Fatal("it has not been read")
		}
		w.kill()
		clear(w.ledger)
		w.lasting = 0
		w.start()
		wait(8 * time.Second)
		if got := w.successes(); got != 9 {
			t.Errorf("%d successes, want 9", got)
		}
	})
}

// A container is restarted and read before the agent is told: what is read then
// counts once, under whatever name.
func TestLaw4RestartThatIsKnownLate(t *testing.T) {
	for _, page := range []bool{true, false} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("page tells %v, killed %v", page, killed), func(t *testing.T) {
				inWorld(t, func(w *world) {
					start := func(served int64) *server {
						s := &server{}
						if !page {
							s.started = -1 // no start at all
						}
						w.serve("10.0.0.1:8000", s).served.Store(served)
						return s
					}
					w.options.Interval = time.Second
					w.start()
					wait(2 * time.Second)
					w.pod(llm("a", "10.0.0.1", 1), "llm")
					s := start(30)
					wait(8 * time.Second)
					w.end("10.0.0.1:8000", s)
					wait(2 * time.Second)
					second := llm("a", "10.0.0.1", 2) // it begins now
					s = start(7)
					wait(4 * time.Second)
					if got := w.successes(); got != 37 {
						t.Fatalf("%d successes, want 37", got)
					}
					w.directory.Put(second)
					wait(2 * time.Second)
					if killed {
						w.kill()
						wait(time.Second)
						w.start()
					}
					s.served.Add(5)
					wait(8 * time.Second)
					if got := w.successes(); got != 42 {
						t.Errorf("%d successes, want 42", got)
					}
				})
			})
		}
	}
}

// Where two pods have one address, nobody knows whose page it is.
func TestAddressOfTwoPods(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		thief := llm("b", "10.0.0.1", 9)
		w.pod(thief, "llm")
		s := w.serve("10.0.0.1:8000", &server{})
		s.served.Store(4)
		wait(8 * time.Second)
		if s.pages.Load() > 0 {
			t.Error("it has been read")
		}
		w.directory.Delete(thief.UID)
		wait(8 * time.Second)
		if got := w.successes(); got != 4 {
			t.Errorf("%d successes, want 4", got)
		}
	})
}

// A Triton that takes its time for each of many models, ever new ones, takes no
// more time or memory than any other server.
func TestTritonThatIsEndless(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		p := llm("a", "10.0.0.1", 1)
		p.Ports = []pods.Port{{Number: 8002}, {Number: 8000}}
		w.pod(p, "llm")
		n := 0
		w.serve("10.0.0.1:8002", &server{handler: func(out http.ResponseWriter, _ *http.Request) {
			for range 200 {
				n++
				_, _ = fmt.Fprintf(out, "nv_inference_request_success{model=\"%d\",version=\"1\"} 1\n", n)
			}
		}})
		w.serve("10.0.0.1:8000", &server{handler: func(out http.ResponseWriter, _ *http.Request) {
			wait := time.NewTimer(time.Second)
			<-wait.C
			_, _ = io.WriteString(out, `{"platform":"ensemble","ensemble_scheduling":{"step":[{"model_name":"`+strings.Repeat("x", 1000)+`"}]}}`)
		}})
		wait(3 * time.Minute)
		for _, t2 := range w.sampler.sites {
			if len(t2.triton.steps) > maxTritonModels {
				t.Errorf("%d models are remembered", len(t2.triton.steps))
			}
		}
		if st := w.sampler.Stats(); st.Readings[Counting] < 5 {
			t.Errorf("%+v", st)
		}
	})
}

// A server that has served nothing yields zeros, second after second that it is
// read; one that nobody can read yields nothing.
func TestLaw9NoInferencesAreMeasured(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		w.pod(llm("b", "10.0.0.2", 1), "llm") // nothing listens
		w.serve("10.0.0.1:8000", &server{})
		wait(21 * time.Second)
		w.life.mu.Lock()
		defer w.life.mu.Unlock()
		zeros := 0
		for _, e := range w.life.events {
			if e.Tally.Owner.Pod != "a" {
				t.Errorf("%s is measured", e.Tally.Owner.Pod)
			}
			for _, v := range e.Tally.Values {
				if v.Measure == attribution.Success && v.Value == 0 {
					zeros++
				}
			}
		}
		if zeros < 4 {
			t.Errorf("no successes were told %d times, want 4 at least", zeros)
		}
	})
}

// A container that crashes again and again keeps nobody out.
func TestCrashLoopKeepsNobodyOut(t *testing.T) {
	inWorld(t, func(w *world) {
		w.options.Targets = 2
		w.start()
		wait(time.Second)
		w.pod(llm("a", "10.0.0.1", 1), "llm")
		w.serve("10.0.0.1:8000", &server{})
		for life := range 15 {
			wait(40 * time.Second)
			w.directory.Put(llm("a", "10.0.0.1", 2+life))
		}
		w.pod(llm("b", "10.0.0.2", 1), "llm")
		w.serve("10.0.0.2:8000", &server{}).served.Store(6)
		wait(8 * time.Second)
		if got := w.successes(); got != 6 {
			t.Errorf("%d successes, want 6: %+v", got, w.sampler.Stats().Dropped)
		}
	})
}
