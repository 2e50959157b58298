package plan

import (
	"cmp"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// RowsAtOnce is how many rows a run of buckets has at most, unless it is a single
// bucket: that many are put in order in memory.
const RowsAtOnce = 50_000

// Bucket is how many rows a bucket has.
type Bucket struct {
	Start attribution.Second
	Rows  uint64
}

// Runs calls f with runs [low, high) of buckets of a resolution, which are in
// order of time, and their rows: as many as RowsAtOnce allows, and one bucket at
// least. The first error of f ends it.
func Runs(r rollup.Resolution, buckets []Bucket, f func(low, high attribution.Second, rows uint64) error) error {
	for len(buckets) > 0 {
		n, rows := 1, buckets[0].Rows
		for ; n < len(buckets) && rows+buckets[n].Rows <= RowsAtOnce; n++ {
			rows += buckets[n].Rows
		}
		if err := f(buckets[0].Start, buckets[n-1].Start+attribution.Second(r), rows); err != nil {
			return err
		}
		buckets = buckets[n:]
	}
	return nil
}

// FactRows puts rows in the order of [store.Reader].Rows and calls f with each,
// until its first error. Rows of one device or owner share its facts: these are
// compared once each, not once a row.
func FactRows(rows []store.FactRow, f func(*store.FactRow) error) error {
	devices, owners := make(map[*attribution.Device]int), make(map[*attribution.Owner]int)
	for i := range rows {
		devices[rows[i].Device], owners[rows[i].Owner] = 0, 0
	}
	rank(devices, attribution.CompareDevices)
	rank(owners, attribution.CompareOwners)
	slices.SortFunc(rows, func(a, b store.FactRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(devices[a.Device], devices[b.Device]), cmp.Compare(owners[a.Owner], owners[b.Owner]),
			cmp.Compare(a.Basis, b.Basis), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Revision, b.Revision))
	})
	return call(rows, f)
}

// TallyFactRows is FactRows in the order of [store.Reader].TallyRows.
func TallyFactRows(rows []store.TallyFactRow, f func(*store.TallyFactRow) error) error {
	owners := make(map[*attribution.Owner]int)
	for i := range rows {
		owners[rows[i].Owner] = 0
	}
	rank(owners, attribution.CompareOwners)
	slices.SortFunc(rows, func(a, b store.TallyFactRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(owners[a.Owner], owners[b.Owner]), cmp.Compare(a.Model, b.Model),
			cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Measure, b.Measure))
	})
	return call(rows, f)
}

// rank numbers the keys of a map by their order.
func rank[T any](m map[*T]int, compare func(a, b *T) int) {
	order := make([]*T, 0, len(m))
	for k := range m {
		order = append(order, k)
	}
	slices.SortFunc(order, compare)
	for i, k := range order {
		m[k] = i
	}
}

func call[R any](rows []R, f func(*R) error) error {
	for i := range rows {
		if err := f(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}
