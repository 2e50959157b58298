package memory

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// reader reads a ledger that nobody writes meanwhile.
type reader struct {
	l       *Ledger
	commits uint64
}

var _ store.Reader = (*reader)(nil)

func (r *reader) Commits() uint64 { return r.commits }

func (r *reader) scan(ctx context.Context, q *store.Query) (*scan.Scan, error) {
	if err := cmp.Or(q.Check(), ctx.Err()); err != nil {
		return nil, err
	}
	served := scan.Served{}
	sc := scan.New(q, scan.Env{Served: served.Of})
	r.between(q.From, q.To, func(c *Chunk) { served.Chunk(c.Facts) })
	r.between(q.From, q.To, func(c *Chunk) { sc.Chunk(r.l.journal.Rate(c.Facts)) })
	return sc, nil
}

// between calls f with the chunks that overlap [from, to), in order.
func (r *reader) between(from, to attribution.Second, f func(*Chunk)) {
	for _, id := range r.l.ids() {
		cs := r.l.nodes[id]
		for i := after(cs, from); i < len(cs) && cs[i].Key.Sequence < to; i++ {
			f(cs[i])
		}
	}
}

func (r *reader) Query(ctx context.Context, q *store.Query) ([]store.Row, error) {
	sc, err := r.scan(ctx, q)
	if err != nil {
		return nil, err
	}
	return sc.Rows(), nil
}

func (r *reader) QueryTallies(ctx context.Context, q *store.Query) ([]store.TallyRow, error) {
	sc, err := r.scan(ctx, q)
	if err != nil {
		return nil, err
	}
	return sc.Tallies(), nil
}

func (r *reader) Served(_ context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]store.Served, error) {
	all, out := scan.Served{}, map[rollup.Fingerprint]store.Served{}
	r.between(math.MinInt64, math.MaxInt64, func(c *Chunk) { all.Chunk(c.Facts) })
	for _, o := range owners {
		if x, ok := all[o]; ok {
			out[o] = x
		}
	}
	return out, nil
}

func (r *reader) Owners(_ context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]*attribution.Owner, error) {
	out := map[rollup.Fingerprint]*attribution.Owner{}
	for _, f := range owners {
		if o := r.l.owners[f]; o != nil {
			out[f] = o
		}
	}
	return out, nil
}

func (r *reader) Devices(_ context.Context, from, to attribution.Second, fs []store.Filter) ([]store.DeviceRow, error) {
	var out []store.DeviceRow
	err := r.Rows(context.Background(), rollup.Minute, rollup.Minute.Start(from), to, func(x *store.FactRow) error {
		for i := range fs {
			if !fs[i].Match(scan.DeviceKey(fs[i].Dimension, x.Device)) {
				return nil
			}
		}
		end := x.Bucket + attribution.Second(rollup.Minute)
		i, found := slices.BinarySearchFunc(out, x.Device, func(d store.DeviceRow, y *attribution.Device) int { return attribution.CompareDevices(&d.Device, y) })
		if !found {
			out = slices.Insert(out, i, store.DeviceRow{Device: *x.Device, First: max(x.Bucket, from)})
		}
		out[i].Last = max(out[i].Last, min(end, to))
		return nil
	})
	return out, err
}

func (r *reader) Extent(context.Context) (from, to attribution.Second, err error) {
	for _, cs := range r.l.nodes {
		if to == 0 || cs[0].Key.Sequence < from {
			from = cs[0].Key.Sequence
		}
		to = max(to, cs[len(cs)-1].Facts.End())
	}
	return from, to, nil
}

func (r *reader) Ranges(_ context.Context, f func(store.Range) error) error {
	for _, id := range r.l.ids() {
		for _, x := range r.l.ranges(id) {
			if err := f(x); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) Chunks(_ context.Context, from, to attribution.Second, f func(*store.Chunk, *store.Roster) error) (err error) {
	r.between(from, to, func(c *Chunk) {
		if err == nil {
			err = f(&c.Chunk, &c.roster.stored)
		}
	})
	return err
}

func (r *reader) Rows(_ context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.FactRow) error) error {
	var out []store.FactRow
	for k, s := range r.l.rows[res] {
		if k.bucket >= from && k.bucket < to {
			out = append(out, store.FactRow{
				Bucket: k.bucket, Device: r.l.devices[k.series.Device], Owner: r.l.owners[k.series.Owner],
				Basis: k.series.Basis, Method: k.series.Method, Revision: k.series.Revision, Sums: s,
			})
		}
	}
	slices.SortFunc(out, func(a, b store.FactRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareDevices(a.Device, b.Device), attribution.CompareOwners(a.Owner, b.Owner),
			cmp.Compare(a.Basis, b.Basis), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Revision, b.Revision))
	})
	return each(out, f)
}

func each[T any](xs []T, f func(*T) error) error {
	for i := range xs {
		if err := f(&xs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) TallyRows(_ context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TallyFactRow) error) error {
	var out []store.TallyFactRow
	for k, v := range r.l.tallies[res] {
		if k.bucket >= from && k.bucket < to {
			out = append(out, store.TallyFactRow{
				Bucket: k.bucket, Owner: r.l.owners[k.series.Owner], Model: k.series.Model, Tenant: k.series.Tenant, Tier: k.series.Tier,
				Measure: k.series.Measure, Value: v,
			})
		}
	}
	slices.SortFunc(out, func(a, b store.TallyFactRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareOwners(a.Owner, b.Owner), cmp.Compare(a.Model, b.Model),
			cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Measure, b.Measure))
	})
	return each(out, f)
}

func (r *reader) Rolled(res rollup.Resolution) attribution.Second { return r.l.rolled[res] }

// Kept is always: nothing is ever dropped.
func (r *reader) Kept(rollup.Resolution) attribution.Second { return math.MinInt64 / 4 }

func (r *reader) Journal(context.Context) (*rerating.Journal, error) { return r.l.journal, nil }

func (r *reader) Transfers(_ context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TransferRow) error) error {
	type key struct {
		entry  uint32
		bucket attribution.Second
		series rollup.Series
		to     uint32
	}
	at := map[key]int{}
	var out []store.TransferRow
	for i := range r.l.moved {
		t := &r.l.moved[i]
		if t.Bucket < from || t.Bucket >= to {
			continue
		}
		k := key{t.Entry, res.Start(t.Bucket), t.Series, t.To}
		n, ok := at[k]
		if !ok {
			n = len(out)
			at[k] = n
			out = append(out, store.TransferRow{
				Entry: t.Entry, Bucket: k.bucket, Device: r.l.devices[t.Series.Device], Owner: r.l.owners[t.Series.Owner],
				Basis: t.Series.Basis, Method: t.Series.Method, Revision: t.Series.Revision, To: t.To,
			})
		}
		x := &out[n]
		x.Sums.Time += t.Sums.Time
		x.Sums.SMActive += t.Sums.SMActive
		x.Sums.Memory += t.Sums.Memory
		x.Sums.Energy += t.Sums.Energy
		x.Sums.Cost += t.Sums.Cost
		x.CostAfter += t.CostAfter
		x.Count++
	}
	slices.SortStableFunc(out, func(a, b store.TransferRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Entry, b.Entry))
	})
	return each(out, f)
}
