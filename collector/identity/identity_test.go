package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/collector/identity"
	"github.com/gpuledger/gpuledger/internal/certs/certstest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// behind is the service behind the guard: it writes down what gets through.
type behind struct {
	pb.UnimplementedIngestServer
	mu   sync.Mutex
	seen []string
}

func (b *behind) Stream(s grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.seen = append(b.seen, m.GetHello().GetCluster()+"/"+m.GetHello().GetNode())
		b.mu.Unlock()
		if m.GetFlush() != nil {
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		}
	}
}

// call is one stream as the server sees it.
type call struct {
	grpc.BidiStreamingServer[pb.FromAgent, pb.ToAgent]
	ctx  context.Context
	sent []*pb.FromAgent
}

func (c *call) Context() context.Context { return c.ctx }

func (c *call) Recv() (*pb.FromAgent, error) {
	if len(c.sent) == 0 {
		<-c.ctx.Done()
		return nil, c.ctx.Err()
	}
	m := c.sent[0]
	c.sent = c.sent[1:]
	return m, nil
}

func hello(cluster, node string) *pb.FromAgent {
	return &pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: cluster, Node: node}}}
}

func flush() *pb.FromAgent { return &pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}} }

// caller is a context in which a peer has this certificate and these headers.
func caller(ctx context.Context, cert *x509.Certificate, headers ...string) context.Context {
	p := &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}}
	if cert != nil {
		p.AuthInfo = credentials.TLSInfo{State: tls.ConnectionState{
			PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}},
		}}
	}
	return metadata.NewIncomingContext(peer.NewContext(ctx, p), metadata.Pairs(headers...))
}

