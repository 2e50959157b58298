package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const card = `
currency: USD
prices:
  - model: "*"
    per_device_hour: 3.60
`

// running is a collector on loopback, with a connection to it.
type running struct {
	t    *testing.T
	at   Addresses
	conn *grpc.ClientConn
	stop context.CancelFunc
	done chan error
}

func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.GRPCListen, cfg.HTTPListen = filepath.Join(dir, "ledger"), "127.0.0.1:0", "127.0.0.1:0"
	cfg.Retention, cfg.DuckDB.Threads = RetentionConfig{}, 1
	return cfg
}

func serve(t *testing.T, cfg Config) *running {
	t.Helper()
	r, _ := serveLogged(t, cfg, slog.New(slog.DiscardHandler))
	return r
}

func serveLogged(t *testing.T, cfg Config, log *slog.Logger) (*running, *Collector) {
	t.Helper()
	return serveNew(t, cfg, log, New)
}

// serveNew serves what a function makes.
func serveNew(t *testing.T, cfg Config, log *slog.Logger, begin func(context.Context, Config, Deps) (*Collector, error)) (*running, *Collector) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready := make(chan Addresses, 1)
	c, err := begin(ctx, cfg, Deps{Version: "test", Log: log, Ready: func(a Addresses) error {
		ready <- a
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- c.Run(ctx) }()
	select {
	case r.at = <-ready:
	case err := <-r.done:
		t.Fatal(err)
	}
	r.conn, err = grpc.NewClient(r.at.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

func (r *running) end() {
	r.t.Helper()
	r.stop()
	if err := <-r.done; err != nil {
		r.t.Error(err)
	}
	if err := r.conn.Close(); err != nil {
		r.t.Error(err)
	}
}

func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.at.HTTP + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	defer http.DefaultClient.CloseIdleConnections()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// stream sends chunks on a new stream.
func (r *running) stream(ctx context.Context, cs []*attribution.Chunk, flush bool) grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent] {
	r.t.Helper()
	s, err := pb.NewIngestClient(r.conn).Stream(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	k := cs[0].Key
	ms := []*pb.FromAgent{
		{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: k.Cluster, Node: k.Node, Boot: k.Boot[:], Version: "a"}}},
		{Message: &pb.FromAgent_Roster{Roster: wire.EncodeRoster(cs[0].Roster)}},
	}
	for _, c := range cs {
		m, err := wire.EncodeChunk(c, c.Roster.Fingerprint())
		if err != nil {
			r.t.Fatal(err)
		}
		ms = append(ms, &pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})
	}
	if flush {
		ms = append(ms, &pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}})
	}
	for _, m := range ms {
		if err := s.Send(m); err != nil {
			r.t.Fatal(err)
		}
	}
	return s
}

// deliver sends chunks on a new stream and waits until the last is
// acknowledged, or not, where flush is false.
func (r *running) deliver(cs []*attribution.Chunk, flush bool) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := r.stream(ctx, cs, flush)
	last := int64(cs[len(cs)-1].Key.Sequence)
	for {
		m, err := s.Recv()
		if err != nil {
			r.t.Fatal(err)
		}
		if m.GetReject() != nil {
			r.t.Fatalf("rejected: %v", m.GetReject())
		}
		if m.GetAck().GetSequence() == last {
			return
		}
	}
}

// send sends chunks and waits until they are seen, not until they are durable.
func (r *running) send(cs []*attribution.Chunk) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.stream(ctx, cs, false)
	for through := int64(0); through < int64(cs[len(cs)-1].End()); {
		st, err := pb.NewLedgerClient(r.conn).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			r.t.Fatal(err)
		}
		if len(st.GetNodes()) > 0 {
			through = st.GetNodes()[0].GetVisibleThrough()
		}
	}
}

func chunks(from attribution.Second, n int) []*attribution.Chunk {
	facts := &attribution.Roster{
		Devices:  []attribution.Device{{ID: "GPU-0", Cluster: "c", Node: "n", Model: "H100"}},
		Owners:   []attribution.Owner{{}, {Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "shop", Pod: "p", Container: "c"}},
		Methods:  []string{"sm/device"},
		Subjects: []attribution.Subject{{Owner: 1, Model: "llama"}},
		Measures: []attribution.Measure{attribution.Success},
	}
	var cs []*attribution.Chunk
	for i := range n {
		first := from + attribution.Second(10*i)
		var ws []attribution.DeviceWindow
		var ts []attribution.Tally
		for s := first; s < first+10; s++ {
			ws = append(ws, attribution.DeviceWindow{
				Second: s, Price: attribution.Price{PerHour: 36 * money.Unit / 10, Revision: 1},
				Slices: []attribution.Slice{
					{Owner: 1, Basis: attribution.Used, Time: 250_000_000},
					{Owner: 1, Basis: attribution.Reserved, Time: 750_000_000},
				},
			})
			ts = append(ts, attribution.Tally{Second: s, Value: int64(attribution.One)})
		}
		cs = append(cs, attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}, Sequence: first}, 10, facts.Facts(), ws, ts))
	}
	return cs
}

const base attribution.Second = 1_700_000_040

