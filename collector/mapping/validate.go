package mapping

import (
	"fmt"
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
	always := map[string]int{} // the rule that always yields a value, by target
	for i := range rs.Rules {
		r := &rs.Rules[i]
		if reason := r.fault(); reason != "" {
			return &Invalid{i, reason}
		}
		if j, ok := always[r.Target]; ok {
			return &Invalid{i, fmt.Sprintf("never applies, for rule %d already yields a %s for every owner: put it before that one", j+1, r.Target)}
		}
		if r.Value != "" && r.Namespace == "" && r.Controller == "" && len(r.Labels) == 0 {
			always[r.Target] = i
		}
	}
	return nil
}

func (r *Rule) fault() string {
	if !slices.Contains(targets[:], r.Target) {
		return fmt.Sprintf("target %q: want one of %s", clip(r.Target), strings.Join(targets[:], ", "))
	}
	yields := 0
	for _, set := range []bool{r.Value != "", r.FromLabel != "", r.FromNamespace} {
		if set {
			yields++
		}
	}
	switch {
	case yields == 0:
		return "yields nothing: set one of value, from_label, from_namespace"
	case yields > 1:
		return "yields several values: set only one of value, from_label, from_namespace"
	case r.Controller != "" && !strings.Contains(r.Controller, "/") && !strings.HasPrefix(r.Controller, "*"):
		return fmt.Sprintf("controller %q has no kind: write Kind/name, such as Deployment/%s", clip(r.Controller), clip(r.Controller))
	case len(r.Labels) > MaxLabels:
		return fmt.Sprintf("matches %d labels: at most %d are allowed", len(r.Labels), MaxLabels)
	}
	for _, s := range []string{r.Namespace, r.Controller, r.Value, r.FromLabel} {
		if reason := faultyText(s); reason != "" {
			return reason
		}
	}
	for k, v := range r.Labels {
		if k == "" {
			return "a label has no key"
		}
		if reason := faultyText(k) + faultyText(v); reason != "" {
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