func certificate(t *testing.T, l certstest.Leaf) *x509.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(certstest.New(t).Issue(l))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func patterns(t *testing.T, p identity.Patterns) *identity.Certificates {
	t.Helper()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	c, err := identity.NewCertificates(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCertificates holds what certificates name against what their owners say.
func TestCertificates(t *testing.T) {
	byURI := identity.Patterns{URI: "spiffe://example.org/cluster/{cluster}/node/{node}", Cluster: "*"}
	byDNS := identity.Patterns{DNS: "{node}.nodes.gpuledger", Cluster: "east"}
	both := identity.Patterns{DNS: "{node}.{cluster}.nodes.gpuledger", Cluster: "*"}
	byCN := identity.Patterns{CommonName: "system:node:{node}", Cluster: "*"}
	for name, c := range map[string]struct {
		patterns      identity.Patterns
		leaf          *certstest.Leaf // nil: none is shown
		cluster, node string          // as is said
		want          codes.Code
	}{
		"URI":                {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.org/cluster/east/node/n1"}}, "east", "n1", codes.OK},
		"another node":       {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.org/cluster/east/node/n1"}}, "east", "n2", codes.PermissionDenied},
		"another cluster":    {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.org/cluster/east/node/n1"}}, "west", "n1", codes.PermissionDenied},
		"another domain":     {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.com/cluster/east/node/n1"}}, "east", "n1", codes.PermissionDenied},
		"a longer path":      {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.org/cluster/east/node/n1/x"}}, "east", "n1", codes.PermissionDenied},
		"escaped":            {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.org/cluster/east/node/n%31"}}, "east", "n1", codes.PermissionDenied},
		"two nodes":          {byURI, &certstest.Leaf{URIs: []string{"spiffe://example.org/cluster/east/node/n1", "spiffe://example.org/cluster/east/node/n2"}}, "east", "n1", codes.PermissionDenied},
		"no node":            {byURI, &certstest.Leaf{CommonName: "n1", DNS: []string{"n1"}}, "east", "n1", codes.PermissionDenied},
		"no certificate":     {byURI, nil, "east", "n1", codes.Unauthenticated},
		"DNS":                {byDNS, &certstest.Leaf{DNS: []string{"n1.ec2.internal.nodes.gpuledger"}}, "east", "n1.ec2.internal", codes.OK},
		"DNS, capitals":      {byDNS, &certstest.Leaf{DNS: []string{"N1.nodes.gpuledger"}}, "east", "n1", codes.OK},
		"DNS, wildcard":      {byDNS, &certstest.Leaf{DNS: []string{"*.nodes.gpuledger"}}, "east", "n1", codes.PermissionDenied},
		"DNS, its cluster":   {byDNS, &certstest.Leaf{DNS: []string{"n1.nodes.gpuledger"}}, "west", "n1", codes.PermissionDenied},
		"DNS, a suffix of":   {byDNS, &certstest.Leaf{DNS: []string{"n1.nodes.gpuledger.evil"}}, "east", "n1", codes.PermissionDenied},
		"DNS, both":          {both, &certstest.Leaf{DNS: []string{"n1.east.nodes.gpuledger"}}, "east", "n1", codes.OK},
		"cut in two ways":    {both, &certstest.Leaf{DNS: []string{"n1.a.east.nodes.gpuledger"}}, "east", "n1.a", codes.PermissionDenied},
		"cut the other way":  {both, &certstest.Leaf{DNS: []string{"n1.a.east.nodes.gpuledger"}}, "a.east", "n1", codes.PermissionDenied},
		"common name":        {byCN, &certstest.Leaf{CommonName: "system:node:n1"}, "any", "n1", codes.OK},
		"common name, other": {byCN, &certstest.Leaf{CommonName: "system:node:n1"}, "any", "n", codes.PermissionDenied},
		"name with a prefix": {byCN, &certstest.Leaf{CommonName: "x system:node:n1"}, "any", "n1", codes.PermissionDenied},
		"name with a line":   {byCN, &certstest.Leaf{CommonName: "system:node:n1\n"}, "any", "n1", codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			b := &behind{}
			g := identity.New(b, identity.Options{Certificates: patterns(t, c.patterns)})
			var cert *x509.Certificate
			if c.leaf != nil {
				cert = certificate(t, *c.leaf)
			}
			ctx, cancel := context.WithCancel(caller(t.Context(), cert))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- g.Stream(&call{ctx: ctx, sent: []*pb.FromAgent{hello(c.cluster, c.node), flush()}}) }()
			if c.want == codes.OK {
				cancel()
				<-done
				if len(b.seen) == 0 || b.seen[0] != c.cluster+"/"+c.node {
					t.Fatalf("%v got through", b.seen)
				}
				return
			}
			if err := <-done; status.Code(err) != c.want {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if len(b.seen) != 0 {
				t.Fatalf("%v got through", b.seen)
			}
			if s := g.Stats(); s.Unidentified+s.WrongNode != 1 {
				t.Fatalf("%+v", s)
			}
		})
	}
}

// TestUnverified: a certificate that no authority vouches for names nobody.
func TestUnverified(t *testing.T) {
	g := identity.New(&behind{}, identity.Options{Certificates: patterns(t, identity.Patterns{CommonName: "{node}", Cluster: "*"})})
	ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
		PeerCertificates: []*x509.Certificate{certificate(t, certstest.Leaf{CommonName: "n1"})},
	}}})
	if err := g.Stream(&call{ctx: ctx, sent: []*pb.FromAgent{hello("c", "n1")}}); status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
}

// TestSilentStreamsOfANodeAreBounded: one more stream of a node than may be without a
// hello is refused, those of other nodes are not; one that says hello makes room, and so
// does one that ends.
func TestSilentStreamsOfANodeAreBounded(t *testing.T) {
	const most = 8
	synctest.Test(t, func(t *testing.T) {
		b := &behind{}
		g := identity.New(b, identity.Options{Certificates: patterns(t, identity.Patterns{CommonName: "{node}", Cluster: "east"})})
		cert := map[string]*x509.Certificate{}
		for _, n := range []string{"n1", "n2"} {
			cert[n] = certificate(t, certstest.Leaf{CommonName: n, NotAfter: time.Now().Add(time.Hour)})
		}
		var streams sync.WaitGroup
		begin := func(node string, messages ...*pb.FromAgent) (end func(), refused func() bool) {
			ctx, cancel := context.WithCancel(caller(t.Context(), cert[node]))
			var err error
			streams.Go(func() {
				err = g.Stream(&call{ctx: ctx, sent: messages})
			})
			return cancel, func() bool { synctest.Wait(); return status.Code(err) == codes.ResourceExhausted }
		}
		var ends []func()
		for i := range most {
			end, refused := begin("n1")
			if ends = append(ends, end); refused() {
				t.Fatalf("stream %d is refused", i+1)
			}
		}
		another := func(node string, want bool, messages ...*pb.FromAgent) {
			t.Helper()
			end, refused := begin(node, messages...)
			if ends = append(ends, end); refused() != want {
				t.Errorf("one more of %s: refused %v", node, !want)
			}
		}
		another("n1", true)
		another("n2", false, hello("east", "n2"), flush())
		ends[0]()
		synctest.Wait()
		another("n1", false, hello("east", "n1"), flush()) // says hello
		another("n1", false)
		another("n1", true)
		if s := g.Stats(); s.Unsaid != 2 || s.Unidentified+s.WrongNode != 0 {
			t.Errorf("%+v", s)
		}
		for _, end := range ends {
			end()
		}
		streams.Wait()
	})
}

func TestPatternsAreChecked(t *testing.T) {
	for _, p := range []identity.Patterns{
		{URI: "spiffe://x", Cluster: "c"},
		{DNS: "{node}{cluster}", Cluster: "c"},
		{DNS: "{node}.{node}", Cluster: "c"},
		{CommonName: "{node}.{pod}", Cluster: "c"},
		{CommonName: "{node}"},
	} {
		if p.Check() == nil {
			t.Errorf("%+v", p)
		}
	}
	if (identity.Patterns{}).Check() != nil {
		t.Error("none at all is allowed")
	}
}

// TestStreamEndsWithItsProof: at its end, neither before nor after.
func TestStreamEndsWithItsProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := identity.New(&behind{}, identity.Options{Certificates: patterns(t, identity.Patterns{CommonName: "{node}", Cluster: "*"})})
		cert := certificate(t, certstest.Leaf{CommonName: "n1", NotAfter: time.Now().Add(time.Hour)})
		began := time.Now()
		err := g.Stream(&call{ctx: caller(t.Context(), cert), sent: []*pb.FromAgent{hello("c", "n1"), flush()}})
		if status.Code(err) != codes.Canceled || time.Since(began) != time.Hour || g.Stats().Ended != 1 {
			t.Fatalf("after %v: %v, %+v", time.Since(began), err, g.Stats())
		}
		err = g.Stream(&call{ctx: caller(t.Context(), cert), sent: []*pb.FromAgent{hello("c", "n1")}})
		if status.Code(err) != codes.Unauthenticated {
			t.Fatalf("an expired certificate: %v", err)
		}
	})
}

