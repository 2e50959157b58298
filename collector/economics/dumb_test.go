package economics_test

import (
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
)

// thing is a model of a server, or of a backend as a gateway saw it, with what
// it served whom on one day.
type thing struct {
	owner   uint32
	model   string
	tenants map[string][2]int64 // tokens, requests
	good    map[string]int64    // successes, by tier of servers, that they know no tenant of
	tokens  map[string]bool     // whether there are counts of those
	cost    *big.Rat
	counted bool
	pool    int
}

func (x *thing) sum(i int) (n int64) {
	for _, v := range x.tenants {
		n += v[i]
	}
	return n
}

func (x *thing) blind() bool {
	for tier, n := range x.good {
		if n > 0 && !x.tokens[tier] {
			return true
		}
	}
	return false
}

// dumb works out what each tenant ("": none) costs on the day that begins at d,
// in fractions.
func dumb(w *town, d attribution.Second, splitBy string) map[string]*big.Rat {
	who := canonical(w)
	cost := map[uint32]*big.Rat{}
	things := map[[2]any]*thing{}
	at := func(o uint32, model string) *thing {
		k := [2]any{o, model}
		if things[k] == nil {
			things[k] = &thing{owner: o, model: model, tenants: map[string][2]int64{}, good: map[string]int64{}, tokens: map[string]bool{}, cost: new(big.Rat), counted: true}
		}
		return things[k]
	}
	models := map[uint32][]string{} // ever
	for _, k := range w.ticks {
		for _, c := range k.counts {
			s := w.Subjects[c.Subject]
			if s.Model != "" && !slices.Contains(models[s.Owner], s.Model) {
				models[s.Owner] = append(models[s.Owner], s.Model)
			}
		}
	}
	name := func(s attribution.Subject) string {
		if s.Model == "" && len(models[s.Owner]) == 1 {
			return models[s.Owner][0]
		}
		return s.Model
	}
	for _, k := range w.ticks {
		if k.at < d || k.at >= d+day {
			continue
		}
		for _, o := range k.holders {
			if o = who(o); cost[o] == nil {
				cost[o] = new(big.Rat)
			}
			cost[o].Add(cost[o], new(big.Rat).SetFrac64(int64(price.PerHour), 3600))
		}
		for _, c := range k.counts {
			s := w.Subjects[c.Subject]
			x := at(who(s.Owner), name(s))
			v := x.tenants[s.Tenant]
			tier, pooled := s.Tier, s.Tenant == ""
			if s.Owner >= byService {
				tier, pooled = "", true
			}
			if pooled && c.Measure == 0 {
				x.good[tier] += c.Value
			}
			if c.Measure == 1 || c.Measure == 2 {
				x.tokens[tier] = x.tokens[tier] || pooled
				v[0] += c.Value
			} else {
				v[1] += c.Value
			}
			x.tenants[s.Tenant] = v
		}
	}
	out := map[string]*big.Rat{}
	give := func(tenant string, c *big.Rat) {
		if out[tenant] == nil {
			out[tenant] = new(big.Rat)
		}
		out[tenant].Add(out[tenant], c)
	}
	// Each owner's cost to what it served, by tenants where it knows them.
	for o, c := range cost {
		var mine []*thing
		var weigh [2]int64
		parts := int64(0)
		for _, x := range things {
			if x.owner == o {
				mine = append(mine, x)
				weigh[0] += x.sum(0)
				weigh[1] += x.sum(1)
				parts += int64(subjects(w, d, x, name))
			}
		}
		for _, x := range mine {
			for tenant, v := range x.tenants {
				var part *big.Rat
				switch {
				case weigh[0] > 0:
					part = big.NewRat(v[0], weigh[0])
				case weigh[1] > 0:
					part = big.NewRat(v[1], weigh[1])
				default:
					part = big.NewRat(int64(subjectsOf(w, d, x, tenant, name)), parts)
				}
				part.Mul(part, c)
				if tenant != "" {
					give(tenant, part)
				} else {
					x.cost.Add(x.cost, part)
				}
			}
		}
		if len(mine) == 0 {
			x := &thing{owner: o, cost: new(big.Rat).Set(c)}
			if len(models[o]) == 1 {
				x.model = models[o][0]
			}
			things[[2]any{o, nil}] = x
		}
	}
	pooled(things, splitBy, give)
	return out
}

