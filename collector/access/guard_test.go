package access_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/access/accesstest"
	"github.com/gpuledger/gpuledger/collector/query"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is set by hand.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newOIDC(t *testing.T, i *accesstest.Issuer, c *clock) *access.OIDC {
	t.Helper()
	o, err := access.NewOIDC(access.OIDCConfig{
		Issuer: i.URL, Audiences: []string{"gpuledger"}, UserClaim: "sub", GroupsClaim: "realm.roles", Algorithms: []string{"ES256"},
		Leeway: 30 * time.Second, Now: c.now, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func roles(names ...string) map[string]any {
	return map[string]any{"realm": map[string]any{"roles": names}}
}

func shown(token string) access.Shown {
	return access.Shown{Peer: "192.0.2.1:5", Authorization: []string{"Bearer " + token}}
}

// An issuer that is down keeps its tokens out and nothing else; keys that are
// new are found, and made-up names of keys do not reach the issuer often.
func TestKeysOfAnIssuer(t *testing.T) {
	i, c := accesstest.NewIssuer(t), &clock{time.Now()}
	i.SetDown(true)
	g := access.NewGuard(access.Config{
		OIDC: newOIDC(t, i, c), Now: c.now, Log: quiet(),
		Bindings: []access.Binding{{TeamOf: "team-*", Grant: access.Grant{Role: access.Viewer}}},
	})
	good := i.Token(t, roles("x", "team-ads", "team-*", "team-"))
	if _, err := g.Caller(t.Context(), shown(good)); !errors.Is(err, access.ErrUnauthenticated) {
		t.Fatal("an issuer that is down:", err)
	}
	i.SetDown(false)
	c.at = c.at.Add(20 * time.Second)
	who, err := g.Caller(t.Context(), shown(good))
	if err != nil || who.Name != "alice" || who.Method != access.ByOIDC || len(who.Grants) != 1 || fmt.Sprint(who.Grants[0].Teams) != "[ads]" {
		t.Fatalf("%+v %v", who, err)
	}
	asked := i.Asked()
	i.Rotate(t, "second")
	fresh := i.Token(t, roles("team-ads"))
	for range 5 {
		if _, err := g.Caller(t.Context(), shown(fresh)); err == nil {
			t.Error("a key that nobody asked for yet is known")
		}
	}
	if n := i.Asked() - asked; n != 0 {
		t.Errorf("asked %d times within a moment", n)
	}
	c.at = c.at.Add(2 * time.Minute)
	if _, err := g.Caller(t.Context(), shown(fresh)); err != nil {
		t.Error("a new key:", err)
	}
	if _, err := g.Caller(t.Context(), shown(good)); err == nil {
		t.Error("a token by a key that the issuer has no more")
	}
	c.at = c.at.Add(2 * time.Hour)
	if _, err := g.Caller(t.Context(), shown(fresh)); err == nil {
		t.Error("a token that has expired since")
	}
}

// A token that is taken out of the file is worth nothing within seconds, and
// guesses are soon not looked at; who was known before goes on.
func TestRevokedAndGuessedTokens(t *testing.T) {
	c := &clock{time.Now()}
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	one, two := access.NewToken(), access.NewToken()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.at = c.at.Add(10 * time.Second)
	}
	entry := func(name string, sum string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("- {name: %s, sha256: %s, role: viewer}\n", name, sum)
	}
	sum1, err1 := access.HashToken(one)
	sum2, err2 := access.HashToken(two)
	write("tokens:\n" + entry("one", sum1, err1) + entry("two", sum2, err2))
	tokens, err := access.OpenTokens(file, c.now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	g := access.NewGuard(access.Config{Tokens: tokens, Now: c.now, Log: quiet()})
	if who, err := g.Caller(t.Context(), shown(one.Reveal())); err != nil || who.Name != "one" {
		t.Fatal(who, err)
	}
	for n := range 30 {
		_, err := g.Caller(t.Context(), shown(access.NewToken().Reveal()))
		if want := n >= 10; errors.Is(err, access.ErrTooMany) != want {
			t.Fatalf("guess %d: %v", n, err)
		}
	}
	if _, err := g.Caller(t.Context(), shown(two.Reveal())); !errors.Is(err, access.ErrTooMany) {
		t.Error("a right guess after too many wrong ones:", err)
	}
	if _, err := g.Caller(t.Context(), shown(one.Reveal())); err != nil {
		t.Error("guesses keep somebody out who is known:", err)
	}
	c.at = c.at.Add(2 * time.Minute)
	if _, err := g.Caller(t.Context(), shown(two.Reveal())); err != nil {
		t.Error("never forgiven:", err)
	}
	write("tokens:\n" + entry("two", sum2, err2))
	if _, err := g.Caller(t.Context(), shown(one.Reveal())); !errors.Is(err, access.ErrUnauthenticated) {
		t.Error("a revoked token:", err)
	}
	if _, err := g.Caller(t.Context(), shown(two.Reveal())); err != nil {
		t.Error("the other token:", err)
	}
	write("tokens: [{")
	for range 2 {
		_, _ = g.Caller(t.Context(), shown(two.Reveal()))
		c.at = c.at.Add(10 * time.Second)
	}
	if _, err := g.Caller(t.Context(), shown(two.Reveal())); !errors.Is(err, access.ErrUnauthenticated) {
		t.Error("a token of a file that cannot be read:", err)
	}
}

// A certificate is whoever a grant names, and a token that is wrong is not made
// good by one.
func TestCertificates(t *testing.T) {
	c := &clock{time.Now()}
	g := access.NewGuard(access.Config{Now: c.now, Log: quiet(), Bindings: []access.Binding{
		{Certificates: []string{"spiffe://x/finance"}, Grant: access.Grant{Role: access.Operator, Limit: query.Limit{Clusters: []string{"east"}}}},
	}})
	named := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "x", Path: "/finance"}}}
	other := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "x", Path: "/node/n1"}}}
	if who, err := g.Caller(t.Context(), access.Shown{Certificate: named}); err != nil || who.Method != access.ByCertificate || who.Whole() != access.Nobody {
		t.Error(who, err)
	}
	if _, err := g.Caller(t.Context(), access.Shown{Certificate: other}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Error("an agent's certificate:", err)
	}
	if _, err := g.Caller(t.Context(), access.Shown{Certificate: named, Authorization: []string{"Bearer x"}}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Error("a wrong token with a certificate:", err)
	}
}

