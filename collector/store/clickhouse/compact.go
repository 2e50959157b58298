package clickhouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// compactAtOnce is about how many claims one write makes ranges of. A page of them
// is held in memory.
const compactAtOnce = 2_000_000

// compact makes ranges in the table covered of old claims: of a node's day one for
// each run of seconds, however many chunks it was. Two collectors that do it at
// once write the same, and that counts once.
func (s *Store) compact(ctx context.Context) error {
	for {
		err := s.write(ctx, "compact what is stored", func(w *writing) error {
			return s.compactSome(ctx, w)
		})
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// compactSome takes some of the oldest claims, of whole days where they are few.
func (s *Store) compactSome(ctx context.Context, w *writing) error {
	low, high := w.state.compacted, w.began-s.limits.keepClaims
	high -= high % s.limits.claimsStep
	if low >= high {
		return refused{errDone}
	}
	where := func(low, high attribution.Second) string { return fmt.Sprintf(`began >= %d AND began < %d`, low, high) }
	var first attribution.Second
	var n uint64
	if err := s.client.query(ctx, `SELECT min(began), count() FROM span WHERE `+where(low, high), func(d *decoder) error {
		first, n = attribution.Second(d.i64()), d.u64()
		return d.err
	}); err != nil {
		return refused{err}
	}
	if n == 0 {
		// Not a write a day for nothing: it moves with the next claims.
		return refused{errDone}
	}
	if first = rollup.Hour.Start(first); n > compactAtOnce {
		high = min(high, first+max(rollup.Hour.Start((high-first)*compactAtOnce/attribution.Second(n)), attribution.Second(rollup.Hour)))
	}
	if err := s.compactBetween(ctx, w, where(first, high)); err != nil {
		return err
	}
	w.compacted = high
	return nil
}

// compactBetween makes ranges of claims, page by page of nodes.
func (s *Store) compactBetween(ctx context.Context, w *writing, where string) error {
	type nodes struct {
		low, high node
		n         uint64
	}
	var pages []nodes
	if err := s.client.query(ctx, `SELECT cluster, node, count() FROM span WHERE `+where+` GROUP BY cluster, node ORDER BY cluster, node`, func(d *decoder) error {
		x := node{d.str(), d.str()}
		n := d.u64()
		if k := len(pages) - 1; k >= 0 && pages[k].n+n <= compactAtOnce/10 {
			pages[k].high, pages[k].n = x, pages[k].n+n
		} else {
			pages = append(pages, nodes{x, x, n})
		}
		return d.err
	}); err != nil {
		return err
	}
	for _, p := range pages {
		var spans []span
		of := fmt.Sprintf(` AND (cluster > %[1]s OR cluster = %[1]s AND node >= %[2]s) AND (cluster < %[3]s OR cluster = %[3]s AND node <= %[4]s)`,
			quote(p.low.cluster), quote(p.low.name), quote(p.high.cluster), quote(p.high.name))
		if err := s.readStored(ctx, w.state, where+of, func(x span) error {
			spans = append(spans, x)
			return nil
		}); err != nil {
			return err
		}
		sortSpans(spans)
		var e encoder
		for _, x := range joined(spans) {
			w.covers(&e, &x)
		}
		if err := w.insert(ctx, "covered", coveredNames, e); err != nil {
			return err
		}
	}
	return nil
}