// server is an API server's opinion of tokens.
type server struct {
	mu    sync.Mutex
	asked int
	say   func(token string) (identity.Review, error)
}

func (s *server) Review(_ context.Context, token, _ string) (identity.Review, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.say(token)
}

const (
	account = "gpuledger/gpuledger-agent"
	user    = "system:serviceaccount:gpuledger:gpuledger-agent"
)

// token says of itself what it is told to, with a signature that is none.
func token(t *testing.T, sub string, aud any, exp time.Time) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"sub": sub, "aud": aud, "exp": exp.Unix(), "n": t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(b) + ".c2ln"
}

// good is what the API server says of an agent's token on node n1.
func good() identity.Review {
	return identity.Review{
		Authenticated: true, Username: user, Audiences: []string{"gpuledger"},
		Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n1"}},
	}
}

func guard(s *server) (*identity.Guard, *behind) {
	b := &behind{}
	return identity.New(b, identity.Options{Tokens: identity.NewTokens(identity.TokenOptions{
		Reviewer: s, ServiceAccounts: []string{account}, Audience: "gpuledger", Cluster: "east",
	})}), b
}

// begin begins a stream and gives it a moment; nil is that it goes on.
func begin(t *testing.T, g *identity.Guard, node string, headers ...string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(caller(t.Context(), nil, headers...))
	done := make(chan error, 1)
	go func() { done <- g.Stream(&call{ctx: ctx, sent: []*pb.FromAgent{hello("east", node), flush()}}) }()
	timer := time.NewTimer(10 * time.Second) // of the bubble
	defer timer.Stop()
	select {
	case err := <-done:
		cancel()
		return err
	case <-timer.C:
		cancel()
		<-done
		return nil
	}
}

