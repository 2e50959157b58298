package mapping_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
)

func owner(ns, kind, controller string, labels ...string) *attribution.Owner {
	m := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		m[labels[i]] = labels[i+1]
	}
	return &attribution.Owner{
		Kind: attribution.Container, Namespace: ns, ControllerKind: kind, Controller: controller, Labels: attribution.MakeLabels(m),
	}
}

func answer(rs *mapping.Rules, o *attribution.Owner) string {
	m := rs.Compile()(o)
	return fmt.Sprintf("%s|%s|%s|%s", m.Team, m.Model, m.Class, m.Tier)
}

const (
	jobUID    = "0b0e4c4e-6f5c-4d0e-9b51-1f5bb8d4a001"
	jobSetUID = "7F0e4c4e-6f5c-4d0e-9b51-1f5bb8d4a002"
)

// What people pay from, where it runs and which run it is. A run is the same
// for all pods of one job, whichever of them it is asked of.
func TestDefaultPayersEnvironmentsAndRuns(t *testing.T) {
	of := mapping.Default().Compile()
	for _, c := range []struct {
		owner *attribution.Owner
		want  string
	}{
		{owner("a", "Deployment", "x", "pod-template-hash", "7d9c", "app", "x"), "||"},
		{owner("a", "StatefulSet", "x", "leaderworkerset.sigs.k8s.io/name", "x"), "||"},
		{owner("a", "RayCluster", "chat-raycluster-x7k2p", "ray.io/cluster", "chat-raycluster-x7k2p", "ray.io/serve", "true"), "||"},
		{owner("a", "", "", "env", "prod", "environment", "x", "department", "physics", "cost-center", "17"), "physics|prod|"},
		{owner("a", "", "", "environment", "stage", "cost-center", "17", "gpuledger.io/budget-owner", "cto"), "cto|stage|"},
		{owner("a", "Job", "train", "batch.kubernetes.io/controller-uid", jobUID, "controller-uid", jobUID), "||" + jobUID},
		{owner("a", "Job", "train", "controller-uid", jobUID), "||" + jobUID},
		{owner("a", "Job", "train"), "||a/train"},
		{owner("a", "Job", "js-workers-0", "jobset.sigs.k8s.io/jobset-uid", jobSetUID, "controller-uid", jobUID), "||" + jobSetUID},
		{owner("a", "Job", "js-driver-0", "jobset.sigs.k8s.io/jobset-uid", jobSetUID, "controller-uid", "another"), "||" + jobSetUID},
		{owner("a", "Job", "js-workers-0", "jobset.sigs.k8s.io/jobset-name", "js", "controller-uid", jobUID), "||a/js"},
		{owner("a", "Job", "mpi-launcher", "training.kubeflow.org/job-name", "mpi", "controller-uid", jobUID), "||a/mpi"},
		{owner("a", "MPIJob", "mpi", "training.kubeflow.org/job-name", "mpi"), "||a/mpi"},
		{owner("b", "MPIJob", "mpi", "training.kubeflow.org/job-name", "mpi"), "||b/mpi"},
		{owner("a", "PyTorchJob", "ddp"), "||a/ddp"},
		{owner("a", "Job", "v-task", "volcano.sh/job-name", "v"), "||a/v"},
		{&attribution.Owner{Kind: attribution.HostProcess, ControllerKind: "SlurmJob", Controller: "4711"}, "||4711"},
	} {
		m := of(c.owner)
		if got := m.BudgetOwner + "|" + m.Environment + "|" + m.Run; got != c.want {
			t.Errorf("%+v: %s, want %s", c.owner, got, c.want)
		}
	}
}

