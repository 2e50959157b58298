package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/verify"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// documents keeps revisions in memory and puts rules in force.
type documents struct {
	store *querytest.Store
	cards []*rating.Card
	rules []*mapping.Rules
}

func (d *documents) RateCard(_ context.Context, revision uint32) (*rating.Card, error) {
	return pick(d.cards, revision)
}

func pick[T any](all []*T, revision uint32) (*T, error) {
	if revision == 0 {
		revision = uint32(len(all))
	}
	if revision == 0 || int(revision) > len(all) {
		return nil, store.ErrNotFound
	}
	return all[revision-1], nil
}

func (d *documents) ApplyRateCard(_ context.Context, c *rating.Card) (*rating.Card, error) {
	out := *c
	out.Revision = uint32(len(d.cards) + 1)
	d.cards = append(d.cards, &out)
	return &out, nil
}

func (d *documents) Rules(_ context.Context, revision uint32) (*mapping.Rules, error) {
	if revision == 0 && len(d.rules) == 0 {
		return mapping.Default(), nil
	}
	return pick(d.rules, revision)
}

func (d *documents) ApplyRules(_ context.Context, r *mapping.Rules) (*mapping.Rules, error) {
	out := *r
	out.Revision = uint32(len(d.rules) + 1)
	d.rules = append(d.rules, &out)
	d.store.Map = out.Compile()
	return &out, nil
}

func card() *rating.Card {
	return &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "NVIDIA H100", PerDeviceHour: 5 * money.Unit / 2}}}
}

