package verify

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// slab checks the minutes [from, to): chunks, then rows against them.
func (r *run) slab(ctx context.Context, from, to attribution.Second) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cover := newCoverage(from, to)
	sums, err := r.chunks(ctx, from, to, cover)
	if err != nil {
		return err
	}
	if err := r.settle(cover); err != nil {
		return err
	}
	r.prune(cover, sums)
	r.progress.Chunks += sums.chunks
	r.progress.Windows += sums.windows
	r.progress.Slices += sums.slices
	if err := r.minuteRows(ctx, from, to, cover, sums); err != nil {
		return err
	}
	return r.minuteTallies(ctx, from, to, cover, sums)
}

// prune takes out what can't be compared: minutes of which only some chunks are
// kept. Tallies of nobody are of no node, so they are left out, too.
func (r *run) prune(cover *coverage, sums *fold) {
	maps.DeleteFunc(sums.rows, func(k rowKey, _ rollup.Sums) bool {
		return !cover.complete(nodeMinute{r.facts.devices.homes[k.device], k.bucket})
	})
	maps.DeleteFunc(sums.moves, func(k move, _ moved) bool {
		return k.row.bucket < r.keptMinutes || !cover.complete(nodeMinute{r.facts.devices.homes[k.row.device], k.row.bucket})
	})
	maps.DeleteFunc(sums.tallies, func(k tallyKey, _ int64) bool {
		return !cover.complete(nodeMinute{r.facts.owners.homes[k.owner], k.bucket})
	})
}

func (r *run) key(x *store.FactRow) rowKey {
	return rowKey{x.Bucket, r.facts.device(x.Device), r.facts.owner(x.Owner), r.facts.text(x.Method), x.Revision, x.Basis}
}

func (r *run) tallyKey(x *store.TallyFactRow) tallyKey {
	f := r.facts
	return tallyKey{x.Bucket, f.owner(x.Owner), f.text(x.Model), f.text(x.Tenant), f.text(x.Tier), f.text(string(x.Measure))}
}

