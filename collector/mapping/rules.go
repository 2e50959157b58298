// Package mapping turns facts on owners into what people call them: team,
// model, workload class and customer tier, by revisioned rules.
//
// Facts are stored, names are not: rules are asked when a question is, so a
// corrected rule corrects history (law 7). [Rules.Compile] makes a pure
// function of an owner, which a store keeps as a derived dimension.
//
// # Rules
//
// For each target (team, model, class, tier) the first rule that yields a
// value counts. A rule applies to an owner if all it names match: namespace,
// controller (as Kind/name) and labels, each a pattern in which * stands for
// any text. It yields a fixed value, or the value of a label, or the namespace.
// A rule that takes a label yields nothing where the label is missing or
// empty, and the next rule is tried. Nobody and unknown processes have no team
// by any rule.
//
//	rules:
//	  - {target: team, from_label: team}
//	  - {target: team, namespace: "search-*", value: search}
//	  - {target: team, from_namespace: true}
//	  - {target: model, controller: "Deployment/llama-*", labels: {env: prod}, value: llama-3-70b}
//	  - {target: tier, namespace: premium, value: gold}
//
// A set of rules replaces the one before it as a whole. Revision 0 is
// [Default], which is in force until rules are applied; it takes what labels
// in common use say, and guesses nothing.
package mapping

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Rules is one revision of the mapping rules. It is not changed once in use.
type Rules struct {
	Revision uint32 `yaml:"revision,omitempty"` // assigned by the ledger, from 1; 0: not applied, or Default
	Rules    []Rule `yaml:"rules"`
}

// Rule yields a value of its target for the owners that it matches.
type Rule struct {
	Target string `yaml:"target"` // team, model, class or tier

	// All that are set must match; * is a wildcard. A label with the pattern
	// "*" must be there, with any value.
	Namespace  string            `yaml:"namespace,omitempty"`
	Controller string            `yaml:"controller,omitempty"` // Kind/name
	Labels     map[string]string `yaml:"labels,omitempty"`

	// Exactly one of them is set.
	Value         string `yaml:"value,omitempty"`
	FromLabel     string `yaml:"from_label,omitempty"`
	FromNamespace bool   `yaml:"from_namespace,omitempty"`
}

// The targets.
const (
	Team  = string(store.Team)
	Model = string(store.Model)
	Class = string(store.Class)
	Tier  = string(store.Tier)
)

var targets = [...]string{Team, Model, Class, Tier}

// The workload classes that Default knows.
const (
	Interactive     = "interactive"
	Training        = "training"
	Experimentation = "experimentation"
)

// Default is what holds until rules are applied. Teams, models and tiers come
// from labels that say just that. A class comes from the label
// gpuledger.io/class, else from service.criticality where it leaves no doubt
// (critical is interactive, low is experimentation; high and medium are not
// told apart by it), else from kinds of controllers that serve one purpose.
func Default() *Rules {
	rs := []Rule{
		{Target: Team, FromLabel: "team"},
		{Target: Team, FromLabel: "owner"},
		{Target: Team, FromLabel: "kueue.x-k8s.io/queue-name"},
		{Target: Model, FromLabel: "model"},
		{Target: Model, FromLabel: "serving.kserve.io/inferenceservice"},
		{Target: Class, FromLabel: "gpuledger.io/class"},
		{Target: Class, Labels: map[string]string{"service.criticality": "critical"}, Value: Interactive},
		{Target: Class, Labels: map[string]string{"service.criticality": "low"}, Value: Experimentation},
	}
	for _, kind := range []string{"Job", "JobSet", "TrainJob", "PyTorchJob", "TFJob", "MPIJob", "JAXJob", "PaddleJob", "XGBoostJob"} {
		rs = append(rs, Rule{Target: Class, Controller: kind + "/*", Value: Training})
	}
	return &Rules{Rules: append(rs,
		Rule{Target: Class, Controller: "InferenceService/*", Value: Interactive},
		Rule{Target: Class, Controller: "LLMInferenceService/*", Value: Interactive},
		Rule{Target: Class, Controller: "Notebook/*", Value: Experimentation},
		Rule{Target: Tier, FromLabel: "gpuledger.io/tier"},
		Rule{Target: Tier, FromLabel: "tier"},
	)}
}

// Compile makes the function that the rules are. The rules must be valid. The
// function is pure and may be called by any number of goroutines.
func (rs *Rules) Compile() store.Mapping {
	if err := rs.Validate(); err != nil {
		panic("BUG: mapping: compiling invalid rules: " + err.Error())
	}
	var by [len(targets)][]rule
	for i := range rs.Rules {
		t := slices.Index(targets[:], rs.Rules[i].Target)
		by[t] = append(by[t], compile(&rs.Rules[i]))
	}
	return func(o *attribution.Owner) store.Mapped {
		if o.Kind == attribution.Nobody || o.Kind == attribution.UnknownProcess {
			return store.Mapped{}
		}
		return store.Mapped{Team: first(by[0], o), Model: first(by[1], o), Class: first(by[2], o), Tier: first(by[3], o)}
	}
}

// rule is a Rule whose labels are in order.
type rule struct {
	Rule
	labels attribution.Labels
}

func compile(r *Rule) rule {
	c := rule{Rule: *r, labels: attribution.MakeLabels(r.Labels)}
	c.Labels = maps.Clone(r.Labels)
	return c
}

func first(rs []rule, o *attribution.Owner) string {
	for i := range rs {
		if rs[i].matches(o) {
			if v := rs[i].yield(o); v != "" {
				return v
			}
		}
	}
	return ""
}

func (r *rule) matches(o *attribution.Owner) bool {
	if r.Namespace != "" && !store.Wildcard(r.Namespace, o.Namespace) {
		return false
	}
	if r.Controller != "" && (o.Controller == "" || !store.Wildcard(r.Controller, o.ControllerKind+"/"+o.Controller)) {
		return false
	}
	for _, l := range r.labels {
		if v, ok := o.Labels.Get(l.Key); !ok || !store.Wildcard(l.Value, v) {
			return false
		}
	}
	return true
}

func (r *rule) yield(o *attribution.Owner) string {
	switch {
	case r.FromLabel != "":
		v, _ := o.Labels.Get(r.FromLabel)
		return v
	case r.FromNamespace:
		return o.Namespace
	}
	return r.Value
}

// Invalid says which rule is wrong, and how.
type Invalid struct {
	Rule   int // index; −1: the set as a whole
	Reason string
}

// Error names the rule by its place, from 1.
func (e *Invalid) Error() string {
	if e.Rule < 0 {
		return "rules: " + e.Reason
	}
	return fmt.Sprintf("rules: rule %d: %s", e.Rule+1, e.Reason)
}
