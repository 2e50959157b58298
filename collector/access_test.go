package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/access/accesstest"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/internal/secret"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// guarded is a collector that asks who asks, with callers of all kinds.
type guarded struct {
	*running
	issuer *accesstest.Issuer
	c      *Collector
	file   string
	tokens map[string]secret.Text // by name
	logs   *locked
}

// locked is a log that is written to while it is read.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serveGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{issuer: accesstest.NewIssuer(t), tokens: map[string]secret.Text{}, logs: &locked{}, file: filepath.Join(t.TempDir(), "tokens.yaml")}
	cfg := testConfig(t.TempDir())
	cfg.Pprof, cfg.OpenCostListen, cfg.Access.TokensFile = true, "127.0.0.1:0", g.file
	cfg.Access.OIDC.Issuer, cfg.Access.OIDC.Audiences = g.issuer.URL, []string{"gpuledger"}
	cfg.Access.Grants = []GrantConfig{
		{TeamOfGroup: "team-*", Role: "viewer"},
		{Groups: []string{"sre"}, Role: "admin"},
	}
	var entries strings.Builder
	entries.WriteString("tokens:\n")
	for _, e := range []struct{ name, rest string }{
		{"ads", "role: viewer, teams: [ads]"},
		{"ads-namespace", "role: viewer, namespaces: [ads]"},
		{"ads-admin", "role: admin, teams: [ads]"},
		{"elsewhere", "role: viewer, clusters: [west]"},
		{"viewer", "role: viewer"},
		{"operator", "role: operator"},
		{"admin", "role: admin"},
		{"expired", "role: admin, expires: '2020-01-01T00:00:00Z'"},
	} {
		token := access.NewToken()
		sum, err := access.HashToken(token)
		if err != nil {
			t.Fatal(err)
		}
		g.tokens[e.name] = token
		fmt.Fprintf(&entries, "- {name: %s, sha256: %s, %s}\n", e.name, sum, e.rest)
	}
	if err := os.WriteFile(g.file, []byte(entries.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	g.running, g.c = serveLogged(t, cfg, slog.New(slog.NewTextHandler(g.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(g.end)
	world := querytest.NewWorld()
	for _, c := range world.Chunks(0, 60) {
		g.deliver([]*attribution.Chunk{c}, true)
	}
	return g
}

func (g *guarded) as(token string) context.Context {
	return metadata.AppendToOutgoingContext(g.t.Context(), "authorization", "Bearer "+token)
}

func (g *guarded) named(name string) context.Context { return g.as(g.tokens[name].Reveal()) }

// call calls any method with an empty request.
func (g *guarded) call(ctx context.Context, m protoreflect.MethodDescriptor) error {
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	if !m.IsStreamingServer() && !m.IsStreamingClient() {
		return g.conn.Invoke(ctx, name, &emptypb.Empty{}, &emptypb.Empty{})
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := g.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
	if err != nil {
		return err
	}
	_ = s.SendMsg(&emptypb.Empty{}) // the answer says why
	_ = s.CloseSend()
	for err == nil { // a verification has ended when its stream has
		err = s.RecvMsg(&emptypb.Empty{})
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// methods are all that the collector serves over gRPC, found by reflection.
func (g *guarded) methods() (out []protoreflect.MethodDescriptor) {
	for name := range g.c.grpc.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			g.t.Fatal(err)
		}
		ms := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range ms.Len() {
			out = append(out, ms.Get(i))
		}
	}
	return out
}

type route struct{ method, path, body string }

// routes are all that the collector serves over HTTP: the patterns of its mux,
// and those of the service behind /v1/, found by reflection.
func (g *guarded) routes() (out []route) {
	web, err := g.c.web(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() {
		if err := web.gateway.Close(); err != nil {
			g.t.Error(err)
		}
	}()
	for _, p := range web.server.Handler.(*access.Mux).Patterns() {
		method, path, ok := strings.Cut(p, " ")
		if !ok {
			method, path = http.MethodGet, p
		}
		if path == "/v1/" {
			path = "/v1/anything"
		}
		out = append(out, route{method, path, ""})
	}
	for _, m := range g.methods() {
		h, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		switch {
		case h.GetGet() != "":
			out = append(out, route{http.MethodGet, h.GetGet(), ""})
		case h.GetPut() != "":
			out = append(out, route{http.MethodPut, h.GetPut(), "{}"})
		case h.GetPost() != "":
			out = append(out, route{http.MethodPost, h.GetPost(), "{}"})
		}
	}
	return out
}

func (g *guarded) http(at string, r route, header http.Header) (int, string) {
	req, err := http.NewRequestWithContext(g.t.Context(), r.method, "http://"+at+r.path, strings.NewReader(r.body))
	if err != nil {
		g.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	if h := header.Get("Host"); h != "" {
		req.Host = h
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// strangers are those whom the collector does not know, with what they show.
func (g *guarded) strangers() map[string][]string {
	t := g.t
	other := accesstest.NewIssuer(t)
	signed := func(claims map[string]any) []string { return []string{"Bearer " + g.issuer.Token(t, claims)} }
	hour := time.Hour
	none := "eyJhbGciOiJub25lIn0." + strings.Split(g.issuer.Token(t, map[string]any{"groups": "sre"}), ".")[1] + "."
	foreign := other.Token(t, map[string]any{"iss": g.issuer.URL, "groups": "sre"})
	return map[string][]string{
		"nothing":             nil,
		"a made-up token":     {"Bearer " + access.NewToken().Reveal()},
		"an empty token":      {"Bearer "},
		"no bearer":           {"Basic YWRtaW46YWRtaW4="},
		"the hash of a token": {"Bearer " + hashOfToken(t, g.tokens["admin"])},
		"an expired token":    {"Bearer " + g.tokens["expired"].Reveal()},
		"two tokens":          {"Bearer " + g.tokens["admin"].Reveal(), "Bearer " + g.tokens["admin"].Reveal()},
		"an expired JWT":      signed(map[string]any{"groups": "sre", "exp": time.Now().Add(-hour).Unix()}),
		"a JWT without end":   signed(map[string]any{"groups": "sre", "exp": nil}),
		"a JWT of tomorrow":   signed(map[string]any{"groups": "sre", "nbf": time.Now().Add(hour).Unix()}),
		"a JWT for others":    signed(map[string]any{"groups": "sre", "aud": "grafana"}),
		"a JWT of others":     {"Bearer " + foreign},
		"an unsigned JWT":     {"Bearer " + none},
	}
}

func hashOfToken(t *testing.T, token secret.Text) string {
	sum, err := access.HashToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// Whom the collector does not know gets the same nothing from every method and
// every route, whatever he shows, and learns nothing by it.
func TestStrangersGetNothing(t *testing.T) {
	g := serveGuarded(t)
	rules, open := access.Methods(), 0
	methods, routes := g.methods(), g.routes()
	if len(methods) < 18 || len(routes) < 28 {
		t.Fatalf("%d methods and %d routes: the search is broken", len(methods), len(routes))
	}
	// What is refused unheard, after too many failures, is nothing, too.
	nothing := []string{status.Convert(access.ErrUnauthenticated).Message(), status.Convert(access.ErrTooMany).Message()}
	for who, shown := range g.strangers() {
		ctx := t.Context()
		for _, s := range shown {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", s)
		}
		for _, m := range methods {
			name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
			rule, known := rules[name]
			if !known {
				t.Errorf("%s has no rule: who may ask it?", name)
			}
			if rule.For == access.Agents {
				continue
			}
			err := g.call(ctx, m)
			if !slices.Contains(nothing, status.Convert(err).Message()) {
				t.Errorf("%s with %s: %v", name, who, err)
			}
		}
		for _, r := range routes {
			code, body := g.http(g.at.HTTP, r, http.Header{"Authorization": shown})
			if access.Routes()[r.method+" "+r.path].For == access.Anyone || r.path == "/" {
				open++
				continue
			}
			if code != http.StatusUnauthorized && code != http.StatusTooManyRequests || !slices.ContainsFunc(nothing, func(n string) bool { return strings.Contains(body, n) }) {
				t.Errorf("%v with %s: %d %s", r, who, code, body)
			}
		}
		if code, body := g.http(g.at.OpenCost, route{"GET", "/allocation/compute?window=today", ""}, http.Header{"Authorization": shown}); code != 401 && code != 429 {
			t.Errorf("OpenCost with %s: %d %s", who, code, body)
		}
	}
	if open != 3*len(g.strangers()) {
		t.Errorf("%d routes are open: want /healthz, /readyz and the page", open/len(g.strangers()))
	}
	// Somebody who is known is not kept out by all that.
	if code, body := g.http(g.at.HTTP, route{"GET", "/healthz", ""}, nil); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
	for _, hidden := range g.tokens {
		if strings.Contains(g.logs.String(), hidden.Reveal()) {
			t.Error("a token is in the log")
		}
	}
	if !strings.Contains(g.logs.String(), "somebody was not let in") {
		t.Error("the log does not say who was refused")
	}
}

// Callers get what their role is for, and no more; with limits, nothing that
// cannot be narrowed.
func TestRolesAreKept(t *testing.T) {
	g := serveGuarded(t)
	rank := map[access.Role]int{access.Viewer: 1, access.Operator: 2, access.Admin: 3}
	for _, who := range []struct {
		name  string
		ctx   context.Context
		role  access.Role
		whole bool
	}{
		{"ads", g.named("ads"), access.Viewer, false},
		{"ads-namespace", g.named("ads-namespace"), access.Viewer, false},
		{"ads-admin", g.named("ads-admin"), access.Admin, false},
		{"viewer", g.named("viewer"), access.Viewer, true},
		{"operator", g.named("operator"), access.Operator, true},
		{"admin", g.named("admin"), access.Admin, true},
		{"alice of ads", g.as(g.issuer.Token(t, map[string]any{"groups": []string{"team-ads"}})), access.Viewer, false},
		{"alice of sre", g.as(g.issuer.Token(t, map[string]any{"groups": []string{"x", "sre"}})), access.Admin, true},
		{"alice alone", g.as(g.issuer.Token(t, nil)), access.Nobody, false},
	} {
		for _, m := range g.methods() {
			name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
			rule := access.Methods()[name]
			if rule.For == access.Agents {
				continue
			}
			may := rank[who.role] >= rank[rule.Role] && (who.whole || rule.Reach != access.Whole) || rule.Reach == access.OfCaller
			if code := status.Code(g.call(who.ctx, m)); (code == codes.PermissionDenied) == may || code == codes.Unauthenticated {
				t.Errorf("%s as %s: %v", name, who.name, code)
			}
		}
	}
	for _, c := range []struct {
		path string
		may  []string
	}{
		{"/metrics", []string{"viewer", "operator", "admin"}},
		{"/metrics/rollups", []string{"viewer", "operator", "admin"}},
		{"/debug/pprof/", []string{"admin"}},
		{"/v1/verify", []string{"operator", "admin"}},
		{"/v1/whoami", []string{"ads", "ads-admin", "elsewhere", "viewer", "operator", "admin"}},
		{"/v1/reratings", []string{"viewer", "operator", "admin"}},
		{"/allocation?window=today", []string{"ads", "ads-admin", "elsewhere", "viewer", "operator", "admin"}},
	} {
		for _, who := range []string{"ads", "ads-admin", "elsewhere", "viewer", "operator", "admin"} {
			code, body := g.http(g.at.HTTP, route{"GET", c.path, ""}, bearer(g.tokens[who].Reveal()))
			if want := slices.Contains(c.may, who); (code == 200) != want || !want && code != 403 {
				t.Errorf("%s as %s: %d %.200s", c.path, who, code, body)
			}
		}
	}
}

// What a team of the world has, and what it has not: its caller sees no trace of
// the latter in any answer, however it asks.
var foreign = []string{"search", "llama", "idler", "chat-1", "gold", "GPU-a", "GPU-c", "n2", "miner", "L4", "unallocated", "unattributed"}

func TestATeamSeesItsOwn(t *testing.T) {
	g := serveGuarded(t)
	dims := []string{"node", "device", "namespace", "pod", "team", "model", "kind", "label:app"}
	units := []string{"node", "namespace", "pod", "team", "model", "kind", "tier", "label:team"}
	for _, who := range []string{"ads", "ads-namespace", "ads-admin"} {
		l, ctx := g.ledger(), g.named(who)
		seen := func(what string, m proto.Message, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s as %s: %v", what, who, err)
				return
			}
			text := prototext.Format(m)
			for _, f := range foreign {
				if strings.Contains(text, f) {
					t.Errorf("%s as %s shows %s:\n%.2000s", what, who, f, text)
				}
			}
		}
		for _, filter := range [][]string{nil, {"team=search"}, {"team=ads", "team=search"}, {"namespace=*"}, {"team!=ads"}, {"team="}, {"kind=nobody"}, {"node=n2"}} {
			res, err := l.Report(ctx, &pb.ReportRequest{GroupBy: dims, Filter: filter, Lines: true})
			seen("report", res, err)
			unit, err := l.UnitCosts(ctx, &pb.UnitCostsRequest{GroupBy: units, Filter: filter})
			seenUnits(t, unit, err, who)
			runs, err := l.Runs(ctx, &pb.RunsRequest{Filter: filter})
			seen("runs", runs, err)
		}
		others, err := l.Report(ctx, &pb.ReportRequest{GroupBy: []string{"basis"}, Limit: 1})
		seen("report of others", others, err)
		devices, err := l.Devices(ctx, &pb.DevicesRequest{})
		seen("devices", devices, err)
		if len(devices.GetDevices()) != 1 || devices.GetDevices()[0].GetId() != "GPU-b" {
			t.Errorf("devices as %s: %v", who, devices)
		}
		st, err := l.Status(ctx, &pb.StatusRequest{})
		seen("status", st, err)
		if st.GetVersion() == "" || st.GetLastSecond() == 0 {
			t.Errorf("status as %s: %v", who, st)
		}
		slo, err := l.SLO(ctx, &pb.SLORequest{GroupBy: []string{"pod", "team"}, LatencyP95Ms: 100})
		seen("slo", slo, err)
		moves, err := l.CompareRules(ctx, &pb.CompareRulesRequest{Rules: &pb.Rules{Rules: []*pb.Rule{{Target: "team", FromController: true}, {Target: "class", FromNamespace: true}}}})
		seen("rules compare", moves, err)
		if len(moves.GetMoves()) == 0 {
			t.Errorf("rules compare as %s: nothing moves", who)
		}
		for _, path := range []string{
			"/v1/report?group_by=pod", "/v1/export?format=focus-csv", "/v1/devices", "/v1/status",
			fmt.Sprintf("/allocation/compute?window=%d,%d&aggregate=namespace,pod", querytest.Start, querytest.Start+60),
			fmt.Sprintf("/model/allocation/summary?window=%d,%d&aggregate=node&includeIdle=true", querytest.Start, querytest.Start+60),
		} {
			code, body := g.http(g.at.HTTP, route{"GET", path, ""}, bearer(g.tokens[who].Reveal()))
			if code != 200 || !strings.Contains(body, "ranker") && !strings.Contains(path, "status") && !strings.Contains(path, "devices") && !strings.Contains(path, "summary") && !strings.Contains(path, "export") {
				t.Errorf("%s as %s: %d %.300s", path, who, code, body)
			}
			for _, f := range foreign {
				if strings.Contains(body, f) && f != "unallocated" && f != "unattributed" {
					t.Errorf("%s as %s shows %s", path, who, f)
				}
			}
		}
	}
	for who, want := range map[string]int{"ads": 403, "viewer": 200} {
		for _, share := range []string{"shareIdle=true", "shareNamespaces=search", "shareLabels=app:chat"} {
			if code, body := g.http(g.at.HTTP, route{"GET", "/allocation?window=today&aggregate=pod&" + share, ""}, bearer(g.tokens[who].Reveal())); code != want {
				t.Errorf("%s as %s: %d %s", share, who, code, body)
			}
		}
	}
	whole, err := g.ledger().Report(g.named("viewer"), &pb.ReportRequest{GroupBy: []string{"team"}})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := g.ledger().Report(g.named("ads"), &pb.ReportRequest{GroupBy: []string{"team"}})
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(whole.GetRows(), func(r *pb.ReportRow) bool { return r.GetKeys()[0] == "ads" })
	if len(mine.GetRows()) != 1 || !proto.Equal(mine.GetRows()[0], whole.GetRows()[at]) || !proto.Equal(mine.GetTotal().GetSum(), mine.GetRows()[0].GetSum()) {
		t.Errorf("a team's own row is %v, everybody's says %v", mine, whole.GetRows()[at])
	}
	none, err := g.ledger().Report(g.named("elsewhere"), &pb.ReportRequest{GroupBy: []string{"team"}})
	if err != nil || len(none.GetRows()) != 0 || none.GetTotal().GetSum().GetDeviceTimeNs() != "0" {
		t.Errorf("another cluster sees %v (%v)", none, err)
	}
}

// seenUnits holds unit costs against foreign, but for the names of fields.
func seenUnits(t *testing.T, m *pb.UnitCostsResponse, err error, who string) {
	t.Helper()
	if err != nil {
		t.Errorf("unit costs as %s: %v", who, err)
		return
	}
	for _, r := range m.GetRows() {
		for _, k := range r.GetKeys() {
			if slices.Contains(foreign, k) {
				t.Errorf("unit costs as %s show %s", who, k)
			}
		}
	}
	if n := m.GetTotal().GetUnattributedTimeNs(); n != "0" {
		t.Errorf("unit costs as %s: %s ns that nobody answers for", who, n)
	}
}

// What is changed is on record with who changed it, and no header makes anybody
// somebody else.
func TestChangesAreOnRecord(t *testing.T) {
	g := serveGuarded(t)
	l := g.ledger()
	if _, err := l.ApplyRateCard(g.named("admin"), &pb.ApplyRateCardRequest{Card: flatCard(1_000_000_000)}); err != nil {
		t.Fatal(err)
	}
	sre := bearer(g.issuer.Token(t, map[string]any{"groups": "sre"}))
	if code, body := g.http(g.at.HTTP, route{"PUT", "/v1/rules", `{"rules":{"rules":[{"target":"team","from_namespace":true}]}}`}, sre); code != 200 {
		t.Fatal(code, body)
	}
	for _, h := range []string{"Grpc-Metadata-Gpuledger-Handed-Over", "Gpuledger-Handed-Over", "Grpc-Metadata-Authorization"} {
		header := bearer(g.tokens["ads"].Reveal())
		header.Set(h, "Bearer "+g.tokens["admin"].Reveal())
		if code, body := g.http(g.at.HTTP, route{"PUT", "/v1/rules", `{"rules":{}}`}, header); code != 403 {
			t.Errorf("%s: %d %s", h, code, body)
		}
		header.Del("Authorization")
		if code, body := g.http(g.at.HTTP, route{"GET", "/v1/whoami", ""}, header); code != 401 {
			t.Errorf("%s alone: %d %s", h, code, body)
		}
	}
	all, err := l.Backup(g.named("admin"), &pb.BackupRequest{})
	for err == nil {
		_, err = all.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	res, err := l.Audit(g.named("operator"), &pb.AuditRequest{})
	if err != nil || res.GetBroken() != 0 || len(res.GetEntries()) != 4 {
		t.Fatal(res, err)
	}
	for i, want := range []string{"admin token backup 0 0 done", "alice oidc apply rules 0 1 done", "admin token apply rate card 0 1 done", "configuration configuration retention 0 0 done"} {
		e := res.GetEntries()[i]
		if got := fmt.Sprint(e.GetCaller(), " ", e.GetMethod(), " ", e.GetAction(), " ", e.GetOldRevision(), " ", e.GetNewRevision(), " ", e.GetOutcome()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, hidden := range g.tokens {
		if strings.Contains(g.logs.String(), hidden.Reveal()) {
			t.Error("a token is in the log")
		}
	}
}

// Nobody is served unasked where others than this machine reach an address.
func TestAccessIsRefusedWhereAnybodyIsEverybody(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{"loopback", func(*Config) {}, ""},
		{"other machines", func(c *Config) { c.GRPCListen, c.TLS.CertFile, c.TLS.KeyFile = "0.0.0.0:9440", "c", "k" }, "nobody is asked who they are"},
		{"told so", func(c *Config) {
			c.GRPCListen, c.TLS.CertFile, c.TLS.KeyFile, c.Access.Anonymous = "0.0.0.0:9440", "c", "k", true
		}, ""},
		{"tokens", func(c *Config) {
			c.GRPCListen, c.TLS.CertFile, c.TLS.KeyFile, c.Access.TokensFile = "0.0.0.0:9440", "c", "k", "f"
		}, ""},
		{"both", func(c *Config) { c.Access.Anonymous, c.Access.TokensFile = true, "f" }, "leave one of them out"},
		{"users of nobody", func(c *Config) { c.Access.Grants = []GrantConfig{{Users: []string{"a"}, Role: "viewer"}} }, "which is not set"},
		{"a role", func(c *Config) { c.Access.Grants = []GrantConfig{{Users: []string{"a"}, Role: "king"}} }, "unknown role"},
		{"all by a star", func(c *Config) {
			c.Access.Grants = []GrantConfig{{Users: []string{"a"}, Role: "viewer", Teams: []string{"*"}}}
		}, "names no one"},
		{"plain issuer", func(c *Config) { c.Access.OIDC.Issuer, c.Access.OIDC.Audiences = "http://sso.example", []string{"a"} }, "https"},
		{"symmetric keys", func(c *Config) {
			c.Access.OIDC.Issuer, c.Access.OIDC.Audiences, c.Access.OIDC.Algorithms = "https://sso.example", []string{"a"}, []string{"HS256"}
		}, "unknown \"HS256\""},
		{"no audience", func(c *Config) { c.Access.OIDC.Issuer = "https://sso.example" }, "audiences"},
	} {
		cfg := testConfig(t.TempDir())
		c.set(&cfg)
		err := cfg.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
