package scan

import (
	"encoding/binary"
	"strconv"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// dropped is the group of what a filter keeps out.
const dropped = int32(-1)

// side is the kind of fact that a dimension is read from. A slice's keys are
// put together from a device's, an owner's and a method's, each worked out
// once per roster, and its price's; its basis stands by itself.
type side int

const (
	ofDevice side = iota
	ofOwner
	ofMethod
	ofPrice
	ofBasis
	sides
)

func sideOf(d store.Dimension) side {
	switch {
	case d.OfDevice():
		return ofDevice
	case d == store.Method:
		return ofMethod
	case d == store.Revision:
		return ofPrice
	case d == store.Basis:
		return ofBasis
	}
	return ofOwner
}

// keyer works out keys, filters by them and numbers the groups they make.
type keyer struct {
	env       Env
	groupBy   []store.Dimension
	sides     []side // of groupBy
	filters   [sides][]store.Filter
	all       []store.Filter
	asksModel bool // whether any dimension depends on tallies

	groups  [sides]groups
	prices  map[uint32]int32 // groups by revision
	tallies groups
	bases   [len(attribution.Bases) + 1]bool // kept, by basis
}

func newKeyer(q *store.Query, env Env) *keyer {
	k := &keyer{env: env, groupBy: q.GroupBy, all: q.Filters, prices: make(map[uint32]int32)}
	for _, d := range q.GroupBy {
		k.sides = append(k.sides, sideOf(d))
		k.asksModel = k.asksModel || d.OfServed()
	}
	for _, f := range q.Filters {
		k.filters[sideOf(f.Dimension)] = append(k.filters[sideOf(f.Dimension)], f)
		k.asksModel = k.asksModel || f.Dimension.OfServed()
	}
	for _, b := range attribution.Bases {
		k.bases[b] = keeps(k.filters[ofBasis], func(store.Dimension) store.Key { return store.Key{Value: b.String()} })
	}
	return k
}

func (k *keyer) keepsBasis(b attribution.Basis) bool { return k.bases[b] }

func keeps(fs []store.Filter, key func(store.Dimension) store.Key) bool {
	for i := range fs {
		if !fs[i].Match(key(fs[i].Dimension)) {
			return false
		}
	}
	return true
}

// group numbers the keys that a fact has in the dimensions of its side, or
// drops it.
func (k *keyer) group(s side, key func(store.Dimension) store.Key) int32 {
	if !keeps(k.filters[s], key) {
		return dropped
	}
	var keys []store.Key
	for i, d := range k.groupBy {
		if k.sides[i] == s {
			keys = append(keys, key(d))
		}
	}
	return k.groups[s].number(keys)
}

// price is the group of prices of a revision.
func (k *keyer) price(revision uint32) int32 {
	g, ok := k.prices[revision]
	if !ok {
		g = k.group(ofPrice, func(store.Dimension) store.Key {
			return store.Key{Value: strconv.FormatUint(uint64(revision), 10)}
		})
		k.prices[revision] = g
	}
	return g
}

// sliceKeys puts a row's keys together.
func (k *keyer) sliceKeys(at cell) []store.Key {
	from := [sides][]store.Key{
		ofDevice: k.groups[ofDevice].keys[at.device],
		ofOwner:  k.groups[ofOwner].keys[at.owner],
		ofMethod: k.groups[ofMethod].keys[at.method],
		ofPrice:  k.groups[ofPrice].keys[at.price],
		ofBasis:  {{Value: at.basis.String()}},
	}
	keys := make([]store.Key, len(k.groupBy))
	for i, s := range k.sides {
		keys[i], from[s] = from[s][0], from[s][1:]
	}
	return keys
}

func (k *keyer) tallyKeys(g int32) []store.Key {
	return append(make([]store.Key, 0, len(k.groupBy)), k.tallies.keys[g]...)
}

// view is the groups of everything on a roster.
type view struct {
	roster                   *attribution.Roster
	owners, devices, methods []int32
	answers                  []*ownerAnswers

	keyer    *keyer
	subjects []int32 // +1; 0: not asked yet
}

func (k *keyer) view(r *attribution.Roster) *view {
	v := &view{
		roster: r, keyer: k,
		owners: make([]int32, len(r.Owners)), devices: make([]int32, len(r.Devices)), methods: make([]int32, len(r.Methods)),
		answers: make([]*ownerAnswers, len(r.Owners)), subjects: make([]int32, len(r.Subjects)),
	}
	for i := range r.Devices {
		v.devices[i] = k.group(ofDevice, func(d store.Dimension) store.Key { return DeviceKey(d, &r.Devices[i]) })
	}
	for i, m := range r.Methods {
		v.methods[i] = k.group(ofMethod, func(store.Dimension) store.Key { return fact(m) })
	}
	for i := range r.Owners {
		a := k.answers(&r.Owners[i])
		v.answers[i] = a
		v.owners[i] = k.group(ofOwner, a.key)
	}
	return v
}

// subject is the group of a tally's subject.
func (v *view) subject(i uint32) int32 {
	if g := v.subjects[i]; g != 0 {
		return g - 1
	}
	k, s := v.keyer, &v.roster.Subjects[i]
	key := func(d store.Dimension) store.Key { return v.answers[s.Owner].tallyKey(d, s) }
	g := dropped
	if keeps(k.all, key) {
		keys := make([]store.Key, len(k.groupBy))
		for j, d := range k.groupBy {
			keys[j] = key(d)
		}
		g = k.tallies.number(keys)
	}
	v.subjects[i] = g + 1
	return g
}

// groups numbers lists of keys.
type groups struct {
	index map[string]int32
	keys  [][]store.Key
}

func (g *groups) number(keys []store.Key) int32 {
	var name []byte
	for _, k := range keys {
		if k.Missing {
			name = append(name, 0)
			continue
		}
		name = binary.AppendUvarint(name, 1+uint64(len(k.Value)))
		name = append(name, k.Value...)
	}
	n, ok := g.index[string(name)]
	if !ok {
		if g.index == nil {
			g.index = make(map[string]int32)
		}
		n = int32(len(g.keys))
		g.index[string(name)] = n
		g.keys = append(g.keys, keys)
	}
	return n
}
