package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// nodeName is what Kubernetes (1.32 and newer) says of the node of the pod that
// a token was made for.
const nodeName = "authentication.kubernetes.io/node-name"

// Bounds of what tokens cost.
const (
	maxToken = 16 << 10
	// maxKnown is how many tokens are remembered; what was asked for longest
	// ago need not be what is forgotten, but what has run out is, first.
	maxKnown = 65_536
	// trustFor is how long the API server is not asked again about a token that
	// it found good, and doubtFor about another: streams that begin again and
	// again in a minute are asked about once.
	trustFor, doubtFor = time.Minute, 10 * time.Second
	// reviewPace is the time between two questions, reviewWait how long one may
	// wait for its turn; then the agent tries again later.
	reviewPace, reviewWait = 10 * time.Millisecond, 3 * time.Second
	// reviewTimeout bounds one question.
	reviewTimeout = 5 * time.Second
	// badTokens is how many tokens that are none an address may show in
	// badWithin, so that it can't use up everybody's turns.
	badTokens, badWithin = 20, time.Minute
	maxAddresses         = 16_384
)

// Review is what the API server says of a token.
type Review struct {
	Authenticated bool
	Username      string
	Extra         map[string][]string
	Audiences     []string
	Error         string // why it is not authenticated
}

// Reviewer asks the API server. An error is that it could not be asked.
type Reviewer interface {
	Review(ctx context.Context, token, audience string) (Review, error)
}

// TokenOptions say which tokens identify a node. All are required but Clock.
type TokenOptions struct {
	Reviewer Reviewer
	// ServiceAccounts are those of agents, as namespace/name.
	ServiceAccounts []string
	// Audience is whom a token must be meant for.
	Audience string
	// Cluster is the one whose API server it is, as agents name it.
	Cluster string
	Clock   func() time.Time // default: time.Now
}

// Tokens identifies pods by their service account's token.
type Tokens struct {
	o     TokenOptions
	users []string

	calls   singleflight.Group
	reviews atomic.Int64

	mu    sync.Mutex
	known map[[sha256.Size]byte]verdict
	next  time.Time // when the next question may be asked
	bad   map[netip.Addr]strikes
}

type verdict struct {
	id    Identity
	err   error
	until time.Time
}

type strikes struct {
	since time.Time
	n     int
}

// NewTokens makes Tokens.
func NewTokens(o TokenOptions) *Tokens {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	t := &Tokens{o: o, known: map[[sha256.Size]byte]verdict{}, bad: map[netip.Addr]strikes{}}
	for _, a := range o.ServiceAccounts {
		t.users = append(t.users, "system:serviceaccount:"+strings.Replace(a, "/", ":", 1))
	}
	return t
}

// Reviews counts the questions to the API server.
func (t *Tokens) Reviews() int64 { return t.reviews.Load() }

// identify finds the node that a token was made for.
func (t *Tokens) identify(ctx context.Context, token string, from netip.Addr, now time.Time) (Identity, error) {
	c, err := t.read(token, now)
	if err != nil {
		return Identity{}, status.Error(codes.Unauthenticated, "the token: "+err.Error())
	}
	sum := sha256.Sum256([]byte(token))
	if v, ok := t.recall(sum, now); ok {
		return v.id, v.err
	}
	if !t.mayAsk(from, now) {
		return Identity{}, status.Errorf(codes.ResourceExhausted, "%s has shown %d tokens that are none: wait a minute", from, badTokens)
	}
	answer := t.calls.DoChan(string(sum[:]), func() (any, error) {
		// Others may wait for the same answer: it does not end with this caller.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout+reviewWait)
		defer cancel()
		return t.ask(ctx, token, sum, c)
	})
	select {
	case a := <-answer:
		if a.Err != nil {
			return Identity{}, a.Err
		}
		v, _ := a.Val.(verdict)
		if v.err != nil {
			t.strike(from, now)
		}
		return v.id, v.err
	case <-ctx.Done():
		return Identity{}, status.FromContextError(ctx.Err()).Err()
	}
}

// claims are what a token says of itself. They are believed only to refuse it;
// else once the API server has found it good.
type claims struct {
	Subject  string          `json:"sub"`
	Expires  json.Number     `json:"exp"`
	Audience json.RawMessage `json:"aud"`
	until    time.Time
}

