package opencost

import (
	"cmp"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// amounts are device times in ns and costs in nano units.
type amounts struct {
	time     big.Int
	observed big.Int // of it, what was looked at
	used     big.Int // of that, what was used
	unpriced big.Int // of time, what has no price

	cost         big.Int // of time
	observedCost big.Int
	usedCost     big.Int
	idle         big.Int // shared idle cost, on top
	shared       big.Int // shared cost, on top
}

func (a *amounts) add(b *amounts) {
	for _, x := range [...]struct{ to, from *big.Int }{
		{&a.time, &b.time},
		{&a.observed, &b.observed},
		{&a.used, &b.used},
		{&a.unpriced, &b.unpriced},
		{&a.cost, &b.cost},
		{&a.observedCost, &b.observedCost},
		{&a.usedCost, &b.usedCost},
		{&a.idle, &b.idle},
		{&a.shared, &b.shared},
	} {
		x.to.Add(x.to, x.from)
	}
}

func (a *amounts) addRow(r *store.Row) {
	var b amounts
	b.time.Set(&r.DeviceTime)
	b.cost.Set(&r.Cost)
	b.unpriced.Set(&r.Unpriced)
	if r.Basis != attribution.Unobserved {
		b.observed.Set(&r.DeviceTime)
		b.observedCost.Set(&r.Cost)
	}
	if r.Basis == attribution.Used || r.Basis == attribution.Unattributed {
		b.used.Set(&r.DeviceTime)
		b.usedCost.Set(&r.Cost)
	}
	a.add(&b)
}

// total is all that an allocation costs.
func (a *amounts) total() *big.Int {
	t := new(big.Int).Add(&a.cost, &a.idle)
	return t.Add(t, &a.shared)
}

// piece is what one tuple of keys has in a set: as fine as filters and sharing
// need it.
type piece struct {
	keys []store.Key // as plan.dims
	free bool        // unallocated: idle
	*group
	amounts
}

// group is an allocation in the making: pieces that are told apart by nothing
// that was asked for.
type group struct {
	id    string
	names []string // a value per aggregated property
	among string   // what tells pods of one name apart
}

// item is an allocation as it is answered.
type item struct {
	name    string
	keys    []store.Key // as plan.dims, where all agree
	differs []bool
	crowded bool // on a device with another pod
	amounts
}

// plan is how a request is put to the store.
type plan struct {
	*request
	dims    []store.Dimension
	filters []store.Filter // applied by the store
	after   predicate      // applied here
	pod     int            // which aggregated property is the pod, or -1
	among   []store.Dimension
}

func newPlan(r *request) *plan {
	p := &plan{request: r, after: r.filter, pod: -1}
	if !r.shareIdle && !r.share {
		// Otherwise what is filtered out takes its share first.
		p.filters, p.after = r.filter.split()
	}
	fine := false
	p.want(store.Cluster)
	for i, f := range r.aggregate {
		p.want(f.dim)
		if f.dim == store.Pod {
			p.pod = i
		}
		fine = fine || f.dim == store.Pod || f.dim == store.Container
	}
	if r.idleByNode {
		p.want(store.Node)
	}
	if p.pod >= 0 {
		for _, d := range []store.Dimension{store.Cluster, store.Namespace} {
			if !slices.ContainsFunc(r.aggregate, func(f field) bool { return f.dim == d }) {
				p.among = append(p.among, d)
			}
		}
	}
	if fine {
		p.want(store.Node, store.Namespace, store.Controller, store.Pod, store.DeviceID, store.DeviceModel)
	}
	p.dims = r.shared.dims(p.after.dims(p.dims))
	return p
}

func (p *plan) want(ds ...store.Dimension) {
	for _, d := range ds {
		if !slices.Contains(p.dims, d) {
			p.dims = append(p.dims, d)
		}
	}
}

func (p *plan) key(keys []store.Key, d store.Dimension) store.Key {
	if i := slices.Index(p.dims, d); i >= 0 {
		return keys[i]
	}
	return store.Key{Missing: true}
}

// items makes the allocations of a set of the store's rows, by cost.
func (p *plan) items(rows []store.Row) []*item {
	pieces := p.pieces(rows)
	pieces = p.spreadIdle(pieces)
	pieces = p.spreadShared(pieces)
	crowded := p.crowded(pieces)
	pieces = slices.DeleteFunc(pieces, func(x *piece) bool {
		return !p.after.keep(func(d store.Dimension) store.Key { return p.key(x.keys, d) })
	})
	byName := map[string]*item{}
	name := p.namer(pieces)
	var out []*item
	for _, x := range pieces {
		n := name(x)
		it := byName[n]
		if it == nil {
			it = &item{name: n, keys: x.keys, differs: make([]bool, len(x.keys))}
			byName[n] = it
			out = append(out, it)
		}
		for i, k := range x.keys {
			it.differs[i] = it.differs[i] || k != it.keys[i]
		}
		it.crowded = it.crowded || crowded(x)
		it.add(&x.amounts)
	}
	slices.SortFunc(out, func(a, b *item) int {
		return cmp.Or(b.total().Cmp(a.total()), cmp.Compare(a.name, b.name))
	})
	return out
}

// pieces adds up the rows, which come per basis.
func (p *plan) pieces(rows []store.Row) []*piece {
	at := map[string]*piece{}
	groups := map[string]*group{}
	var out []*piece
	var buf []byte
	for i := range rows {
		r := &rows[i]
		buf = append(buf[:0], 0)
		if r.Basis == attribution.Unallocated {
			buf[0] = 1
		}
		buf = query.AppendKeys(buf, r.Keys)
		x := at[string(buf)]
		if x == nil {
			x = &piece{keys: r.Keys, free: r.Basis == attribution.Unallocated}
			g := p.group(x)
			if groups[g.id] == nil {
				groups[g.id] = g
			}
			x.group = groups[g.id]
			at[string(buf)] = x
			out = append(out, x)
		}
		x.addRow(r)
	}
	return out
}

func (p *plan) group(x *piece) *group {
	g := &group{}
	if x.free {
		return g
	}
	for _, f := range p.aggregate {
		v, ok := f.value(p.key(x.keys, f.dim))
		if !ok || v == "" {
			v = noValueName
		}
		g.names = append(g.names, v)
	}
	if p.pod >= 0 && g.names[p.pod] != noValueName {
		for _, d := range p.among {
			if k := p.key(x.keys, d); !k.Missing {
				g.among += k.Value + ":"
			}
		}
	}
	g.id = strings.Join(g.names, "\x00") + "\x00" + g.among
	return g
}

// namer names the allocations of pieces. Pods of one name that are not the same
// get what tells them apart before their names.
func (p *plan) namer(pieces []*piece) func(*piece) string {
	first := map[string]*group{}
	twice := map[string]bool{}
	for _, x := range pieces {
		n := strings.Join(x.names, "/")
		if g := first[n]; g == nil {
			first[n] = x.group
		} else if g != x.group {
			twice[n] = true
		}
	}
	return func(x *piece) string {
		if x.free {
			if node := p.key(x.keys, store.Node); p.idleByNode && !node.Missing {
				return node.Value + "/" + idleName
			}
			return idleName
		}
		n := strings.Join(x.names, "/")
		if !twice[n] || p.pod < 0 {
			return n
		}
		names := slices.Clone(x.names)
		names[p.pod] = x.among + names[p.pod]
		return strings.Join(names, "/")
	}
}

// spreadIdle shares what is idle, cluster by cluster or node by node, or leaves
// it out, as asked.
func (p *plan) spreadIdle(pieces []*piece) []*piece {
	if !p.shareIdle {
		return slices.DeleteFunc(pieces, func(x *piece) bool { return x.free && !p.idle })
	}
	var buf []byte
	place := func(x *piece) string {
		buf = query.AppendKeys(buf[:0], []store.Key{p.key(x.keys, store.Cluster)})
		if p.idleByNode {
			buf = query.AppendKeys(buf, []store.Key{p.key(x.keys, store.Node)})
		}
		return string(buf)
	}
	pools, takers := map[string]*big.Int{}, map[string][]*piece{}
	for _, x := range pieces {
		at := place(x)
		if !x.free {
			takers[at] = append(takers[at], x)
			continue
		}
		if pools[at] == nil {
			pools[at] = new(big.Int)
		}
		pools[at].Add(pools[at], &x.cost)
	}
	shared := map[string]bool{}
	for at, pool := range pools {
		shared[at] = share(pool, takers[at], p.evenIdle, func(x *piece) *big.Int { return &x.idle })
	}
	return slices.DeleteFunc(pieces, func(x *piece) bool { return x.free && shared[place(x)] })
}

// spreadShared shares the costs of what the asker named over all others.
func (p *plan) spreadShared(pieces []*piece) []*piece {
	if !p.share {
		return pieces
	}
	var takers []*piece
	pool := new(big.Int)
	given := map[*piece]bool{}
	for _, x := range pieces {
		switch {
		case x.free:
		case p.shared.keep(func(d store.Dimension) store.Key { return p.key(x.keys, d) }):
			pool.Add(pool, x.total())
			given[x] = true
		default:
			takers = append(takers, x)
		}
	}
	if !share(pool, takers, p.evenShared, func(x *piece) *big.Int { return &x.shared }) {
		return pieces
	}
	return slices.DeleteFunc(pieces, func(x *piece) bool { return given[x] })
}

// crowded tells which pieces are on a device that more than one pod had
// time on.
func (p *plan) crowded(pieces []*piece) func(*piece) bool {
	if !slices.Contains(p.dims, store.DeviceID) {
		return func(*piece) bool { return false }
	}
	pod := func(x *piece) string {
		return string(query.AppendKeys(nil, []store.Key{p.key(x.keys, store.Namespace), p.key(x.keys, store.Pod)}))
	}
	first, several := map[string]string{}, map[string]bool{}
	for _, x := range pieces {
		id := p.key(x.keys, store.DeviceID).Value
		if x.free {
			continue
		}
		if have, ok := first[id]; ok && have != pod(x) {
			several[id] = true
		}
		first[id] = pod(x)
	}
	return func(x *piece) bool { return !x.free && several[p.key(x.keys, store.DeviceID).Value] }
}
