package access

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// Mux is an http.ServeMux behind the guard: every pattern has a rule in the
// table, and is answered to those whom the rule is for. Patterns are added
// before it serves; then it may be used by any number of goroutines.
//
// Browsers are told apart from programs by what they cannot help to send. A
// page of another origin cannot have a browser change anything here (which it
// could without a token where nobody is asked who they are, or where the
// browser holds a certificate). Where the collector listens on loopback, it
// answers to names of this machine only: a name that somebody else's DNS points
// here would make his page one of ours.
type Mux struct {
	guard    *Guard
	mux      *http.ServeMux
	alone    http.Handler // in place of mux
	patterns []string
	loopback bool
	origin   *http.CrossOriginProtection
}

// NewMux makes a Mux. loopback says that it is served on loopback alone.
func (g *Guard) NewMux(loopback bool) *Mux {
	return &Mux{guard: g, mux: http.NewServeMux(), loopback: loopback, origin: http.NewCrossOriginProtection()}
}

// Only makes a Mux that answers all paths by one handler, to those whom the rule
// of a pattern is for.
func (g *Guard) Only(loopback bool, pattern string, h http.Handler) *Mux {
	rule, ok := g.routes[pattern]
	if !ok {
		panic(fmt.Sprintf("BUG: access: the route %q has no rule: who may ask it?", pattern))
	}
	m := g.NewMux(loopback)
	m.alone, m.patterns = g.route(pattern, rule, h), []string{pattern}
	return m
}

// Patterns are those that were added, in order.
func (m *Mux) Patterns() []string { return slices.Clone(m.patterns) }

// Handle adds a handler. Its context holds the caller, unless it is for anyone.
func (m *Mux) Handle(pattern string, h http.Handler) {
	rule, ok := m.guard.routes[pattern]
	if !ok {
		panic(fmt.Sprintf("BUG: access: the route %q has no rule: who may ask it?", pattern))
	}
	m.patterns = append(m.patterns, pattern)
	m.mux.Handle(pattern, m.guard.route(pattern, rule, h))
}

// ServeHTTP answers one request.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.loopback && !m.guard.called(r.Host) {
		m.guard.foreign(r, "host", r.Host)
		refuse(w, http.StatusMisdirectedRequest, codes.PermissionDenied, "the collector is not called by this name: use localhost, or list the name under access.hosts")
		return
	}
	if err := m.origin.Check(r); err != nil {
		m.guard.foreign(r, "origin", r.Header.Get("Origin"))
		refuse(w, http.StatusForbidden, codes.PermissionDenied, "pages of other origins may not change anything here")
		return
	}
	if m.alone != nil {
		m.alone.ServeHTTP(w, r)
		return
	}
	m.mux.ServeHTTP(w, r)
}

func (g *Guard) foreign(r *http.Request, what, value string) {
	g.counts.Foreign.Add(1)
	g.tell("a request came under a foreign name, or from a foreign page", "peer", r.RemoteAddr, "what", what, "value", clip(value))
}

// called reports whether a Host header names this machine.
func (g *Guard) called(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(g.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

func (g *Guard) route(pattern string, rule Rule, h http.Handler) http.Handler {
	if rule.For == Anyone {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := Shown{Peer: r.RemoteAddr, Authorization: r.Header.Values("Authorization")}
		if r.TLS != nil {
			s.Certificate = verifiedLeaf(r.TLS.VerifiedChains)
		}
		c, err := g.Caller(r.Context(), s)
		if err == nil {
			if err = c.May(rule); err != nil {
				err = g.forbid(c, pattern, err)
			}
		}
		if err != nil {
			refuseStatus(w, err)
			return
		}
		r = r.WithContext(WithCaller(r.Context(), c))
		// No handler has a use for it, and what has it not cannot leak it.
		r.Header = r.Header.Clone()
		r.Header.Del("Authorization")
		h.ServeHTTP(w, r)
	})
}

func refuseStatus(w http.ResponseWriter, err error) {
	s := status.Convert(err)
	if errors.Is(err, ErrUnauthenticated) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="gpuledger"`)
	}
	refuse(w, runtime.HTTPStatusFromCode(s.Code()), s.Code(), s.Message())
}

// refuse writes an error as the JSON API does.
func refuse(w http.ResponseWriter, httpStatus int, code codes.Code, message string) {
	body, err := protojson.Marshal(&statuspb.Status{Code: int32(code), Message: message})
	if err != nil {
		panic("BUG: access: a status can't be written: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(httpStatus)
	_, _ = w.Write(body) // the asker may be gone
}
