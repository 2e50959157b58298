package duckdb

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"

	duck "github.com/duckdb/duckdb-go/v2"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
)

// commit is one batch on its way into the tables.
type commit struct {
	db      *database
	dims    *dimensions
	state   state
	mapping store.Mapping
	batch   *store.Batch
}

type appendRow func(values ...driver.Value) error

func uuid(b [16]byte) duck.UUID { return duck.UUID(b) }

// append writes rows to a table by DuckDB's appender. catalog is "" or "temp".
func (c *commit) append(catalog, table string, rows func(appendRow) error) error {
	return appendTo(c.db, catalog, table, rows)
}

func appendTo(db *database, catalog, table string, rows func(appendRow) error) error {
	return db.writer.Raw(func(conn any) error {
		a, err := duck.NewAppender(conn.(driver.Conn), catalog, "", table)
		if err != nil {
			return err
		}
		err = rows(a.AppendRow)
		return errors.Join(err, a.Close())
	})
}

func (c *commit) exec(ctx context.Context, statements ...string) error {
	for _, q := range statements {
		if _, err := c.db.writer.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// Commit implements [store.Store].
func (s *Store) Commit(ctx context.Context, b *store.Batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.check(b); err != nil {
		return err
	}
	if err := s.checkJournal(ctx, b); err != nil {
		return err
	}
	c := &commit{db: s.db, dims: s.dims, state: s.state, mapping: s.mapping, batch: b}
	err := s.write(ctx, "commit", func() error { return c.write(ctx) }, func(now state) bool { return now.commits == b.Number })
	if err != nil {
		return err
	}
	for i := range b.Chunks {
		ch := &b.Chunks[i]
		n, first := node{ch.Key.Cluster, ch.Key.Node}, ch.Key.Sequence
		s.cover.add(n, span{
			first: first, last: first + attribution.Second(ch.Seconds), life: s.dims.lives[lifeKey{n, ch.Key.Boot}],
			previous: string(ch.Previous), link: string(ch.Link()),
		})
	}
	return nil
}

// check refuses a batch that cannot be stored, before anything is written.
func (s *Store) check(b *store.Batch) error {
	if err := admit.Batch(b, s.state.commits); err != nil {
		return err
	}
	return s.cover.check(b.Chunks)
}

func (c *commit) write(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.writeRows, c.writeTallies, c.writeMoved, c.writeChunks, c.writeState} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fact is a row of a fact table.
type fact struct {
	bucket, series int32
	basis          attribution.Basis
	rollup.Sums
	gap int64
}

// gapOf is how SM activity is stored: see the package.
func gapOf(b attribution.Basis, s *rollup.Sums) int64 {
	if b == attribution.Used {
		return s.Time - s.SMActive
	}
	return s.SMActive
}

func (c *commit) writeRows(ctx context.Context) error {
	facts, err := c.rowFacts(ctx, c.batch.Rows, rollup.Minute)
	if err != nil {
		return err
	}
	return writeAll(c, "", facts, func(f *fact) *int32 { return &f.bucket }, putFact)
}

func putFact(row appendRow, f *fact) error {
	return row(f.bucket, f.series, f.Time, f.gap, f.Memory, f.Energy, f.Cost)
}

// rowFacts are rows of a resolution as they are stored, sorted for that.
func (c *commit) rowFacts(ctx context.Context, rows []rollup.Row, res rollup.Resolution) ([]fact, error) {
	n := len(rows)
	owners, err := c.owners(ctx, n, func(i int) rollup.Fingerprint { return rows[i].Series.Owner })
	if err != nil {
		return nil, err
	}
	devices, err := c.devices(ctx, n, func(i int) rollup.Fingerprint { return rows[i].Series.Device })
	if err != nil {
		return nil, err
	}
	methods, err := c.methods(ctx, n, func(i int) string { return rows[i].Series.Method })
	if err != nil {
		return nil, err
	}
	series, err := c.series(ctx, n, func(i int) seriesKey {
		return seriesKey{devices[i], owners[i], methods[i], rows[i].Series.Revision, rows[i].Series.Basis}
	})
	if err != nil {
		return nil, err
	}
	facts := make([]fact, n)
	for i := range rows {
		r := &rows[i]
		facts[i] = fact{int32(int64(r.Bucket) / int64(res)), series[i], r.Series.Basis, r.Sums, gapOf(r.Series.Basis, &r.Sums)}
	}
	// Rows of one basis are alike, and neighbours compress each other.
	slices.SortFunc(facts, func(a, b fact) int {
		return cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.basis, b.basis), cmp.Compare(a.series, b.series))
	})
	return facts, nil
}

type tallyFact struct {
	bucket, series int32
	value          int64
}

func (c *commit) writeTallies(ctx context.Context) error {
	facts, err := c.tallyFacts(ctx, c.batch.Tallies, rollup.Minute)
	if err != nil {
		return err
	}
	return writeAll(c, "tally_", facts, func(f *tallyFact) *int32 { return &f.bucket }, putTallyFact)
}

func putTallyFact(row appendRow, f *tallyFact) error { return row(f.bucket, f.series, f.value) }

