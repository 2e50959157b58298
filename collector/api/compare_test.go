package api_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/mapping"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func TestCompareRules(t *testing.T) {
	f := newFixture(t)
	if _, err := f.docs.ApplyRateCard(t.Context(), card()); err != nil {
		t.Fatal(err)
	}
	rules, err := mapping.Parse([]byte(`
rules:
  - {target: team, namespace: research, value: science}
  - {target: model, served: "rank-*", from_name: true, extract: "rank-*"}
`))
	if err != nil {
		t.Fatal(err)
	}
	req := &pb.CompareRulesRequest{Rules: api.EncodeRules(rules), Targets: []string{"team", "model"}}
	ask, err := protojson.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	code, body := f.do(t, "POST", "/v1/rules/compare", string(ask))
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	golden(t, "compare", body)
	if before := mapping.Default().Compile(); len(f.docs.rules) != 0 || f.store.Map(&f.store.Decoded[0].Roster.Owners[1]) != before(&f.store.Decoded[0].Roster.Owners[1]) {
		t.Error("comparing has applied the rules")
	}

	for name, c := range map[string]struct {
		req  *pb.CompareRulesRequest
		want string
	}{
		"no rules":         {&pb.CompareRulesRequest{}, "has no rules"},
		"unsound rules":    {&pb.CompareRulesRequest{Rules: &pb.Rules{Rules: []*pb.Rule{{Target: "team"}}}}, "rule 1: yields nothing"},
		"unknown targets":  {&pb.CompareRulesRequest{Rules: &pb.Rules{}, Targets: []string{"x"}}, `unknown target "x"`},
		"a range reversed": {&pb.CompareRulesRequest{Rules: &pb.Rules{}, From: 2, To: 1}, "from must be before to"},
	} {
		if _, err := f.server.CompareRules(t.Context(), c.req); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for _, c := range []struct{ method, path string }{{"GET", "/v1/rules/compare"}, {"POST", "/v1/rules/compare?from=1"}} {
		if code, body := f.do(t, c.method, c.path, "{}"); code == http.StatusOK {
			t.Errorf("%s %s: %s", c.method, c.path, body)
		}
	}
}

// Every field of a rule travels.
func TestRulesTravel(t *testing.T) {
	r := mapping.Rule{
		Target: "a", Namespace: "b", Controller: "c", Labels: map[string]string{"d": "e"}, Served: "f", Tenant: "g",
		Value: "h", FromLabel: "i", FromNamespace: true, FromController: true, FromName: true, Extract: "j",
	}
	for v, i := reflect.ValueOf(r), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("this test knows nothing of %s", v.Type().Field(i).Name)
		}
	}
	want := &mapping.Rules{Revision: 7, Rules: []mapping.Rule{r}}
	if got := api.DecodeRules(api.EncodeRules(want)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