// The same chunks sent to one collector and to its successor are there once, at
// the price that they were rated at; a stop makes durable what is pending.
func TestLaw4OneLedgerOverRestarts(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.RateCard = filepath.Join(dir, "card.yaml")
	if err := os.WriteFile(cfg.RateCard, []byte(card), 0o600); err != nil {
		t.Fatal(err)
	}
	all := chunks(base, 15)
	r := serve(t, cfg)
	r.deliver(all[:9], true)
	// Not flushed: what is beyond the full minute is pending, and in reports.
	r.deliver(all[:12], false)
	want := func(n int) {
		t.Helper()
		rep, err := pb.NewLedgerClient(r.conn).Report(context.Background(), &pb.ReportRequest{GroupBy: []string{"namespace"}})
		if err != nil {
			t.Fatal(err)
		}
		// 3.60 an hour is 0.001 a second.
		sum := rep.GetTotal().GetSum()
		if cost, time := fmt.Sprintf("0.%02d", n), fmt.Sprintf("%d0000000000", n); sum.GetCost() != cost || sum.GetDeviceTimeNs() != time {
			t.Fatalf("cost %s, time %s: want %s and %s", sum.GetCost(), sum.GetDeviceTimeNs(), cost, time)
		}
		if rep.GetCurrency() != "USD" || len(rep.GetRows()) != 1 || rep.GetRows()[0].GetKeys()[0] != "shop" {
			t.Fatalf("report %v", rep)
		}
	}
	want(12)
	r.end()

	r = serve(t, cfg)
	want(12)
	r.deliver(all, true)
	want(15)
	st, err := pb.NewLedgerClient(r.conn).Status(context.Background(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.GetRateCardRevision() != 1 || st.GetFirstSecond() != int64(base) || st.GetLastSecond() != int64(base)+149 || len(st.GetWarnings()) != 0 ||
		len(st.GetNodes()) != 1 || st.GetNodes()[0].GetStoredThrough() != int64(base)+150 {
		t.Errorf("status %v", st)
	}
	v, err := pb.NewLedgerClient(r.conn).Verify(context.Background(), &pb.VerifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := v.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p.GetBroken() != "" || len(p.GetUnchecked()) > 0 {
			t.Fatalf("verification: %v", p)
		}
		if p.GetDone() {
			break
		}
	}
	r.end()
}

// Whatever else runs, a stop makes durable what is pending.
func TestAStopCommitsWhateverRunsBeside(t *testing.T) {
	away, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t.TempDir())
	cfg.Gateways = []GatewayConfig{{Name: "g", URLs: []string{"http://" + away}}}
	cfg.Export.OTLP.Endpoint, cfg.Export.OTLP.Insecure = away, true
	cfg.OpenCostListen = "127.0.0.1:0"
	for n := range 5 {
		r := serve(t, cfg)
		l := pb.NewLedgerClient(r.conn)
		st, err := l.Status(context.Background(), &pb.StatusRequest{})
		if err != nil || len(st.GetGateways()) != 1 || st.GetGateways()[0].GetName() != "g" {
			t.Errorf("status %v, %v", st, err)
		}
		if last := st.GetLastSecond(); n > 0 && last != int64(base)+int64(10*n)-1 {
			t.Errorf("after stop %d the ledger ends at %d", n, last)
		}
		if code, body := r.get("/metrics"); code != http.StatusOK || !strings.Contains(body, `gpuledger_collector_gateway_up{cluster="default",gateway="g"} 0`) {
			t.Errorf("%d %s", code, body)
		}
		r.send(chunks(base+attribution.Second(10*n), 1))
		r.end()
	}
}

func TestHTTP(t *testing.T) {
	cfg := testConfig(t.TempDir())
	r := serve(t, cfg)
	defer r.end()
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": "gpuledger_collector_pending_chunks 0", "/": "<html", "/v1/status": `"version":"test"`,
	} {
		if code, body := r.get(path); code != http.StatusOK || !strings.Contains(strings.ReplaceAll(body, ": ", ":"), strings.ReplaceAll(want, ": ", ":")) {
			t.Errorf("%s: %d %.200s", path, code, body)
		}
	}
	if code, body := r.get("/v1/rate-card"); code != http.StatusNotFound || !strings.Contains(body, "unpriced") {
		t.Errorf("a card that is not there: %d %s", code, body)
	}
	if code, _ := r.get("/debug/pprof/"); code == http.StatusOK {
		t.Error("profiles are served unasked")
	}
	var st struct{ Warnings []string }
	_, body := r.get("/v1/status")
	if err := json.Unmarshal([]byte(body), &st); err != nil || len(st.Warnings) != 1 {
		t.Errorf("no warning about the missing rate card: %s (%v)", body, err)
	}
}

