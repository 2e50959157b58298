package collector

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// serveMember serves a collector of a ledger that others share.
func serveMember(t *testing.T, ledger *querytest.Ledger, name, at string, all []string) *running {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.Store, cfg.ClickHouse.Addresses = storeClickHouse, []string{"in memory"}
	cfg.GRPCListen = at
	cfg.Peers.Name, cfg.Peers.Addresses = name, all
	r, _ := serveNew(t, cfg, slog.New(slog.DiscardHandler), func(ctx context.Context, cfg Config, deps Deps) (*Collector, error) {
		return open(ctx, cfg, deps, ledger.Open())
	})
	return r
}

func twoMembers(t *testing.T) (a, b *running) {
	t.Helper()
	var at []string
	for range 2 {
		addr, err := loopback.Address()
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, addr)
	}
	ledger := querytest.NewLedger()
	return serveMember(t, ledger, "a", at[0], at), serveMember(t, ledger, "b", at[1], at)
}

func (r *running) status() *pb.StatusResponse {
	r.t.Helper()
	st, err := r.ledger().Status(context.Background(), &pb.StatusRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

func (r *running) report() *pb.ReportResponse {
	r.t.Helper()
	rep, err := r.ledger().Report(context.Background(), &pb.ReportRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return rep
}

// eventually asks again until it is so. What never comes fails by the test's
// own limit.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// What streams to one collector and is not stored is in the other's answers; each
// knows of the other and of where the node is.
func TestCollectorsTellOneStory(t *testing.T) {
	a, b := twoMembers(t)
	defer b.end()
	cs := chunks(base, 2)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.stream(ctx, cs, false)
	const all = "20000000000" // ns: nothing of it is a whole minute, so nothing is stored
	eventually(t, func() bool {
		got := b.report().GetTotal().GetSum().GetDeviceTimeNs()
		if got != all && got != "0" && got != "10000000000" {
			t.Fatalf("the other has %s ns", got)
		}
		return got == all
	})
	unit, err := b.ledger().UnitCosts(context.Background(), &pb.UnitCostsRequest{})
	if err != nil || unit.GetTotal().GetInferences() != "20" || len(unit.GetNotes())+len(b.report().GetNotes()) != 0 {
		t.Errorf("%v, %v", unit, err)
	}
	for _, r := range []*running{a, b} {
		st := r.status()
		nodes := map[string]int32{}
		for _, c := range st.GetCollectors() {
			if !c.GetAnswering() || c.GetVersion() != "test" {
				t.Errorf("collector %v", c)
			}
			nodes[c.GetName()] = c.GetNodes()
		}
		if len(nodes) != 2 || nodes["a"] != 1 || nodes["b"] != 0 {
			t.Errorf("nodes of collectors: %v", nodes)
		}
		if len(st.GetNodes()) != 1 || st.GetNodes()[0].GetCollector() != "a" || !st.GetNodes()[0].GetConnected() || st.GetNodes()[0].GetVisibleThrough() != int64(base)+20 {
			t.Errorf("nodes: %v", st.GetNodes())
		}
	}
	if code, body := b.get("/metrics"); code != http.StatusOK || !strings.Contains(body, "gpuledger_collector_peer_chunks_total ") ||
		strings.Contains(body, "gpuledger_collector_peer_answers_total 0\n") || !strings.Contains(body, "gpuledger_collector_peer_late_questions_total 0\n") {
		t.Errorf("metrics: %d\n%s", code, body)
	}

	// A rate card and rules of the one come into force at the other.
	if _, err := a.ledger().ApplyRateCard(ctx, &pb.ApplyRateCardRequest{Card: flatCard(1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ledger().ApplyRules(ctx, &pb.ApplyRulesRequest{Rules: &pb.Rules{Rules: []*pb.Rule{{Target: "team", Namespace: "shop", Value: "sales"}}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return b.status().GetRateCardRevision() == 1 && a.status().GetRulesRevision() == 1 })
	cancel()

	// One that stops stores what it has, and then is missed.
	address := a.at.GRPC
	a.end()
	rep := b.report()
	if rep.GetTotal().GetSum().GetDeviceTimeNs() != all {
		t.Errorf("after the stop the other has %s ns", rep.GetTotal().GetSum().GetDeviceTimeNs())
	}
	unit, err = b.ledger().UnitCosts(context.Background(), &pb.UnitCostsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, notes := range [][]string{rep.GetNotes(), unit.GetNotes()} {
		if len(notes) != 1 || !strings.Contains(notes[0], "another collector has not stored yet") || strings.Contains(notes[0], address) {
			t.Errorf("an answer without %s, which not everyone may know of, notes %q", address, notes)
		}
	}
	st := b.status()
	if w := strings.Join(st.GetWarnings(), "\n"); !strings.Contains(w, "the collector at "+address+" does not answer") {
		t.Errorf("warnings: %s", w)
	}
	answering := 0
	for _, c := range st.GetCollectors() {
		if c.GetAnswering() {
			answering++
		} else if c.GetAddress() != address || c.GetError() == "" {
			t.Errorf("collector %v", c)
		}
	}
	if answering != 1 || len(st.GetCollectors()) != 2 {
		t.Errorf("collectors: %v", st.GetCollectors())
	}
}

func TestNodesOfSeveralCollectors(t *testing.T) {
	node := func(name, collector string, stored, visible int64) *pb.NodeStatus {
		return &pb.NodeStatus{Cluster: "c", Node: name, Connected: collector != "", Collector: collector, StoredThrough: stored, VisibleThrough: visible}
	}
	for name, c := range map[string]struct{ a, b, want []*pb.NodeStatus }{
		"nothing":             {nil, nil, nil},
		"of one":              {[]*pb.NodeStatus{node("n", "", 5, 5)}, nil, []*pb.NodeStatus{node("n", "", 5, 5)}},
		"it has moved on":     {[]*pb.NodeStatus{node("n", "", 5, 5)}, []*pb.NodeStatus{node("n", "b", 3, 9)}, []*pb.NodeStatus{node("n", "b", 5, 9)}},
		"the other knows it":  {[]*pb.NodeStatus{node("n", "a", 5, 9)}, []*pb.NodeStatus{node("n", "", 7, 7)}, []*pb.NodeStatus{node("n", "a", 7, 9)}},
		"both believe it":     {[]*pb.NodeStatus{node("n", "a", 5, 6)}, []*pb.NodeStatus{node("n", "b", 5, 8)}, []*pb.NodeStatus{node("n", "b", 5, 8)}},
		"both, as far":        {[]*pb.NodeStatus{node("n", "a", 5, 8)}, []*pb.NodeStatus{node("n", "b", 5, 8)}, []*pb.NodeStatus{node("n", "a", 5, 8)}},
		"several, in order":   {[]*pb.NodeStatus{node("z", "a", 1, 1)}, []*pb.NodeStatus{node("b", "b", 2, 2)}, []*pb.NodeStatus{node("b", "b", 2, 2), node("z", "a", 1, 1)}},
		"the other is behind": {[]*pb.NodeStatus{node("n", "", 50, 50)}, []*pb.NodeStatus{node("n", "b", 3, 9)}, []*pb.NodeStatus{node("n", "b", 50, 50)}},
	} {
		got := merge(c.a, c.b)
		same := len(got) == len(c.want)
		for i := range got {
			same = same && proto.Equal(got[i], c.want[i])
		}
		if !same {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPeerToken(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"a token": {"secret", "Bearer secret"}, "a line": {"secret\n", "Bearer secret"}, "nothing": {"", ""}, "two": {"a b", ""},
		"two lines": {"a\nb", ""}, "too long": {strings.Repeat("x", maxToken+1), ""}, "as long as may be": {strings.Repeat("x", maxToken), "Bearer " + strings.Repeat("x", maxToken)},
	} {
		file := filepath.Join(dir, fmt.Sprint(len(c.text), len(name)))
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := peerToken{file, true}.GetRequestMetadata(t.Context())
		if m["authorization"] != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %.20q, %v", name, m, err)
		}
	}
	if _, err := (peerToken{filepath.Join(dir, "none"), true}).GetRequestMetadata(t.Context()); err == nil {
		t.Error("a file that is not there is a token")
	}
	if !(peerToken{"", true}).RequireTransportSecurity() || (peerToken{"", false}).RequireTransportSecurity() {
		t.Error("a token goes over plain connections where others are encrypted, or not where all are plain")
	}
}

// A collector with others to ask whose token can't be read does not start.
func TestAPeerTokenThatIsNotThereIsTheConfigurationsFault(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Store, cfg.ClickHouse.Addresses = storeClickHouse, []string{"in memory"}
	cfg.Peers.Addresses, cfg.Peers.TokenFile = []string{"127.0.0.1:1"}, filepath.Join(t.TempDir(), "none")
	_, err := open(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler)}, querytest.NewLedger().Open())
	if err == nil || !strings.Contains(err.Error(), "peers.token_file") {
		t.Errorf("%v", err)
	}
}
