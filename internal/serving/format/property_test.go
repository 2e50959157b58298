package format_test

import (
	"flag"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are what a configuration says of a kind of server.
func options(kind string) format.Options {
	if kind == "envoy-ai-gateway" {
		return format.Options{Labels: format.Labels{Tenant: []string{"x_tenant"}}}
	}
	return format.Options{}
}

// rounds bounds how often rapid repeats a property whose rounds go over HTTP,
// unless the command line says how often.
func rounds(t *testing.T, n int) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if given {
		return
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { _ = checks.Value.Set(before) })
	if err := checks.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
}

// patient are limits for a machine that is busy with other tests.
func patient() exposition.Limits {
	l := exposition.DefaultLimits()
	l.Timeout = time.Minute
	return l
}

// scraper reads a fake as the agent and the collector do.
type scraper struct {
	fake    *servingtest.Fake
	kind    string
	set     *format.Set
	client  *http.Client
	tracker *serving.Tracker
	began   time.Time
	now     time.Time
	counted servingtest.Counts
	open    []servingtest.Request
	loose   bool // a restart took requests that a page had shown in flight
	shown   int  // in flight on the last page
}

func (s *scraper) scrape(t *rapid.T) {
	s.now = s.now.Add(time.Second)
	page, err := exposition.Fetch(t.Context(), s.client, s.fake.URL, nil, s.set.Wanted, patient())
	if err != nil {
		t.Fatal(err)
	}
	if page.Drops != (exposition.Drops{}) {
		t.Fatalf("dropped %+v of\n%s", page.Drops, s.fake.Page())
	}
	if name := s.set.Recognise(page); name != s.kind {
		if len(page.Samples) < 3 {
			return // nothing has been served, and the program's page does not say what it is
		}
		t.Fatalf("recognised as %q:\n%s", name, s.fake.Page())
	}
	r, err := s.set.Read(page, options(s.kind))
	if err != nil {
		t.Fatal(err)
	}
	if r.Partial || r.Dropped > 0 {
		t.Fatalf("%+v", r)
	}
	// The agent knows when the container began, where the page does not say it.
	to := serving.Target{Name: "fake", Started: s.began.UnixNano()}
	values, note := s.tracker.Observe(to, s.now.UnixNano(), r)
	if note.Fallen > 0 || note.Refused > 0 {
		t.Fatalf("%+v", note)
	}
	s.shown = len(s.open)
	for _, v := range values {
		if v.Value < 0 {
			t.Fatalf("%+v", v)
		}
		if v.Value > 0 {
			s.counted[servingtest.Pair{Subject: v.Subject, Measure: v.Measure}] += v.Value
		}
	}
}

func (s *scraper) cut(t *rapid.T) {
	s.fake.Cut(rapid.IntRange(0, max(0, len(s.fake.Page())-1)).Draw(t, "after"))
	if page, err := exposition.Fetch(t.Context(), s.client, s.fake.URL, nil, s.set.Wanted, patient()); err == nil {
		t.Fatalf("a page that was cut off was read: %+v", page)
	}
}

func (s *scraper) restart() {
	s.now = s.now.Add(10 * time.Second)
	s.began = s.now
	s.loose = s.loose || s.shown > 0
	s.shown, s.open = 0, nil
	s.fake.Restart(s.began)
}

func requests() *rapid.Generator[servingtest.Request] {
	return rapid.Custom(func(t *rapid.T) servingtest.Request {
		tenant := rapid.SampledFrom([]string{"acme", "globex"}).Draw(t, "tenant")
		input := rapid.Int64Range(1, 5000).Draw(t, "input")
		return servingtest.Request{
			// One model: what a page does not name is the only one it does.
			Model: "llama", Tenant: tenant, Backend: "http://" + tenant + ":8000",
			Input: input, Cached: input / 3, Output: rapid.Int64Range(1, 500).Draw(t, "output"),
			Latency:    time.Duration(rapid.Int64Range(1, 100_000).Draw(t, "latency")) * time.Millisecond,
			FirstToken: time.Duration(rapid.Int64Range(1, 3000).Draw(t, "first")) * time.Millisecond,
		}
	})
}