func TestTokens(t *testing.T) {
	with := func(change func(*identity.Review)) func(string) (identity.Review, error) {
		return func(string) (identity.Review, error) {
			r := good()
			change(&r)
			return r, nil
		}
	}
	same := with(func(*identity.Review) {})
	tok := func(t *testing.T) string { return token(t, user, []string{"gpuledger"}, time.Now().Add(time.Hour)) }
	for name, c := range map[string]struct {
		token func(*testing.T) string
		say   func(string) (identity.Review, error)
		node  string
		want  codes.Code
		hint  string
		asked int
	}{
		"its own node":        {tok, same, "n1", codes.OK, "", 1},
		"another's":           {tok, same, "n2", codes.PermissionDenied, "n1", 1},
		"unknown":             {tok, with(func(r *identity.Review) { r.Authenticated = false }), "n1", codes.Unauthenticated, "does not know it", 1},
		"another audience":    {tok, with(func(r *identity.Review) { r.Audiences = []string{"api"} }), "n1", codes.Unauthenticated, "audience", 1},
		"no audience":         {tok, with(func(r *identity.Review) { r.Audiences = nil }), "n1", codes.Unauthenticated, "audience", 1},
		"another account":     {tok, with(func(r *identity.Review) { r.Username = "system:serviceaccount:gpuledger:default" }), "n1", codes.PermissionDenied, "no service account of agents", 1},
		"an older Kubernetes": {tok, with(func(r *identity.Review) { r.Extra = nil }), "n1", codes.PermissionDenied, "1.32", 1},
		"two nodes": {tok, with(func(r *identity.Review) {
			r.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {"n1", "n2"}}
		}), "n1", codes.PermissionDenied, "1.32", 1},
		"no answer": {tok, func(string) (identity.Review, error) { return identity.Review{}, errors.New("connection refused") }, "n1", codes.Unavailable, "connection refused", 1},
		"expired":   {func(t *testing.T) string { return token(t, user, "gpuledger", time.Now().Add(-time.Second)) }, same, "n1", codes.Unauthenticated, "expired", 0},
		"of another, by itself": {
			func(t *testing.T) string {
				return token(t, "system:serviceaccount:kube-system:x", "gpuledger", time.Now().Add(time.Hour))
			}, same, "n1", codes.Unauthenticated, "no service account of agents", 0,
		},
		"for another, by itself": {func(t *testing.T) string { return token(t, user, "api", time.Now().Add(time.Hour)) }, same, "n1", codes.Unauthenticated, "audience", 0},
		"no JWT":                 {func(*testing.T) string { return "abc" }, same, "n1", codes.Unauthenticated, "projected", 0},
		"garbage":                {func(*testing.T) string { return "a.b.c" }, same, "n1", codes.Unauthenticated, "JWT", 0},
		"huge":                   {func(*testing.T) string { return strings.Repeat("a", 1<<20) }, same, "n1", codes.Unauthenticated, "bytes", 0},
		"for ever":               {func(*testing.T) string { return "e30.e30.x" }, same, "n1", codes.Unauthenticated, "does not expire", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{say: c.say}
				g, b := guard(s)
				text := c.token(t)
				err := begin(t, g, c.node, "authorization", "Bearer "+text)
				if c.want == codes.OK {
					if err != nil || len(b.seen) == 0 {
						t.Fatal(err)
					}
				} else if status.Code(err) != c.want || !strings.Contains(err.Error(), c.hint) || len(b.seen) > 0 {
					t.Fatalf("%v, want %v with %q; %v got through", err, c.want, c.hint, b.seen)
				}
				if err != nil && strings.Contains(err.Error(), text) && len(text) > 10 {
					t.Fatal("the error shows the token")
				}
				if s.asked != c.asked {
					t.Fatalf("the API server was asked %d times, want %d", s.asked, c.asked)
				}
			})
		})
	}
}

func TestHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{say: func(string) (identity.Review, error) { return good(), nil }}
		g, _ := guard(s)
		tok := token(t, user, "gpuledger", time.Now().Add(time.Hour))
		for _, headers := range [][]string{
			nil,
			{"authorization", tok},
			{"authorization", "Basic " + tok},
			{"authorization", "Bearer " + tok, "authorization", "Bearer " + tok},
		} {
			if err := begin(t, g, "n1", headers...); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%d headers: %v", len(headers), err)
			}
		}
		if err := begin(t, g, "n1", "authorization", "bearer "+tok); err != nil {
			t.Error(err)
		}
	})
}

// TestReviewsAreBounded: streams that begin again are not asked about again, a
// bad token is not believed for long, and nobody can use up all questions.
func TestReviewsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := true
		s := &server{}
		s.say = func(string) (identity.Review, error) {
			r := good()
			r.Authenticated = known
			return r, nil
		}
		g, _ := guard(s)
		end := time.Now().Add(time.Hour)
		tok := "Bearer " + token(t, user, "gpuledger", end)
		for range 3 {
			if err := begin(t, g, "n1", "authorization", tok); err != nil {
				t.Fatal(err)
			}
		}
		if s.asked != 1 {
			t.Fatalf("asked %d times", s.asked)
		}
		time.Sleep(time.Minute)
		known = false // its pod was deleted
		if err := begin(t, g, "n1", "authorization", tok); status.Code(err) != codes.Unauthenticated || s.asked != 2 {
			t.Fatalf("%v after %d questions", err, s.asked)
		}
		for i := range 100 {
			made := "Bearer " + token(t, user, []string{"gpuledger", fmt.Sprint(i)}, end)
			if err := begin(t, g, "n1", "authorization", made); err == nil {
				t.Fatal("taken")
			}
		}
		if s.asked > 25 {
			t.Fatalf("an address had %d questions asked", s.asked)
		}
		known = true
		time.Sleep(2 * time.Minute)
		if err := begin(t, g, "n1", "authorization", tok); err != nil {
			t.Fatalf("it stays shut out: %v", err)
		}
	})
}

// TestTokenEndsStream: a stream goes on as long as its token, and then another
// must be shown.
func TestTokenEndsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{say: func(string) (identity.Review, error) { return good(), nil }}
		g, _ := guard(s)
		began := time.Now()
		tok := token(t, user, "gpuledger", began.Add(time.Hour))
		ctx := caller(t.Context(), nil, "authorization", "Bearer "+tok)
		err := g.Stream(&call{ctx: ctx, sent: []*pb.FromAgent{hello("east", "n1"), flush()}})
		if status.Code(err) != codes.Canceled || time.Since(began) != time.Hour {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		if err := begin(t, g, "n1", "authorization", "Bearer "+tok); status.Code(err) != codes.Unauthenticated {
			t.Fatal(err)
		}
	})
}

// FuzzToken: whatever is shown, only what the API server vouches for passes.
func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "a.b.c", "e30.e30.e30", "e30.eyJleHAiOjF9.x", strings.Repeat(".", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, b := guard(&server{say: func(string) (identity.Review, error) { return identity.Review{Error: "no"}, nil }})
		err := g.Stream(&call{ctx: caller(t.Context(), nil, "authorization", "Bearer "+text), sent: []*pb.FromAgent{hello("east", "n1")}})
		if err == nil || len(b.seen) > 0 {
			t.Fatal("taken")
		}
	})
}
