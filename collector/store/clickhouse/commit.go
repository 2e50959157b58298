package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, b *store.Batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.write(ctx, "commit", func(w *writing) error {
		w.number++
		c := &commit{writing: w, batch: b}
		if err := c.check(ctx); err != nil {
			return refused{err}
		}
		return c.run(ctx)
	})
}

// commit is one batch on its way into the tables.
type commit struct {
	*writing
	batch  *store.Batch
	chunks []*store.Chunk // those that are not there yet
	parts  []part         // what rows are written of
}

// part is rows that are written together: of all chunks, or of one that another
// collector may be storing as well.
type part struct {
	source uint64 // 0: of all chunks
	*store.Batch
}

// check refuses a batch that cannot be stored, before anything is written.
func (c *commit) check(ctx context.Context) error {
	b := c.batch
	if err := admit.Batch(b, c.number-1); err != nil {
		return err
	}
	journal, err := c.store.journalAt(ctx, c.state)
	if err != nil {
		return err
	}
	if err := admit.Rated(b, journal.Next()-1); err != nil {
		return err
	}
	if err := checkFacts(b); err != nil {
		return err
	}
	if c.store.options.Grace > 0 {
		if err := c.rated(ctx); err != nil { // it is again, when the chunks are claimed
			return err
		}
	}
	return c.checkSeconds(ctx)
}

// maxSecond keeps arithmetic on seconds far from overflow.
const maxSecond = attribution.MaxSecond

// checkFacts refuses a batch that is not complete, or has text that is not UTF-8.
func checkFacts(b *store.Batch) error {
	rosters := make(map[rollup.Fingerprint]bool, len(b.Rosters))
	for i := range b.Rosters {
		rosters[b.Rosters[i].ID] = true
	}
	for i := range b.Chunks {
		ch := &b.Chunks[i]
		if !rosters[ch.RosterID] {
			return fmt.Errorf("%w: it has no roster %s", store.ErrBadBatch, ch.RosterID)
		}
		if err := admit.Text("node", ch.Key.Cluster, ch.Key.Node); err != nil {
			return err
		}
	}
	for i := range b.Rows {
		if err := checkSeries(&b.Rows[i].Series, b.Owners, b.Devices); err != nil {
			return err
		}
	}
	for i := range b.Tallies {
		r := &b.Tallies[i]
		if b.Owners[r.Series.Owner] == nil {
			return fmt.Errorf("%w: it has no facts of owner %s", store.ErrBadBatch, r.Series.Owner)
		}
		if err := admit.Text("tally", r.Series.Model, r.Series.Tenant, r.Series.Tier, string(r.Series.Measure)); err != nil {
			return err
		}
	}
	return checkTransfers(b.Transfers, b.Owners, b.Devices)
}

func checkSeries(x *rollup.Series, owners map[rollup.Fingerprint]*attribution.Owner, devices map[rollup.Fingerprint]*attribution.Device) error {
	if owners[x.Owner] == nil {
		return fmt.Errorf("%w: it has no facts of owner %s", store.ErrBadBatch, x.Owner)
	}
	if devices[x.Device] == nil {
		return fmt.Errorf("%w: it has no facts of device %s", store.ErrBadBatch, x.Device)
	}
	return admit.Text("method", x.Method)
}