// Whatever happens to a server, what is counted is what it served, except what
// nobody can know: what it served between the last page and its end.
func TestWhatIsCountedIsWhatWasServed(t *testing.T) {
	rounds(t, 25)
	set := format.Builtin()
	for _, kind := range servingtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			transport := exposition.NewTransport()
			defer transport.CloseIdleConnections()
			rapid.Check(t, func(rt *rapid.T) {
				now := time.Unix(1_800_000_000, 0)
				s := &scraper{
					fake: servingtest.Start(t, kind, now), kind: kind, set: set, client: &http.Client{Transport: transport},
					tracker: serving.NewTracker(now.UnixNano()-1, serving.DefaultLimits()),
					began:   now, now: now, counted: make(servingtest.Counts),
				}
				defer s.fake.Close()
				s.run(rt)
				s.check(rt)
			})
		})
	}
}

func (s *scraper) run(t *rapid.T) {
	few := rapid.IntRange(1, 4)
	t.Repeat(map[string]func(*rapid.T){
		"serve": func(t *rapid.T) { s.fake.Serve(requests().Draw(t, "request"), few.Draw(t, "n")) },
		"fail": func(t *rapid.T) {
			if reasons := s.fake.Reasons(); len(reasons) > 0 {
				s.fake.Fail(requests().Draw(t, "request"), rapid.SampledFrom(reasons).Draw(t, "reason"), few.Draw(t, "n"))
			}
		},
		"abort": func(t *rapid.T) { s.fake.Abort(requests().Draw(t, "request"), few.Draw(t, "n")) },
		"begin": func(t *rapid.T) {
			r := requests().Draw(t, "request")
			s.fake.Begin(r)
			s.open = append(s.open, r)
		},
		"end": func(t *rapid.T) {
			if len(s.open) > 0 {
				s.fake.End(s.open[0], rapid.SampledFrom(append(s.fake.Reasons(), "", "abort")).Draw(t, "reason"))
				s.open = s.open[1:]
			}
		},
		"scrape": s.scrape,
		"cut":    s.cut,
		"restart": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				s.restart()
			}
		},
	})
	for _, r := range s.open {
		s.fake.End(r, "")
	}
	s.open = nil
	s.scrape(t)
}

func (s *scraper) check(t *rapid.T) {
	served := s.fake.Served()
	for p, want := range served {
		got := s.counted[p]
		if p.Measure == attribution.TokensAborted && s.loose && got <= want {
			continue // what was in flight at the end hid what had been given up
		}
		if got != want {
			t.Errorf("%v: counted %d, served %d", p, got, want)
		}
	}
	for p, got := range s.counted {
		if _, ok := served[p]; !ok && got > 0 {
			t.Errorf("%v: counted %d, served none", p, got)
		}
	}
}

// A server that was there before anybody looked counts from the first page on.
func TestWhatWasBeforeIsNotCounted(t *testing.T) {
	set := format.Builtin()
	r := servingtest.Request{Model: "llama", Tenant: "acme", Backend: "http://b", Input: 100, Cached: 10, Output: 20, Latency: time.Second}
	for _, kind := range servingtest.Kinds() {
		began := time.Unix(1_800_000_000, 0)
		f := servingtest.Start(t, kind, began)
		tracker := serving.NewTracker(began.Add(time.Minute).UnixNano(), serving.DefaultLimits())
		read := func() []serving.Value {
			page, err := exposition.Fetch(t.Context(), http.DefaultClient, f.URL, nil, set.Wanted, patient())
			if err != nil {
				t.Fatal(err)
			}
			reading, err := set.Read(page, options(kind))
			if err != nil {
				t.Fatal(kind, err)
			}
			values, _ := tracker.Observe(serving.Target{Name: "f", Started: began.UnixNano()}, began.Add(time.Hour).UnixNano(), reading)
			return values
		}
		f.Serve(r, 50)
		if got := read(); len(got) > 0 {
			t.Errorf("%s: %v", kind, got)
		}
		f.Serve(r, 3)
		if got := read(); !slices.ContainsFunc(got, func(v serving.Value) bool {
			return v.Measure == attribution.Success && v.Value == 3*int64(attribution.One)
		}) {
			t.Errorf("%s: %v", kind, got)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
