package dcgm

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// scraping is an exporter source whose clock is moved by hand.
type scraping struct {
	*Source
	log *journal
	e   exporter
	now int64
}

func scrapes(t *testing.T, opt Options) *scraping {
	t.Helper()
	c := &scraping{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).UnixNano()}
	opt.Mode, opt.Now = Exporter, func() int64 { return c.now }
	c.Source, c.log = open(t, opt)
	c.e = exporter{source: c.Source}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serve is an exporter whose page is what text says.
func serve(t *testing.T, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return server
}

func page200(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(text)
	}
}

func (c *scraping) want(t *testing.T, gpu string, instance int, share int64, age time.Duration) {
	t.Helper()
	got, at, ok := c.SMShare(gpu, instance)
	if !ok || got != share || c.now-at != int64(age) {
		t.Errorf("%s/%d: %d, %v old, %v; want %d, %v old", gpu, instance, got, time.Duration(c.now-at), ok, share, age)
	}
}

func TestPageOfMIGs(t *testing.T) {
	server := serve(t, page200(testdata(t, "mig.prom")))
	c := scrapes(t, Options{Address: server.URL, Extra: []Field{DRAMActive}})
	if !c.e.step(t.Context()) {
		t.Fatal(c.log.all())
	}
	c.want(t, gpuA, 1, 812_345, 0)
	c.want(t, gpuA, 5, 0, 0)
	c.want(t, gpuA, 9, 1_000_000, 0)
	c.want(t, gpuB, -1, 25_001, 0)
	wantUnknown(t, c.Source, gpuA, -1)
	if got := c.Readings(nil); len(got) != 5 || got[1] != (Reading{gpuB, -1, -1, DRAMActive, 100_000, c.now}) {
		t.Errorf("%+v", got)
	}
	st := c.Stats()
	if !st.Up || st.Known != 4 || st.Interval != usualInterval || st.Drops != (Drops{}) {
		t.Errorf("%+v", st)
	}
	if lines := c.log.all(); len(lines) != 1 || !strings.Contains(lines[0], "entities=4") {
		t.Errorf("%q", lines)
	}
}

func TestPageWithoutTheField(t *testing.T) {
	text := testdata(t, "mig.prom")
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { page200(text)(w, r) })
	c := scrapes(t, Options{Address: server.URL})
	c.e.step(t.Context())
	c.want(t, gpuB, -1, 25_001, 0)
	text = testdata(t, "plain.prom")
	if c.e.step(t.Context()) {
		t.Error("it worked")
	}
	wantUnknown(t, c.Source, gpuB, -1)
	if lines := c.log.all(); len(lines) != 2 || !strings.Contains(lines[1], "commented out") {
		t.Errorf("%q", lines)
	}
}

func TestRenamedMetric(t *testing.T) {
	server := serve(t, page200(testdata(t, "plain.prom")))
	c := scrapes(t, Options{Address: server.URL, Metrics: map[Field]string{SMActive: "DCGM_FI_PROF_GR_ENGINE_ACTIVE"}})
	c.e.step(t.Context())
	c.want(t, gpuB, -1, 0, 0)
	// DCGM's newer names need no option.
	text := bytes.ReplaceAll(testdata(t, "mig.prom"), []byte("PROF_SM_ACTIVE"), []byte("PROF_SM_UTIL_RATIO"))
	c = scrapes(t, Options{Address: serve(t, page200(text)).URL})
	c.e.step(t.Context())
	c.want(t, gpuA, 1, 812_345, 0)
}

// A page that stays as it is says nothing of the time since.
func TestPageThatNoLongerChanges(t *testing.T) {
	power, down := 100, false
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if down {
			http.Error(w, "restarting", http.StatusServiceUnavailable)
			return
		}
		text := fmt.Sprintf("DCGM_FI_DEV_POWER_USAGE{UUID=%q} %d\nDCGM_FI_PROF_SM_ACTIVE{UUID=%q} 0.5\nup{} %d\n", gpuA, power, gpuA, time.Now().UnixNano())
		page200([]byte(text))(w, r)
	})
	c := scrapes(t, Options{Address: server.URL})
	later := func(d time.Duration, worked bool) {
		t.Helper()
		c.now += int64(d)
		if c.e.step(t.Context()) != worked {
			t.Fatalf("worked: %v; %q", !worked, c.log.all())
		}
	}
	later(0, true)
	later(10*time.Second, true)
	c.want(t, gpuA, -1, 500_000, 10*time.Second)
	power++
	later(20*time.Second, true)
	c.want(t, gpuA, -1, 500_000, 0)
	c.e.rhythm.gaps = []time.Duration{30 * time.Second} // the test takes no time
	later(75*time.Second, true)
	c.want(t, gpuA, -1, 500_000, 75*time.Second)
	later(1, true)
	wantUnknown(t, c.Source, gpuA, -1)
	if lines := c.log.all(); len(lines) != 2 || !strings.Contains(lines[1], "doesn't change") {
		t.Errorf("%q", lines)
	}
	power--
	later(time.Second, true)
	c.want(t, gpuA, -1, 500_000, 0)
	down = true
	later(5*time.Second, false)
	c.want(t, gpuA, -1, 500_000, 5*time.Second)
	c.now += int64(80 * time.Second)
	wantUnknown(t, c.Source, gpuA, -1)
	down = false
	later(time.Second, true) // the page of before: it is not new
	wantUnknown(t, c.Source, gpuA, -1)
	if st := c.Stats(); st.Failures != 1 || st.Drops.Time != 2 {
		t.Errorf("%+v", st)
	}
}

