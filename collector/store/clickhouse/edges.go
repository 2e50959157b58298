package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// scanned is how many chunks are decoded at once.
const scanned = 256

// scan answers for the pieces that are seconds.
func (r *reader) scan(ctx context.Context, q *store.Query, pieces []piece) (*scan.Scan, error) {
	known := make(scan.Served)
	s := scan.New(q, scan.Env{Map: r.mapping, Served: known.Of})
	var journal *rerating.Journal
	if slices.ContainsFunc(pieces, func(p piece) bool { return p.resolution == store.Seconds }) {
		var err error
		if journal, err = r.Journal(ctx); err != nil {
			return nil, err
		}
	}
	for _, p := range pieces {
		if p.resolution != store.Seconds {
			continue
		}
		var chunks []*attribution.Chunk
		flush := func() error {
			if err := r.learn(ctx, q, chunks, known); err != nil {
				return err
			}
			for _, c := range chunks {
				s.Part(c, p.from, p.to)
				if err := s.Full(); err != nil {
					return err
				}
			}
			chunks = chunks[:0]
			return nil
		}
		err := r.Chunks(ctx, p.from, p.to, func(ch *store.Chunk, ro *store.Roster) error {
			c, err := r.store.options.Decode(ch, ro)
			if err != nil {
				return fmt.Errorf("%w: node %q chunk %d: %w", store.ErrCorrupt, ch.Key.Node, ch.Key.Sequence, err)
			}
			if chunks = append(chunks, journal.Rate(c)); len(chunks) < scanned {
				return nil
			}
			return flush()
		})
		if err == nil {
			err = flush()
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// learn finds what the owners of chunks served, if the query asks for it.
func (r *reader) learn(ctx context.Context, q *store.Query, chunks []*attribution.Chunk, known scan.Served) error {
	asks := false
	for _, d := range q.GroupBy {
		asks = asks || d.OfServed()
	}
	for _, f := range q.Filters {
		asks = asks || f.Dimension.OfServed()
	}
	if !asks {
		return nil
	}
	var owners []rollup.Fingerprint
	var last *attribution.Roster
	for _, c := range chunks {
		if c.Roster == last {
			continue
		}
		last = c.Roster
		for i := range c.Roster.Owners {
			f := c.Roster.Owners[i].Fingerprint()
			if _, ok := known[f]; !ok {
				known[f] = store.Served{}
				owners = append(owners, f)
			}
		}
	}
	served, err := r.Served(ctx, owners)
	maps.Copy(known, served)
	return err
}
