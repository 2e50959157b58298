package mapping

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/internal/plainyaml"
)

// Bounds of a set of rules.
const (
	MaxRules  = 1000
	MaxLabels = 32
	MaxText   = 256     // bytes of a value, pattern or label
	MaxBytes  = 1 << 20 // of a document
)

// Validate finds the first thing wrong with the rules. It returns an *Invalid,
// or nil. Any revision will do.
func (rs *Rules) Validate() error {
	if len(rs.Rules) > MaxRules {
		return &Invalid{-1, fmt.Sprintf("there are %d: at most %d are allowed", len(rs.Rules), MaxRules)}
	}
	always := map[sort]int{} // the rule that always yields a value
	for i := range rs.Rules {
		r := &rs.Rules[i]
		if reason := r.fault(); reason != "" {
			return &Invalid{i, reason}
		}
		of := sort{r.Target, r.judgesNames()}
		if j, ok := always[of]; ok {
			return &Invalid{i, fmt.Sprintf("never applies, for rule %d already yields a %s for every %s: put it before that one", j+1, r.Target, of.judged())}
		}
		if r.always() {
			always[of] = i
		}
	}
	return nil
}

// sort is what rules compete over.
type sort struct {
	target string
	names  bool // judged, not owners
}

func (s sort) judged() string {
	switch {
	case !s.names:
		return "owner"
	case s.target == Tier:
		return "customer"
	}
	return "model"
}

// always reports whether the rule yields a value whatever it judges.
func (r *Rule) always() bool {
	if pattern := r.Served + r.Tenant; r.judgesNames() && strings.Trim(pattern, "*") != "" {
		return false
	}
	return r.Namespace == "" && r.Controller == "" && len(r.Labels) == 0 && (r.Value != "" || r.FromName && r.Extract == "")
}

// fault is what is wrong with the rule and how to cure it, "" if nothing is.
func (r *Rule) fault() string {
	if !slices.Contains(targets[:], r.Target) {
		return fmt.Sprintf("target %q: want one of %s", clip(r.Target), strings.Join(targets[:], ", "))
	}
	for _, f := range []func(*Rule) string{(*Rule).faultyNames, (*Rule).faultyYield, (*Rule).faultyMatch} {
		if reason := f(r); reason != "" {
			return reason
		}
	}
	for _, s := range []string{r.Namespace, r.Controller, r.Served, r.Tenant, r.Value, r.FromLabel, r.Extract} {
		if reason := faultyText(s); reason != "" {
			return reason
		}
	}
	return ""
}

// faultyNames is what is wrong between rules over names and over owners.
func (r *Rule) faultyNames() string {
	switch {
	case r.Served != "" && r.Target != Model && r.Target != Family:
		return fmt.Sprintf("served judges names of models, which make a model or a family, not a %s: select owners by namespace, controller or labels", r.Target)
	case r.Tenant != "" && r.Target != Tier:
		return fmt.Sprintf("tenant judges names of customers, which make a tier, not a %s: select owners by namespace, controller or labels", r.Target)
	case !r.judgesNames():
		return ""
	case r.Namespace != "" || r.Controller != "" || len(r.Labels) > 0 || r.FromLabel != "" || r.FromNamespace || r.FromController:
		by, cure := "the name of a model", "take out namespace, controller, labels and from_…, or make it a rule for model"
		switch {
		case r.Tenant != "":
			by, cure = "the name of a customer", "take them out, or take out tenant"
		case r.Target == Model:
			cure = "take them out, or take out served"
		}
		return "judges " + by + ", which has no namespace, controller or labels: " + cure + "; a name yields value or from_name"
	}
	return ""
}

// faultyYield is what is wrong with what the rule yields.
func (r *Rule) faultyYield() string {
	ways := "value, from_label, from_namespace, from_controller"
	if r.judgesNames() {
		ways = "value, from_name"
	}
	yields := 0
	for _, set := range []bool{r.Value != "", r.FromLabel != "", r.FromNamespace, r.FromController, r.FromName} {
		if set {
			yields++
		}
	}
	switch {
	case yields == 0:
		return "yields nothing: set one of " + ways
	case yields > 1:
		return "yields several values: set only one of " + ways
	case r.FromName && !r.judgesNames():
		return "from_name yields the name that a rule judges, and this one judges owners: set one of " + ways + ", or select names by served or tenant"
	case r.Extract != "" && r.Value != "":
		return "extract takes a part of what from_… yields, but value is fixed: take out one of them"
	case r.Extract != "" && strings.Count(r.Extract, "*") != 1:
		return fmt.Sprintf("extract %q has %d *: write one, for the part to take, such as \"team-*\"", clip(r.Extract), strings.Count(r.Extract, "*"))
	}
	return ""
}

// faultyMatch is what is wrong with how the rule selects owners.
func (r *Rule) faultyMatch() string {
	switch {
	case r.Controller != "" && !strings.Contains(r.Controller, "/") && !strings.HasPrefix(r.Controller, "*"):
		return fmt.Sprintf("controller %q has no kind: write Kind/name, such as Deployment/%s", clip(r.Controller), clip(r.Controller))
	case len(r.Labels) > MaxLabels:
		return fmt.Sprintf("matches %d labels: at most %d are allowed", len(r.Labels), MaxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		if k == "" {
			return "a label has no key"
		}
		if reason := faultyText(k) + faultyText(r.Labels[k]); reason != "" {
			return reason
		}
	}
	return ""
}

func faultyText(s string) string {
	if len(s) > MaxText {
		return fmt.Sprintf("%q has %d bytes: at most %d are allowed", clip(s), len(s), MaxText)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return fmt.Sprintf("%q has a control character", clip(s))
		}
	}
	return ""
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// Parse reads rules from YAML, strictly (an unknown key is an error), and
// validates them. Tags, anchors and aliases are refused: rules need none.
func Parse(body []byte) (*Rules, error) {
	if len(body) > MaxBytes {
		return nil, &Invalid{-1, fmt.Sprintf("the document has %d bytes: at most %d are allowed", len(body), MaxBytes)}
	}
	var rs Rules
	said, err := plainyaml.Decode(body, &rs)
	if err != nil {
		return nil, syntax(err)
	}
	if !said {
		return nil, &Invalid{-1, "the document is empty: write \"rules: []\" for no rules at all"}
	}
	if err := rs.Validate(); err != nil {
		return nil, err
	}
	return &rs, nil
}

func syntax(err error) error {
	return &Invalid{-1, strings.TrimSpace(yaml.FormatError(err, false, true))}
}

// Marshal writes rules as the YAML that Parse reads.
func (rs *Rules) Marshal() ([]byte, error) {
	out := *rs
	if out.Rules == nil {
		out.Rules = []Rule{}
	}
	b, err := yaml.Marshal(&out)
	if err != nil {
		return nil, fmt.Errorf("writing rules: %w", err)
	}
	return b, nil
}