func TestHostileAnswers(t *testing.T) {
	good := []byte(`DCGM_FI_PROF_SM_ACTIVE{UUID="` + gpuB + `"} 0.5` + "\n")
	elsewhere := serve(t, page200(good))
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, _ = zip.Write(append(bytes.Repeat([]byte("#\n"), 1<<20), good...))
	_ = zip.Close()
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"10 MB":      {page200(bytes.Repeat([]byte("# nothing\n"), 1e6)), errTooLong},
		"one line":   {page200(bytes.Repeat([]byte("x"), 10<<20)), errTooLong},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, errRedirect},
		"HTML": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write(good)
		}, errNotText},
		"a web page": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<html>"+strings.Repeat("<p>", 99))
		}, errNotText},
		"a gzip bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, errEncoding},
		"not found": {http.NotFound, nil},
		"nothing":   {page200(nil), errNoSeries},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "999")
			_, _ = w.Write(good)
		}, io.ErrUnexpectedEOF},
		"long headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			_, _ = w.Write(good)
		}, nil},
		"binary": {page200(bytes.Repeat([]byte{0, 255, 10, 13}, 1000)), errNoSeries},
	} {
		t.Run(name, func(t *testing.T) {
			c := scrapes(t, Options{Address: serve(t, test.answer).URL})
			_, err := c.page.scrape(t.Context())
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			for range 3 {
				if c.e.step(t.Context()) {
					t.Error("it worked")
				}
			}
			if lines := c.log.all(); len(lines) != 1 || !strings.Contains(lines[0], "hint=") {
				t.Errorf("%q", lines)
			}
			wantUnknown(t, c.Source, gpuB, -1)
		})
	}
}

func TestManySeriesAreCounted(t *testing.T) {
	var text bytes.Buffer
	for i := range 150_000 { // as many as fit the page
		fmt.Fprintf(&text, "DCGM_FI_PROF_SM_ACTIVE{UUID=\"GPU-%d\"} 0.5\n", i)
	}
	c := scrapes(t, Options{Address: serve(t, page200(text.Bytes())).URL})
	if !c.e.step(t.Context()) {
		t.Fatal(c.log.all())
	}
	if st := c.Stats(); st.Known != maxSeries || st.Drops.Excess != 150_000-maxSeries {
		t.Errorf("%+v", st)
	}
	c = scrapes(t, Options{Address: serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for range 10 { // a million and a half in all
			if _, err := w.Write(text.Bytes()); err != nil {
				return
			}
		}
	}).URL})
	if _, err := c.page.scrape(t.Context()); !errors.Is(err, errTooLong) {
		t.Errorf("a million: %v", err)
	}
}

func TestSlowAnswers(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"never": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"byte by byte": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("#"))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := scrapes(t, Options{Address: serve(t, answer).URL})
			c.page.http.Timeout = 50 * time.Millisecond
			if _, err := c.page.scrape(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	var got *http.Request
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		page200(testdata(t, "mig.prom"))(w, r)
	})
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	c := scrapes(t, Options{Address: strings.Replace(server.URL, "http://", "http://me:secret@", 1)})
	c.e.step(t.Context())
	user, password, _ := got.BasicAuth()
	if got.URL.Path != "/metrics" || got.Header.Get("Accept-Encoding") != "identity" || user != "me" || password != "secret" {
		t.Errorf("%v %v", got.URL, got.Header)
	}
	server.Close()
	c.e.step(t.Context())
	if lines := strings.Join(c.log.all(), "\n"); strings.Contains(lines, "secret") || !strings.Contains(lines, "refused") {
		t.Errorf("%s", lines)
	}
}

