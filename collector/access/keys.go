package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keysFor is for how long keys are used before they are asked for again,
	// keysMost for how long where the issuer does not answer.
	keysFor  = time.Hour
	keysMost = 24 * time.Hour
	// askAgain is how long the issuer is left alone after an answer, or a
	// failure: tokens with made-up key names do not reach it faster.
	askAgain = 15 * time.Second
	// askFor bounds one round of questions.
	askFor = 10 * time.Second

	maxDocument = 1 << 20 // bytes of an answer of the issuer
	maxKeys     = 64
	minRSA      = 2048 // bits
)

// keySet are an issuer's public keys, asked for when first needed and then now
// and then. Its methods may be called by any number of goroutines.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	asking chan struct{} // held while the issuer is asked
	mu     sync.Mutex
	keys   []jose.JSONWebKey
	got    time.Time // when keys were
	asked  time.Time // when it was last tried
	failed error     // what came of that
	count  uint64    // how often keys were got
}

func newKeySet(issuer string, transport http.RoundTripper, now func() time.Time, log *slog.Logger) *keySet {
	return &keySet{
		issuer: issuer, now: now, log: log, asking: make(chan struct{}, 1),
		client: &http.Client{Transport: transport, Timeout: askFor, CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) >= 3 {
				return errors.New("too many redirects")
			}
			return checkURL(r.URL)
		}},
	}
}

// checkURL refuses what could be changed on the way.
func checkURL(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	here := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !here) {
		return fmt.Errorf("%q: want https://… (http:// on this machine only)", u.Redacted())
	}
	return nil
}

// find are the keys that may have signed something: of a name, or all where it
// has none. Keys that are not known are asked for, but not often.
func (k *keySet) find(ctx context.Context, name, algorithm string) ([]jose.JSONWebKey, error) {
	found, fresh := k.have(name, algorithm)
	if len(found) > 0 && fresh {
		return found, nil
	}
	if err := k.ask(ctx); err != nil && len(found) == 0 {
		return nil, err
	}
	if again, _ := k.have(name, algorithm); len(again) > 0 {
		return again, nil
	}
	return nil, errors.New("the issuer has no such key")
}

func (k *keySet) have(name, algorithm string) (found []jose.JSONWebKey, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := k.now().Sub(k.got)
	if k.got.IsZero() || age > keysMost {
		return nil, false
	}
	for _, key := range k.keys {
		if (name == "" || key.KeyID == name) && (key.Algorithm == "" || key.Algorithm == algorithm) {
			found = append(found, key)
		}
	}
	return found, age < keysFor
}

// ask asks the issuer, unless that was done a moment ago. One asks; others wait
// for it.
func (k *keySet) ask(ctx context.Context) error {
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	k.mu.Lock()
	asked, failed := k.asked, k.failed
	k.mu.Unlock()
	if d := k.now().Sub(asked); !asked.IsZero() && d >= 0 && d < askAgain {
		return failed
	}
	// Whoever waits no more leaves the answer to the others.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
	defer cancel()
	keys, err := k.fetch(asking)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked, k.failed = k.now(), err
	if err != nil {
		k.log.Warn("the issuer of tokens does not answer as it should: its new tokens are refused", "issuer", k.issuer, "error", err)
		return err
	}
	k.keys, k.got, k.count = keys, k.asked, k.count+1
	return nil
}

// fetch asks where the keys are, and for them.
func (k *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &about); err != nil {
		return nil, err
	}
	if about.Issuer != k.issuer {
		return nil, fmt.Errorf("it calls itself %q", clip(about.Issuer))
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, about.Keys, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys: at most %d are taken", len(set.Keys), maxKeys)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		// Keys of kinds that are not known here are somebody else's.
		if key.UnmarshalJSON(raw) == nil && usable(&key) {
			out = append(out, key)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it has no key that could be used")
	}
	return out, nil
}

// usable is whether a key may check signatures here.
func usable(k *jose.JSONWebKey) bool {
	if !k.Valid() || k.Use != "" && k.Use != "sig" {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false // a secret, or a private key
}

func (k *keySet) get(ctx context.Context, from string, into any) error {
	u, err := url.Parse(from)
	if err != nil {
		return err
	}
	if err := checkURL(u); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return err
	}
	res, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", from, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(body) > maxDocument {
		return fmt.Errorf("%s: more than %d bytes", from, maxDocument)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

// generation changes when the keys may have.
func (k *keySet) generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
