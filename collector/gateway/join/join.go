// Package join says which owners a gateway's backend may be.
//
// A gateway names the server that answered by an address of its own; the ledger
// knows containers of pods. Where the two meet is decided in this order:
//
//  1. Rules of the gateway's configuration that match the address: the owner
//     must match one of them. What they say of a backend is all there is.
//  2. The host of an address within Kubernetes, such as
//     http://llama.prod.svc.cluster.local:8000/v1: the owner must be in that
//     namespace, and its controller, or a label that says what it is part of
//     ([ServiceLabels]), must be named like the service. A pod's own name
//     before the service's must be the owner's pod. A host of one label is a
//     service of any namespace.
//  3. Everything else (no address, an IP address, a name outside the cluster)
//     tells nothing: any owner may be it, and the model alone decides.
//
// In every case the owner is of the gateway's own cluster, unless a rule names
// another, and the model must be the same too: that is the caller's to see,
// since what a model is called is decided by the mapping rules.
//
// Addresses are facts of the past as much as of today, so a gateway that is no
// longer configured is joined by what 2 and 3 say.
package join

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// NodePrefix is what the names of gateways' nodes begin with, see
// [attribution.Gateway].
const NodePrefix = "gateway/"

// Rule says which owners are behind the backends of a gateway whose address it
// matches. In all patterns * stands for any text; those that are empty match
// everything, except as said.
type Rule struct {
	// Backend is a pattern of addresses, as the gateway tells them. "*" matches
	// those that it does not tell, too.
	Backend string
	// Cluster is a pattern of the owner's cluster; "": the gateway's own.
	Cluster string
	// Namespace, Controller (as Kind/name) and Labels are patterns of what the
	// owner is. A label that is named must be there.
	Namespace  string
	Controller string
	Labels     map[string]string
	// Elsewhere says that the backend is in no cluster of this ledger, such as a
	// model that is bought: nobody here is it.
	Elsewhere bool
}

// OwnerFacts are what an owner is known by.
type OwnerFacts struct {
	Cluster    string
	Namespace  string
	Pod        string
	Controller string // Kind/name, "" where there is none
	Labels     attribution.Labels
}

// FactsOf are the facts of an owner.
func FactsOf(o *attribution.Owner) OwnerFacts {
	f := OwnerFacts{Cluster: o.Cluster, Namespace: o.Namespace, Pod: o.Pod, Labels: o.Labels}
	if o.Controller != "" {
		f.Controller = o.ControllerKind + "/" + o.Controller
	}
	return f
}

// ServiceLabels are the labels that are compared with the name of a service.
var ServiceLabels = [...]string{
	"app", "app.kubernetes.io/name", "app.kubernetes.io/instance", "serving.kserve.io/inferenceservice",
}

// Set has the rules of every configured gateway. It is immutable.
type Set struct {
	byNode map[nodeID][]rule
	labels []string
}

type nodeID struct{ cluster, node string }

// rule is a Rule whose labels are in order.
type rule struct {
	Rule
	labels attribution.Labels
}

// Gateway is a configured gateway with its rules.
type Gateway struct {
	Cluster, Name string
	Backends      []Rule
}

// NewSet compiles the rules of gateways. A nil Set has none.
func NewSet(gateways []Gateway) *Set {
	s := &Set{byNode: make(map[nodeID][]rule, len(gateways)), labels: slices.Clone(ServiceLabels[:])}
	for _, g := range gateways {
		id := nodeID{g.Cluster, NodePrefix + g.Name}
		for _, r := range g.Backends {
			c := rule{r, attribution.MakeLabels(r.Labels)}
			s.byNode[id] = append(s.byNode[id], c)
			for _, l := range c.labels {
				s.labels = append(s.labels, l.Key)
			}
		}
	}
	slices.Sort(s.labels)
	s.labels = slices.Compact(s.labels)
	return s
}

// Labels are the keys of all labels that any matcher looks at, sorted.
// [OwnerFacts] need no others.
func (s *Set) Labels() []string {
	if s == nil {
		return (&Set{labels: ServiceLabels[:]}).Labels()
	}
	return slices.Sorted(slices.Values(s.labels))
}

// Matcher is that of a gateway, by the cluster and node of its owners.
func (s *Set) Matcher(cluster, node string) *Matcher {
	m := &Matcher{cluster: cluster}
	if s != nil {
		m.rules = s.byNode[nodeID{cluster, node}]
	}
	return m
}

// Matcher tells which owners one gateway's backends may be. It is immutable.
type Matcher struct {
	cluster string
	rules   []rule
}

// Basis says what the owners of a backend are known by.
type Basis uint8

// The bases of a join, from the most certain on.
const (
	ByRule  Basis = iota + 1 // the gateway's configuration
	ByName                   // the service's name in the address
	ByModel                  // nothing but the model
)

// String is the basis as people read it.
func (b Basis) String() string {
	switch b {
	case ByRule:
		return "rule"
	case ByName:
		return "service"
	case ByModel:
		return "model"
	}
	return fmt.Sprintf("basis(%d)", uint8(b))
}

// Basis is what decides over a backend.
func (m *Matcher) Basis(backend string) Basis {
	for i := range m.rules {
		if store.Wildcard(m.rules[i].Backend, backend) {
			return ByRule
		}
	}
	if _, ok := serviceOf(backend); ok {
		return ByName
	}
	return ByModel
}

// Match reports whether an owner may be a backend.
func (m *Matcher) Match(backend string, o *OwnerFacts) bool {
	ruled := false
	for i := range m.rules {
		r := &m.rules[i]
		if !store.Wildcard(r.Backend, backend) {
			continue
		}
		ruled = true
		if r.matches(m.cluster, o) {
			return true
		}
	}
	if ruled || o.Cluster != m.cluster {
		return false
	}
	s, ok := serviceOf(backend)
	return !ok || s.matches(o)
}

func (r *rule) matches(cluster string, o *OwnerFacts) bool {
	switch {
	case r.Elsewhere,
		r.Cluster == "" && o.Cluster != cluster,
		r.Cluster != "" && !store.Wildcard(r.Cluster, o.Cluster),
		r.Namespace != "" && !store.Wildcard(r.Namespace, o.Namespace),
		r.Controller != "" && (o.Controller == "" || !store.Wildcard(r.Controller, o.Controller)):
		return false
	}
	for _, l := range r.labels {
		if v, ok := o.Labels.Get(l.Key); !ok || !store.Wildcard(l.Value, v) {
			return false
		}
	}
	return true
}

// matches reports whether an owner is behind a service, as far as names tell.
func (s *service) matches(o *OwnerFacts) bool {
	if o.Namespace == "" || (s.namespace != "" && o.Namespace != s.namespace) || (s.pod != "" && o.Pod != s.pod) {
		return false
	}
	if _, name, ok := strings.Cut(o.Controller, "/"); ok && name == s.name {
		return true
	}
	for _, key := range ServiceLabels {
		if v, ok := o.Labels.Get(key); ok && v == s.name {
			return true
		}
	}
	return s.pod != ""
}
