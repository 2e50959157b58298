package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/collector/query"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Role is what a grant lets do. Each may do what the one before may.
type Role int

// The roles.
const (
	Nobody   Role = iota
	Viewer        // asks, within the grant's limit
	Operator      // sees how the collector does, verifies, reads the audit log
	Admin         // changes rate card, rules and prices of the past; takes backups
)

var roles = [...]string{"nobody", "viewer", "operator", "admin"}

// String is the role's name.
func (r Role) String() string { return roles[r] }

// ParseRole reads viewer, operator or admin.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roles[1:], s); i >= 0 {
		return Role(i + 1), nil
	}
	return Nobody, fmt.Errorf("unknown role %q: want viewer, operator or admin", s)
}

// Grant is a role over a part of the ledger; a limit without values is all of
// it.
type Grant struct {
	Role Role
	query.Limit
}

func (g *Grant) whole() bool {
	return len(g.Clusters) == 0 && len(g.Namespaces) == 0 && len(g.Teams) == 0
}

// Method is how a caller was known.
type Method string

// The methods.
const (
	None          Method = "none" // nobody was asked who they are
	ByToken       Method = "token"
	ByOIDC        Method = "oidc"
	ByCertificate Method = "certificate"
	// Not of callers: what the collector does by itself, and what its
	// configuration has it do when it starts.
	BySelf          Method = "collector"
	ByConfiguration Method = "configuration"
)

// maxName bounds the name of a caller, in bytes: it is in logs and the ledger.
const maxName = 256

// Caller is who asks, and what that is allowed. It never changes.
type Caller struct {
	Name   string
	Method Method
	Grants []Grant

	role, whole Role // the highest, and the highest without limits
	scope       query.Scope
}

// NewCaller makes a caller. The error says which grant names what it cannot.
func NewCaller(name string, method Method, grants []Grant) (*Caller, error) {
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("a caller's name has 1 to %d bytes, none of them control characters", maxName)
	}
	c := &Caller{Name: name, Method: method, Grants: grants}
	limits := make([]query.Limit, 0, len(grants))
	for i := range grants {
		g := &grants[i]
		c.role = max(c.role, g.Role)
		if g.whole() {
			c.whole = max(c.whole, g.Role)
		}
		limits = append(limits, g.Limit)
	}
	var err error
	if c.scope, err = query.NewScope(limits...); err != nil {
		return nil, fmt.Errorf("caller %q: %w", name, err)
	}
	return c, nil
}

func everything(name string, method Method) *Caller {
	return &Caller{Name: name, Method: method, Grants: []Grant{{Role: Admin}}, role: Admin, whole: Admin, scope: query.Everything()}
}

// Anonymous is everybody, where nobody is asked who they are.
func Anonymous() *Caller { return everything("anonymous", None) }

// Self is the collector, for what it does without being asked.
func Self() *Caller { return everything("collector", BySelf) }

// Configuration is whoever wrote the collector's configuration.
func Configuration() *Caller { return everything("configuration", ByConfiguration) }

// Whole is the highest role that the caller has over all of the ledger.
func (c *Caller) Whole() Role { return c.whole }

// Message tells a caller what he is taken for.
func (c *Caller) Message() *pb.WhoAmIResponse {
	out := &pb.WhoAmIResponse{Name: c.Name, Method: string(c.Method)}
	for i := range c.Grants {
		g := &c.Grants[i]
		out.Grants = append(out.Grants, &pb.Grant{Role: g.Role.String(), Clusters: g.Clusters, Namespaces: g.Namespaces, Teams: g.Teams})
	}
	return out
}

type callerKey struct{}

// WithCaller puts a caller into a context.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf is the caller behind a context, nil where there is none.
func CallerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}

// AskerOf tells the caller behind a context from every other.
func AskerOf(ctx context.Context) string {
	c := CallerOf(ctx)
	if c == nil {
		return ""
	}
	return string(c.Method) + " " + c.Name
}

// ScopeOf is what the caller behind a context may see. Without a caller it is
// an error: what nobody asked for, nobody is told.
func ScopeOf(ctx context.Context) (query.Scope, error) {
	c := CallerOf(ctx)
	if c == nil {
		return query.Scope{}, ErrUnauthenticated
	}
	return c.scope, nil
}

// What those learn who are refused: as little as helps an honest caller.
var (
	// ErrUnauthenticated is the answer to all whom the collector does not know,
	// whatever they showed.
	ErrUnauthenticated = status.Error(codes.Unauthenticated, "who are you? The collector wants a token that it knows (gpuledger --token-file FILE, or the header Authorization: Bearer TOKEN) or a certificate")
	// ErrTooMany is the answer to those who have tried too often.
	ErrTooMany = status.Error(codes.ResourceExhausted, "too many attempts that failed: wait a minute")
	// errUnknown is the answer where the table has no row.
	errUnknown = status.Error(codes.PermissionDenied, "this may not be asked")
)

// errRefused is wrapped by what is refused to a caller who is known.
var errRefused = errors.New("refused")

func refused(format string, args ...any) error {
	return &refusal{status.New(codes.PermissionDenied, fmt.Sprintf(format, args...))}
}

type refusal struct{ s *status.Status }

func (r *refusal) Error() string              { return r.s.Message() }
func (r *refusal) GRPCStatus() *status.Status { return r.s }
func (r *refusal) Unwrap() error              { return errRefused }
