// Package accesstest is an OpenID Connect issuer for tests, on loopback.
package accesstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Issuer signs tokens, and serves its keys.
type Issuer struct {
	URL    string
	server *httptest.Server
	asked  atomic.Int64 // for keys
	down   atomic.Bool

	mu   sync.Mutex
	key  *ecdsa.PrivateKey
	name string
}

// NewIssuer starts an issuer, until the test ends.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{}
	i.Rotate(t, "first")
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		if i.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		i.mu.Lock()
		set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
			{Key: []byte("a secret, which checks no signature"), KeyID: "secret", Algorithm: "HS256", Use: "sig"},
			{Key: i.key.Public(), KeyID: i.name, Use: "sig"},
		}}
		i.mu.Unlock()
		answer(w, set)
	})
	i.server = httptest.NewServer(mux)
	i.URL = i.server.URL
	t.Cleanup(i.server.Close)
	return i
}

// Rotate has the issuer sign by a new key from now on, and forget the old.
func (i *Issuer) Rotate(t testing.TB, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.key, i.name = key, name
}

// SetDown has the issuer answer nothing that is of use, or answer again.
func (i *Issuer) SetDown(down bool) { i.down.Store(down) }

// Asked is how often its keys were asked for.
func (i *Issuer) Asked() int64 { return i.asked.Load() }

// Token is a token with claims; those that are not given are the ones of a good
// token for the audience "gpuledger", for an hour.
func (i *Issuer) Token(t testing.TB, claims map[string]any) string {
	t.Helper()
	i.mu.Lock()
	key, name := i.key, i.name
	i.mu.Unlock()
	return i.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: name}}, claims)
}

// Sign is Token by any key. A claim that is nil is left out.
func (i *Issuer) Sign(t testing.TB, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	all := map[string]any{"iss": i.URL, "aud": "gpuledger", "sub": "alice", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for k, v := range claims {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	raw, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
