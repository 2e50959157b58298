package access

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Binding grants a role to users and groups of an OIDC issuer, and to holders
// of certificates.
type Binding struct {
	Users  []string
	Groups []string
	// Certificates are URIs that certificates name (URI SANs), or CN=… for a
	// subject's common name. They match exactly.
	Certificates []string
	Grant
	// TeamOf makes a team of each group that it matches: in team-* the * stands
	// for the team's name. "": it does not.
	TeamOf string
}

// Check finds what is wrong with a binding.
func (b *Binding) Check() error {
	if len(b.Users)+len(b.Groups)+len(b.Certificates) == 0 && b.TeamOf == "" {
		return errors.New("it grants nobody anything: name users, groups, certificates or team_of_group")
	}
	if b.TeamOf != "" {
		if strings.Count(b.TeamOf, "*") != 1 {
			return fmt.Errorf("team_of_group: %q: want one * where the team's name stands, like team-*", b.TeamOf)
		}
		if len(b.Teams) > 0 || len(b.Users)+len(b.Groups)+len(b.Certificates) > 0 {
			return errors.New("team_of_group: it says who and which team by itself: leave out teams, users, groups and certificates")
		}
	}
	if slices.Contains(slices.Concat(b.Users, b.Groups, b.Certificates), "") {
		return errors.New("a user, group or certificate is empty")
	}
	_, err := NewCaller("check", ByOIDC, []Grant{b.Grant})
	return err
}

// Config is what a Guard knows callers by.
type Config struct {
	// Open takes everybody for Anonymous; the rest is not looked at then.
	Open     bool
	Tokens   *Tokens // nil: there are none
	OIDC     *OIDC   // nil: there is none
	Bindings []Binding
	// Hosts are names by which the collector is called over HTTP beside
	// localhost, where it listens on loopback.
	Hosts []string
	Now   func() time.Time
	Log   *slog.Logger
}

// Guard knows callers and refuses others. Its methods may be called by any
// number of goroutines.
type Guard struct {
	cfg     Config
	methods map[string]Rule
	routes  map[string]Rule
	failed  *failedPeers
	logged  *seldom
	counts  Counts
	// Those whose questions arrive, and are not known yet or were a moment ago.
	strangers, friends *arrivals

	mu       sync.Mutex
	verified verified
}

// Counts are what was refused since the start.
type Counts struct {
	Unauthenticated atomic.Int64 // by whom nobody knows
	Forbidden       atomic.Int64 // to callers that are known
	TooMany         atomic.Int64 // unheard: after too many failures
	Arriving        atomic.Int64 // unread: while too many others were arriving
	Foreign         atomic.Int64 // HTTP requests under a foreign name or from a foreign page
}

// NewGuard makes a Guard.
func NewGuard(cfg Config) *Guard {
	if cfg.Now == nil || cfg.Log == nil {
		panic("BUG: access: the configuration is not complete")
	}
	return &Guard{
		cfg: cfg, methods: Methods(), routes: Routes(), failed: newFailedPeers(cfg.Now), logged: &seldom{now: cfg.Now},
		strangers: newArrivals(), friends: newArrivals(),
		verified: verified{entries: map[[sha256.Size]byte]verifiedToken{}},
	}
}

// Refused is what was refused since the start.
func (g *Guard) Refused() *Counts { return &g.counts }

// Shown is what somebody shows of himself.
type Shown struct {
	Peer string // address
	// Authorization are the values of that header: at most one counts.
	Authorization []string
	// Certificate is the client's, verified against the collector's
	// authorities; nil: there is none.
	Certificate *x509.Certificate
}

// Caller is who shows something. Errors are ErrUnauthenticated and ErrTooMany:
// why is for the log.
func (g *Guard) Caller(ctx context.Context, s Shown) (*Caller, error) {
	if g.cfg.Open {
		return Anonymous(), nil
	}
	peer := network(s.Peer)
	c, err := g.known(ctx, peer, s)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, ErrTooMany):
		g.counts.TooMany.Add(1)
	case ctx.Err() != nil:
		return nil, ErrUnauthenticated // nobody waits for it
	case len(s.Authorization) == 0 && s.Certificate == nil:
		g.counts.Unauthenticated.Add(1) // has not tried
		err = ErrUnauthenticated
	default:
		g.counts.Unauthenticated.Add(1)
		g.failed.fail(peer)
		g.tell("somebody was not let in", "peer", s.Peer, "reason", err)
		err = ErrUnauthenticated
	}
	return nil, err
}

// tell logs what was refused, but not more often than a log can bear.
func (g *Guard) tell(msg string, args ...any) {
	if held, ok := g.logged.ready(); ok {
		g.cfg.Log.Warn(msg, append(args, "more_not_logged", held)...) //nolint:sloglint // each caller's message is fixed
	}
}

