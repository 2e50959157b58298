package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// transfers appends transfers. Rows of sums are never changed: a query adds what
// transfers of entries in force have moved, and an entry that is undone moves
// nothing.
func (w *writing) transfers(e *encoder, ts []rerating.Transfer, source uint64) {
	for i := range ts {
		w.transfer(e, &ts[i], source, 1)
	}
}

func (w *writing) transfer(e *encoder, t *rerating.Transfer, source uint64, count int64) {
	e.u32(t.Entry)
	e.i64(int64(t.Resolution), int64(t.Bucket))
	e.series(&t.Series)
	e.u32(t.To)
	w.stamp(e, source)
	e.i64(t.Sums.Time, t.Sums.SMActive, t.Sums.Memory, t.Sums.Energy, t.Sums.Cost, t.CostAfter, count)
}

// unmoved is rows as they were before transfers: those are added by queries.
func unmoved(rows []rollup.Row, ts []rerating.Transfer) ([]rollup.Row, error) {
	if len(ts) == 0 {
		return rows, nil
	}
	type key struct {
		bucket attribution.Second
		series rollup.Series
	}
	at := make(map[key]int, len(rows))
	out := slices.Clone(rows)
	for i := range out {
		at[key{out[i].Bucket, out[i].Series}] = i
	}
	row := func(k key) *rollup.Sums {
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, rollup.Row{Bucket: k.bucket, Series: k.series})
		}
		return &out[i].Sums
	}
	for i := range ts {
		t := &ts[i]
		k := key{t.Bucket, t.Series}
		s := row(k)
		s.Time, s.SMActive, s.Memory, s.Energy, s.Cost = s.Time+t.Sums.Time, s.SMActive+t.Sums.SMActive, s.Memory+t.Sums.Memory, s.Energy+t.Sums.Energy, s.Cost+t.Sums.Cost
		k.series.Revision = t.To
		s = row(k)
		s.Time, s.SMActive, s.Memory, s.Energy, s.Cost = s.Time-t.Sums.Time, s.SMActive-t.Sums.SMActive, s.Memory-t.Sums.Memory, s.Energy-t.Sums.Energy, s.Cost-t.CostAfter
	}
	for i := range out {
		if !admit.Minute(&out[i].Sums) {
			return nil, fmt.Errorf("%w: minute %d of device %s has not what its transfers gave it", store.ErrBadBatch, out[i].Bucket, out[i].Series.Device)
		}
	}
	return slices.DeleteFunc(out, func(r rollup.Row) bool { return r.Sums == rollup.Sums{} }), nil
}

func checkTransfers(ts []rerating.Transfer, owners map[rollup.Fingerprint]*attribution.Owner, devices map[rollup.Fingerprint]*attribution.Device) error {
	for i := range ts {
		if err := checkSeries(&ts[i].Series, owners, devices); err != nil {
			return err
		}
	}
	return admit.Transfers(ts)
}

// Rerate implements [store.Store].
func (s *Store) Rerate(ctx context.Context, r *store.Rerating) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.write(ctx, "rerate", func(w *writing) error {
		body, err := s.checkRerating(ctx, w.state, r)
		if err != nil {
			return refused{err}
		}
		if err := w.document(ctx, store.Reratings, r.Entry.ID, r.Entry.Applied, body); err != nil {
			return err
		}
		if err := w.only(ctx, r); err != nil {
			return err
		}
		var e encoder
		w.transfers(&e, r.Transfers, 0)
		if err := all([]func() error{
			func() error { return w.dimensions(ctx, r.Owners, r.Devices, nil) },
			func() error { return w.insert(ctx, "transfer", transferNames, e) },
		}); err != nil || len(r.Transfers) == 0 {
			return err
		}
		return s.enough(ctx, w, r)
	})
}

// only fails unless this is the one entry of its number that is being made, and
// is planned of all that is stored of its time.
func (w *writing) only(ctx context.Context, r *store.Rerating) error {
	err := w.alone(ctx, store.Reratings, r.Entry.ID)
	if errors.Is(err, errRival) {
		return fmt.Errorf("%w: %w", store.ErrBadBatch, err)
	}
	// What is undone takes with it what late chunks have of it.
	if err != nil || r.Entry.Undoes != 0 {
		return err
	}
	if w.store.options.Grace > 0 {
		if w.state, err = w.stored(ctx, r.Entry.From, r.Entry.To); err != nil {
			return err
		}
	}
	if r.Seconds == 0 {
		return nil
	}
	seconds, err := w.store.seconds(ctx, w.state, r.Entry.From, r.Entry.To)
	if err == nil && seconds != r.Seconds {
		err = fmt.Errorf("%w: it is planned of %d seconds, and %d are stored of its time", store.ErrOutdated, r.Seconds, seconds)
	}
	return err
}