// minuteRows compares minute rows with the sums of their chunks where all of
// those are kept, and adds them to the hours.
func (r *run) minuteRows(ctx context.Context, from, to attribution.Second, cover *coverage, sums *fold) error {
	totals := map[deviceMinute]rollup.Sums{} // Time and Cost of stored rows
	err := r.reader.Rows(ctx, rollup.Minute, from, to, func(x *store.FactRow) error {
		r.progress.Rows++
		k := r.key(x)
		at := nodeMinute{r.facts.devices.homes[k.device], x.Bucket}
		if cover.complete(at) {
			if err := strike(r, sums.rows, k, &x.Sums, rollup.Minute); err != nil {
				return err
			}
		} else if cover.seconds[at] == nil {
			return broken(4, r.rowName(k, rollup.Minute), "there is a row, but no second of this minute is on record as stored")
		}
		r.rerated.row(k, &x.Sums)
		t := totals[deviceMinute{x.Bucket, k.device}]
		t.Time += x.Sums.Time
		t.Cost += x.Sums.Cost
		totals[deviceMinute{x.Bucket, k.device}] = t
		r.hours.add(k, &x.Sums)
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range slices.SortedFunc(maps.Keys(totals), compareMinutes) {
		if err := r.deviceMinute(k, totals[k], cover, sums); err != nil {
			return err
		}
	}
	if err := r.settleRerated(ctx, rollup.Minute, from, to, func(k move, m moved) error {
		if k.row.bucket < r.keptMinutes || !cover.complete(nodeMinute{r.facts.devices.homes[k.row.device], k.row.bucket}) {
			return nil
		}
		if want := sums.moves[k]; m != want {
			return broken(6, r.rowName(k.row, rollup.Minute), "rerating %d is on record as having moved %d ns for %d nano, before %d nano, from revision %d to %d; by its chunks %d ns for %d, before %d",
				k.entry, m.Time, m.costAfter, m.Cost, k.row.revision, k.to, want.Time, want.costAfter, want.Cost)
		}
		delete(sums.moves, k)
		return nil
	}); err != nil {
		return err
	}
	if k, ok := least(sums.moves, compareMoves); ok {
		return broken(6, r.rowName(k.row, rollup.Minute), "rerating %d moved %d ns of it from revision %d to %d, but that is not on record, so it could not be undone",
			k.entry, sums.moves[k].Time, k.row.revision, k.to)
	}
	if k, ok := least(sums.rows, compareRowKeys); ok && k.bucket >= r.keptMinutes {
		return broken(2, r.rowName(k, rollup.Minute), "its chunks have %d ns of it, but the row is missing", sums.rows[k].Time)
	}
	return nil
}

// deviceMinute checks law 1 over all rows of a device's minute.
func (r *run) deviceMinute(k deviceMinute, total rollup.Sums, cover *coverage, sums *fold) error {
	home := r.facts.devices.homes[k.device]
	where := fmt.Sprintf("%s device %s minute %s", r.facts.nodeName(home), r.facts.devices.names[k.device], clock(k.minute))
	on := cover.seconds[nodeMinute{home, k.minute}]
	switch {
	case total.Time%attribution.WindowNanos != 0:
		return broken(1, where, "its device times sum to %d ns, which is no whole number of seconds", total.Time)
	case total.Time > on.onRecord*attribution.WindowNanos:
		return broken(1, where, "its device times sum to %d ns, but only %d seconds are on record as stored", total.Time, on.onRecord)
	}
	m, ok := sums.minutes[k]
	if !ok || on.onRecord != on.inChunks {
		return nil
	}
	if total.Time != m.seconds*attribution.WindowNanos {
		return broken(1, where, "its device times sum to %d ns in %d seconds", total.Time, m.seconds)
	}
	if want, ok := m.cost(); ok && int64(want) != total.Cost {
		return broken(1, where, "its costs sum to %d nano; its seconds cost %d at %v an hour", total.Cost, want, m.price.PerHour)
	}
	return nil
}

func (r *run) minuteTallies(ctx context.Context, from, to attribution.Second, cover *coverage, sums *fold) error {
	err := r.reader.TallyRows(ctx, rollup.Minute, from, to, func(x *store.TallyFactRow) error {
		r.progress.Rows++
		k := r.tallyKey(x)
		at := nodeMinute{r.facts.owners.homes[k.owner], x.Bucket}
		if cover.complete(at) {
			if err := strikeTally(r, sums.tallies, k, x.Value, rollup.Minute); err != nil {
				return err
			}
		} else if cover.seconds[at] == nil && x.Owner.Kind != attribution.Nobody {
			return broken(4, r.tallyName(k, rollup.Minute), "there is a row, but no second of this minute is on record as stored")
		}
		r.hours.addTally(k, x.Value)
		return nil
	})
	if err != nil {
		return err
	}
	if k, ok := least(sums.tallies, compareTallyKeys); ok && k.bucket >= r.keptMinutes {
		return broken(2, r.tallyName(k, rollup.Minute), "its chunks count %d, but the row is missing", sums.tallies[k])
	}
	return nil
}

// strike compares a stored row with what it should be, and strikes it off.
func strike(r *run, want map[rowKey]rollup.Sums, k rowKey, got *rollup.Sums, res rollup.Resolution) error {
	w, ok := want[k]
	if !ok {
		return broken(4, r.rowName(k, res), "there is a row (%d ns), but nothing that it is the sum of", got.Time)
	}
	for _, m := range [...]struct {
		law       int
		name      string
		got, want int64
	}{
		{1, "device time (ns)", got.Time, w.Time},
		{1, "cost (nano)", got.Cost, w.Cost},
		{2, "SM-active time (ns)", got.SMActive, w.SMActive},
		{2, "memory (byte-seconds)", got.Memory, w.Memory},
		{2, "energy (µJ)", got.Energy, w.Energy},
	} {
		if m.got != m.want {
			return broken(m.law, r.rowName(k, res), "the row's %s is %d, its parts sum to %d", m.name, m.got, m.want)
		}
	}
	delete(want, k)
	return nil
}

func strikeTally(r *run, want map[tallyKey]int64, k tallyKey, got int64, res rollup.Resolution) error {
	w, ok := want[k]
	switch {
	case !ok:
		return broken(4, r.tallyName(k, res), "there is a row (%d), but nothing that it is the sum of", got)
	case got != w:
		return broken(2, r.tallyName(k, res), "the row counts %d, its parts sum to %d", got, w)
	}
	delete(want, k)
	return nil
}

func (r *run) rowName(k rowKey, res rollup.Resolution) string {
	f := r.facts
	return fmt.Sprintf("%s device %s %s %s owner %s basis %v", f.nodeName(f.devices.homes[k.device]), f.devices.names[k.device],
		resName(res), clock(k.bucket), f.owners.names[k.owner], k.basis)
}

func (r *run) tallyName(k tallyKey, res rollup.Resolution) string {
	f := r.facts
	return fmt.Sprintf("%s %s %s owner %s model %q measure %s", f.nodeName(f.owners.homes[k.owner]), resName(res), clock(k.bucket),
		f.owners.names[k.owner], f.names[k.model], f.names[k.measure])
}

func resName(res rollup.Resolution) string {
	switch res {
	case rollup.Minute:
		return "minute"
	case rollup.Hour:
		return "hour"
	case rollup.Day:
		return "day"
	}
	return fmt.Sprintf("%d s", res)
}

// least is the first key that is left in a map.
func least[K comparable, V any](m map[K]V, compare func(a, b K) int) (K, bool) {
	var first K
	found := false
	for k := range m {
		if !found || compare(k, first) < 0 {
			first, found = k, true
		}
	}
	return first, found
}

func compareRowKeys(a, b rowKey) int {
	return cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.device, b.device), cmp.Compare(a.owner, b.owner),
		cmp.Compare(a.basis, b.basis), cmp.Compare(a.method, b.method), cmp.Compare(a.revision, b.revision))
}

func compareTallyKeys(a, b tallyKey) int {
	return cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.owner, b.owner), cmp.Compare(a.model, b.model),
		cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.tier, b.tier), cmp.Compare(a.measure, b.measure))
}

func compareMinutes(a, b deviceMinute) int {
	return cmp.Or(cmp.Compare(a.minute, b.minute), cmp.Compare(a.device, b.device))
}
