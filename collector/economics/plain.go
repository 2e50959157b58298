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

// plain is a group of owners whose tallies all have the keys of their slices,
// as have those of whoever serves one model and knows no customers: nothing has
// to be split between them, so that it makes no difference who of them is who.
// A fleet is thousands of owners and a few dozen such groups.
type plain struct {
	time   attribution.Second
	keys   []store.Key // as fold.group
	row    Row
	served Served
}

// maxFresh is how many owners are told apart because the open chunks know more
// of them than the store does.
const maxFresh = 1000

// groupOf is what plain owners are told apart by: whether they count at all,
// the workload whose pods they are, and what joins them to a gateway's backend.
func (f *fold) groupOf() []store.Dimension {
	ds := []store.Dimension{store.Counted, store.Cluster, store.Namespace, store.Controller}
	if f.join != nil {
		ds = append(ds, store.Kind)
		for _, l := range f.gateways.Labels() {
			ds = append(ds, store.Dimension(store.LabelPrefix+l))
		}
	}
	out := slices.Clone(f.dims)
	for _, d := range ds {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// kinds are the filters that part the owners: each of mixed is asked owner by
// owner, plain by groups; nil: nobody is.
func (x *stretch) kinds(ctx context.Context, s *query.Snapshot) (mixed [][]store.Filter, plain []store.Filter, err error) {
	fresh, err := s.Fresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(fresh) > maxFresh || x.join != nil && slices.ContainsFunc(x.join.backends, func(b backend) bool { return join.NamesPod(b.address) }) {
		return [][]store.Filter{nil}, nil, nil
	}
	is := func(v string) store.Filter { return store.Filter{Dimension: store.Mixed, Values: []string{v}} }
	mixed, plain = [][]store.Filter{{is("true")}}, []store.Filter{is("false")}
	if len(fresh) > 0 {
		mixed = append(mixed, []store.Filter{is("false"), {Dimension: store.OwnerID, Values: fresh}})
		plain = append(plain, store.Filter{Dimension: store.OwnerID, Values: fresh, Negate: true})
	}
	return mixed, plain, nil
}

func (x *stretch) plainOf(at attribution.Second, keys []store.Key) *plain {
	x.buf = query.AppendKeys(appendTime(x.buf[:0], at), keys)
	p := x.plain[string(x.buf)]
	if p == nil {
		p = &plain{time: at, keys: keys}
		x.plain[string(x.buf)] = p
	}
	return p
}

func (x *stretch) plainSlice(r *store.Row) { x.plainOf(r.Time, r.Keys).row.add(rowOf(r)) }

func (x *stretch) plainTally(t *store.TallyRow) {
	x.plainOf(t.Time, t.Keys).served.count(t.Measure, &t.Value)
}

// settlePlain gives a group's cost to what it served. It is covered where the
// workload counted requests or tokens within the step, as far as it is the cost
// of owners that ever did.
func (x *stretch) settlePlain(name string, p *plain) {
	key := func(d store.Dimension) store.Key { return p.keys[slices.Index(x.group, d)] }
	r := p.row
	r.Served = p.served
	if key(store.Counted).Value == "true" && r.Served.Inference() {
		r.Covered = *r.Allocation()
	}
	u := &unit{time: p.time, owner: name}
	if x.join != nil {
		x.join.owners[name] = x.factsOf(key)
	}
	x.emit(u, p.time, p.keys[:len(x.dims)], &r)
}

// factsOf are what a group's owners have in common of the facts that join them
// to backends; nil where they are no servers, whatever a rule says.
func (x *stretch) factsOf(key func(store.Dimension) store.Key) *join.OwnerFacts {
	switch key(store.Kind).Value {
	case attribution.Nobody.String(), attribution.UnknownProcess.String():
		return nil
	}
	f := &join.OwnerFacts{Cluster: key(store.Cluster).Value, Namespace: key(store.Namespace).Value, Controller: key(store.Controller).Value}
	labels := map[string]string{}
	for _, d := range x.group {
		if l, ok := strings.CutPrefix(string(d), store.LabelPrefix); ok {
			if k := key(d); !k.Missing {
				labels[l] = k.Value
			}
		}
	}
	f.Labels = attribution.MakeLabels(labels)
	return f
}