// read refuses what needs no question: most of what is no token of an agent.
func (t *Tokens) read(token string, now time.Time) (c claims, err error) {
	if len(token) > maxToken {
		return c, fmt.Errorf("has %d bytes: at most %d are taken", len(token), maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, errors.New("is no signed JWT: want a projected service account token")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return c, errors.New("is no JWT that can be read")
	}
	seconds, err := c.Expires.Int64()
	if err != nil || seconds <= 0 || seconds > 1<<40 {
		return c, errors.New("does not expire: want a projected service account token, with expirationSeconds")
	}
	c.until = time.Unix(seconds, 0)
	if !c.until.After(now) {
		return c, fmt.Errorf("has expired at %s: is its file still renewed?", c.until.UTC().Format(time.RFC3339))
	}
	var list []string
	if json.Unmarshal(c.Audience, &list) != nil {
		var one string
		if json.Unmarshal(c.Audience, &one) == nil {
			list = []string{one}
		}
	}
	if !slices.Contains(list, t.o.Audience) {
		return c, fmt.Errorf("is not meant for audience %q", t.o.Audience)
	}
	if !slices.Contains(t.users, c.Subject) {
		return c, fmt.Errorf("is %q's, which is no service account of agents", short(c.Subject))
	}
	return c, nil
}

// ask asks the API server. An error is that it could not be asked; verdicts are
// remembered.
func (t *Tokens) ask(ctx context.Context, token string, sum [sha256.Size]byte, c claims) (verdict, error) {
	if err := t.turn(ctx); err != nil {
		return verdict{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	t.reviews.Add(1)
	r, err := t.o.Reviewer.Review(ctx, token, t.o.Audience)
	if err != nil {
		return verdict{}, status.Errorf(codes.Unavailable, "the token can't be checked now: %v", err)
	}
	now := t.o.Clock()
	v := verdict{until: now.Add(trustFor)}
	if v.id, v.err = t.judge(r, c); v.err != nil {
		v.until = now.Add(doubtFor)
	} else if c.until.Before(v.until) {
		v.until = c.until
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxKnown {
		shrink(t.known, func(v verdict) bool { return !v.until.After(now) })
	}
	t.known[sum] = v
	return v, nil
}

// judge reads the API server's answer.
func (t *Tokens) judge(r Review, c claims) (Identity, error) {
	switch {
	case !r.Authenticated:
		return Identity{}, status.Errorf(codes.Unauthenticated, "the token: the API server does not know it: %s", short(r.Error))
	case !slices.Contains(r.Audiences, t.o.Audience):
		return Identity{}, status.Errorf(codes.Unauthenticated, "the token: is not meant for audience %q", t.o.Audience)
	case !slices.Contains(t.users, r.Username) || r.Username != c.Subject:
		return Identity{}, status.Errorf(codes.PermissionDenied, "the token is %q's, which is no service account of agents", short(r.Username))
	}
	if n := r.Extra[nodeName]; len(n) == 1 && n[0] != "" {
		return Identity{Cluster: t.o.Cluster, Node: n[0], By: "token", Until: c.until}, nil
	}
	return Identity{}, status.Error(codes.PermissionDenied, "the token does not say on which node its pod is\n"+
		"hint: Kubernetes puts "+nodeName+" into tokens of pods from 1.32 on (1.30 with the feature gate ServiceAccountTokenPodNodeInfo), "+
		"and only into projected ones; elsewhere identify agents by certificates")
}

// turn waits for the time at which the next question may be asked.
func (t *Tokens) turn(ctx context.Context) error {
	t.mu.Lock()
	now := t.o.Clock()
	if t.next.Before(now) || t.next.Sub(now) > time.Hour { // the clock was put back
		t.next = now
	}
	wait := t.next.Sub(now)
	if wait > reviewWait {
		t.mu.Unlock()
		return status.Error(codes.Unavailable, "too many tokens are to be checked now: try again")
	}
	t.next = t.next.Add(reviewPace)
	t.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (t *Tokens) recall(sum [sha256.Size]byte, now time.Time) (verdict, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.known[sum]
	return v, ok && v.until.After(now)
}

// mayAsk reports whether an address has not shown too many bad tokens.
func (t *Tokens) mayAsk(from netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.bad[from]
	return !ok || s.n < badTokens || now.Sub(s.since) >= badWithin
}

func (t *Tokens) strike(from netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.bad[from]
	if !ok || now.Sub(s.since) >= badWithin {
		s = strikes{since: now}
	}
	if !ok && len(t.bad) >= maxAddresses {
		shrink(t.bad, func(s strikes) bool { return now.Sub(s.since) >= badWithin })
	}
	s.n++
	t.bad[from] = s
}

// shrink drops from a full map what has run out, and an eighth where nothing
// has.
func shrink[K comparable, V any](m map[K]V, over func(V) bool) {
	most := len(m)
	for k, v := range m {
		if over(v) {
			delete(m, k)
		}
	}
	for k := range m {
		if len(m) <= most-most/8 {
			return
		}
		delete(m, k)
	}
}