// tallyFacts is rowFacts for tallies.
func (c *commit) tallyFacts(ctx context.Context, rows []rollup.TallyRow, res rollup.Resolution) ([]tallyFact, error) {
	n := len(rows)
	owners, err := c.owners(ctx, n, func(i int) rollup.Fingerprint { return rows[i].Series.Owner })
	if err != nil {
		return nil, err
	}
	series, err := c.tallySeries(ctx, n, func(i int) tallyKey {
		s := &rows[i].Series
		return tallyKey{owners[i], s.Model, s.Tenant, s.Tier, s.Measure}
	})
	if err != nil {
		return nil, err
	}
	facts := make([]tallyFact, n)
	for i := range rows {
		facts[i] = tallyFact{int32(int64(rows[i].Bucket) / int64(res)), series[i], rows[i].Value}
	}
	slices.SortFunc(facts, func(a, b tallyFact) int {
		return cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.series, b.series))
	})
	return facts, nil
}

// writeAll appends minute rows, and adds those that come late to the hours and
// days that are rolled already.
func writeAll[F any](c *commit, prefix string, facts []F, bucket func(*F) *int32, put func(appendRow, *F) error) error {
	write := func(table string) error {
		return c.append("", prefix+table, func(row appendRow) error {
			for i := range facts {
				if err := put(row, &facts[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := write("minute"); err != nil {
		return err
	}
	for _, r := range []struct {
		table  string
		length int32 // in buckets of the last
		rolled int64
	}{{"hour", 60, int64(c.state.Rolled(rollup.Hour)) / 3600}, {"day", 24, int64(c.state.Rolled(rollup.Day)) / 86400}} {
		late := facts[:0]
		buckets := make(map[int32]bool)
		for i := range facts {
			b := bucket(&facts[i])
			*b = floorDiv(*b, r.length)
			if int64(*b) < r.rolled {
				buckets[*b] = true
				late = append(late, facts[i])
			}
		}
		if facts = late; len(facts) == 0 {
			return nil
		}
		if err := write(r.table); err != nil {
			return err
		}
		if err := c.append("", "late", func(row appendRow) error {
			for b := range buckets {
				if err := row(r.table == "day", b); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func floorDiv(a, b int32) int32 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (c *commit) writeChunks(ctx context.Context) error {
	chunks := c.batch.Chunks
	bodies := make(map[rollup.Fingerprint][]byte, len(c.batch.Rosters))
	for i := range c.batch.Rosters {
		bodies[c.batch.Rosters[i].ID] = c.batch.Rosters[i].Body
	}
	rosters, err := c.rosters(ctx, len(chunks), func(i int) rollup.Fingerprint { return chunks[i].RosterID }, bodies)
	if err != nil {
		return err
	}
	lives, err := c.writeLives()
	if err != nil {
		return err
	}
	return c.append("", "chunk", func(row appendRow) error {
		for i := range chunks {
			ch := &chunks[i]
			if err := row(lives[i], int64(ch.Key.Sequence), uint8(ch.Seconds), rosters[i], nonNil(ch.Body), nonNil(ch.Digest),
				nonNil(ch.Previous), nonNil(ch.Link())); err != nil {
				return err
			}
		}
		return nil
	})
}

// rosters finds the ids of rosters; those that the table does not have are
// made of their bodies.
func (c *commit) rosters(ctx context.Context, n int, at func(int) rollup.Fingerprint, bodies map[rollup.Fingerprint][]byte) ([]int32, error) {
	return resolve(ctx, c, byFingerprint(&c.dims.rosters, "roster"), n, at,
		func(fresh []rollup.Fingerprint, first int32) error {
			return c.append("", "roster", func(row appendRow) error {
				for i, f := range fresh {
					body, ok := bodies[f]
					if !ok {
						return fmt.Errorf("%w: it has no roster %s", store.ErrBadBatch, f)
					}
					if err := row(first+int32(i), uuid(f), packRoster(body), true); err != nil {
						return err
					}
				}
				return nil
			})
		})
}

// nonNil keeps an empty blob from being taken for none.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (c *commit) writeLives() ([]int32, error) {
	out := make([]int32, len(c.batch.Chunks))
	var fresh []lifeKey
	for i := range c.batch.Chunks {
		k := &c.batch.Chunks[i].Key
		l := lifeKey{node{k.Cluster, k.Node}, k.Boot}
		id, ok := c.dims.lives[l]
		if !ok {
			if err := admit.Text("node", k.Cluster, k.Node); err != nil {
				return nil, err
			}
			id = int32(len(c.dims.lives))
			c.dims.lives[l] = id
			fresh = append(fresh, l)
		}
		out[i] = id
	}
	return out, c.append("", "life", func(row appendRow) error {
		for _, l := range fresh {
			if err := row(c.dims.lives[l], l.node.cluster, l.node.name, uuid(l.boot)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *commit) writeState(ctx context.Context) error {
	st := c.state
	st.commits = c.batch.Number
	for i := range c.batch.Chunks {
		k := &c.batch.Chunks[i]
		st.Extend(k.Key.Sequence, k.Key.Sequence+attribution.Second(k.Seconds))
	}
	return st.write(ctx, c.db)
}