// run writes everything but the entry of the log.
func (c *commit) run(ctx context.Context) error {
	rivals, err := c.claim(ctx)
	if err != nil {
		return err
	}
	if c.store.options.Grace > 0 {
		if err := c.rated(ctx); err != nil {
			return err
		}
	}
	if err := c.divide(ctx, rivals); err != nil {
		return err
	}
	var facts, tallies, chunks, transfers, served encoder
	late := map[string]*encoder{"hour": {}, "day": {}, "tally_hour": {}, "tally_day": {}}
	for _, p := range c.parts {
		for i := range p.Rows {
			c.fact(&facts, rollup.Minute, &p.Rows[i], p.source)
		}
		for i := range p.Tallies {
			r := &p.Tallies[i]
			c.tally(&tallies, rollup.Minute, r, p.source)
			c.served(&served, &r.Series)
		}
		for res, before := range map[rollup.Resolution]attribution.Second{rollup.Hour: c.HourRolled, rollup.Day: c.DayRolled} {
			for _, r := range lateRows(p.Rows, res, before) {
				c.fact(late[plan.Name(res)], res, &r, p.source)
			}
			for _, r := range lateTallies(p.Tallies, res, before) {
				c.tally(late["tally_"+plan.Name(res)], res, &r, p.source)
			}
		}
		c.transfers(&transfers, p.Transfers, p.source)
	}
	c.bodies(&chunks, rivals)
	jobs := []func() error{
		func() error { return c.dimensions(ctx, c.batch.Owners, c.batch.Devices, c.batch.Rosters) },
		func() error { return c.insert(ctx, "minute", factNames, facts) },
		func() error { return c.insert(ctx, "tally_minute", tallyNames, tallies) },
		func() error { return c.insert(ctx, "chunk", chunkNames, chunks) },
		func() error { return c.insert(ctx, "transfer", transferNames, transfers) },
		func() error { return c.insert(ctx, "served", servedNames, served) },
	}
	for name, rows := range late {
		columns := factNames
		if name[0] == 't' {
			columns = tallyNames
		}
		jobs = append(jobs, func() error { return c.insert(ctx, name, columns, *rows) })
	}
	for i := range c.chunks {
		k := c.chunks[i]
		c.Extend(k.Key.Sequence, k.Key.Sequence+attribution.Second(k.Seconds))
	}
	return all(jobs)
}

// all runs jobs side by side and waits for all of them.
func all(jobs []func() error) error {
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, job := range jobs {
		wg.Go(func() { errs[i] = job() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *writing) fact(e *encoder, r rollup.Resolution, x *rollup.Row, source uint64) {
	bucket := r.Start(x.Bucket)
	w.low = min(w.low, bucket)
	e.str(w.lane)
	e.i64(int64(bucket), int64(coarser(r).Start(bucket)))
	e.series(&x.Series)
	w.stamp(e, source)
	e.i64(x.Time, x.SMActive, x.Memory, x.Energy, x.Cost)
}

func (e *encoder) series(x *rollup.Series) {
	e.fixed(x.Device)
	e.fixed(x.Owner)
	e.u8(uint8(x.Basis))
	e.str(x.Method)
	e.u32(x.Revision)
}

func (w *writing) stamp(e *encoder, source uint64) {
	e.u64(source)
	e.u64(w.session)
	e.u32(w.seq)
}

func (e *encoder) tallySeries(x *rollup.TallySeries) {
	e.fixed(x.Owner)
	e.str(x.Model, x.Tenant, x.Tier, string(x.Measure))
}

func (w *writing) tally(e *encoder, r rollup.Resolution, x *rollup.TallyRow, source uint64) {
	bucket := r.Start(x.Bucket)
	w.low = min(w.low, bucket)
	e.str(w.lane)
	e.i64(int64(bucket), int64(coarser(r).Start(bucket)))
	e.tallySeries(&x.Series)
	w.stamp(e, source)
	e.i64(x.Value)
}

// served notes a tally series, once a session.
func (c *commit) served(e *encoder, x *rollup.TallySeries) {
	if !c.store.known.tally(*x) {
		return
	}
	e.tallySeries(x)
	e.u64(c.session)
	e.u32(c.seq)
}

func (c *commit) bodies(e *encoder, rivals map[attribution.ChunkKey]uint64) {
	for _, ch := range c.chunks {
		e.i64(int64(slotOf(ch.Key.Sequence)))
		e.str(ch.Key.Cluster, ch.Key.Node)
		e.fixed(ch.Key.Boot)
		e.i64(int64(ch.Key.Sequence))
		e.u8(uint8(ch.Seconds))
		e.fixed(ch.RosterID)
		e.bytes(ch.Digest)
		e.bytes(ch.Previous)
		e.bytes(ch.Body)
		c.stamp(e, rivals[ch.Key])
	}
}
