package query

import (
	"cmp"
	"context"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Peers are the other collectors of the same ledger.
type Peers interface {
	// Open is what the others have accepted that overlaps [from, to) and may not
	// be stored yet: at least everything that they had when it was called and
	// that was not stored then. missing names those that did not answer in time:
	// what only they have is in no answer until it is stored.
	Open(ctx context.Context, from, to attribution.Second) (cs []store.Pending, missing []string)
}

// Where several collectors share a store, what is open is not told from what is
// stored by the number of a commit: another collector may have stored it, or
// hold it too, where a node has moved on and its old stream is stuck. So the
// others are asked first and the view of the store is taken then: whatever they
// had open is in the view or still open. Of all that, each second of a node
// counts once: as it is stored, else in a chunk, else live.

// others is what the other collectors have open.
func (e *Engine) others(ctx context.Context, from, to attribution.Second) ([]store.Pending, []string) {
	if e.cfg.Peers == nil {
		return nil, nil
	}
	if from == 0 && to == 0 {
		to = maxSecond
	}
	return e.cfg.Peers.Open(ctx, from, to)
}

// unstored are the chunks that the view does not have, each second of a node
// once. Chunks that come first are preferred to those that are as long.
func (s *Snapshot) unstored(ctx context.Context, open []store.Pending) ([]store.Pending, error) {
	if len(open) == 0 {
		return nil, nil
	}
	taken := make(map[nodeKey]*spans)
	from, to := spanOf(open[0])
	for _, c := range open {
		taken[nodeOf(c)] = &spans{}
		first, end := spanOf(c)
		from, to = min(from, first), max(to, end)
	}
	err := covered(ctx, s.reader, from, to, func(r store.Range) error {
		if n := taken[nodeKey{r.Cluster, r.Node}]; n != nil && r.From < to && r.To > from {
			n.add(r.From, r.To)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Chunks come before the live seconds that they are made of.
	slices.SortStableFunc(open, func(a, b store.Pending) int { return cmp.Compare(b.Seconds(), a.Seconds()) })
	out := make([]store.Pending, 0, len(open))
	for _, c := range open {
		first, end := spanOf(c)
		if n := taken[nodeOf(c)]; n.free(first, end) {
			n.add(first, end)
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b store.Pending) int {
		x, y := a.Key(), b.Key()
		return cmp.Or(cmp.Compare(x.Cluster, y.Cluster), cmp.Compare(x.Node, y.Node), cmp.Compare(x.Sequence, y.Sequence))
	})
	return out, nil
}

func covered(ctx context.Context, r store.Reader, from, to attribution.Second, f func(store.Range) error) error {
	if c, ok := r.(store.Covering); ok {
		return c.Covered(ctx, from, to, f)
	}
	return r.Ranges(ctx, f)
}

type nodeKey struct{ cluster, node string }

func nodeOf(c store.Pending) nodeKey { return nodeKey{c.Key().Cluster, c.Key().Node} }

// spans is a set of seconds as runs in order, which do not overlap.
type spans struct{ list []run }

type run struct{ from, to attribution.Second }

// after is the place of the first run that ends after a second.
func (s *spans) after(at attribution.Second) int {
	i, _ := slices.BinarySearchFunc(s.list, at, func(r run, at attribution.Second) int {
		if r.to <= at {
			return -1
		}
		return 1
	})
	return i
}

// free reports whether nothing of [from, to) is there.
func (s *spans) free(from, to attribution.Second) bool {
	i := s.after(from)
	return i == len(s.list) || s.list[i].from >= to
}

// add adds [from, to).
func (s *spans) add(from, to attribution.Second) {
	i := s.after(from)
	k := i
	for ; k < len(s.list) && s.list[k].from < to; k++ {
		from, to = min(from, s.list[k].from), max(to, s.list[k].to)
	}
	s.list = slices.Replace(s.list, i, k, run{from, to})
}
