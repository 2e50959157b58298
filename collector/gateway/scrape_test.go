package gateway

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving/format"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
)

// reading is a rig whose pages come over HTTP.
func reading(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	r := newRig(t, t.TempDir())
	r.o.Timeout = 300 * time.Millisecond
	change(r)
	r.openHTTP(func(context.Context, string) ([]string, error) { return nil, errDown })
	return r
}

func (r *rig) openHTTP(resolve func(context.Context, string) ([]string, error)) {
	r.t.Helper()
	d := r.deps()
	d.Resolve = resolve
	g, err := open(r.o.withDefaults(), d)
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.g = g
}

// Pages of a round are in memory together, so that many may keep less each.
func TestLaw8PagesOfARoundAreBounded(t *testing.T) {
	for pages, want := range map[int]int64{1: pageRetained, 4: pageRetained, 8: roundRetained / 8, mostAddresses: leastRetained} {
		if got := retained(pages); got != want {
			t.Errorf("%d pages keep %d bytes each: want %d", pages, got, want)
		}
	}
}

// A pipe never ends, and a directory is no token: neither holds up a round.
func TestCredentialsThatAreNoFiles(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pipe, dir} {
		for _, o := range []Options{{BearerTokenFile: name}, {CAFile: name}} {
			if _, _, err := o.credentials(); !errors.Is(err, errNotSmall) {
				t.Errorf("%+v: %v", o, err)
			}
		}
	}
}

