package podwatch

import (
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// api is a server that lists and watches one collection, as the API server
// does: changes have versions, and old ones are forgotten.
type api struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	path     string
	kind     string
	items    []string
	version  int
	changes  []string // each one version
	oldest   int      // version that is still known
	more     chan struct{}
	refuse   int // answer everything with this
	page     int // items of a page, 0 for all
	lists    int
	token    string
	requests []string
}

func newAPI(t *testing.T, path, kind string, items ...string) *api {
	a := &api{t: t, path: path, kind: kind, items: items, version: 10, oldest: 10, more: make(chan struct{}), token: "secret"}
	a.Server = httptest.NewUnstartedServer(a)
	a.EnableHTTP2 = true
	a.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	a.StartTLS()
	t.Cleanup(a.Close)
	return a
}

// kubeconfig is a file that says how to reach it.
func (a *api) kubeconfig() string {
	dir := a.t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	write(a.t, filepath.Join(dir, "ca.crt"), string(ca))
	write(a.t, filepath.Join(dir, "token"), a.token+"\n")
	file := filepath.Join(dir, "config")
	write(a.t, file, `
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "`+a.URL+`", certificate-authority: ca.crt}}]
users: [{name: u, user: {tokenFile: token}}]
`)
	return file
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// change lets watches see an event, or (an empty one) ends them.
func (a *api) change(event, object string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if event != "" {
		a.version++
		a.changes = append(a.changes, fmt.Sprintf(`{"type":%q,"object":%s}`, event, strings.ReplaceAll(object, `"VERSION"`, fmt.Sprintf("%q", fmt.Sprint(a.version)))))
	}
	close(a.more)
	a.more = make(chan struct{})
}

func (a *api) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	refuse, q := a.refuse, r.URL.Query()
	a.requests = append(a.requests, r.URL.Path+"?"+q.Get("fieldSelector"))
	wrong := r.Header.Get("Authorization") != "Bearer "+a.token
	a.mu.Unlock()
	switch {
	case wrong:
		refuse = http.StatusUnauthorized
	case r.URL.Path != a.path:
		refuse = http.StatusNotFound
	}
	if refuse != 0 {
		w.WriteHeader(refuse)
		fmt.Fprintf(w, `{"kind":"Status","message":"refused by the test","code":%d}`, refuse)
		return
	}
	if q.Get("watch") == "" {
		a.list(w, q.Get("continue"))
		return
	}
	a.watch(w, r, q.Get("resourceVersion"))
}

func (a *api) list(w http.ResponseWriter, from string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lists++
	start := 0
	fmt.Sscan(from, &start)
	end, more := len(a.items), ""
	if a.page > 0 && start+a.page < end {
		end = start + a.page
		more = fmt.Sprint(end)
	}
	fmt.Fprintf(w, `{"kind":%q,"metadata":{"resourceVersion":"%d","continue":%q},"items":[%s]}`, a.kind, a.version, more, strings.Join(a.items[start:end], ","))
}

// watch tells what is newer than a version, and then what changes.
func (a *api) watch(w http.ResponseWriter, r *http.Request, version string) {
	a.mu.Lock()
	at, woken := 0, false
	fmt.Sscan(version, &at)
	if at < a.oldest {
		fmt.Fprint(w, `{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}`)
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%d"}}}`, at)
	for {
		a.mu.Lock()
		news, more, was := a.changes[at-(a.version-len(a.changes)):], a.more, at
		at = a.version
		a.mu.Unlock()
		for _, c := range news {
			fmt.Fprintln(w, c)
		}
		w.(http.Flusher).Flush()
		if was == at && woken { // nothing has changed: it is to end
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-more:
			woken = true
		}
	}
}

// otherCA is a CA's certificate that nobody here uses.
const otherCA = `-----BEGIN CERTIFICATE-----
MIIBejCCASGgAwIBAgIUOa2LJB30zUcg3opsGBRQUExRxH4wCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHYW5vdGhlcjAgFw0yNjExMjEyMjM5MjVaGA8yMTI2MTAyODIy
MzkyNVowEjEQMA4GA1UEAwwHYW5vdGhlcjBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABDKBzTGpvkD4oFH4n1qbf8t7T5sQHNavNmZ7BX9iNnzS+0kEveB+xlU5Xbrl
CkFIX7mI8+Vd8j+ZBKS8fuWVHRWjUzBRMB0GA1UdDgQWBBR6t5H5RoJ/ZNr35FPP
Rrp7zHjkQTAfBgNVHSMEGDAWgBR6t5H5RoJ/ZNr35FPPRrp7zHjkQTAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIBVsWfA/W6slhmNjE0Gd/1VhmGxU
Z1Wmz/4+kWUwv2DtAiAUktxNG+jty/PhTCoZr/GYEq30LaF6oSX9Ch9Ny/Sikg==
-----END CERTIFICATE-----`
