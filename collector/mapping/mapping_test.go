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
		{`rules: [{target: teem, value: x}]`, `rule 1: target "teem": want one of team, model, class, tier`},
		{`rules: [{target: team}]`, `rule 1: yields nothing: set one of value, from_label, from_namespace`},
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
	f.Add([]byte("rules: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rs, err := mapping.Parse(b)
		if err != nil {
			return
		}
		rs.Compile()(owner("a", "Job", "b", "team", "c"))
		text, err := rs.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := mapping.Parse(text); err != nil || len(again.Rules) != len(rs.Rules) {
			t.Errorf("%q is written as %q: %v", b, text, err)
		}
	})
}
