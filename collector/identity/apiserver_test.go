package identity_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gpuledger/gpuledger/collector/identity"
)

// TestAPIServer speaks with a server that has Kubernetes' own types.
func TestAPIServer(t *testing.T) {
	answer := func(w http.ResponseWriter, r *authv1.TokenReview) {
		w.WriteHeader(http.StatusCreated)
		if err := json.NewEncoder(w).Encode(r); err != nil {
			t.Error(err)
		}
	}
	own := "first"
	var behave func(w http.ResponseWriter, q *authv1.TokenReview)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q authv1.TokenReview
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil || q.APIVersion != "authentication.k8s.io/v1" || q.Kind != "TokenReview" {
			t.Errorf("%+v, %v", q, err)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer "+own {
			t.Errorf("as %q", got)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		behave(w, &q)
	}))
	defer server.Close()
	dir := t.TempDir()
	ca, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	write(tokenFile, []byte(own+"\n"))
	a, err := identity.NewAPIServer(identity.APIServerOptions{URL: server.URL, CAFile: ca, TokenFile: tokenFile, Getenv: os.Getenv})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	behave = func(w http.ResponseWriter, q *authv1.TokenReview) {
		if q.Spec.Token != "secret" || len(q.Spec.Audiences) != 1 || q.Spec.Audiences[0] != "gpuledger" {
			t.Errorf("%+v", q.Spec)
		}
		answer(w, &authv1.TokenReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"},
			Status: authv1.TokenReviewStatus{
				Authenticated: true, Audiences: []string{"gpuledger"},
				User: authv1.UserInfo{Username: user, UID: "u", Groups: []string{"g"}, Extra: map[string]authv1.ExtraValue{"k": {"v"}}},
			},
		})
	}
	r, err := a.Review(t.Context(), "secret", "gpuledger")
	if err != nil || !r.Authenticated || r.Username != user || r.Audiences[0] != "gpuledger" || r.Extra["k"][0] != "v" {
		t.Fatalf("%+v, %v", r, err)
	}
	own = "second" // rotated
	write(tokenFile, []byte(own))
	if _, err := a.Review(t.Context(), "secret", "gpuledger"); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(http.ResponseWriter, *authv1.TokenReview){
		"needs create on tokenreviews": func(w http.ResponseWriter, _ *authv1.TokenReview) { w.WriteHeader(http.StatusForbidden) },
		"500":                          func(w http.ResponseWriter, _ *authv1.TokenReview) { w.WriteHeader(http.StatusInternalServerError) },
		"302": func(w http.ResponseWriter, _ *authv1.TokenReview) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		},
		"no TokenReview": func(w http.ResponseWriter, _ *authv1.TokenReview) {
			answer(w, &authv1.TokenReview{Status: authv1.TokenReviewStatus{Authenticated: true}})
		},
		"too long": func(w http.ResponseWriter, _ *authv1.TokenReview) {
			_, _ = w.Write([]byte(strings.Repeat(" ", 2<<20)))
		},
	} {
		behave = f
		r, err := a.Review(t.Context(), "secret", "gpuledger")
		if err == nil || !strings.Contains(err.Error(), name) || r.Authenticated || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestAPIServerOptions(t *testing.T) {
	nothing := func(string) string { return "" }
	for _, o := range []identity.APIServerOptions{
		{Getenv: nothing},
		{URL: "http://10.0.0.1", Getenv: nothing},
		{URL: "https://u:p@10.0.0.1", Getenv: nothing},
		{URL: "https://10.0.0.1", CAFile: "/nowhere", Getenv: nothing},
	} {
		if _, err := identity.NewAPIServer(o); err == nil {
			t.Errorf("%+v", o)
		}
	}
}
