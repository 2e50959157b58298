// Package mapping turns facts into what people call them, by revisioned rules:
// an owner into its team, budget owner, environment, model, workload class,
// customer tier and training run; and a name that traffic carries into a name
// that people use: a served model into its canonical name and family, a
// customer into a tier.
//
// Facts are stored, names are not: rules are asked when a question is, so a
// corrected rule corrects history (law 7). [Rules.Compile] makes a pure
// function of an owner, which a store keeps as a derived dimension;
// [Rules.Names] makes pure functions of names, which package query lays over
// what a store answers.
//
// # Rules
//
// For each target the first rule that yields a value counts. A rule applies to
// an owner if all it names match: namespace, controller (as Kind/name) and
// labels, each a pattern in which * stands for any text. It yields a fixed
// value, or that of a label, of the namespace, or the controller's name. With
// extract, a pattern with one *, it yields what the * stands for there. A rule
// that takes what is missing or empty, or does not match its extract, yields
// nothing, and the next rule is tried. Nobody and unknown processes have no
// team by any rule, and gateways neither: what they tell is about others, whose
// model and tier are not those that a rule for all owners would give a gateway.
//
//	rules:
//	  - {target: team, from_label: team}
//	  - {target: team, namespace: "search-*", value: search}
//	  - {target: team, from_namespace: true}
//	  - {target: environment, from_namespace: true, extract: "*-prod"}
//	  - {target: model, controller: "Deployment/llama-*", labels: {env: prod}, value: llama-3-70b}
//	  - {target: tier, namespace: premium, value: gold}
//
// # Rules over names
//
// A rule with served or tenant, and every rule for a family, judges a name
// instead of an owner, and yields a fixed value or the name itself:
//
//   - target model with served: another name for a model, whether a server
//     reports it or a rule over owners yields it. What no rule speaks of keeps
//     its name.
//   - target family, with served or for any model: judges the model's name as
//     the rules for model leave it.
//   - target tier with tenant: the tier of a customer whose tallies name none.
//
// For instance:
//
//   - {target: model, served: "meta-llama/*", from_name: true, extract: "meta-llama/*"}
//   - {target: model, served: "llama-3-70b-awq", value: llama-3-70b}
//   - {target: family, from_name: true, extract: "*-70b"}
//   - {target: tier, tenant: "acme-*", value: gold}
//
// # Runs
//
// A run is one job, whatever pods did its work. Job names are told apart by
// namespace only, so a run that a label or controller names is written
// namespace/name, unless it is a UID.
//
// A set of rules replaces the one before it as a whole. Revision 0 is
// [Default], which is in force until rules are applied; it takes what labels
// in common use say, and guesses nothing.
package mapping

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Rules is one revision of the mapping rules. It is not changed once in use.
type Rules struct {
	Revision uint32 `yaml:"revision,omitempty"` // assigned by the ledger, from 1; 0: not applied, or Default
	Rules    []Rule `yaml:"rules"`
}

// Rule yields a value of its target for the owners, or names, that it matches.
type Rule struct {
	Target string `yaml:"target"` // one of Targets

	// All that are set must match; * is a wildcard. A label with the pattern
	// "*" must be there, with any value.
	Namespace  string            `yaml:"namespace,omitempty"`
	Controller string            `yaml:"controller,omitempty"` // Kind/name
	Labels     map[string]string `yaml:"labels,omitempty"`

	// Instead of the above: patterns of names, of a served model and of a
	// customer. The rule judges names then, not owners.
	Served string `yaml:"served,omitempty"`
	Tenant string `yaml:"tenant,omitempty"`

	// Exactly one of them is set; FromName in rules over names only, the other
	// three From in rules over owners only.
	Value          string `yaml:"value,omitempty"`
	FromLabel      string `yaml:"from_label,omitempty"`
	FromNamespace  bool   `yaml:"from_namespace,omitempty"`
	FromController bool   `yaml:"from_controller,omitempty"` // its name, without the kind
	FromName       bool   `yaml:"from_name,omitempty"`

	// Extract is a pattern with exactly one *: of what From… yields, what * stands for.
	Extract string `yaml:"extract,omitempty"`
}

// The targets.
const (
	Team        = string(store.Team)
	BudgetOwner = string(store.BudgetOwner)
	Environment = string(store.Environment)
	Model       = string(store.Model)
	Family      = string(store.Family)
	Class       = string(store.Class)
	Tier        = string(store.Tier)
	Run         = string(store.Run)
)

var targets = [...]string{Team, BudgetOwner, Environment, Model, Family, Class, Tier, Run}

// Targets lists the targets.
func Targets() []string { return slices.Clone(targets[:]) }

// judgesNames reports whether the rule is about names, not owners.
func (r *Rule) judgesNames() bool { return r.Served != "" || r.Tenant != "" || r.Target == Family }

// Compile makes the function that the rules over owners are. The rules must be
// valid. The function is pure and may be called by any number of goroutines.
func (rs *Rules) Compile() store.Mapping {
	rs.mustBeValid()
	by := map[string][]rule{}
	for i := range rs.Rules {
		if r := &rs.Rules[i]; !r.judgesNames() {
			by[r.Target] = append(by[r.Target], rule{*r, attribution.MakeLabels(r.Labels)})
		}
	}
	team, payer, environment := by[Team], by[BudgetOwner], by[Environment]
	model, class, tier, run := by[Model], by[Class], by[Tier], by[Run]
	return func(o *attribution.Owner) store.Mapped {
		if o.Kind == attribution.Nobody || o.Kind == attribution.UnknownProcess || o.Kind == attribution.Gateway {
			return store.Mapped{}
		}
		return store.Mapped{
			Team: first(team, o), BudgetOwner: first(payer, o), Environment: first(environment, o),
			Model: first(model, o), Class: first(class, o), Tier: first(tier, o), Run: first(run, o),
		}
	}
}

func (rs *Rules) mustBeValid() {
	if err := rs.Validate(); err != nil {
		panic("BUG: mapping: compiling invalid rules: " + err.Error())
	}
}

// rule is a Rule whose labels are in order.
type rule struct {
	Rule
	labels attribution.Labels
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
	var v string
	switch {
	case r.FromLabel != "":
		v, _ = o.Labels.Get(r.FromLabel)
	case r.FromNamespace:
		return r.extract(o.Namespace)
	case r.FromController:
		v = o.Controller
	default:
		return r.Value
	}
	v = r.extract(v)
	if r.Target == Run && v != "" && o.Namespace != "" && !isUID(v) {
		return o.Namespace + "/" + v
	}
	return v
}

// extract is the part of s that the * of the rule's pattern stands for, "" if
// the pattern does not match; s itself without a pattern.
func (r *Rule) extract(s string) string {
	if r.Extract == "" {
		return s
	}
	head, tail, _ := strings.Cut(r.Extract, "*")
	s, found := strings.CutPrefix(s, head)
	if !found {
		return ""
	}
	if s, found = strings.CutSuffix(s, tail); !found {
		return ""
	}
	return s
}

// isUID reports whether s reads as the UID of a Kubernetes object:
// 8-4-4-4-12 hexadecimal digits.
func isUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
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