type fixture struct {
	store  *querytest.Store
	docs   *documents
	server *api.Server
	http   *httptest.Server
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{store: querytest.NewStore(querytest.NewWorld().Chunks(0, 600)...)}
	f.store.Map = mapping.Default().Compile()
	f.docs = &documents{store: f.store}
	f.server = api.New(api.Config{
		Query:     query.New(query.Config{Store: f.store}),
		Verify:    verify.New(verify.Config{Store: f.store}),
		Documents: f.docs,
		Status: func(context.Context) (*pb.StatusResponse, error) {
			return &pb.StatusResponse{Version: "test", Nodes: []*pb.NodeStatus{{Node: "n1"}}}, nil
		},
		Now: func() time.Time { return time.Unix(int64(querytest.Start)+600, 0) },
	})
	g, err := api.NewGateway(t.Context(), f.server, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.http = httptest.NewServer(g)
	t.Cleanup(func() {
		f.http.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) do(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.http.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Each question's answer over HTTP is the golden file, and the same message
// that gRPC gives.
func TestAnswers(t *testing.T) {
	f := newFixture(t)
	if _, err := f.docs.ApplyRateCard(t.Context(), card()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, c := range []struct {
		name, path string
		direct     func() (proto.Message, error)
		message    proto.Message
	}{
		{"report", "/v1/report?group_by=team&group_by=basis&filter=node=n1&limit=3", func() (proto.Message, error) {
			return f.server.Report(ctx, &pb.ReportRequest{GroupBy: []string{"team", "basis"}, Filter: []string{"node=n1"}, Limit: 3})
		}, &pb.ReportResponse{}},
		{"steps", fmt.Sprintf("/v1/report?from=%d&to=%d&step=60", querytest.Start, querytest.Start+120), func() (proto.Message, error) {
			return f.server.Report(ctx, &pb.ReportRequest{From: int64(querytest.Start), To: int64(querytest.Start) + 120, Step: 60})
		}, &pb.ReportResponse{}},
		{"unit-costs", "/v1/unit-costs", func() (proto.Message, error) { return f.server.UnitCosts(ctx, &pb.UnitCostsRequest{}) }, &pb.UnitCostsResponse{}},
		{"customers", "/v1/unit-costs?group_by=tenant&group_by=tier&latency_target_ms=2000&split_by=requests&output_weight=3.5", func() (proto.Message, error) {
			return f.server.UnitCosts(ctx, &pb.UnitCostsRequest{GroupBy: []string{"tenant", "tier"}, LatencyTargetMs: 2000, SplitBy: "requests", OutputWeight: "3.5"})
		}, &pb.UnitCostsResponse{}},
		{"runs", "/v1/runs?limit=5", func() (proto.Message, error) { return f.server.Runs(ctx, &pb.RunsRequest{Limit: 5}) }, &pb.RunsResponse{}},
		{"slo", "/v1/slo?latency_p95_ms=2000&error_rate=0.01&cost_per_success=0.002&step=300", func() (proto.Message, error) {
			return f.server.SLO(ctx, &pb.SLORequest{LatencyP95Ms: 2000, ErrorRate: "0.01", CostPerSuccess: "0.002", Step: 300})
		}, &pb.SLOResponse{}},
		{"devices", "/v1/devices", func() (proto.Message, error) { return f.server.Devices(ctx, &pb.DevicesRequest{}) }, &pb.DevicesResponse{}},
		{"status", "/v1/status", func() (proto.Message, error) { return f.server.Status(ctx, &pb.StatusRequest{}) }, &pb.StatusResponse{}},
		{"rate-card", "/v1/rate-card?revision=1", func() (proto.Message, error) { return f.server.GetRateCard(ctx, &pb.GetRateCardRequest{}) }, &pb.RateCard{}},
		{"rules", "/v1/rules", func() (proto.Message, error) { return f.server.GetRules(ctx, &pb.GetRulesRequest{}) }, &pb.Rules{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := f.do(t, "GET", c.path, "")
			if code != http.StatusOK {
				t.Fatalf("%d %s", code, body)
			}
			if err := protojson.Unmarshal([]byte(body), c.message); err != nil {
				t.Fatal(err)
			}
			direct, err := c.direct()
			if err != nil || !proto.Equal(direct, c.message) {
				t.Errorf("gRPC gives %v, %v\nHTTP gives %v", direct, err, c.message)
			}
			golden(t, c.name, body)
		})
	}
}

// golden compares JSON with a file, indented so that people can read it.
func golden(t *testing.T, name, body string) {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: got\n%s\nrun with -update if this is right", file, got)
	}
}

func TestBadRequests(t *testing.T) {
	f := newFixture(t)
	f.store.KeptFrom = querytest.Start + 600
	long := strings.Repeat("x", api.MaxRequest)
	for _, c := range []struct {
		method, path, body string
		status             int
		code               codes.Code
		want               string
	}{
		{"GET", "/v1/report?group_by=teams", "", 400, codes.InvalidArgument, "did you mean team?"},
		{"GET", "/v1/report?groupby=team", "", 400, codes.InvalidArgument, `unknown parameter "groupby": want one of from, to, step, group_by, filter, limit`},
		{"POST", "/v1/rules", `{"rules":{}}`, 405, codes.Unimplemented, "takes GET, HEAD, PUT"},
		{"DELETE", "/v1/report", "", 405, codes.Unimplemented, "takes GET, HEAD"},
		{"GET", "/v1/status?x=1", "", 400, codes.InvalidArgument, "takes none"},
		{"GET", "/v1/report?from=noon", "", 400, codes.InvalidArgument, "noon"},
		{"GET", "/v1/report?from=7&to=3", "", 400, codes.InvalidArgument, "from must be before to"},
		{"GET", fmt.Sprintf("/v1/report?from=%d&to=%d", querytest.Start+1, querytest.Start+30), "", 400, codes.OutOfRange, "whole minutes"},
		{"GET", "/v1/unit-costs?split_by=hand", "", 400, codes.InvalidArgument, "want tokens or requests"},
		{"GET", "/v1/unit-costs?input_weight=x", "", 400, codes.InvalidArgument, "the weight of input tokens"},
		{"GET", "/v1/slo", "", 400, codes.InvalidArgument, "there is no target"},
		{"GET", "/v1/runs?filter=tenant=x", "", 400, codes.InvalidArgument, "runs have no tenant"},
		{"GET", "/v1/unit-costs?group_by=device", "", 400, codes.InvalidArgument, "counted per owner"},
		{"GET", "/v1/devices?filter=" + url.QueryEscape("team=a"), "", 400, codes.InvalidArgument, "devices have no team"},
		{"GET", "/v1/verify?from=9&to=3", "", 400, codes.InvalidArgument, "from must be before to"},
		{"GET", "/v1/rate-card", "", 404, codes.NotFound, "apply one with gpuledger ratecard apply"},
		{"GET", "/v1/rules?revision=8", "", 404, codes.NotFound, "there is no revision 8"},
		{"PUT", "/v1/rules", `{"rules":{"rules":[{"target":"teem","value":"x"}]}}`, 400, codes.InvalidArgument, "rule 1: target"},
		{"PUT", "/v1/rules", `{}`, 400, codes.InvalidArgument, "has no rules"},
		{"PUT", "/v1/rules", `{"rulez":{}}`, 400, codes.InvalidArgument, "rulez"},
		{"PUT", "/v1/rules", `{"rules":`, 400, codes.InvalidArgument, ""},
		{"PUT", "/v1/rate-card", `{}`, 400, codes.InvalidArgument, "has no card"},
		{"PUT", "/v1/rate-card", `{"card":{"currency":"dollars"}}`, 400, codes.InvalidArgument, "ISO 4217"},
		{"PUT", "/v1/rules", `{"rules":"` + long + `"}`, 400, codes.InvalidArgument, ""},
	} {
		status, body := f.do(t, c.method, c.path, c.body)
		var got struct {
			Code    codes.Code
			Message string
		}
		if line, ok := strings.CutPrefix(strings.TrimSpace(body), `{"error":`); ok {
			body = strings.TrimSuffix(line, "}") // of a stream
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Errorf("%s: %v in %q", c.path, err, body)
			continue
		}
		if status != c.status || got.Code != c.code || !strings.Contains(got.Message, c.want) {
			t.Errorf("%s %s: %d %v %q\nwant %d %v %q", c.method, c.path, status, got.Code, got.Message, c.status, c.code, c.want)
		}
	}
	if len(f.docs.cards)+len(f.docs.rules) != 0 {
		t.Error("a bad request was applied")
	}
}

func TestHeadIsGetWithoutItsBody(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]int{"/v1/report": 200, "/v1/report?x=1": 400, "/v1/rate-card": 404} {
		if status, body := f.do(t, "HEAD", path, ""); status != want || body != "" {
			t.Errorf("%s: %d %q, want %d", path, status, body, want)
		}
	}
}

func TestApplyRateCard(t *testing.T) {
	f := newFixture(t)
	req := &pb.ApplyRateCardRequest{Card: wire.EncodeRateCard(card())}
	req.Card.Revision = 77 // is ignored
	body, err := protojson.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	for want := uint32(1); want <= 2; want++ {
		code, got := f.do(t, "PUT", "/v1/rate-card", string(body))
		var m pb.RateCard
		if err := protojson.Unmarshal([]byte(got), &m); err != nil || code != 200 || m.GetRevision() != want {
			t.Errorf("%d %s, %v", code, got, err)
		}
	}
	req.Card.Currency = "EUR"
	_, err = f.server.ApplyRateCard(t.Context(), req)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "a ledger has one currency") {
		t.Errorf("got %v", err)
	}
}

// Rules that are applied change what is said of the past.
func TestLaw7AppliedRulesChangeHistory(t *testing.T) {
	f := newFixture(t)
	teams := func() string {
		rep, err := f.server.Report(t.Context(), &pb.ReportRequest{GroupBy: []string{"team"}, Filter: []string{"namespace=research"}})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(rep.GetRows()[0].GetKeys(), rep.GetRows()[0].GetMissing()) + rep.GetRows()[0].GetSum().GetCost()
	}
	if got := teams(); got != "[] [true]0.208333333" {
		t.Errorf("before: %s", got)
	}
	code, body := f.do(t, "PUT", "/v1/rules", `{"rules":{"rules":[{"target":"team","from_namespace":true}]}}`)
	if code != 200 || !strings.Contains(body, `"revision":1`) {
		t.Fatalf("%d %s", code, body)
	}
	if got := teams(); got != "[research] [false]0.208333333" {
		t.Errorf("after: %s", got)
	}
}

func TestVerifyStreams(t *testing.T) {
	f := newFixture(t)
	last := func(least int) *pb.VerifyProgress {
		_, body := f.do(t, "GET", "/v1/verify", "")
		var m pb.VerifyProgress
		sc := bufio.NewScanner(strings.NewReader(body))
		n := 0
		for ; sc.Scan(); n++ {
			result := strings.TrimSuffix(strings.TrimPrefix(sc.Text(), `{"result":`), "}")
			if err := protojson.Unmarshal([]byte(result), &m); err != nil {
				t.Fatalf("%v in %s", err, sc.Text())
			}
		}
		if n < least {
			t.Errorf("%d messages: want progress and an end", n)
		}
		return &m
	}
	if m := last(2); !m.GetDone() || m.GetLaw() != 0 || m.GetBroken() != "" || m.GetChunks() != 120 {
		t.Errorf("sound: %v", m)
	}
	f.store.Encoded[3].Chunk.Digest[0] ^= 1
	if m := last(1); !m.GetDone() || m.GetLaw() != 4 || !strings.Contains(m.GetBroken(), `node "n1" chunk 1700006430`) {
		t.Errorf("broken: %v", m)
	}
}

func TestNothingStored(t *testing.T) {
	f := newFixture(t)
	*f.store = *querytest.NewStore()
	for _, path := range []string{"/v1/report?step=60&group_by=team", "/v1/unit-costs", "/v1/devices", "/v1/verify"} {
		if code, body := f.do(t, "GET", path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// What no rate card prices is said to be unknown, not 0.
func TestLaw9NoRateCard(t *testing.T) {
	f := newFixture(t)
	ds, err := f.server.Devices(t.Context(), &pb.DevicesRequest{})
	if err != nil || ds.GetCurrency() != "" || ds.GetDevices()[0].GetPricePerHour() != "" {
		t.Errorf("%v, %v", ds, err)
	}
	rep, err := f.server.Report(t.Context(), &pb.ReportRequest{Filter: []string{"node=n2"}})
	if err != nil {
		t.Fatal(err)
	}
	if s := rep.GetTotal().GetSum(); s.GetCost() != "" || s.GetEnergyUj() != "" || s.GetMemoryByteSeconds() != "" || s.GetUnpricedTimeNs() != "600000000000" {
		t.Errorf("got %v", s)
	}
}

var _ api.Documents = (*documents)(nil)