func TestTLSIsVerified(t *testing.T) {
	server := httptest.NewTLSServer(page200(testdata(t, "mig.prom")))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer server.Close()
	c := scrapes(t, Options{Address: server.URL})
	if c.e.step(t.Context()) {
		t.Error("a certificate that nobody vouches for was believed")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})) {
		t.Fatal("no certificate")
	}
	c = scrapes(t, Options{Address: server.URL, TLS: &tls.Config{RootCAs: roots}})
	if !c.e.step(t.Context()) {
		t.Error(c.log.all())
	}
}

func TestOpenRefuses(t *testing.T) {
	_, log := open(t, Options{})
	for name, opt := range map[string]Options{
		"no mode of ours": {Mode: "remote"},
		"a field":         {Mode: Embedded, Extra: []Field{150}},
		"no URL":          {Mode: Exporter, Address: "localhost:9400"},
		"no host":         {Mode: Exporter, Address: "http:///metrics"},
		"a file":          {Mode: Exporter, Address: "file:///metrics"},
		"a password":      {Mode: Exporter, Address: "ftp://me:secret@host/"},
		"a bad URL":       {Mode: Exporter, Address: "http://me:secret@ho st/"},
		"a bad name":      {Mode: Exporter, Metrics: map[Field]string{SMActive: "a{b"}},
		"no such field":   {Mode: Exporter, Metrics: map[Field]string{7: "a"}},
		"a socket":        {Mode: Standalone, Address: "tcp://x:1"},
	} {
		opt.Log = slog.New(log)
		if s, err := Open(opt); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := Open(Options{Mode: Embedded}); err == nil {
		t.Error("no log, no error")
	}
}

func TestRhythm(t *testing.T) {
	at := time.Now()
	for name, test := range map[string]struct {
		gaps           []time.Duration
		interval, good time.Duration
		next           time.Duration
	}{
		"unseen":     {nil, 30 * time.Second, 75 * time.Second, 7500 * time.Millisecond},
		"usual":      {[]time.Duration{30 * time.Second, 37 * time.Second}, 37 * time.Second, 90 * time.Second, 7500 * time.Millisecond},
		"fast":       {[]time.Duration{time.Second, time.Second}, time.Second, 3 * time.Second, time.Second},
		"slow":       {[]time.Duration{time.Hour}, time.Hour, 90 * time.Second, 10 * time.Second},
		"forgetting": {[]time.Duration{time.Hour, 8 * time.Second, 8 * time.Second, 8 * time.Second, 8 * time.Second}, 8 * time.Second, 20 * time.Second, 2 * time.Second},
	} {
		var r rhythm
		r.changed(at)
		for _, gap := range test.gaps {
			r.changed(r.last.Add(gap))
		}
		if r.interval() != test.interval || r.good() != test.good || r.next() != test.next {
			t.Errorf("%s: %v, %v, %v", name, r.interval(), r.good(), r.next())
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An hour of an exporter that reads every 15 s, and is away for a while.
func TestExporterInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := open(t, Options{Mode: Exporter, Address: "http://exporter.invalid/"})
		var down atomic.Bool
		s.page.http.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			if down.Load() {
				return nil, errors.New("nobody listens")
			}
			collected := time.Now().Unix() / 15
			text := fmt.Sprintf("DCGM_FI_PROF_SM_ACTIVE{UUID=%q} 0.%06d\n", gpuA, collected%1_000_000)
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(text))}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		after(5 * time.Minute)
		for range 600 {
			after(time.Second)
			share, at, ok := s.SMShare(gpuA, -1)
			// At most 15 s, and the time to the scrape that saw it.
			if age := time.Now().UnixNano() - at; !ok || age < 0 || age > int64(25*time.Second) {
				t.Fatalf("%d, %v, %v", share, time.Duration(age), ok)
			}
		}
		if st := s.Stats(); st.Interval < 15*time.Second || st.Interval > 20*time.Second {
			t.Errorf("%+v", st)
		}
		down.Store(true)
		after(5 * time.Minute)
		wantUnknown(t, s, gpuA, -1)
		down.Store(false)
		after(61 * time.Second)
		if _, _, ok := s.SMShare(gpuA, -1); !ok {
			t.Error("unknown after it is back")
		}
		if lines := log.all(); len(lines) != 4 {
			t.Errorf("%q", lines)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkSMShare(b *testing.B) {
	s, err := Open(Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	var readings []Reading
	for i := range 64 {
		readings = append(readings, Reading{GPU: fmt.Sprint(gpuA, i/8), GPUInstance: i%8 - 1, ComputeInstance: -1, Field: SMActive, At: time.Now().UnixNano()})
	}
	s.publish(readings, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := s.SMShare(gpuA+"3", 5); !ok {
			b.Fatal("unknown")
		}
	}
}
