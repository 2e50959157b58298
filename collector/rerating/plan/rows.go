package plan

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// row is a stored row of the bucket at hand.
type row struct {
	owner    *OwnerSum
	series   rollup.Series
	sums     rollup.Sums
	node     nodeName
	deviceID string
}

// rows plans a part of which only rows are kept, bucket by bucket.
func (w *work) rows(ctx context.Context, x part) error {
	f := newFacts(w.Plan)
	var bucket attribution.Second
	var at []row
	flush := func() error {
		if err := w.bucket(part{x.res, bucket, bucket + attribution.Second(x.res)}, at); err != nil {
			return err
		}
		at = at[:0]
		return w.full(len(w.Transfers))
	}
	err := w.reader.Rows(ctx, x.res, x.from, x.to, func(r *store.FactRow) error {
		if len(at) > 0 && r.Bucket != bucket {
			if err := flush(); err != nil {
				return err
			}
		}
		bucket = r.Bucket
		owner := f.ownerID(r.Owner)
		at = append(at, row{
			owner: w.Owners[owner], sums: r.Sums, node: nodeName{r.Device.Cluster, r.Device.Node}, deviceID: r.Device.ID,
			series: rollup.Series{Device: f.deviceID(r.Device), Owner: owner, Basis: r.Basis, Method: r.Method, Revision: r.Revision},
		})
		return nil
	})
	if err == nil && len(at) > 0 {
		err = flush()
	}
	return err
}

// bucket plans one bucket, node by node: the devices of a node share overheads.
func (w *work) bucket(x part, rows []row) error {
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.node.cluster, b.node.cluster), cmp.Compare(a.node.node, b.node.node))
	})
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].node == rows[0].node {
			n++
		}
		if err := w.node(x, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// node plans the bucket of one node. Rows come in order of devices, owners,
// bases, methods and revisions.
func (w *work) node(x part, rows []row) error {
	var devices []attribution.Device
	var begins []int // where each device's rows do
	for i := range rows {
		if i == 0 || rows[i].series.Device != rows[i-1].series.Device {
			devices, begins = append(devices, *w.devices[rows[i].series.Device]), append(begins, i)
		}
	}
	begins = append(begins, len(rows))
	prices, err := w.prices(x, devices)
	if err != nil {
		return err
	}
	for i := range devices {
		if err := w.device(x, prices[i], rows[begins[i]:begins[i+1]]); err != nil {
			return err
		}
	}
	return nil
}

// prices are those of a node's devices over a bucket, in which they must not
// change.
func (w *work) prices(x part, devices []attribution.Device) ([]attribution.Price, error) {
	prices := w.pricesAt(x.from, devices)
	for s := w.rater.NextChange(x.from); s < x.to; s = w.rater.NextChange(s) {
		for i, p := range w.pricesAt(s, devices) {
			if p != prices[i] {
				return nil, fmt.Errorf("device %s of node %q has another price from %s on, and of that time only whole %ss are kept: let the price change at %s or %s: %w",
					devices[i].ID, devices[i].Node, clock(s), names[x.res], clock(x.from), clock(x.to), store.ErrTooFine)
			}
		}
	}
	return prices, nil
}

// pricesAt prices devices of one node. Of a device whose facts changed within
// the bucket there are several, each of which had the others beside it.
func (w *work) pricesAt(s attribution.Second, devices []attribution.Device) []attribution.Price {
	out := make([]attribution.Price, len(devices))
	slot := make(map[string]int)
	var once []attribution.Device
	var first []int // in devices, of each in once
	for i := range devices {
		if _, ok := slot[devices[i].ID]; !ok {
			slot[devices[i].ID] = len(once)
			once, first = append(once, devices[i]), append(first, i)
		}
	}
	prices := make([]attribution.Price, len(once))
	w.rater.Prices(once, s, prices)
	for k, i := range first {
		out[i] = prices[k]
	}
	for i := range devices {
		k := slot[devices[i].ID]
		if first[k] == i {
			continue
		}
		was := once[k]
		once[k] = devices[i]
		w.rater.Prices(once, s, prices)
		out[i], once[k] = prices[k], was
	}
	return out
}

// device moves the rows of a device's bucket to its price.
func (w *work) device(x part, price attribution.Price, rows []row) error {
	c := &w.coarse
	c.buckets++
	c.rows += int64(len(rows))
	if c.finest == 0 {
		c.finest = x.res
	}
	c.coarsest = x.res // parts come from the finest on
	weights, costs := make([]int64, len(rows)), make([]int64, len(rows))
	var time int64
	for i := range rows {
		weights[i] = rows[i].sums.Time
		time += rows[i].sums.Time
	}
	total, whole, err := w.cost(x, rows[0].node, price, time)
	if err != nil {
		return fmt.Errorf("device %s: %w", rows[0].deviceID, err)
	}
	if !whole {
		c.partial++
	}
	if time > 0 {
		apportion.ByWeight(int64(total), weights, costs)
	}
	for i := range rows {
		r := &rows[i]
		r.owner.add(r.sums.Time, money.Amount(r.sums.Cost), money.Amount(costs[i]), r.series.Revision != 0, price.Known())
		if r.series.Revision == price.Revision {
			continue // unpriced before and after
		}
		w.Transfers = append(w.Transfers, rerating.Transfer{
			Entry: w.Entry.ID, Resolution: x.res, Bucket: x.from, Series: r.series, To: price.Revision, Sums: r.sums, CostAfter: costs[i],
		})
	}
	return nil
}

// cost is what so much time of a device costs in a bucket; whole where it is
// all the time that is stored of its node.
func (w *work) cost(x part, n nodeName, price attribution.Price, time int64) (total money.Amount, whole bool, err error) {
	seconds := int64(0)
	for _, r := range w.runs[n] {
		from, to := max(r.from, x.from), min(r.to, x.to)
		if from >= to {
			continue
		}
		seconds += int64(to - from)
		c, err := money.SpanPrice(price.PerHour, int64(from), int64(to))
		if err != nil {
			return 0, false, err
		}
		if total, err = money.Add(total, c); err != nil {
			return 0, false, err
		}
	}
	if time == seconds*attribution.WindowNanos {
		return total, true, nil
	}
	part := new(big.Int).Mul(big.NewInt(int64(price.PerHour)), big.NewInt(time))
	part.Quo(part, big.NewInt(3600*attribution.WindowNanos))
	if !part.IsInt64() {
		return 0, false, money.ErrOverflow
	}
	return money.Amount(part.Int64()), false, nil
}
