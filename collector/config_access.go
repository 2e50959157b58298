package collector

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/query"
)

// AccessConfig says who may ask the collector's API what: docs/access.md. With
// none of tokens_file, oidc and grants nobody is asked who they are, which is
// refused where other machines reach an address.
type AccessConfig struct {
	// Anonymous lets everybody who reaches an address ask and change everything
	// there, where none of the ways below is set. Addresses on loopback, and
	// insecure_listen, do so anyway. Default: false.
	Anonymous bool `yaml:"anonymous"`

	// TokensFile lists static tokens by their hashes (gpuledger token create
	// prints an entry). It is read again when it changes; one that cannot be
	// read makes all of its tokens invalid within seconds. Default "": none.
	TokensFile string `yaml:"tokens_file"`

	OIDC OIDCConfig `yaml:"oidc"`

	// Grants say what users and groups of the OIDC issuer, and holders of
	// certificates, may ask. Several that fit add up. Empty: nothing.
	Grants []GrantConfig `yaml:"grants"`

	// Hosts are names by which browsers and proxies may call http_listen and
	// opencost_listen where these are on loopback, beside localhost. Empty:
	// none.
	Hosts []string `yaml:"hosts"`
}

// OIDCConfig has JSON Web Tokens of an OpenID Connect issuer taken.
type OIDCConfig struct {
	// Issuer is the issuer's URL, exactly as it stands in its tokens. Default
	// "": none.
	Issuer string `yaml:"issuer"`

	// Audiences are those that tokens must be meant for, one of them. Empty:
	// none, which no issuer may be without.
	Audiences []string `yaml:"audiences"`

	// UserClaim holds the user's name. Default: sub.
	UserClaim string `yaml:"user_claim"`

	// GroupsClaim holds the user's groups, a text or a list; a dot leads into a
	// claim, as in realm_access.roles. Default: groups.
	GroupsClaim string `yaml:"groups_claim"`

	// Algorithms are those that tokens may be signed by, all with a pair of
	// keys: others are refused, whatever a token says of itself.
	Algorithms []string `yaml:"algorithms"`

	// Leeway is how far clocks may be apart, at most 5m. Default: 30s.
	Leeway Duration `yaml:"leeway"`

	// CAFile holds the certificates that the issuer's is checked against, in
	// PEM. Default "": the system's.
	CAFile string `yaml:"ca_file"`
}

// GrantConfig gives a role to some, over all of the ledger or over parts.
type GrantConfig struct {
	// Users are names that the OIDC issuer's tokens have.
	Users []string `yaml:"users"`

	// Groups are groups of these tokens.
	Groups []string `yaml:"groups"`

	// Certificates are names in client certificates: a URI that one has, or
	// CN= and the subject's common name. They need tls.client_ca_file.
	Certificates []string `yaml:"certificates"`

	// TeamOfGroup gives to each group that it matches the team that its
	// asterisk stands for: team-* makes search of team-search. It takes the
	// place of users, groups, certificates and teams.
	TeamOfGroup string `yaml:"team_of_group"`

	// Role is viewer (asks), operator (sees how the collector does, verifies,
	// reads the audit log, too) or admin (changes rate card, rules and past
	// prices, too).
	Role string `yaml:"role"`

	// Clusters limit the role to what is in one of them. Empty: any.
	Clusters []string `yaml:"clusters"`

	// Namespaces limit it to owners in one of them. Empty: any.
	Namespaces []string `yaml:"namespaces"`

	// Teams limit it to owners that the rules in force give to one of them.
	// Empty: any.
	Teams []string `yaml:"teams"`
}

func defaultAccess() AccessConfig {
	return AccessConfig{
		OIDC: OIDCConfig{
			Audiences: []string{}, UserClaim: "sub", GroupsClaim: "groups", Algorithms: []string{"RS256", "ES256"},
			Leeway: Duration{30 * time.Second},
		},
		Grants: []GrantConfig{}, Hosts: []string{},
	}
}

// configured reports whether those who ask must show who they are.
func (a *AccessConfig) configured() bool {
	return a.TokensFile != "" || a.OIDC.Issuer != "" || len(a.Grants) > 0
}

// bindings are the grants; errors name the one that is wrong.
func (a *AccessConfig) bindings() ([]access.Binding, error) {
	var out []access.Binding
	for i := range a.Grants {
		g := &a.Grants[i]
		role, err := access.ParseRole(g.Role)
		if err != nil {
			return nil, fmt.Errorf("[%d].role: %w", i, err)
		}
		b := access.Binding{
			Users: g.Users, Groups: g.Groups, Certificates: g.Certificates, TeamOf: g.TeamOfGroup,
			Grant: access.Grant{Role: role, Limit: query.Limit{Clusters: g.Clusters, Namespaces: g.Namespaces, Teams: g.Teams}},
		}
		if err := b.Check(); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out = append(out, b)
	}
	return out, nil
}

// checkAccess refuses to serve everybody where everybody is more than this
// machine.
func (c *Config) checkAccess(bad func(key, format string, args ...any)) {
	a := &c.Access
	for _, x := range []struct{ key, addr string }{{"grpc_listen", c.GRPCListen}, {"http_listen", c.HTTPListen}, {"opencost_listen", c.OpenCostListen}} {
		host, _, err := net.SplitHostPort(x.addr)
		if err == nil && !isLoopback(host) && !a.configured() && !a.Anonymous && !c.InsecureListen {
			bad("access", "%s %s can be reached from other machines, and nobody is asked who they are: set access.tokens_file or access.oidc (docs/access.md), or access.anonymous: true where everybody may read and change all of the ledger", x.key, x.addr)
		}
	}
	if a.Anonymous && a.configured() {
		bad("access.anonymous", "nobody is anonymous where tokens_file, oidc or grants are set: leave one of them out")
	}
	bindings, err := a.bindings()
	if err != nil {
		bad("access.grants", "%v", err)
	}
	for i := range bindings {
		b := &bindings[i]
		if len(b.Certificates) > 0 && c.TLS.ClientCAFile == "" {
			bad("access.grants", "[%d].certificates: nobody shows a certificate without tls.client_ca_file", i)
		}
		if a.OIDC.Issuer == "" && (len(b.Users) > 0 || len(b.Groups) > 0 || b.TeamOf != "") {
			bad("access.grants", "[%d]: users and groups are those of access.oidc.issuer, which is not set", i)
		}
	}
	if a.OIDC.Issuer != "" {
		if len(bindings) == 0 && err == nil {
			bad("access.grants", "tokens of access.oidc may ask nothing without grants")
		}
		if _, err := a.OIDC.open(slog.New(slog.DiscardHandler), false); err != nil {
			bad("access.oidc", "%v", err)
		}
	}
}

// open makes what checks the issuer's tokens, without its certificates where
// only the settings are checked.
func (o *OIDCConfig) open(log *slog.Logger, files bool) (*access.OIDC, error) {
	conf := access.OIDCConfig{
		Issuer: o.Issuer, Audiences: o.Audiences, UserClaim: o.UserClaim, GroupsClaim: o.GroupsClaim, Algorithms: o.Algorithms,
		Leeway: o.Leeway.Duration, Now: time.Now, Log: log,
	}
	if files && o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.CAs = x509.NewCertPool()
		if !conf.CAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", o.CAFile)
		}
	}
	return access.NewOIDC(conf)
}
