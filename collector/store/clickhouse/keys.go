package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// keys works out the keys of rows and filters by them: rules change, and are
// this collector's own, so that this is not for the servers.
type keys struct {
	reader     *reader
	q          *store.Query
	dimensions []store.Dimension // grouped or filtered by
	served     bool              // whether one depends on what owners served
	owners     map[rollup.Fingerprint]*scan.Answers
	devices    map[rollup.Fingerprint]*attribution.Device
	none       big.Int // 0
}

func newKeys(r *reader, q *store.Query) *keys {
	k := &keys{reader: r, q: q, owners: make(map[rollup.Fingerprint]*scan.Answers), devices: make(map[rollup.Fingerprint]*attribution.Device)}
	k.dimensions = slices.Clone(q.GroupBy)
	for _, f := range q.Filters {
		k.dimensions = append(k.dimensions, f.Dimension)
	}
	k.served = slices.ContainsFunc(k.dimensions, store.Dimension.OfServed)
	return k
}

// ofOwner reports whether a dimension of slices is a fact of owners.
func ofOwner(d store.Dimension) bool {
	switch d {
	case store.Basis, store.Method, store.Revision, store.Tenant, store.OwnTier:
		return false
	default:
		return !d.OfDevice()
	}
}

func (k *keys) learnRows(ctx context.Context, rows []summed) error {
	devices := make(map[rollup.Fingerprint]*attribution.Device)
	owners := make(map[rollup.Fingerprint]*attribution.Owner)
	byOwner := slices.ContainsFunc(k.dimensions, ofOwner)
	for i := range rows {
		x := &rows[i].series
		if k.devices[x.Device] == nil {
			devices[x.Device] = nil
		}
		if byOwner && k.owners[x.Owner] == nil {
			owners[x.Owner] = nil
		}
	}
	if err := k.reader.store.devices(ctx, devices); err != nil {
		return err
	}
	maps.Copy(k.devices, devices)
	return k.learnOwners(ctx, owners)
}

func (k *keys) learnTallies(ctx context.Context, rows []countedTally) error {
	owners := make(map[rollup.Fingerprint]*attribution.Owner)
	for i := range rows {
		if f := rows[i].series.Owner; k.owners[f] == nil {
			owners[f] = nil
		}
	}
	return k.learnOwners(ctx, owners)
}

func (k *keys) learnOwners(ctx context.Context, owners map[rollup.Fingerprint]*attribution.Owner) error {
	if len(owners) == 0 {
		return nil
	}
	if err := k.reader.store.owners(ctx, owners); err != nil {
		return err
	}
	var served map[rollup.Fingerprint]store.Served
	if k.served {
		var err error
		if served, err = k.reader.Served(ctx, slices.Collect(maps.Keys(owners))); err != nil {
			return err
		}
	}
	if k.served {
		for f, o := range owners {
			k.owners[f] = scan.NewAnswers(o, k.reader.rules.of(o), served[f])
		}
		return nil
	}
	k.reader.rules.answers(owners, k.owners)
	return nil
}

// sliceKey is a row's key in a dimension.
func (k *keys) sliceKey(d store.Dimension, x *rollup.Series) store.Key {
	switch d {
	case store.Basis:
		return store.Key{Value: x.Basis.String()}
	case store.Method:
		return store.Key{Value: x.Method, Missing: x.Method == ""}
	case store.Revision:
		return store.Key{Value: strconv.FormatUint(uint64(x.Revision), 10)}
	case store.Tenant, store.OwnTier:
		return store.Key{Missing: true}
	default:
		if d.OfDevice() {
			return scan.DeviceKey(d, k.devices[x.Device])
		}
		return k.owners[x.Owner].Key(d)
	}
}

// of is the keys of a row, and whether the filters keep it.
func (k *keys) of(key func(store.Dimension) store.Key) ([]store.Key, bool) {
	for i := range k.q.Filters {
		if f := &k.q.Filters[i]; !f.Match(key(f.Dimension)) {
			return nil, false
		}
	}
	out := make([]store.Key, len(k.q.GroupBy))
	for i, d := range k.q.GroupBy {
		out[i] = key(d)
	}
	return out, true
}

func (k *keys) addRow(g *group[store.Row], x *summed) error {
	dev := k.devices[x.series.Device]
	if dev == nil {
		return fmt.Errorf("%w: device %s has no facts", store.ErrCorrupt, x.series.Device)
	}
	if slices.ContainsFunc(k.dimensions, ofOwner) && k.owners[x.series.Owner] == nil {
		return fmt.Errorf("%w: owner %s has no facts", store.ErrCorrupt, x.series.Owner)
	}
	ks, ok := k.of(func(d store.Dimension) store.Key { return k.sliceKey(d, &x.series) })
	if !ok {
		return nil
	}
	row, fresh := g.row(x.time, string(rune(x.series.Basis)), ks)
	if fresh {
		if len(g.rows) > k.q.Most() {
			return store.ErrTooMany
		}
		row.Time, row.Keys, row.Basis = x.time, ks, x.series.Basis
	}
	cost, unpriced := &x.cost, &k.none
	if x.series.Revision == 0 {
		cost, unpriced = &k.none, &x.t
	}
	for _, f := range [...][2]*big.Int{
		{&row.DeviceTime, &x.t},
		{&row.SMActive, &x.sm},
		{&row.Memory, &x.memory},
		{&row.Energy, &x.energy},
		{&row.Cost, cost},
		{&row.Unpriced, unpriced},
	} {
		f[0].Add(f[0], f[1])
	}
	row.HasMemory = row.HasMemory || dev.Sensors&attribution.SensorMemory != 0
	row.HasEnergy = row.HasEnergy || dev.Sensors&attribution.SensorEnergy != 0
	return nil
}

func (k *keys) addTally(g *group[store.TallyRow], x *countedTally) error {
	a := k.owners[x.series.Owner]
	if a == nil {
		return fmt.Errorf("%w: owner %s has no facts", store.ErrCorrupt, x.series.Owner)
	}
	sub := attribution.Subject{Model: x.series.Model, Tenant: x.series.Tenant, Tier: x.series.Tier}
	ks, ok := k.of(func(d store.Dimension) store.Key { return a.TallyKey(d, &sub) })
	if !ok {
		return nil
	}
	row, fresh := g.row(x.time, string(x.series.Measure), ks)
	if fresh {
		if len(g.rows) > k.q.Most() {
			return store.ErrTooMany
		}
		row.Time, row.Keys, row.Measure = x.time, ks, x.series.Measure
	}
	row.Value.Add(&row.Value, &x.value)
	return nil
}