// canonical has two owners of one workload be one where nothing tells them
// apart: both have ever counted, or neither, under at most one model, the same,
// and know of no customers.
func canonical(w *town) func(uint32) uint32 {
	var models [2][]string // ever
	var counted [2]bool
	apart := false
	for _, k := range w.ticks {
		for _, c := range k.counts {
			s := w.Subjects[c.Subject]
			if s.Owner > llama1 {
				continue
			}
			counted[s.Owner] = true
			apart = apart || s.Tenant != "" || s.Tier != ""
			if s.Model != "" && !slices.Contains(models[s.Owner], s.Model) {
				models[s.Owner] = append(models[s.Owner], s.Model)
			}
		}
	}
	if apart || counted[0] != counted[1] || len(models[0]) > 1 || !slices.Equal(models[0], models[1]) {
		return func(o uint32) uint32 { return o }
	}
	return func(o uint32) uint32 {
		if o == llama1 {
			return llama0
		}
		return o
	}
}

// subjects counts the keys that an owner's cost is split over equally where
// nothing was counted: tenants and tiers of a model.
func subjects(w *town, d attribution.Second, x *thing, name func(attribution.Subject) string) (n int) {
	for tenant := range x.tenants {
		n += subjectsOf(w, d, x, tenant, name)
	}
	return n
}

func subjectsOf(w *town, d attribution.Second, x *thing, tenant string, name func(attribution.Subject) string) int {
	tiers := map[string]bool{}
	for _, k := range w.ticks {
		for _, c := range k.counts {
			if s := w.Subjects[c.Subject]; k.at >= d && k.at < d+day && canonical(w)(s.Owner) == x.owner && name(s) == x.model && s.Tenant == tenant {
				tiers[s.Tier] = true
			}
		}
	}
	return len(tiers)
}

// pooled gives what servers could not tell themselves by what gateways saw:
// pools are found by giving everything a number and the lower one to what is
// joined, until nothing changes.
func pooled(things map[[2]any]*thing, splitBy string, give func(string, *big.Rat)) {
	var servers, flows []*thing
	for _, x := range things {
		if x.owner >= byService {
			flows = append(flows, x)
		} else if x.cost.Sign() > 0 || len(x.tenants) > 0 {
			servers = append(servers, x)
		}
		x.pool = len(flows) + len(servers)
	}
	joined := func(s, f *thing) bool {
		if _, own := s.tenants[""]; s.counted && !own {
			return false
		}
		if f.owner == byService {
			return s.owner <= llama1 && (s.model == f.model || s.model == "" || f.model == "")
		}
		return s.counted && s.model == f.model && s.model != ""
	}
	for range len(things) {
		for _, s := range servers {
			for _, f := range flows {
				if joined(s, f) {
					s.pool, f.pool = min(s.pool, f.pool), min(s.pool, f.pool)
				}
			}
		}
	}
	for _, s := range servers {
		var seen, served [2]int64
		tenants := map[string][2]int64{}
		known, blind := false, false
		for _, f := range flows {
			if f.pool != s.pool || !slices.ContainsFunc(servers, func(x *thing) bool { return joined(x, f) }) || !slices.ContainsFunc(flows, func(x *thing) bool { return joined(s, x) }) {
				continue
			}
			known, blind = true, blind || f.blind()
			for tenant, v := range f.tenants {
				have := tenants[tenant]
				for i := range v {
					have[i] += v[i]
					seen[i] += v[i]
				}
				tenants[tenant] = have
			}
		}
		if !known {
			give("", s.cost)
			continue
		}
		for _, x := range servers {
			if x.pool == s.pool {
				blind = blind || x.blind()
				for i := range served {
					served[i] += x.tenants[""][i]
				}
			}
		}
		by := 0
		if splitBy == economics.ByRequests || seen[0] == 0 || blind && seen[1] > 0 {
			by = 1
		}
		unseen := max(0, served[by]-seen[by])
		all := seen[by] + unseen
		if all == 0 {
			give("", s.cost)
			continue
		}
		for tenant, v := range tenants {
			give(tenant, new(big.Rat).Mul(s.cost, big.NewRat(v[by], all)))
		}
		give("", new(big.Rat).Mul(s.cost, big.NewRat(unseen, all)))
	}
}