// Rate cards and rules applied are durable, reach the streams, and survive.
func TestDocuments(t *testing.T) {
	ctx := context.Background()
	cfg := testConfig(t.TempDir())
	r := serve(t, cfg)
	stream, err := pb.NewIngestClient(r.conn).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: "c", Node: "n", Boot: make([]byte, 16)}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetWelcome() == nil {
		t.Fatalf("%v, %v: want a welcome", m, err)
	}
	ledger := pb.NewLedgerClient(r.conn)
	put := &pb.RateCard{Currency: "EUR", Prices: []*pb.PriceRule{{Model: "*", NanoPerDeviceHour: 2_000_000_000}}}
	for revision := range uint32(2) {
		put.Prices[0].NanoPerDeviceHour++
		got, err := ledger.ApplyRateCard(ctx, &pb.ApplyRateCardRequest{Card: put})
		if err != nil || got.GetRevision() != revision+1 {
			t.Fatalf("revision %v, %v", got, err)
		}
		if m, err := stream.Recv(); err != nil || m.GetRateCard().GetRevision() != revision+1 {
			t.Fatalf("%v, %v: want the card", m, err)
		}
	}
	rules := &pb.Rules{Rules: []*pb.Rule{{Target: "team", Namespace: "shop", Value: "search"}}}
	if got, err := ledger.ApplyRules(ctx, &pb.ApplyRulesRequest{Rules: rules}); err != nil || got.GetRevision() != 1 {
		t.Fatalf("rules %v, %v", got, err)
	}
	r.end()

	r = serve(t, cfg)
	defer r.end()
	r.deliver(chunks(base, 1), true)
	ledger = pb.NewLedgerClient(r.conn)
	if c, err := ledger.GetRateCard(ctx, &pb.GetRateCardRequest{}); err != nil || c.GetRevision() != 2 || c.GetPrices()[0].GetNanoPerDeviceHour() != 2_000_000_002 {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := ledger.GetRateCard(ctx, &pb.GetRateCardRequest{Revision: 1}); err != nil || c.GetPrices()[0].GetNanoPerDeviceHour() != 2_000_000_001 {
		t.Errorf("%v, %v", c, err)
	}
	rep, err := ledger.Report(ctx, &pb.ReportRequest{GroupBy: []string{"team"}})
	if err != nil || len(rep.GetRows()) != 1 || rep.GetRows()[0].GetKeys()[0] != "search" {
		t.Errorf("%v, %v", rep, err)
	}
}

// A file is applied once for each content: what was applied by hand since then
// is not undone by the next start.
func TestAFileIsAppliedWhenItChanges(t *testing.T) {
	ctx := context.Background()
	cfg := testConfig(t.TempDir())
	dir := t.TempDir()
	cfg.RateCard, cfg.Rules = filepath.Join(dir, "card.yaml"), filepath.Join(dir, "rules.yaml")
	write := func(price, team string) {
		t.Helper()
		if err := errors.Join(
			os.WriteFile(cfg.RateCard, []byte(strings.Replace(card, "3.60", price, 1)), 0o600),
			os.WriteFile(cfg.Rules, []byte("rules: [{target: team, namespace: shop, value: "+team+"}]\n"), 0o600),
		); err != nil {
			t.Fatal(err)
		}
	}
	begin := func(what string, revision uint32, nanos int64, team string) *running {
		t.Helper()
		r := serve(t, cfg)
		l := pb.NewLedgerClient(r.conn)
		c, err := l.GetRateCard(ctx, &pb.GetRateCardRequest{})
		if err != nil || c.GetRevision() != revision || c.GetPrices()[0].GetNanoPerDeviceHour() != nanos {
			t.Errorf("%s: %v, %v: want revision %d at %d", what, c, err, revision, nanos)
		}
		rules, err := l.GetRules(ctx, &pb.GetRulesRequest{})
		if err != nil || rules.GetRevision() != revision || rules.GetRules()[0].GetValue() != team {
			t.Errorf("%s: %v, %v: want revision %d with team %s", what, rules, err, revision, team)
		}
		return r
	}
	write("1", "a")
	begin("new", 1, 1e9, "a").end()
	r := begin("again", 1, 1e9, "a")
	l := pb.NewLedgerClient(r.conn)
	if _, err := l.ApplyRateCard(ctx, &pb.ApplyRateCardRequest{Card: &pb.RateCard{Currency: "USD", Prices: []*pb.PriceRule{{Model: "*", NanoPerDeviceHour: 2e9}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ApplyRules(ctx, &pb.ApplyRulesRequest{Rules: &pb.Rules{Rules: []*pb.Rule{{Target: "team", Namespace: "shop", Value: "b"}}}}); err != nil {
		t.Fatal(err)
	}
	r.end()
	begin("the file stays, another is in force", 2, 2e9, "b").end()
	write("3", "c")
	begin("the file changes", 3, 3e9, "c").end()
	write("1", "a")
	begin("the file changes back", 4, 1e9, "a").end()
}

func TestBadFilesAreTheConfigurationsFault(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("curency: USD\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"card":    func(c *Config) { c.RateCard = bad },
		"no card": func(c *Config) { c.RateCard = filepath.Join(dir, "none") },
		"rules":   func(c *Config) { c.Rules = bad },
		"TLS":     func(c *Config) { c.TLS.CertFile, c.TLS.KeyFile = bad, bad },
	} {
		cfg := testConfig(t.TempDir())
		change(&cfg)
		if _, err := New(context.Background(), cfg, Deps{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
