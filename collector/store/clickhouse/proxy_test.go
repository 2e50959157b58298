package clickhouse_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
)

// proxy stands between a collector and its server and may hold up or lose
// statements.
type proxy struct {
	mu   sync.Mutex
	hook func(statement string) (lose bool) // nil: nothing is held up
}

// through opens a place as a collector of a name, through a proxy.
func through(t *testing.T, place, name string) (*clickhouse.Store, *proxy) {
	t.Helper()
	o := options(place)
	to := o.Addresses[0]
	p := &proxy{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		statement := r.URL.Query().Get("query")
		if statement == "" {
			statement = string(body)
		}
		p.mu.Lock()
		hook := p.hook
		p.mu.Unlock()
		if hook != nil && hook(statement) {
			panic(http.ErrAbortHandler)
		}
		// What a server was sent it does, whether or not the client waits.
		req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, "http://"+to+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer res.Body.Close() //nolint:errcheck // it is read to its end
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body) // the client may have gone
	}))
	t.Cleanup(srv.Close)
	o.Addresses, o.Name, o.Grace = []string{strings.TrimPrefix(srv.URL, "http://")}, name, grace
	s, err := clickhouse.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it may be closed already
	return s, p
}

func (p *proxy) set(hook func(string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = hook
}

// held holds up statements that begin so until release is closed; came is closed
// when the first is there.
func (p *proxy) held(prefix string) (came, release chan struct{}) {
	came, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.set(func(s string) bool {
		if strings.HasPrefix(s, prefix) {
			once.Do(func() { close(came) })
			<-release
		}
		return false
	})
	return came, release
}
