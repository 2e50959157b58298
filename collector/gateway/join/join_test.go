package join_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
)

var (
	llama = attribution.Owner{
		Kind: attribution.Container, Cluster: "c", Namespace: "prod", Pod: "llama-7d9-x", ControllerKind: "Deployment", Controller: "llama",
	}
	kserve = attribution.Owner{
		Kind: attribution.Container, Cluster: "c", Namespace: "prod", Pod: "rank-predictor-1", ControllerKind: "Deployment", Controller: "rank-predictor",
		Labels: attribution.MakeLabels(map[string]string{"serving.kserve.io/inferenceservice": "rank"}),
	}
	stateful = attribution.Owner{
		Kind: attribution.Container, Cluster: "c", Namespace: "stage", Pod: "llama-0", ControllerKind: "StatefulSet", Controller: "llama",
	}
	process  = attribution.Owner{Kind: attribution.HostProcess, Cluster: "c", Node: "n", Command: "vllm"}
	distant  = attribution.Owner{Kind: attribution.Container, Cluster: "d", Namespace: "prod", Pod: "llama-1", ControllerKind: "Deployment", Controller: "llama"}
	everyone = []*attribution.Owner{&llama, &kserve, &stateful, &process, &distant}
)

func who(m *join.Matcher, backend string) (names []string) {
	for _, o := range everyone {
		if f := join.FactsOf(o); m.Match(backend, &f) {
			names = append(names, o.Cluster+"/"+o.Namespace+"/"+o.Pod)
		}
	}
	return names
}

func TestMatch(t *testing.T) {
	set := join.NewSet([]join.Gateway{
		{Cluster: "c", Name: "plain"},
		{Cluster: "c", Name: "ruled", Backends: []join.Rule{
			{Backend: "http://10.1.*", Namespace: "prod", Controller: "Deployment/rank*"},
			{Backend: "http://10.1.2.3*", Namespace: "stage"},
			{Backend: "*.example.com*", Cluster: "*", Controller: "*/llama"},
			{Backend: "https://api.bought.com*", Elsewhere: true},
			{Backend: "http://by-label", Labels: map[string]string{"serving.kserve.io/inferenceservice": "ra*"}},
		}},
		{Cluster: "c", Name: "all", Backends: []join.Rule{{Backend: "*", Namespace: "stage"}}},
	})
	const prod, rank, stage, host, far = "c/prod/llama-7d9-x", "c/prod/rank-predictor-1", "c/stage/llama-0", "c//", "d/prod/llama-1"
	here := []string{prod, rank, stage, host}
	for _, c := range []struct {
		gateway, backend string
		basis            join.Basis
		want             []string
	}{
		{"plain", "http://llama.prod.svc.cluster.local:8000/v1", join.ByName, []string{prod}},
		{"plain", "llama.prod.svc:8000", join.ByName, []string{prod}},
		{"plain", "llama.prod", join.ByName, []string{prod}},
		{"plain", "HTTP://user:pw@Llama.Prod.svc.cluster.local./v1?x=1", join.ByName, []string{prod}},
		{"plain", "http://llama:8000", join.ByName, []string{prod, stage}},
		{"plain", "http://rank.prod.svc.cluster.local", join.ByName, []string{rank}},
		{"plain", "llama-0.llama-headless.stage.svc.cluster.local:8000", join.ByName, []string{stage}},
		{"plain", "http://llama.nowhere.svc.cluster.local", join.ByName, nil},
		{"plain", "http://10.1.2.3:8000/v1", join.ByModel, here},
		{"plain", "[fd00::1]:8000", join.ByModel, here},
		{"plain", "fd00::1", join.ByModel, here},
		{"plain", "http://localhost:8000", join.ByModel, here},
		{"plain", "https://llm.example.com/v1", join.ByModel, here},
		{"plain", "", join.ByModel, here},
		{"plain", "http:///v1", join.ByModel, here},
		{"plain", "not a host", join.ByModel, here},
		{"ruled", "http://10.1.9.9:8000", join.ByRule, []string{rank}},
		{"ruled", "http://10.1.2.3:8000", join.ByRule, []string{rank, stage}},
		{"ruled", "https://llm.example.com/v1", join.ByRule, []string{prod, stage, far}},
		{"ruled", "https://api.bought.com/v1", join.ByRule, nil},
		{"ruled", "http://by-label", join.ByRule, []string{rank}},
		{"ruled", "http://llama.prod.svc", join.ByName, []string{prod}},
		{"ruled", "", join.ByModel, here},
		{"all", "", join.ByRule, []string{stage}},
		{"no longer configured", "llama.prod", join.ByName, []string{prod}},
	} {
		m := set.Matcher("c", join.NodePrefix+c.gateway)
		if got := who(m, c.backend); !slices.Equal(got, c.want) {
			t.Errorf("%s %q: %v, want %v", c.gateway, c.backend, got, c.want)
		}
		if b := m.Basis(c.backend); b != c.basis {
			t.Errorf("%s %q: by %v, want %v", c.gateway, c.backend, b, c.basis)
		}
	}
	if got := who((*join.Set)(nil).Matcher("c", "gateway/x"), "llama.prod"); !slices.Equal(got, []string{prod}) {
		t.Errorf("no set: %v", got)
	}
}

func TestLabelsAreAllThatIsLookedAt(t *testing.T) {
	set := join.NewSet([]join.Gateway{{Name: "g", Backends: []join.Rule{{Backend: "*", Labels: map[string]string{"team": "a", "app": "b"}}}}})
	want := []string{"app", "app.kubernetes.io/instance", "app.kubernetes.io/name", "serving.kserve.io/inferenceservice", "team"}
	if got := set.Labels(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := (*join.Set)(nil).Labels(); !slices.Equal(got, want[:4]) {
		t.Errorf("without rules: %v", got)
	}
}

// Whatever a gateway says, the answer is the same each time, nothing panics,
// and without rules an owner of another cluster is never meant.
func TestAnyBackend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		backend := rapid.OneOf(rapid.String(), rapid.StringMatching(`(https?://)?[a-z.:@\[\]/-]{0,30}`)).Draw(t, "backend")
		m := (*join.Set)(nil).Matcher("c", "gateway/g")
		got := who(m, backend)
		if !slices.Equal(got, who(m, backend)) || slices.Contains(got, "d/prod/llama-1") {
			t.Fatalf("%q: %v", backend, got)
		}
		if b := m.Basis(backend); b == join.ByRule || (b == join.ByModel) != (len(got) == 4) {
			t.Fatalf("%q: %v by %v", backend, got, b)
		}
	})
}