// known is who shows something, or why nobody is known by it. A token that is
// shown counts alone: one that is wrong is not made good by a certificate.
func (g *Guard) known(ctx context.Context, peer string, s Shown) (*Caller, error) {
	switch len(s.Authorization) {
	case 0:
		if s.Certificate == nil {
			return nil, errors.New("nothing was shown")
		}
		return g.certificate(s.Certificate)
	case 1:
		scheme, token, ok := strings.Cut(s.Authorization[0], " ")
		if token = strings.TrimSpace(token); !ok || !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxToken {
			return nil, errors.New("the authorization is no bearer token")
		}
		return g.token(ctx, peer, token)
	}
	return nil, errors.New("there are several authorizations")
}

// token is whose token it is. One that was good a moment ago is taken from
// anywhere; others are only looked at where not too many were wrong, so that
// who guesses keeps nobody out behind the same address.
func (g *Guard) token(ctx context.Context, peer, token string) (*Caller, error) {
	sum, generation, now := sha256.Sum256([]byte(token)), g.generation(), g.cfg.Now()
	g.mu.Lock()
	c := g.verified.get(sum, now, generation)
	g.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if g.failed.tooMany(peer) {
		return nil, ErrTooMany
	}
	c, expires, err := g.fresh(ctx, token, sum)
	if err != nil {
		return nil, err
	}
	until := now.Add(verifiedFor)
	if !expires.IsZero() {
		until = minTime(until, expires)
	}
	// Of the generation that was there before it was looked at: what changed
	// meanwhile may have taken it out.
	g.mu.Lock()
	g.verified.put(sum, c, until, generation)
	g.mu.Unlock()
	return c, nil
}

// remembers is the digest of the token that is shown, if it is one and was good a
// moment ago.
func (g *Guard) remembers(authorization []string) (digest [sha256.Size]byte, ok bool) {
	if len(authorization) != 1 {
		return digest, false
	}
	_, token, _ := strings.Cut(authorization[0], " ")
	if token = strings.TrimSpace(token); len(token) > maxToken {
		return digest, false
	}
	digest = sha256.Sum256([]byte(token))
	generation := g.generation()
	g.mu.Lock()
	defer g.mu.Unlock()
	return digest, g.verified.get(digest, g.cfg.Now(), generation) != nil
}

// generation changes with tokens and keys.
func (g *Guard) generation() (n uint64) {
	if g.cfg.Tokens != nil {
		n += g.cfg.Tokens.generation()
	}
	if g.cfg.OIDC != nil {
		n += g.cfg.OIDC.keys.generation()
	}
	return n
}

func (g *Guard) fresh(ctx context.Context, token string, sum [sha256.Size]byte) (*Caller, time.Time, error) {
	if g.cfg.OIDC != nil && looksLikeJWT(token) {
		id, err := g.cfg.OIDC.check(ctx, token)
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("oidc: %w", err)
		}
		c, err := NewCaller(id.user, ByOIDC, g.grants(id.user, id.groups))
		return c, id.expires, err
	}
	if g.cfg.Tokens == nil {
		return nil, time.Time{}, errors.New("tokens of this kind are not taken")
	}
	return g.cfg.Tokens.caller(sum)
}

// grants are what the bindings give to a user with groups.
func (g *Guard) grants(user string, groups []string) []Grant {
	var out []Grant
	for i := range g.cfg.Bindings {
		b := &g.cfg.Bindings[i]
		if b.TeamOf != "" {
			if teams := teamsOf(b.TeamOf, groups); len(teams) > 0 {
				limit := b.Limit
				limit.Teams = teams
				out = append(out, Grant{b.Role, limit})
			}
			continue
		}
		if slices.Contains(b.Users, user) || slices.ContainsFunc(groups, func(x string) bool { return slices.Contains(b.Groups, x) }) {
			out = append(out, b.Grant)
		}
	}
	return out
}

// teamsOf are the teams that a pattern makes of groups. A group whose team would
// be a pattern itself makes none.
func teamsOf(pattern string, groups []string) []string {
	before, after, _ := strings.Cut(pattern, "*")
	var out []string
	for _, x := range groups {
		team, ok := strings.CutPrefix(x, before)
		if team, end := strings.CutSuffix(team, after); ok && end && team != "" && !strings.Contains(team, "*") {
			out = append(out, team)
		}
	}
	return out
}

// certificate is whom the bindings make of a certificate's holder.
func (g *Guard) certificate(cert *x509.Certificate) (*Caller, error) {
	var names []string
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	if cert.Subject.CommonName != "" {
		names = append(names, "CN="+cert.Subject.CommonName)
	}
	var grants []Grant
	who := ""
	for i := range g.cfg.Bindings {
		b := &g.cfg.Bindings[i]
		for _, n := range names {
			if slices.Contains(b.Certificates, n) {
				grants = append(grants, b.Grant)
				if who == "" {
					who = n
				}
				break
			}
		}
	}
	if who == "" {
		return nil, fmt.Errorf("no grant names the certificate of %q", names)
	}
	return NewCaller(who, ByCertificate, grants)
}