// seconds counts those of all nodes in [from, to).
func (s *Store) seconds(ctx context.Context, st *state, from, to attribution.Second) (n int64, err error) {
	err = s.covering(ctx, st, from, to, func(x store.Range) {
		if f, t := max(x.From, from), min(x.To, to); f < t {
			n += int64(t - f)
		}
	})
	return n, err
}

// checkRerating refuses an entry that is not the next of the journal, and what
// is not the entry's; it returns the entry's document.
func (s *Store) checkRerating(ctx context.Context, st *state, r *store.Rerating) ([]byte, error) {
	journal, err := s.journalAt(ctx, st)
	if err != nil {
		return nil, err
	}
	body, err := admit.Rerating(r, journal)
	if err == nil {
		err = checkTransfers(r.Transfers, r.Owners, r.Devices)
	}
	return body, err
}

// enough finds a row that has less than this write, which is not in the log yet,
// takes from it.
func (s *Store) enough(ctx context.Context, w *writing, r *store.Rerating) error {
	after := s.reader(w.state.with(w.entry))
	low, high := r.Transfers[0].Bucket, r.Transfers[0].Bucket
	finest := map[rollup.Resolution]bool{}
	for i := range r.Transfers {
		t := &r.Transfers[i]
		low, high = min(low, t.Bucket), max(high, t.Bucket+attribution.Second(t.Resolution))
		finest[t.Resolution] = true
	}
	for res := range finest {
		from := max(low, after.state.Kept(res))
		selects, err := after.factSelects(ctx, res, res.Start(from), high, fmt.Sprintf("bucket - ((bucket %% %[1]d) + %[1]d) %% %[1]d", res))
		if err != nil {
			return err
		}
		var short uint64
		err = s.client.query(ctx, `SELECT count() FROM (SELECT t, `+seriesNames+` FROM (`+strings.Join(selects, ` UNION ALL `)+`) GROUP BY t, `+seriesNames+
			` HAVING sum(time) < toDecimal128(0, 0) OR sum(memory) < toDecimal128(0, 0) OR sum(energy) < toDecimal128(0, 0) OR sum(cost) < toDecimal128(0, 0))`, func(d *decoder) error {
			short = d.u64()
			return d.err
		})
		if err != nil {
			return err
		}
		if short > 0 {
			return fmt.Errorf("%w: %d rows of %ss do not have what a rerating takes from them", store.ErrBadBatch, short, plan.Name(res))
		}
	}
	return nil
}

// Transfers implements [store.Reader].
func (r *reader) Transfers(ctx context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TransferRow) error) error {
	var call error
	moved, err := r.moved(ctx, res, max(from, r.state.DayKept, -maxSecond), min(to, maxSecond))
	if err != nil || moved == "" {
		return unavailable("read what reratings moved", err)
	}
	type row struct {
		store.TransferRow
		series rollup.Series
	}
	var rows []row
	owners, devices := make(map[rollup.Fingerprint]*attribution.Owner), make(map[rollup.Fingerprint]*attribution.Device)
	err = r.client.query(ctx, fmt.Sprintf(`SELECT b, entry, %[1]s, to, sum(time), sum(sm), sum(memory), sum(energy), sum(cost_before), sum(cost_after), sum(count) FROM
		(SELECT bucket - ((bucket %% %[2]d) + %[2]d) %% %[2]d AS b, * FROM transfer WHERE %[3]s) GROUP BY b, entry, %[1]s, to ORDER BY b, entry`, seriesNames, res, moved), func(d *decoder) error {
		var x row
		x.Bucket, x.Entry, x.series, x.To = attribution.Second(d.i64()), d.u32(), d.series(), d.u32()
		for _, v := range []*int64{&x.Sums.Time, &x.Sums.SMActive, &x.Sums.Memory, &x.Sums.Energy, &x.Sums.Cost, &x.CostAfter, &x.Count} {
			*v = d.i64()
		}
		x.Basis, x.Method, x.Revision = x.series.Basis, x.series.Method, x.series.Revision
		owners[x.series.Owner], devices[x.series.Device] = nil, nil
		rows = append(rows, x)
		return d.err
	})
	if err == nil {
		err = r.store.owners(ctx, owners)
	}
	if err == nil {
		err = r.store.devices(ctx, devices)
	}
	if err == nil {
		for i := range rows {
			x := &rows[i]
			x.Owner, x.Device = owners[x.series.Owner], devices[x.series.Device]
			if x.Owner == nil || x.Device == nil {
				return fmt.Errorf("%w: a transfer of entry %d has no facts", store.ErrCorrupt, x.Entry)
			}
			if call = f(&x.TransferRow); call != nil {
				return call
			}
		}
	}
	return mine(call, "read what reratings moved", err)
}
