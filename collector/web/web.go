// Package web is the ledger's page for people: one HTML file that asks the
// JSON API beside it. It has no build step and loads nothing from elsewhere.
package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // for page
	"encoding/base64"
	"net/http"
	"strings"
)

//go:embed page.html
var page []byte

// Handler serves the page at / and nothing else. The page may run its own
// script, ask its own origin, and do nothing more: what a label or a pod's name
// holds cannot make it.
func Handler() http.Handler {
	policy := strings.Join([]string{
		"default-src 'none'",
		"script-src '" + digest("<script>", "</script>") + "'",
		"style-src '" + digest("<style>", "</style>") + "'",
		"connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}, "; ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the page can only be read", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-cache")
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write(page) // the reader may be gone
	})
}

// digest is the hash by which a policy allows what stands between two marks.
func digest(begin, end string) string {
	_, rest, ok := bytes.Cut(page, []byte(begin))
	body, _, closed := bytes.Cut(rest, []byte(end))
	if !ok || !closed {
		panic("BUG: web: the page has no " + begin)
	}
	sum := sha256.Sum256(body)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