func TestExtract(t *testing.T) {
	rs, err := mapping.Parse([]byte(`
rules:
  - {target: team, from_label: app, extract: "team-*-api"}
  - {target: team, from_controller: true, extract: "*-worker"}
  - {target: team, from_namespace: true, extract: "ns-*"}
  - {target: team, from_namespace: true, extract: "a*a"}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		owner *attribution.Owner
		want  string
	}{
		{owner("ns-x", "Deployment", "q-worker", "app", "team-ads-api"), "ads"},
		{owner("ns-x", "Deployment", "q-worker", "app", "team--api"), "q"},
		{owner("ns-x", "Deployment", "q-worker", "app", "team-api"), "q"},
		{owner("ns-x", "Deployment", "q", "app", "x"), "x"},
		{owner("ns-", "", ""), ""},
		{owner("a", "", ""), ""},
		{owner("aa", "", ""), ""},
		{owner("a*a", "", ""), "*"},
	} {
		if got := rs.Compile()(c.owner).Team; got != c.want {
			t.Errorf("%+v: %q, want %q", c.owner, got, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	rs, err := mapping.Parse([]byte(`
rules:
  - {target: model, namespace: x, value: from-an-owner}
  - {target: model, served: "meta-llama/*", from_name: true, extract: "meta-llama/*"}
  - {target: model, served: "*-awq", from_name: true, extract: "*-awq"}
  - {target: model, served: "loop", value: loop-awq}
  - {target: family, served: "Llama-3*", value: Llama 3}
  - {target: family, from_name: true, extract: "*-70b"}
  - {target: tier, tenant: "acme-*", value: gold}
  - {target: tier, tenant: "*@free", from_name: true, extract: "*@free"}
  - {target: tier, value: silver}
`))
	if err != nil {
		t.Fatal(err)
	}
	n := rs.Names()
	for in, want := range map[string]string{
		"meta-llama/Llama-3-8b": "Llama-3-8b", "meta-llama/": "meta-llama/", "qwen-awq": "qwen", "meta-llama/x-awq": "x-awq",
		"loop": "loop-awq", "other": "other", "": "",
	} {
		if got := n.Model(in); got != want {
			t.Errorf("model %q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"Llama-3-70b": "Llama 3", "qwen-70b": "qwen", "qwen": "", "": "", "-70b": ""} {
		if got := n.Family(in); got != want {
			t.Errorf("family of %q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"acme-1": "gold", "joe@free": "joe", "@free": "", "x": "", "": ""} {
		if got := n.Tier(in); got != want {
			t.Errorf("tier of %q: %q, want %q", in, got, want)
		}
	}
	if !n.RenamesModels() || !n.HasTiers() {
		t.Error("the rules over names are not seen")
	}
	if got := answer(rs, owner("y", "", "")); got != "|||silver" {
		t.Errorf("rules over names answer for owners: %s", got)
	}
	var none *mapping.Names
	for _, n := range []*mapping.Names{none, mapping.Default().Names()} {
		if n.RenamesModels() || n.HasTiers() || n.Model("x") != "x" || n.Family("x") != "" || n.Tier("x") != "" {
			t.Errorf("no rules speak: %+v", n)
		}
	}
}

// Documents of before budget owners, names and extracts read as they did.
func TestOldDocumentsRead(t *testing.T) {
	rs, err := mapping.Parse([]byte(`revision: 3
rules:
- target: team
  labels:
    app: "*"
  from_label: app
- target: class
  controller: Job/*
  value: training
- target: tier
  namespace: premium
  value: gold
- target: model
  from_namespace: true
`))
	if err != nil || rs.Revision != 3 {
		t.Fatalf("%+v, %v", rs, err)
	}
	if got := answer(rs, owner("premium", "Job", "x", "app", "chat")); got != "chat|premium|training|gold" {
		t.Errorf("got %s", got)
	}
}

func TestDefault(t *testing.T) {
	for _, c := range []struct {
		owner *attribution.Owner
		want  string
	}{
		{owner("a", "Deployment", "x"), "|||"},
		{owner("a", "Deployment", "x", "team", "search", "owner", "bob"), "search|||"},
		{owner("a", "Deployment", "x", "team", "", "owner", "bob"), "bob|||"},
		{owner("a", "Job", "x", "kueue.x-k8s.io/queue-name", "research"), "research||training|"},
		{owner("a", "", "", "model", "llama", "tier", "gold"), "|llama||gold"},
		{owner("a", "", "", "serving.kserve.io/inferenceservice", "chat", "gpuledger.io/tier", "free", "tier", "gold"), "|chat||free"},
		{owner("a", "Job", "x", "service.criticality", "critical"), "||interactive|"},
		{owner("a", "Job", "x", "service.criticality", "medium"), "||training|"},
		{owner("a", "Deployment", "x", "service.criticality", "high"), "|||"},
		{owner("a", "Job", "x", "gpuledger.io/class", "nearline"), "||nearline|"},
		{owner("a", "Notebook", "x"), "||experimentation|"},
		{&attribution.Owner{}, "|||"},
		{&attribution.Owner{Kind: attribution.UnknownProcess, Labels: attribution.Labels{{Key: "team", Value: "x"}}}, "|||"},
		{&attribution.Owner{Kind: attribution.Gateway, ControllerKind: "Backend", Controller: "x", Labels: attribution.Labels{{Key: "team", Value: "x"}}}, "|||"},
	} {
		if got := answer(mapping.Default(), c.owner); got != c.want {
			t.Errorf("%+v: %s, want %s", c.owner, got, c.want)
		}
	}
}

func TestRules(t *testing.T) {
	rs, err := mapping.Parse([]byte(`
rules:
  - {target: team, from_label: team}
  - {target: team, namespace: "search-*", value: search}
  - {target: team, from_namespace: true}
  - {target: model, controller: "Deployment/llama-*", labels: {env: prod}, value: llama-3-70b}
  - {target: model, labels: {app: "*"}, from_label: app}
  - {target: tier, namespace: premium, value: gold}
  - {target: class, controller: "*/batch-*", value: nearline}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		owner *attribution.Owner
		want  string
	}{
		{owner("search-eu", "Deployment", "llama-a", "env", "prod"), "search|llama-3-70b||"},
		{owner("search-eu", "Deployment", "llama-a", "env", "test", "app", "chat"), "search|chat||"},
		{owner("premium", "CronJob", "batch-1", "team", "ads"), "ads||nearline|gold"},
		{owner("other", "", ""), "other|||"},
	} {
		if got := answer(rs, c.owner); got != c.want {
			t.Errorf("%+v: %s, want %s", c.owner, got, c.want)
		}
	}
	text, err := rs.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := mapping.Parse(text)
	if err != nil || !reflect.DeepEqual(again, rs) {
		t.Errorf("read back: %+v, %v", again, err)
	}
}

func TestDefaultReadsBack(t *testing.T) {
	text, err := mapping.Default().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if rs, err := mapping.Parse(text); err != nil || !reflect.DeepEqual(rs, mapping.Default()) {
		t.Errorf("%+v, %v", rs, err)
	}
}

func TestInvalidRules(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, `the document is empty`},
		{`rules: [{target: teem, value: x}]`, `rule 1: target "teem": want one of team, budget-owner, environment, model, family, class, tier, run`},
		{`rules: [{target: team}]`, `rule 1: yields nothing: set one of value, from_label, from_namespace, from_controller`},
		{`rules: [{target: family}]`, `rule 1: yields nothing: set one of value, from_name`},
		{`rules: [{target: team, from_name: true}]`, `from_name yields the name that a rule judges, and this one judges owners`},
		{`rules: [{target: team, served: x, value: y}]`, `served judges names of models, which make a model or a family, not a team: select owners by`},
		{`rules: [{target: model, tenant: x, value: y}]`, `tenant judges names of customers, which make a tier, not a model`},
		{`rules: [{target: model, served: x, namespace: n, value: y}]`, `judges the name of a model, which has no namespace, controller or labels: take them out, or take out served`},
		{`rules: [{target: tier, tenant: x, from_label: l}]`, `judges the name of a customer, which has no namespace, controller or labels: take them out, or take out tenant; a name yields value or from_name`},
		{`rules: [{target: family, labels: {a: b}, value: y}]`, `or make it a rule for model`},
		{`rules: [{target: team, value: x, extract: "*"}]`, `extract takes a part of what from_… yields, but value is fixed`},
		{`rules: [{target: team, from_label: x, extract: "a"}]`, `extract "a" has 0 *: write one`},
		{`rules: [{target: team, from_label: x, extract: "*a*"}]`, `extract "*a*" has 2 *: write one, for the part to take, such as "team-*"`},
		{`rules: [{target: family, value: x}, {target: family, served: y, value: z}]`, `rule 2: never applies, for rule 1 already yields a family for every model`},
		{`rules: [{target: model, served: "*", from_name: true}, {target: model, value: z}, {target: model, served: y, value: z}]`, `rule 3: never applies, for rule 1 already yields a model for every model`},
		{`rules: [{target: tier, tenant: "**", value: x}, {target: tier, tenant: y, value: z}]`, `a tier for every customer`},
		{`rules: [{target: team, value: x, from_label: y}]`, `yields several values`},
		{`rules: [{target: team, valeu: x}]`, `unknown field "valeu"`},
		{`rulez: []`, `unknown field "rulez"`},
		{"rules: []\n---\nrules: []", `more than one document`},
		{`rules: [{target: team, controller: llama, value: x}]`, `has no kind: write Kind/name, such as Deployment/llama`},
		{`rules: [{target: team, value: x}, {target: model, value: m}, {target: team, from_label: team}]`, `rule 3: never applies, for rule 1 already yields a team`},
		{`rules: [{target: team, labels: {"": x}, value: x}]`, `a label has no key`},
		{`rules: [{target: team, value: "a\nb"}]`, `control character`},
		{`rules: [{target: team, value: ` + strings.Repeat("x", 300) + `}]`, `has 300 bytes: at most 256`},
		{`rules: [` + strings.Repeat(`{target: team, from_label: team},`, 1001) + `]`, `there are 1001: at most 1000`},
		{`rules: {`, `rules:`},
		{`rules: !0 000`, `line 1: tags, anchors and aliases are not allowed`},
		{"rules: &a\n- *a", `not allowed`},
		{strings.Repeat("[", 100), `nested too deeply`},
		{strings.Repeat("#", mapping.MaxBytes+1), `at most 1048576`},
	} {
		_, err := mapping.Parse([]byte(c.text))
		var invalid *mapping.Invalid
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.text, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("rules:\n- {target: team, from_label: team}\n"))
	f.Add([]byte("rules: [{target: class, labels: {a: '*'}, value: x}]"))
	f.Add([]byte("rules: [{target: model, served: 'a*', from_name: true, extract: 'a*'}, {target: tier, tenant: b, value: c}]"))
	f.Add([]byte("rules: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rs, err := mapping.Parse(b)
		if err != nil {
			return
		}
		rs.Compile()(owner("a", "Job", "b", "team", "c"))
		n := rs.Names()
		if n.Model("ab") == "" || n.Family("") != "" || n.Tier("") != "" {
			t.Errorf("%q: a model loses its name, or nobody has one", b)
		}
		text, err := rs.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := mapping.Parse(text); err != nil || len(again.Rules) != len(rs.Rules) {
			t.Errorf("%q is written as %q: %v", b, text, err)
		}
	})
}
