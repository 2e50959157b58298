package collector

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/peers"
	"github.com/gpuledger/gpuledger/internal/certs/certstest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Collectors know each other by what their own configuration has them show, and
// tell nobody else what they have open.
func TestCollectorsShowWhoTheyAre(t *testing.T) {
	ca := certstest.New(t)
	server := ca.Mount(certstest.Leaf{CommonName: "collector"})
	agent := ca.Mount(certstest.Leaf{CommonName: "agent"})
	token := func(role string) (file, entry string) {
		secret := access.NewToken()
		sum, err := access.HashToken(secret)
		if err != nil {
			t.Fatal(err)
		}
		file = filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(secret.Reveal()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file, fmt.Sprintf("- {name: %q, sha256: %s, %s}\n", role, sum, role)
	}
	operator, known := token("role: operator")
	team, limited := token("role: admin, teams: [ads]")
	unknown, _ := token("role: admin")
	tokens := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(tokens, []byte("tokens:\n"+known+limited), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		cert  *certstest.Files // nil: plain text
		token string
		told  bool
	}{
		"a token":             {nil, operator, true},
		"nothing":             {nil, "", false},
		"an unknown token":    {nil, unknown, false},
		"a team's":            {nil, team, false},
		"its certificate":     {server, "", true},
		"an agent's":          {agent, "", false},
		"an agent's, a token": {agent, operator, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			cfg.Access.TokensFile, cfg.Peers.TokenFile = tokens, x.token
			if x.cert != nil {
				cfg.TLS = TLSConfig{CertFile: server.Cert, KeyFile: server.Key, ClientCAFile: server.CA}
				cfg.Access.Grants = []GrantConfig{{Certificates: []string{"CN=collector"}, Role: "operator"}}
			}
			asked := &Collector{cfg: cfg, deps: Deps{Log: slog.New(slog.DiscardHandler)}}
			var err error
			if asked.tls, err = cfg.TLS.openTLS(asked.deps.Log); err != nil {
				t.Fatal(err)
			}
			guard, err := asked.openAccess()
			if err != nil {
				t.Fatal(err)
			}
			s := grpc.NewServer(append(guard.ServerOptions(), grpc.Creds(asked.credentials()))...)
			pb.RegisterPeerServer(s, peers.NewServer(peers.ServerOptions{
				Instance: peers.Instance{1}, Open: func(func(*ingest.Open) error) error { return nil },
				Nodes: func() []*pb.NodeStatus { return nil },
			}))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var served sync.WaitGroup
			served.Go(func() { _ = s.Serve(l) })
			defer served.Wait()
			defer s.Stop()

			asking := &Collector{cfg: cfg, deps: asked.deps}
			if x.cert != nil {
				asking.cfg.TLS.CertFile, asking.cfg.TLS.KeyFile = x.cert.Cert, x.cert.Key
			}
			opts, err := asking.peerDialOptions(&others{})
			if err != nil {
				t.Fatal(err)
			}
			dial := peerDialer(opts)
			p, err := peers.New(peers.Options{
				Addresses: []string{l.Addr().String()}, Timeout: 20 * time.Second,
				Dial: func(target, _ string) (*grpc.ClientConn, error) { return dial(target, "localhost") },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			_, missing := p.Open(t.Context(), 0, 10)
			status := p.Status(t.Context())[0]
			if told := len(missing) == 0; told != x.told || (status.Err == nil) != x.told {
				t.Errorf("missing %v, status %v", missing, status.Err)
			}
		})
	}
}

// A collector that the others would not know does not start.
func TestPeersNeedWhatTheyShow(t *testing.T) {
	for name, x := range map[string]struct {
		set  func(*Config)
		want bool
	}{
		"nobody asks":   {func(*Config) {}, true},
		"tokens":        {func(c *Config) { c.Access.TokensFile = "t" }, false},
		"with a token":  {func(c *Config) { c.Access.TokensFile, c.Peers.TokenFile = "t", "f" }, true},
		"certificates":  {func(c *Config) { c.Access.Grants = []GrantConfig{{Certificates: []string{"CN=c"}, Role: "operator"}} }, true},
		"other grantee": {func(c *Config) { c.Access.Grants = []GrantConfig{{Users: []string{"u"}, Role: "operator"}} }, false},
	} {
		cfg := testConfig(t.TempDir())
		cfg.Store, cfg.ClickHouse.Addresses, cfg.Peers.Addresses = storeClickHouse, []string{"localhost:8123"}, []string{"localhost:9"}
		cfg.TLS = TLSConfig{CertFile: "c", KeyFile: "k", ClientCAFile: "a"}
		x.set(&cfg)
		if err := cfg.Validate(); (err == nil || !strings.Contains(err.Error(), "peers.token_file")) != x.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
