// Package servingtest has small servers of models and gateways whose metrics
// pages are like those of the real ones, quirks included: for tests of what
// reads them.
//
// A [Fake] serves requests only by name: a test says what is served, fails or
// is left by its client, restarts the fake, cuts its page off or slows it
// down, and compares what was counted with what the fake could tell.
package servingtest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// Request is one inference.
type Request struct {
	Model   string
	Tenant  string // gateways tell it
	Backend string // gateways may tell it: the address of who answered

	Input, Cached, Output int64 // tokens
	Latency, FirstToken   time.Duration
}

// Fake is a program with a metrics page. All methods may be called from any
// goroutine.
type Fake struct {
	// URL is where the page is.
	URL string

	mu     sync.Mutex
	kind   *kind
	server *httptest.Server
	life   *life
	told   Counts // by the last whole page of this life
	past   Counts // by the last whole pages of lives before
	cut    int    // bytes after which the next page breaks off; -1: not
	slow   chan struct{}
	status int
}

// Counts is how much was counted of each pair, in the measures' units.
type Counts map[Pair]int64

// Pair is what a count is of.
type Pair struct {
	Subject serving.Subject
	Measure attribution.Measure
}

// Kinds are the names of the formats that can be faked.
func Kinds() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// Start starts a fake of a kind, that began at a time; it is closed when the
// test ends.
func Start(tb testing.TB, name string, began time.Time) *Fake {
	tb.Helper()
	all := kinds()
	i := slices.IndexFunc(all, func(k *kind) bool { return k.name == name })
	if i < 0 {
		tb.Fatalf("no such kind: %s", name)
	}
	f := &Fake{kind: all[i], life: newLife(all[i], began), past: make(Counts), told: make(Counts), cut: -1}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	f.URL = f.server.URL + f.kind.path
	tb.Cleanup(f.Close)
	return f
}

// Close ends the fake before its test does. It may be called again.
func (f *Fake) Close() { f.server.Close() }

// Serve serves n requests that succeed.
func (f *Fake) Serve(r Request, n int) { f.each(r, n, "") }

// Fail serves n requests that fail for a reason; see [Fake.Reasons].
func (f *Fake) Fail(r Request, reason string, n int) { f.each(r, n, reason) }

// Abort serves n requests whose clients leave.
func (f *Fake) Abort(r Request, n int) { f.each(r, n, aborted) }

// Reasons are why requests may fail at this kind of server, as it calls them;
// none where its page does not tell failures.
func (f *Fake) Reasons() []string { return f.kind.reasons }

func (f *Fake) each(r Request, n int, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.life.begin(r)
		f.life.end(r, reason)
	}
}

// Begin begins a request, which runs until it is ended.
func (f *Fake) Begin(r Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life.begin(r)
}

// End ends a request that was begun; it succeeds without a reason.
func (f *Fake) End(r Request, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life.end(r, reason)
}

// Wait sets how many requests wait.
func (f *Fake) Wait(r Request, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life.tally(r).waiting = n
}

// Restart begins a new life. Requests in flight are gone, and so is what no
// page has told.
func (f *Fake) Restart(began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, v := range f.told {
		f.past[p] += v
	}
	f.told = make(Counts)
	f.life = newLife(f.kind, began)
}

// Cut breaks the next page off after so many bytes.
func (f *Fake) Cut(after int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = after
}

// Hang makes the page stop in its middle until the function it returns is
// called, or the reader leaves.
func (f *Fake) Hang() (resume func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan struct{})
	f.slow = ch
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.slow = nil
		f.mu.Unlock()
		close(ch)
	})
}

// Status makes every answer have an HTTP status, such as 503; 0 ends that.
func (f *Fake) Status(code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = code
}

// Served is what the server could tell: what it counted in this life, and in
// each one before until its last whole page.
func (f *Fake) Served() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.life.truth()
	for p, v := range f.past {
		out[p] += v
	}
	return out
}

// Page is the page as it is now.
func (f *Fake) Page() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.life.page()
}

func (f *Fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	page, truth := f.life.page(), f.life.truth()
	cut, slow, status, now := f.cut, f.slow, f.status, f.life
	f.cut = -1
	f.mu.Unlock()
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	half := len(page) / 2
	if cut >= 0 && cut < len(page) {
		_, _ = io.WriteString(w, page[:cut])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, page[:half])
	if slow != nil {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-slow:
		case <-r.Context().Done():
			return
		}
	}
	if _, err := io.WriteString(w, page[half:]); err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.life == now { // else it has restarted meanwhile
		f.told = truth
	}
}

// String is a pair in words.
func (p Pair) String() string {
	s := p.Subject
	return fmt.Sprintf("%s of model %q, tenant %q, tier %q, backend %q", p.Measure, s.Model, s.Tenant, s.Tier, s.Backend)
}
