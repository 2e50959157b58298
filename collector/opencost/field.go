package opencost

import (
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

const (
	idleName    = "__idle__"
	noValueName = "__unallocated__"
)

// field is a property of allocations: a dimension of the ledger, or a part of
// one.
type field struct {
	name string // as OpenCost has it
	dim  store.Dimension
	part part
}

// part is which part of "Kind/name" a field is of a controller.
type part uint8

const (
	whole      part = iota
	kindOnly        // deployment
	nameOnly        // web
	kindName        // deployment:web
	ofThisKind      // web, where the kind is the field's name
)

// fields are the properties with a fixed name. What OpenCost calls owner is who
// pays.
var fields = []field{
	{"cluster", store.Cluster, whole},
	{"node", store.Node, whole},
	{"namespace", store.Namespace, whole},
	{"controllerKind", store.Controller, kindOnly},
	{"controller", store.Controller, kindName},
	{"controllerName", store.Controller, nameOnly},
	{"deployment", store.Controller, ofThisKind},
	{"statefulset", store.Controller, ofThisKind},
	{"daemonset", store.Controller, ofThisKind},
	{"job", store.Controller, ofThisKind},
	{"pod", store.Pod, whole},
	{"container", store.Container, whole},
	{"team", store.Team, whole},
	{"owner", store.BudgetOwner, whole},
	{"environment", store.Environment, whole},
	{"model", store.Model, whole},
	{"family", store.Family, whole},
	{"class", store.Class, whole},
	{"tier", store.Tier, whole},
}

// absent are properties of OpenCost that the ledger has no facts for.
var absent = map[string]string{
	"annotation":          "annotations are not recorded: use a pod label, or map what they say to a team by rules",
	"namespaceLabel":      "labels of namespaces are not recorded: use a pod label, or map namespaces to teams by rules",
	"namespaceAnnotation": "annotations are not recorded: map namespaces to teams by rules",
	"nodeLabel":           "labels of nodes are not told apart here: aggregate by node",
	"service":             "services are not recorded: aggregate by controller",
	"services":            "services are not recorded: aggregate by controller",
	"provider":            "providers are not recorded: aggregate by cluster or node",
	"providerID":          "provider ids are not recorded: aggregate by node",
	"department":          "the ledger has teams, not departments: aggregate by team or owner",
	"product":             "the ledger has models, not products: aggregate by model or by a label",
}

// lookup finds a property by name. Labels are label:KEY or, in filters,
// label[KEY].
func lookup(name string) (field, error) {
	if key, ok := strings.CutPrefix(name, "label:"); ok {
		if key == "" {
			return field{}, query.Invalid("%q names no label: write label:KEY, for instance label:app", name)
		}
		return field{name: name, dim: store.Dimension(store.LabelPrefix + key)}, nil
	}
	var names []string
	for _, f := range fields {
		if strings.EqualFold(f.name, name) {
			return f, nil
		}
		names = append(names, f.name)
	}
	kind, _, _ := strings.Cut(name, ":")
	if why := absent[kind]; why != "" {
		return field{}, query.Invalid("%.80s: %s", name, why)
	}
	return field{}, query.Invalid("unknown property %.80q: want one of %s, label:KEY", name, strings.Join(names, ", "))
}

// value is the property's value; ok is false where there is none.
func (f field) value(k store.Key) (value string, ok bool) {
	if k.Missing {
		return "", false
	}
	if f.part == whole {
		return k.Value, true
	}
	kind, name, _ := strings.Cut(k.Value, "/")
	kind = strings.ToLower(kind)
	switch f.part {
	case kindOnly:
		return kind, kind != ""
	case kindName:
		if kind != "" {
			name = kind + ":" + name
		}
	case ofThisKind:
		if kind != f.name {
			return "", false
		}
	case whole, nameOnly:
	}
	return name, name != ""
}

// maxAggregate bounds how many properties are aggregated by.
const maxAggregate = 6

// parseAggregate reads what allocations are told apart by. Nothing means by
// container, as in OpenCost.
func parseAggregate(text string) ([]field, error) {
	if strings.TrimSpace(text) == "" {
		text = "cluster,node,namespace,pod,container"
	}
	var out []field
	for name := range strings.SplitSeq(text, ",") {
		f, err := lookup(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, f) {
			return nil, query.Invalid("aggregate: %s is there twice", f.name)
		}
		if out = append(out, f); len(out) > maxAggregate {
			return nil, query.Invalid("aggregate: at most %d properties are allowed", maxAggregate)
		}
	}
	return out, nil
}
