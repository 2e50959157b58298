package mapping

import "github.com/gpuledger/gpuledger/collector/store"

// Names is what the rules over names say. It is pure and may be used by any
// number of goroutines. A nil Names has no rules.
type Names struct {
	models, families, tiers []nameRule
}

type nameRule struct {
	Rule
	pattern string // "": any name
}

// Names makes the functions that the rules over names are. The rules must be
// valid.
func (rs *Rules) Names() *Names {
	rs.mustBeValid()
	n := new(Names)
	for i := range rs.Rules {
		r := &rs.Rules[i]
		switch {
		case !r.judgesNames():
		case r.Target == Tier:
			n.tiers = append(n.tiers, nameRule{*r, r.Tenant})
		case r.Target == Family:
			n.families = append(n.families, nameRule{*r, r.Served})
		default:
			n.models = append(n.models, nameRule{*r, r.Served})
		}
	}
	return n
}

// RenamesModels reports whether Model ever yields another name.
func (n *Names) RenamesModels() bool { return n != nil && len(n.models) > 0 }

// HasTiers reports whether Tier ever yields any.
func (n *Names) HasTiers() bool { return n != nil && len(n.tiers) > 0 }

// Model is the canonical name of a model, the name itself where no rule speaks
// of it. It is not applied twice: what a rule yields is canonical.
func (n *Names) Model(name string) string {
	if n != nil && name != "" {
		if v := firstName(n.models, name); v != "" {
			return v
		}
	}
	return name
}

// Family is the family of a model by its canonical name, "" where no rule
// speaks of it.
func (n *Names) Family(model string) string {
	if n == nil || model == "" {
		return ""
	}
	return firstName(n.families, model)
}

// Tier is the tier of a customer, "" where no rule speaks of it.
func (n *Names) Tier(tenant string) string {
	if n == nil || tenant == "" {
		return ""
	}
	return firstName(n.tiers, tenant)
}

func firstName(rs []nameRule, name string) string {
	for i := range rs {
		r := &rs[i]
		if r.pattern != "" && !store.Wildcard(r.pattern, name) {
			continue
		}
		v := r.Value
		if r.FromName {
			v = r.extract(name)
		}
		if v != "" {
			return v
		}
	}
	return ""
}
