package duckdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

var _ store.Loader = (*Store)(nil)

// loadingTable is there while a ledger is being loaded.
const loadingTable = "loading"

// unfinished refuses a ledger whose loading was cut off.
func unfinished(path string) error {
	return fmt.Errorf("%w: %s holds a part of another ledger, and nothing that is only here\nhint: remove it and its .wal, and restore or migrate again",
		store.ErrUnfinished, path)
}

// Load implements [store.Loader]. Each part is one transaction.
func (s *Store) Load(ctx context.Context, p *store.Part) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.beginLoading(ctx); err != nil {
		return err
	}
	return s.write(ctx, "load", func() error {
		c := &commit{db: s.db, dims: s.dims, state: s.state, batch: &store.Batch{Owners: p.Owners, Devices: p.Devices}}
		for _, step := range []func(context.Context, *store.Part) error{
			c.loadRanges, c.loadRosters, c.loadChunks, c.loadRows, c.loadTallies, c.loadTransfers, c.loadDocuments,
		} {
			if err := step(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}, func(state) bool { return false }) // nothing tells, and it is begun again
}

// beginLoading marks an empty ledger as one that is not whole.
func (s *Store) beginLoading(ctx context.Context) error {
	if err := s.ready(ctx); err != nil || s.loading {
		return err
	}
	var things int64
	if err := s.db.writer.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM document) + (SELECT count(*) FROM life) + (SELECT count(*) FROM minute)
		+ (SELECT count(*) FROM hour) + (SELECT count(*) FROM day)`).Scan(&things); err != nil {
		return unavailable("load", err)
	}
	if things > 0 || s.state.commits > 0 {
		return fmt.Errorf("%w: %s has been used already\nhint: choose a new data directory", store.ErrNotEmpty, s.options.Dir)
	}
	err := s.write(ctx, "load", func() error {
		_, err := s.db.writer.ExecContext(ctx, `CREATE TABLE `+loadingTable+` (started TIMESTAMP DEFAULT current_timestamp)`)
		return err
	}, func(state) bool { return false })
	s.loading = err == nil
	return err
}

// Loaded implements [store.Loader].
func (s *Store) Loaded(ctx context.Context, m *store.Marks) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.beginLoading(ctx); err != nil {
		return err
	}
	// What is stored is read from the tables, as after any start.
	s.dims = nil
	if err := s.ready(ctx); err != nil {
		return err
	}
	st := s.state
	for _, spans := range s.cover {
		for _, x := range spans {
			st.Extend(x.first, x.last)
		}
	}
	st.HourRolled, st.DayRolled = m.Rolled[rollup.Hour], m.Rolled[rollup.Day]
	st.SecondKept, st.MinuteKept = max(plan.Never, m.Kept[store.Seconds]), max(plan.Never, m.Kept[rollup.Minute])
	st.HourKept, st.DayKept = max(plan.Never, m.Kept[rollup.Hour]), max(plan.Never, m.Kept[rollup.Day])
	err := s.write(ctx, "end loading", func() error {
		_, err := s.db.writer.ExecContext(ctx, `DROP TABLE `+loadingTable)
		return errors.Join(err, st.write(ctx, s.db))
	}, func(now state) bool {
		return now.Watermarks == st.Watermarks
	})
	if err != nil {
		return err
	}
	s.loading = false
	// DuckDB's log has the whole ledger by now, and the file is what is backed up.
	if _, err := s.db.writer.ExecContext(ctx, `CHECKPOINT`); err != nil {
		return unavailable("end loading", err)
	}
	return nil
}

func (c *commit) loadRanges(_ context.Context, p *store.Part) error {
	if len(p.Ranges) == 0 {
		return nil
	}
	c.batch.Chunks = make([]store.Chunk, len(p.Ranges)) // whose lives are asked for
	for i := range p.Ranges {
		x := &p.Ranges[i]
		if x.To <= x.From {
			return fmt.Errorf("%w: node %q has a range from %d to %d", store.ErrBadBatch, x.Node, x.From, x.To)
		}
		c.batch.Chunks[i].Key = attribution.ChunkKey{Cluster: x.Cluster, Node: x.Node, Boot: x.Boot}
	}
	lives, err := c.writeLives()
	if err != nil {
		return err
	}
	return c.append("", "covered", func(row appendRow) error {
		for i := range p.Ranges {
			x := &p.Ranges[i]
			if err := row(lives[i], int64(x.From), int64(x.To), nonNil(x.Previous), nonNil(x.Link)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *commit) loadRosters(ctx context.Context, p *store.Part) error {
	bodies := make(map[rollup.Fingerprint][]byte, len(p.Rosters))
	for i := range p.Rosters {
		bodies[p.Rosters[i].ID] = p.Rosters[i].Body
	}
	_, err := c.rosters(ctx, len(p.Rosters), func(i int) rollup.Fingerprint { return p.Rosters[i].ID }, bodies)
	return err
}

func (c *commit) loadChunks(ctx context.Context, p *store.Part) error {
	if len(p.Chunks) == 0 {
		return nil
	}
	for i := range p.Chunks {
		if err := admit.Chunk(&p.Chunks[i]); err != nil {
			return err
		}
	}
	c.batch.Chunks = p.Chunks
	return c.writeChunks(ctx)
}

// loadRows writes rows where they belong, and nowhere else. Minutes are sorted
// as [Store.Roll] leaves them.
func (c *commit) loadRows(ctx context.Context, p *store.Part) error {
	if len(p.Rows) == 0 {
		return nil
	}
	for i := range p.Rows {
		if r := &p.Rows[i]; min(r.Time, r.SMActive, r.Memory, r.Energy, r.Cost) < 0 || !admit.WholeBucket(p.Resolution, r.Bucket) {
			return fmt.Errorf("%w: the sums of a %s, %d, of device %s are impossible: %+v", store.ErrBadBatch, plan.Name(p.Resolution), r.Bucket, r.Series.Device, r.Sums)
		}
	}
	facts, err := c.rowFacts(ctx, p.Rows, p.Resolution)
	if err != nil {
		return err
	}
	if p.Resolution == rollup.Minute {
		slices.SortFunc(facts, func(a, b fact) int {
			return cmp.Or(cmp.Compare(floorDiv(a.bucket, 60), floorDiv(b.bucket, 60)), cmp.Compare(a.series, b.series), cmp.Compare(a.bucket, b.bucket))
		})
	}
	return c.append("", plan.Name(p.Resolution), func(row appendRow) error {
		for i := range facts {
			if err := putFact(row, &facts[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *commit) loadTallies(ctx context.Context, p *store.Part) error {
	if len(p.Tallies) == 0 {
		return nil
	}
	for i := range p.Tallies {
		if r := &p.Tallies[i]; r.Value < 0 || !admit.WholeBucket(p.Resolution, r.Bucket) {
			return fmt.Errorf("%w: the tally %s of a %s, %d, is impossible: %d", store.ErrBadBatch, r.Series.Measure, plan.Name(p.Resolution), r.Bucket, r.Value)
		}
	}
	facts, err := c.tallyFacts(ctx, p.Tallies, p.Resolution)
	if err != nil {
		return err
	}
	return c.append("", "tally_"+plan.Name(p.Resolution), func(row appendRow) error {
		for i := range facts {
			if err := putTallyFact(row, &facts[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *commit) loadTransfers(ctx context.Context, p *store.Part) error {
	if len(p.Transfers) == 0 {
		return nil
	}
	ts := make([]rerating.Transfer, len(p.Transfers))
	for i := range p.Transfers {
		ts[i] = p.Transfers[i].Transfer
	}
	return c.writeTransfers(ctx, ts)
}

func (c *commit) loadDocuments(_ context.Context, p *store.Part) error {
	return c.append("", "document", func(row appendRow) error {
		for i := range p.Documents {
			d := &p.Documents[i]
			if err := row(string(d.Kind), int32(d.Revision), d.Applied.UnixNano(), nonNil(d.Body)); err != nil {
				return err
			}
		}
		return nil
	})
}
