package access

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Algorithms are those that may sign a token: with a key pair, all of them.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// OIDCConfig names an OpenID Connect issuer.
type OIDCConfig struct {
	Issuer    string // as in tokens' iss, exactly
	Audiences []string
	// UserClaim and GroupsClaim name the claims that hold the user's name and
	// groups; a . leads into a claim. "": there are no groups.
	UserClaim, GroupsClaim string
	Algorithms             []string
	Leeway                 time.Duration  // between clocks
	CAs                    *x509.CertPool // of the issuer; nil: the system's
	Now                    func() time.Time
	Log                    *slog.Logger
}

// OIDC checks tokens of an issuer. Its methods may be called by any number of
// goroutines.
type OIDC struct {
	cfg        OIDCConfig
	algorithms []jose.SignatureAlgorithm
	keys       *keySet
	transport  *http.Transport
}

// NewOIDC makes an OIDC. The issuer is asked when the first token comes: one
// that is down keeps nobody out but its own.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	u, err := url.Parse(cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if err := checkURL(u); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if len(cfg.Audiences) == 0 || slices.Contains(cfg.Audiences, "") {
		return nil, errors.New("audiences: name the one that the issuer puts into tokens for this collector; those for others are not for it")
	}
	if cfg.UserClaim == "" {
		return nil, errors.New("user_claim: must not be empty")
	}
	if cfg.Leeway < 0 || cfg.Leeway > 5*time.Minute {
		return nil, errors.New("leeway: want 0s to 5m")
	}
	o := &OIDC{cfg: cfg}
	if len(cfg.Algorithms) == 0 {
		return nil, errors.New("algorithms: name at least one")
	}
	for _, a := range cfg.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			return nil, fmt.Errorf("algorithms: unknown %q: want some of %s", a, strings.Join(Algorithms(), ", "))
		}
		o.algorithms = append(o.algorithms, jose.SignatureAlgorithm(a))
	}
	o.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.CAs},
		MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
	}
	o.keys = newKeySet(cfg.Issuer, o.transport, cfg.Now, cfg.Log)
	return o, nil
}

// looksLikeJWT tells a JWT from a static token, which has no dots.
func looksLikeJWT(token string) bool { return strings.Count(token, ".") == 2 }

// identity is what a token says of who shows it.
type identity struct {
	user    string
	groups  []string
	expires time.Time
}

// maxGroups is how many groups of a token count; tokens with more are refused
// rather than read in part.
const maxGroups = 500

// check is whom a token is about, if it is the issuer's, for this collector,
// and in force.
func (o *OIDC) check(ctx context.Context, raw string) (*identity, error) {
	token, err := jwt.ParseSigned(raw, o.algorithms)
	if err != nil {
		return nil, fmt.Errorf("no JWT with an allowed algorithm: %w", err)
	}
	if len(token.Headers) != 1 {
		return nil, errors.New("a JWT has one signature")
	}
	head := token.Headers[0]
	keys, err := o.keys.find(ctx, head.KeyID, head.Algorithm)
	if err != nil {
		return nil, err
	}
	var standard jwt.Claims
	var all map[string]any
	verified := false
	for i := range keys {
		if verified = token.Claims(keys[i].Key, &standard, &all) == nil; verified {
			break
		}
	}
	if !verified {
		return nil, errors.New("the signature is not the issuer's")
	}
	if standard.Expiry == nil {
		return nil, errors.New("the token does not say when it expires")
	}
	err = standard.ValidateWithLeeway(jwt.Expected{Issuer: o.cfg.Issuer, AnyAudience: o.cfg.Audiences, Time: o.cfg.Now()}, o.cfg.Leeway)
	if err != nil {
		return nil, err
	}
	return o.identity(all, standard.Expiry.Time())
}

func (o *OIDC) identity(claims map[string]any, expires time.Time) (*identity, error) {
	out := &identity{expires: expires.Add(o.cfg.Leeway)}
	out.user, _ = claim(claims, o.cfg.UserClaim).(string)
	if out.user == "" {
		return nil, fmt.Errorf("the token has no %s", o.cfg.UserClaim)
	}
	if verified, told := claims["email_verified"].(bool); o.cfg.UserClaim == "email" && told && !verified {
		return nil, errors.New("the token's email is not verified")
	}
	if o.cfg.GroupsClaim == "" {
		return out, nil
	}
	switch g := claim(claims, o.cfg.GroupsClaim).(type) {
	case string:
		out.groups = []string{g}
	case []any:
		if len(g) > maxGroups {
			return nil, fmt.Errorf("the token has %d groups: at most %d are taken", len(g), maxGroups)
		}
		for _, x := range g {
			if s, ok := x.(string); ok {
				out.groups = append(out.groups, s)
			}
		}
	}
	return out, nil
}

// claim finds a claim by its name, else by the names of what it lies in, with
// dots between them.
func claim(in map[string]any, name string) any {
	if v, ok := in[name]; ok {
		return v
	}
	first, rest, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	inner, _ := in[first].(map[string]any)
	if inner == nil {
		return nil
	}
	return claim(inner, rest)
}

// Close frees what the issuer's connections hold.
func (o *OIDC) Close() { o.transport.CloseIdleConnections() }

// verified remembers tokens that were checked, for a while: checking a signature
// takes a thousand times longer than finding it here. Not safe for concurrent
// use.
type verified struct {
	entries map[[sha256.Size]byte]verifiedToken
}

type verifiedToken struct {
	caller     *Caller
	until      time.Time
	generation uint64 // of what it was checked against
}

const (
	maxVerified = 4096
	verifiedFor = 5 * time.Minute
)

func (v *verified) get(sum [sha256.Size]byte, now time.Time, generation uint64) *Caller {
	e, ok := v.entries[sum]
	if !ok {
		return nil
	}
	if e.generation != generation || !now.Before(e.until) {
		delete(v.entries, sum)
		return nil
	}
	return e.caller
}

func (v *verified) put(sum [sha256.Size]byte, c *Caller, until time.Time, generation uint64) {
	for other := range v.entries { // any will do
		if len(v.entries) < maxVerified {
			break
		}
		delete(v.entries, other)
	}
	v.entries[sum] = verifiedToken{c, until, generation}
}
