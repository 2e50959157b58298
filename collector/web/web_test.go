package web_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/collector/web"
)

func TestPage(t *testing.T) {
	h := web.Handler()
	for _, c := range []struct {
		method, path string
		code         int
	}{{"GET", "/", 200}, {"HEAD", "/", 200}, {"GET", "/other", 404}, {"POST", "/", 405}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.path, http.NoBody))
		if w.Code != c.code {
			t.Errorf("%s %s: %d", c.method, c.path, w.Code)
		}
		if c.code != 200 {
			continue
		}
		policy := w.Header().Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "connect-src 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("policy %q lacks %q", policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("policy %q", policy)
		}
	}
}

// The page stands alone, and puts what the ledger says on the screen as text
// only.
func TestPageIsSelfContained(t *testing.T) {
	w := httptest.NewRecorder()
	web.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", http.NoBody))
	body := w.Body.String()
	for _, bad := range []string{"innerHTML", "document.write", "eval(", "onclick=", " style=", "insertAdjacentHTML", "localStorage", "document.cookie"} {
		if strings.Contains(body, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	for _, url := range regexp.MustCompile(`(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)`).FindAllStringSubmatch(body, -1) {
		if url[1] != "data:," {
			t.Errorf("the page loads %s", url[1])
		}
	}
	if n := strings.Count(body, "http://") + strings.Count(body, "https://"); n != strings.Count(body, "http://www.w3.org/2000/svg") {
		t.Error("the page names another host")
	}
}

// A token goes out as a header, to where the page came from, and is kept for as
// long as the tab.
func TestPageShowsTheTokenToItsOriginAlone(t *testing.T) {
	w := httptest.NewRecorder()
	web.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", http.NoBody))
	body := w.Body.String()
	if n := strings.Count(body, "fetch("); n != 1 || !strings.Contains(body, "fetch('/v1/' +") {
		t.Errorf("the page fetches at %d places", n)
	}
	if strings.Count(body, "sessionStorage.setItem(") != 1 || !strings.Contains(body, `type="password"`) {
		t.Error("the page has no place for a token")
	}
}
