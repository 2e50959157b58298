package clickhouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

var _ store.Loader = (*Store)(nil)

// What the table meta says of a loading.
const (
	metaLoading = "loading"
	metaLoaded  = "loaded"
)

// checkLoaded refuses a ledger whose loading was left before its end.
func (s *Store) checkLoaded(ctx context.Context) error {
	var began, ended uint64
	err := s.client.query(ctx, `SELECT countIf(what = '`+metaLoading+`'), countIf(what = '`+metaLoaded+`') FROM meta`, func(d *decoder) error {
		began, ended = d.u64(), d.u64()
		return d.err
	})
	if err == nil && began > ended {
		return fmt.Errorf("%w (hint: drop the database %s, and begin again)", store.ErrUnfinished, s.client.database)
	}
	return err
}

func (s *Store) meta(ctx context.Context, what string) error {
	var e encoder
	e.u32(schemaVersion)
	e.str(what)
	return s.client.insert(ctx, "meta", "version, what", e)
}

// Load implements [store.Loader].
func (s *Store) Load(ctx context.Context, p *store.Part) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.write(ctx, "fill the ledger", func(w *writing) error {
		if err := s.beginLoading(ctx, w); err != nil {
			return err
		}
		return w.load(ctx, p)
	})
}

// beginLoading makes the ledger one that is not to be used until it is loaded.
func (s *Store) beginLoading(ctx context.Context, w *writing) error {
	if s.loading {
		return nil
	}
	if len(w.state.sessions) > 0 {
		return refused{fmt.Errorf("%w (hint: take another database)", store.ErrNotEmpty)}
	}
	if err := s.meta(ctx, metaLoading); err != nil {
		return err
	}
	s.loading = true
	return nil
}

func (w *writing) load(ctx context.Context, p *store.Part) error {
	var covered, spans, chunks, rows, tallies, served, transfers encoder
	for i := range p.Ranges {
		x := &p.Ranges[i]
		w.covers(&covered, x)
		w.Extend(x.From, x.To)
	}
	c := &commit{writing: w}
	for i := range p.Chunks {
		ch := &p.Chunks[i]
		c.chunks = append(c.chunks, ch)
		x := spanOf(ch)
		w.span(&spans, &x)
	}
	c.bodies(&chunks, nil)
	for i := range p.Rows {
		w.fact(&rows, p.Resolution, &p.Rows[i], 0)
	}
	for i := range p.Tallies {
		w.tally(&tallies, p.Resolution, &p.Tallies[i], 0)
		c.served(&served, &p.Tallies[i].Series)
	}
	for i := range p.Transfers {
		w.transfer(&transfers, &p.Transfers[i].Transfer, 0, p.Transfers[i].Count)
	}
	for i := range p.Documents {
		d := &p.Documents[i]
		if err := w.document(ctx, d.Kind, d.Revision, d.Applied, d.Body); err != nil {
			return err
		}
	}
	return all([]func() error{
		func() error { return w.dimensions(ctx, p.Owners, p.Devices, p.Rosters) },
		func() error { return w.insert(ctx, "covered", coveredNames, covered) },
		func() error { return w.insert(ctx, "span", spanNames, spans) },
		func() error { return w.insert(ctx, "chunk", chunkNames, chunks) },
		func() error { return w.insert(ctx, plan.Name(p.Resolution), factNames, rows) },
		func() error { return w.insert(ctx, "tally_"+plan.Name(p.Resolution), tallyNames, tallies) },
		func() error { return w.insert(ctx, "served", servedNames, served) },
		func() error { return w.insert(ctx, "transfer", transferNames, transfers) },
	})
}

// Loaded implements [store.Loader]. Rows came as reratings made them; here they
// are kept as they were before, so what was moved is moved back in them.
func (s *Store) Loaded(ctx context.Context, m *store.Marks) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.write(ctx, "fill the ledger", func(w *writing) error {
		if err := s.beginLoading(ctx, w); err != nil {
			return err
		}
		w.HourRolled, w.DayRolled = m.Rolled[rollup.Hour], m.Rolled[rollup.Day]
		kept := func(r rollup.Resolution) attribution.Second {
			if k, ok := m.Kept[r]; ok {
				return max(k, plan.Never)
			}
			return plan.Never
		}
		w.SecondKept, w.MinuteKept, w.HourKept, w.DayKept = kept(store.Seconds), kept(rollup.Minute), kept(rollup.Hour), kept(rollup.Day)
		for _, x := range []struct {
			res    rollup.Resolution
			before attribution.Second
		}{{rollup.Minute, maxSecond}, {rollup.Hour, w.HourRolled}, {rollup.Day, w.DayRolled}} {
			if err := w.unmove(ctx, x.res, max(kept(x.res), -maxSecond), x.before); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = unavailable("fill the ledger", s.meta(ctx, metaLoaded))
	}
	if err == nil {
		s.loading = false
	}
	return err
}

// unmove writes rows of a resolution that take transfers in [from, to) back.
func (w *writing) unmove(ctx context.Context, res rollup.Resolution, from, to attribution.Second) error {
	at := func(r rollup.Resolution) string {
		return fmt.Sprintf("(bucket - ((bucket %% %[1]d) + %[1]d) %% %[1]d)", r)
	}
	for _, side := range []struct{ revision, sign, cost string }{{"revision", "", "cost_before"}, {"to", "-", "cost_after"}} {
		// Its rows may be equal, so that nothing tells whether some are there twice;
		// it is alone, and not tried again.
		again, err := w.store.client.write(ctx, fmt.Sprintf(`INSERT INTO %[1]s (%[2]s) SELECT %[3]s, %[4]s, %[5]s, device, owner, basis, method, %[6]s, toUInt64(0), toUInt64(%[7]d), toUInt32(%[8]d),
			%[9]stime, %[9]ssm, %[9]smemory, %[9]senergy, %[9]s%[10]s FROM transfer WHERE length <= %[11]d AND %[12]s AND %[13]s`,
			plan.Name(res), factNames, quote(w.lane), at(res), at(coarser(res)), side.revision, w.session, w.seq, side.sign, side.cost,
			res, within(from, to), w.state.visible()), nil)
		if err == nil && again {
			err = errors.New("another writes to the ledger while it is filled")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// covers appends a range to what is covered.
func (w *writing) covers(e *encoder, x *store.Range) {
	e.str(x.Cluster, x.Node)
	e.fixed(x.Boot)
	e.i64(int64(x.From), int64(x.To))
	e.bytes(x.Previous)
	e.bytes(x.Link)
	e.u64(w.session)
	e.u32(w.seq)
	w.covered = max(w.covered, x.To)
}

// span appends a claim of this write.
func (w *writing) span(e *encoder, x *span) {
	e.i64(int64(slotOf(x.first)))
	e.str(x.cluster, x.name)
	e.fixed(x.boot)
	e.i64(int64(x.first), int64(x.last))
	e.bytes(x.digest)
	e.bytes(x.previous)
	e.u64(w.session)
	e.u32(w.seq)
	e.i64(int64(w.began))
}