// On loopback the collector answers to names of this machine only, and nowhere
// do other pages change anything.
func TestForeignPages(t *testing.T) {
	c := &clock{time.Now()}
	g := access.NewGuard(access.Config{Open: true, Hosts: []string{"ledger.example"}, Now: c.now, Log: quiet()})
	m := g.NewMux(true)
	m.Handle("/v1/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if access.CallerOf(r.Context()) == nil || r.Header.Get("Authorization") != "" {
			t.Error("no caller, or a token that goes on")
		}
		_, _ = io.WriteString(w, "ok")
	}))
	for _, x := range []struct {
		method, host, site string
		want               int
	}{
		{"GET", "localhost:9441", "", 200},
		{"GET", "127.0.0.1:9441", "", 200},
		{"GET", "[::1]:9441", "", 200},
		{"GET", "LEDGER.example", "", 200},
		{"GET", "rebound.example:9441", "", 421},
		{"GET", "localhost.rebound.example", "", 421},
		{"GET", "", "", 421},
		{"POST", "localhost:9441", "", 200},
		{"POST", "localhost:9441", "same-origin", 200},
		{"POST", "localhost:9441", "cross-site", 403},
		{"PUT", "localhost:9441", "same-site", 403},
	} {
		r := httptest.NewRequestWithContext(t.Context(), x.method, "/v1/report", http.NoBody)
		r.Host = x.host
		r.Header.Set("Authorization", "Bearer x")
		if x.site != "" {
			r.Header.Set("Sec-Fetch-Site", x.site)
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		if w.Code != x.want {
			t.Errorf("%+v: %d", x, w.Code)
		}
	}
	if n := g.Refused().Foreign.Load(); n != 5 {
		t.Errorf("%d counted", n)
	}
}
