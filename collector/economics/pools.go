package economics

import (
	"context"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// pools are the flows of one stretch of time with the cost that they divide.
// Flows that share an owner are one pool.
type pools struct {
	tenant, tier, own int // their places in keys
	flows             []flow
	byName            map[string]int
	bags              map[string]*bag
}

// flow is what gateways saw go to one backend, of one model.
type flow struct {
	backend   int
	model     store.Key
	customers map[string]*customer
	same      int // another flow of the same pool, its own number at the root
}

// customer is a tenant and tier with what gateways saw of them.
type customer struct {
	keys   []store.Key // tenant, tier
	served Served
}

// bag is the part of a pool's cost that goes to groups of the same keys but
// for the customer's.
type bag struct {
	flow    int // any of its pool's
	keys    []store.Key
	counted bool // by its servers
	blind   bool // some of them count no tokens of what they serve
	row     Row
}

func newPools(dims []store.Dimension) *pools {
	at := func(d store.Dimension) int { return slices.Index(dims, d) }
	return &pools{tenant: at(store.Tenant), tier: at(store.Tier), own: at(store.OwnTier), byName: map[string]int{}, bags: map[string]*bag{}}
}

// saw adds what a gateway counted.
func (p *pools) saw(backend int, model store.Key, who []store.Key, t *store.TallyRow) {
	name := string(query.AppendKeys(appendTime(nil, attribution.Second(backend)), []store.Key{model}))
	n, ok := p.byName[name]
	if !ok {
		n = len(p.flows)
		p.byName[name] = n
		p.flows = append(p.flows, flow{backend: backend, model: model, customers: map[string]*customer{}, same: n})
	}
	addCustomer(p.flows[n].customers, who).served.count(t.Measure, &t.Value)
}

func addCustomer(to map[string]*customer, who []store.Key) *customer {
	name := string(query.AppendKeys(nil, who))
	c := to[name]
	if c == nil {
		c = &customer{keys: slices.Clone(who)}
		to[name] = c
	}
	return c
}

// root is the flow that stands for n's pool.
func (p *pools) root(n int) int {
	for p.flows[n].same != n {
		p.flows[n].same = p.flows[p.flows[n].same].same
		n = p.flows[n].same
	}
	return n
}

// add puts a row of an owner into the pool of the flows that it is joined to,
// which become one.
func (p *pools) add(joined []int, keys []store.Key, counted bool, r *Row) {
	for _, n := range joined[1:] {
		a, b := p.root(joined[0]), p.root(n)
		p.flows[max(a, b)].same = min(a, b)
	}
	mark := byte(0)
	if counted {
		mark = 1
	}
	name := string(query.AppendKeys(append(appendTime(nil, attribution.Second(joined[0])), mark), keys))
	b := p.bags[name]
	if b == nil {
		b = &bag{flow: joined[0], keys: keys, counted: counted}
		p.bags[name] = b
	}
	b.blind = b.blind || r.Served.blind()
	b.row.add(r)
}

// pool is flows and bags that belong together.
type pool struct {
	customers []*customer
	bags      []*bag
	by        func(Served) *big.Int // what its cost is split by
}

// maxParts is how many parts a pool may be split into: customers times groups.
// Each takes some kilobytes.
const maxParts = 1 << 20

// settle splits the pools' costs and hands the rows over. What into returns
// ends it.
func (p *pools) settle(ctx context.Context, splitBy string, into func([]store.Key, *Row) error) error {
	seen, blind := make(map[int]map[string]*customer), make(map[int]bool)
	for n := range p.flows {
		r := p.root(n)
		if seen[r] == nil {
			seen[r] = map[string]*customer{}
		}
		var flow Served
		for _, c := range p.flows[n].customers {
			addCustomer(seen[r], c.keys).served.add(c.served)
			flow.add(c.served)
		}
		blind[r] = blind[r] || flow.blind()
	}
	bags := make(map[int][]*bag)
	for _, b := range p.bags {
		r := p.root(b.flow)
		bags[r] = append(bags[r], b)
		blind[r] = blind[r] || b.blind
	}
	all := make(map[int]*pool)
	for r, bs := range bags {
		all[r] = newPool(seen[r], bs, splitBy, blind[r])
	}
	for _, x := range all {
		if n := (len(x.customers) + 1) * len(x.bags); n > maxParts {
			return query.TooMany(n)
		}
		slices.SortFunc(x.bags, func(a, b *bag) int {
			if c := query.CompareKeys(a.keys, b.keys); c != 0 || a.counted == b.counted {
				return c
			}
			if a.counted {
				return -1
			}
			return 1
		})
		if err := x.settle(ctx, p, into); err != nil {
			return err
		}
	}
	return nil
}

// newPool decides what a pool is split by. Tokens compare nothing where a server
// or a gateway is blind to them, as long as gateways count requests.
func newPool(customers map[string]*customer, bags []*bag, splitBy string, blind bool) *pool {
	x := &pool{by: requests, bags: bags}
	var all Served
	for _, c := range customers {
		x.customers = append(x.customers, c)
		all.add(c.served)
	}
	if splitBy == ByTokens && tokens(all).Sign() > 0 && (!blind || requests(all).Sign() == 0) {
		x.by = tokens
	}
	slices.SortFunc(x.customers, func(a, b *customer) int { return query.CompareKeys(a.keys, b.keys) })
	return x
}

// settle splits a pool: each bag's cost in the same proportion, what was served
// over the bags as their servers counted it.
func (x *pool) settle(ctx context.Context, p *pools, into func([]store.Key, *Row) error) error {
	shares := x.shares()
	last := len(x.customers)
	counts := make([][]Served, last+1) // by customer, the unseen last; by bag
	for i, c := range x.customers {
		counts[i] = x.spread(c.served)
	}
	counts[last] = x.spread(x.unseen())
	for n, b := range x.bags {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for i, r := range b.row.split(shares) {
			r.Served = counts[i][n]
			keys := slices.Clone(b.keys)
			if i == last {
				r.Customers = Unseen
			} else {
				r.Customers = FromGateway
				keys[p.tenant] = x.customers[i].keys[0]
				if tier := x.customers[i].keys[1]; !tier.Missing && keys[p.own].Missing {
					keys[p.tier] = tier
				}
			}
			if i < last || b.counted {
				r.Covered = *r.Allocation()
			}
			if i == last && shares[last].Sign() == 0 && !r.Served.any() {
				continue // there is none
			}
			if err := into(keys, &r); err != nil {
				return err
			}
		}
	}
	return nil
}

// shares weighs the customers, and behind them what no gateway saw: what the
// servers counted beyond it.
func (x *pool) shares() []*big.Int {
	var ws []*big.Int
	unseen := new(big.Int)
	for _, b := range x.bags {
		unseen.Add(unseen, x.by(b.row.Served))
	}
	for _, c := range x.customers {
		w := x.by(c.served)
		unseen.Sub(unseen, w)
		ws = append(ws, w)
	}
	if unseen.Sign() < 0 {
		unseen.SetInt64(0)
	}
	ws = append(ws, unseen)
	if !slices.ContainsFunc(ws, func(w *big.Int) bool { return w.Sign() > 0 }) {
		unseen.SetInt64(1)
	}
	return ws
}

// unseen is what servers counted beyond what gateways did, of what both count.
// Reasons of failures are each side's own: their sums are compared.
func (x *pool) unseen() Served {
	var servers, seen Served
	for _, b := range x.bags {
		servers.add(b.row.Served)
	}
	for _, c := range x.customers {
		seen.add(c.served)
	}
	out := Served{}
	for _, m := range []attribution.Measure{attribution.Success, attribution.TokensInput, attribution.TokensCached, attribution.TokensOutput, attribution.TokensAborted} {
		if s, g := servers.Counter(m), seen.Counter(m); s.Measured && g.Measured {
			out[m] = beyond(&s.Value, &g.Value)
		}
	}
	s, g := servers.Failures(), seen.Failures()
	if !s.Measured || !g.Measured {
		return out
	}
	var reasons []attribution.Measure
	var ws []*big.Int
	for m := range servers {
		if isFailure(m) {
			reasons = append(reasons, m)
		}
	}
	slices.Sort(reasons)
	for _, m := range reasons {
		ws = append(ws, servers[m])
	}
	for i, v := range spread(beyond(&s.Value, &g.Value), ws) {
		out[reasons[i]] = v
	}
	return out
}

// beyond is a − b, but not below 0.
func beyond(a, b *big.Int) *big.Int {
	d := new(big.Int).Sub(a, b)
	if d.Sign() < 0 {
		d.SetInt64(0)
	}
	return d
}

// spread divides counts over the bags, exactly: as their servers counted the
// measure, else by what cost is split by, else by device time.
func (x *pool) spread(s Served) []Served {
	out := make([]Served, len(x.bags))
	for m, v := range s {
		ws := x.weights(func(b *bag) *big.Int { return alike(b.row.Served, m) })
		if ws == nil {
			ws = x.weights(func(b *bag) *big.Int { return x.by(b.row.Served) })
		}
		if ws == nil {
			ws = x.weights(func(b *bag) *big.Int { return &b.row.Allocation().Time })
		}
		if ws == nil {
			ws = x.weights(func(*bag) *big.Int { return big.NewInt(1) })
		}
		for i, part := range apportion.Big(v, ws) {
			out[i].count(m, part)
		}
	}
	return out
}

// alike is what a server counted of a measure, or of what goes with it: its
// reasons of failures and its latencies are not the gateway's.
func alike(s Served, m attribution.Measure) *big.Int {
	c := s.Counter(m)
	switch _, latency := attribution.BucketOf(m, attribution.LatencyPrefix); {
	case isFailure(m):
		c = s.Failures()
	case latency || strings.HasPrefix(string(m), string(attribution.FirstTokenPrefix)):
		c = s.Counter(attribution.Success)
	}
	return &c.Value
}

// weights are those of the bags, nil where all are 0.
func (x *pool) weights(of func(*bag) *big.Int) []*big.Int {
	var ws []*big.Int
	some := false
	for _, b := range x.bags {
		w := of(b)
		some = some || w.Sign() > 0
		ws = append(ws, w)
	}
	if !some {
		return nil
	}
	return ws
}

// spread is apportion.Big, equally where all weights are 0.
func spread(total *big.Int, ws []*big.Int) []*big.Int {
	if !slices.ContainsFunc(ws, func(w *big.Int) bool { return w.Sign() > 0 }) {
		ws = slices.Repeat([]*big.Int{big.NewInt(1)}, len(ws))
	}
	return apportion.Big(total, ws)
}