// Each kind of gateway, restarted, cut off, hanging, refusing and with the
// collector crashing: the ledger has what its pages told.
func TestLaw4EveryKindOfGateway(t *testing.T) {
	for _, kind := range []string{"litellm", "envoy-ai-gateway", "llm-d"} {
		t.Run(kind, func(t *testing.T) {
			var f *servingtest.Fake
			r := reading(t, func(r *rig) {
				f = servingtest.Start(t, kind, r.now.Add(time.Second))
				r.o.URLs, r.o.Subject = []string{f.URL}, format.Labels{}
				if kind == "envoy-ai-gateway" {
					r.o.Subject.Tenant = []string{"x_tenant"}
				}
			})
			load := func(n int) {
				for i, tenant := range []string{"", "acme", "zeta"} {
					q := servingtest.Request{
						Model: "llama", Tenant: tenant, Backend: "http://llama.prod.svc:8000/v1", Input: 100, Cached: 10, Output: 7, Latency: time.Second,
					}
					f.Serve(q, n+i)
					f.Fail(q, f.Reasons()[0], 1)
					f.Abort(q, 2)
				}
			}
			load(3)
			r.round()
			load(5)
			f.Cut(300)
			r.round()
			resume := f.Hang()
			r.round()
			resume()
			f.Status(http.StatusServiceUnavailable)
			r.round()
			if s := r.g.status; s.Failures != 3 || !strings.Contains(s.Error, "503") || len(s.Warnings) != 1 {
				t.Errorf("%+v", s)
			}
			f.Status(0)
			r.round()
			r.ledger.commit(4)
			load(2)
			r.ledger.open = nil
			r.openHTTP(nil)
			r.round()
			f.Restart(r.now.Add(2 * time.Second))
			load(11)
			r.round()
			r.round()
			r.ledger.commit(999)
			got := r.ledger.sums()
			for p, v := range f.Served() {
				s := sum{cleanBackend(p.Subject.Backend), p.Subject.Model, p.Subject.Tenant, p.Subject.Tier, p.Measure}
				if isServed(p.Measure) && got[s] != v {
					t.Errorf("%v: the ledger has %d, want %d", p, got[s], v)
				}
				delete(got, s)
			}
			if len(got) > 0 {
				t.Errorf("the ledger has more: %v", got)
			}
			if s := r.g.status; s.Format != kind || s.Error != "" || s.Tenants != 2 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestServersAreNoGateways(t *testing.T) {
	var f *servingtest.Fake
	r := reading(t, func(r *rig) {
		f = servingtest.Start(t, "vllm", r.now)
		r.o.URLs = []string{f.URL}
	})
	r.round()
	if s := r.g.status; !strings.Contains(s.Error, "that of a server (vllm)") || s.Answering != 0 {
		t.Errorf("%+v", s)
	}
	if len(r.ledger.open) > 0 {
		t.Error("it is in the ledger")
	}
}

// A gateway that nobody knows is read by a rule file.
func TestRuleFile(t *testing.T) {
	rules, err := format.ParseRules([]byte(`
formats:
  - name: house
    gateway: true
    detect: [house_requests_total]
    labels: {model: [m], tenant: [who], tier: [plan]}
    counts:
      - {measure: success, of: [{series: 'house_requests_total{ok="1"}'}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n += 4
		_, _ = fmt.Fprintf(w, "house_requests_total{m=\"x\",who=\"acme\",plan=\"gold\",ok=\"1\"} %d\n", n)
	}))
	defer s.Close()
	r := reading(t, func(r *rig) { r.o.URLs, r.o.Rules, r.o.Format = []string{s.URL}, rules, "house" })
	r.round()
	r.round()
	r.ledger.commit(99)
	r.want(sum{model: "x", tenant: "acme", tier: "gold", measure: attribution.Success}, 4*int64(attribution.One))
}

// Each address of a name is asked for itself, with the name's own URL.
func TestResolveAll(t *testing.T) {
	var lc net.ListenConfig
	first, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(first.Addr().String())
	second, err := lc.Listen(t.Context(), "tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Skipf("there is no second loopback address: %v", err)
	}
	var mu sync.Mutex // both are asked at once
	var asked []string
	fakes := make([]*servingtest.Fake, 2)
	r := reading(t, func(r *rig) {
		for i, l := range []net.Listener{first, second} {
			fakes[i] = servingtest.Start(t, "litellm", r.now.Add(time.Duration(3*i+1)*time.Second))
			s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				mu.Lock()
				asked = append(asked, q.Host)
				mu.Unlock()
				_, _ = io.WriteString(w, fakes[i].Page())
			})}}
			s.Start()
			t.Cleanup(s.Close)
		}
		r.o.URLs, r.o.ResolveAll = []string{"http://litellm.ai.svc:" + port + "/metrics"}, true
	})
	r.openHTTP(func(_ context.Context, host string) ([]string, error) {
		if host != "litellm.ai.svc" {
			t.Errorf("asked for %s", host)
		}
		return []string{"127.0.0.2", "127.0.0.1", "127.0.0.2"}, nil
	})
	for i, f := range fakes {
		f.Serve(servingtest.Request{Model: "m", Tenant: "acme", Input: int64(10 * (i + 1))}, 1)
	}
	r.round()
	r.ledger.commit(99)
	r.want(sum{model: "m", tenant: "acme", measure: attribution.TokensInput}, 30)
	if slices.Compact(asked)[0] != "litellm.ai.svc:"+port || len(asked) != 2 || r.g.status.Answering != 2 {
		t.Errorf("%v, %+v", asked, r.g.status)
	}
}

func TestCredentials(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "litellm_input_tokens_metric_total{requested_model=\"m\"} 5\n")
	}))
	defer s.Close()
	r := reading(t, func(r *rig) {
		r.o.URLs, r.o.CAFile, r.o.BearerTokenFile = []string{s.URL}, filepath.Join(r.dir, "ca.pem"), filepath.Join(r.dir, "token")
	})
	fails := func(want string) {
		t.Helper()
		r.round()
		if s := r.g.status; !strings.Contains(s.Error, want) || strings.Contains(s.Error, "s3cret") {
			t.Errorf("%+v: want %q", s, want)
		}
	}
	fails("bearer_token_file")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", "s3cret\nX-Other: 1\n")
	fails("no token of printable")
	write("token", "old\n")
	fails("ca_file")
	write("ca.pem", "nonsense")
	fails("no certificate")
	write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	fails("401")
	write("token", "s3cret\n")
	fails("")
	if r.g.status.Answering != 1 {
		t.Errorf("%+v", r.g.status)
	}
}

func TestValidate(t *testing.T) {
	good := Options{Name: "g", URLs: []string{"http://h/metrics"}}
	for want, change := range map[string]func(*Options){
		"name":                func(o *Options) { o.Name = "../g" },
		"cluster":             func(o *Options) { o.Cluster = "a\nb" },
		"urls":                func(o *Options) { o.URLs = nil },
		"urls[0]: \"ftp":      func(o *Options) { o.URLs = []string{"ftp://h"} },
		"urls[0]: holds":      func(o *Options) { o.URLs = []string{"http://u:p@h"} },
		"urls[1]: \"http://h": func(o *Options) { o.URLs = []string{"http://h", "http://h"} },
		"urls[0]: has":        func(o *Options) { o.URLs = []string{"http://" + strings.Repeat("h", 300)} },
		"interval":            func(o *Options) { o.Interval = time.Millisecond },
		"timeout":             func(o *Options) { o.Timeout = time.Hour },
		"max_tenants":         func(o *Options) { o.MaxTenants = 1e6 },
		"labels":              func(o *Options) { o.Labels = map[string]string{"": "x"} },
		"format":              func(o *Options) { o.Format = "vllm" },
	} {
		o := good
		change(&o)
		var errs []error
		o.Validate(func(key, format string, args ...any) { errs = append(errs, fmt.Errorf(key+": "+format, args...)) })
		if len(errs) == 0 || !strings.HasPrefix(errs[0].Error(), want) {
			t.Errorf("%v, want %q", errors.Join(errs...), want)
		}
	}
	good.Validate(func(key, format string, args ...any) { t.Errorf(key+": "+format, args...) })
}
