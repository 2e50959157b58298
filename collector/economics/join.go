package economics

import (
	"context"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// joiner remembers which backends of gateways there are and which owners they
// are joined to.
type joiner struct {
	rules    *join.Set
	numbers  map[string]int
	backends []backend
	owners   map[string]*join.OwnerFacts // by id; nil: nothing is known of it
	known    map[link]bool
}

// backend is what a gateway names as the server that answered.
type backend struct {
	address string
	basis   join.Basis
	matcher *join.Matcher
}

type link struct {
	owner   string
	backend int
}

func newJoiner(rules *join.Set) *joiner {
	return &joiner{rules: rules, numbers: map[string]int{}, owners: map[string]*join.OwnerFacts{}, known: map[link]bool{}}
}

func onlyGateways() store.Filter {
	return store.Filter{Dimension: store.Kind, Values: []string{attribution.Gateway.String()}}
}

// anyGateway tells whether a gateway told anything in a snapshot's range.
func anyGateway(ctx context.Context, s *query.Snapshot) (bool, error) {
	q := &store.Query{From: s.From, To: s.To, GroupBy: []store.Dimension{store.Kind}, Filters: []store.Filter{onlyGateways()}}
	stored, err := s.StoredTallies(ctx, q)
	if err != nil || len(stored) > 0 {
		return len(stored) > 0, err
	}
	_, open, err := s.Open(ctx, q)
	return len(open) > 0, err
}

// ofGateway is what gateways' tallies are told apart by.
func ofGateway() []store.Dimension {
	return []store.Dimension{store.Cluster, store.Node, store.Controller, store.Model, store.Tenant, store.Tier}
}

// gateways reads what gateways saw in a stretch.
func (x *stretch) gateways(ctx context.Context, s *query.Snapshot) error {
	if x.join == nil {
		return nil
	}
	x.pools = map[attribution.Second]*pools{}
	q := x.query(ofGateway(), onlyGateways())
	stored, err := s.StoredTallies(ctx, q)
	if err != nil {
		return err
	}
	_, open, err := s.Open(ctx, q)
	if err != nil {
		return err
	}
	for _, ts := range [][]store.TallyRow{stored, open} {
		for i := range ts {
			t := &ts[i]
			p := x.pools[t.Time]
			if p == nil {
				p = newPools(x.dims)
				x.pools[t.Time] = p
			}
			p.saw(x.join.backend(t.Keys[:3]), t.Keys[3], t.Keys[4:6], t)
		}
	}
	return nil
}

// backend numbers a backend by the cluster, node and controller of its owner.
func (j *joiner) backend(keys []store.Key) int {
	name := string(query.AppendKeys(nil, keys))
	n, ok := j.numbers[name]
	if !ok {
		n = len(j.backends)
		j.numbers[name] = n
		_, address, _ := strings.Cut(keys[2].Value, "/") // behind the kind
		m := j.rules.Matcher(keys[0].Value, keys[1].Value)
		j.backends = append(j.backends, backend{address, m.Basis(address), m})
	}
	return n
}

// pooled puts a row of an owner whose customers are not known into the pool of
// the flows that it is joined to. It is false where there are none.
func (x *stretch) pooled(u *unit, keys []store.Key, r *Row) bool {
	p := x.pools[u.time]
	if p == nil {
		return false
	}
	model, counted := keys[slices.Index(x.dims, store.Model)], r.Served.Inference()
	var joined []int
	for i := range p.flows {
		f := &p.flows[i]
		if sameModel(model, f.model, x.join.backends[f.backend].basis, counted) && x.joins(u, f.backend) {
			joined = append(joined, i)
		}
	}
	if len(joined) == 0 {
		return false
	}
	p.add(joined, keys, counted, r)
	return true
}

// sameModel is whether what an owner serves may be what a gateway saw, by
// model. A side that names no model may be any where the backend is known.
// Where it is not, the model is all there is, and only servers that counted it
// are sure to serve it: a training of the model is not.
func sameModel(owner, gateway store.Key, by join.Basis, counted bool) bool {
	switch {
	case owner.Missing || gateway.Missing:
		return by != join.ByModel
	case by == join.ByModel && !counted:
		return false
	}
	return owner.Value == gateway.Value
}

// joins is whether an owner may be a backend.
func (x *stretch) joins(u *unit, n int) bool {
	l := link{u.owner, n}
	yes, known := x.join.known[l]
	if !known {
		b, facts := &x.join.backends[n], x.join.owners[u.owner]
		yes = facts != nil && b.matcher.Match(b.address, facts)
		x.join.known[l] = yes
	}
	return yes
}

// known reads the facts of the stretch's owners that gateways may be joined to.
func (x *stretch) known(ctx context.Context, s *query.Snapshot) error {
	if len(x.pools) == 0 {
		return nil
	}
	var ids []string
	for _, u := range x.units {
		if _, there := x.join.owners[u.owner]; !there {
			x.join.owners[u.owner] = nil
			ids = append(ids, u.owner)
		}
	}
	slices.Sort(ids)
	owners, err := s.Owners(ctx, ids)
	if err != nil {
		return err
	}
	for id, o := range owners {
		if o.Kind == attribution.Nobody || o.Kind == attribution.UnknownProcess {
			continue // whatever a rule says, they are no server
		}
		facts := join.FactsOf(o)
		x.join.owners[id] = &facts
	}
	return nil
}
