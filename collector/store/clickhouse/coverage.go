package clickhouse

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

var _ store.Covering = (*reader)(nil)

// Ranges implements [store.Reader].
func (r *reader) Ranges(ctx context.Context, f func(store.Range) error) error {
	spans, err := r.store.spans(ctx, r.state, "", "")
	if err != nil {
		return unavailable("read what is stored", err)
	}
	for _, x := range joined(spans) {
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// Covered implements [store.Covering].
func (r *reader) Covered(ctx context.Context, from, to attribution.Second, f func(store.Range) error) error {
	var call error
	err := r.store.covering(ctx, r.state, from, to, func(x store.Range) {
		if call == nil {
			call = f(x)
		}
	})
	if err != nil {
		return unavailable("read what is stored", err)
	}
	return call
}

// covering calls f for what is stored of [from, to), each second once, and perhaps
// more around it.
func (s *Store) covering(ctx context.Context, st *state, from, to attribution.Second, f func(store.Range)) error {
	from, to = max(from, -maxSecond), min(to, maxSecond)
	if from >= to {
		return nil
	}
	within := fmt.Sprintf(` AND first < %d AND last > %d`, to, from)
	// What comes from others may cross a slot.
	spans, err := s.spans(ctx, st, fmt.Sprintf(` AND slot >= %d AND slot <= %d`, slotOf(from)-1, slotOf(to))+within, within)
	for _, x := range joined(spans) {
		f(x)
	}
	return err
}

// NodeRanges implements [store.Shared].
func (s *Store) NodeRanges(ctx context.Context, cluster, name string) ([]store.Range, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	st, err := s.readState(ctx)
	if err != nil {
		return nil, unavailable("read what is stored", err)
	}
	of := ` AND cluster = ` + quote(cluster) + ` AND node = ` + quote(name)
	spans, err := s.spans(ctx, st, of, of)
	if err != nil {
		return nil, unavailable("read what is stored", err)
	}
	return joined(spans), nil
}

// spans is every span of a state that counts, as of chunks and of what is covered,
// in order.
func (s *Store) spans(ctx context.Context, st *state, ofSpans, ofCovered string) ([]span, error) {
	var out []span
	take := func(x span) error {
		out = append(out, x)
		return nil
	}
	err := s.readStored(ctx, st, fmt.Sprintf(`began >= %d`, st.compacted)+ofSpans, take)
	if err == nil && st.covered > plan.Never {
		err = s.readCovered(ctx, st.visible()+ofCovered, take)
	}
	sortSpans(out)
	return out, err
}

func sortSpans(spans []span) {
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.name, b.name), cmp.Compare(a.first, b.first), cmp.Compare(b.last, a.last))
	})
}

// readStored reads the spans of chunks that are stored, each with its link.
func (s *Store) readStored(ctx context.Context, st *state, where string, f func(span) error) error {
	return s.readSpans(ctx, where+` AND `+st.visible(), func(x span) error {
		if len(st.losers) > 0 {
			if _, lost := slices.BinarySearch(st.losers, x.source()); lost {
				return nil
			}
		}
		if len(x.previous) > 0 {
			x.link = attribution.Link(x.previous, x.first, x.digest)
		}
		return f(x)
	})
}

// joined makes ranges of spans in order: adjacent ones of one boot and chain are
// one. What is there as a chunk and covered, or covered twice, is there once.
func joined(spans []span) []store.Range {
	var out []store.Range
	for i := range spans {
		x := &spans[i]
		if k := len(out) - 1; k >= 0 && out[k].Cluster == x.cluster && out[k].Node == x.name {
			last := &out[k]
			if x.last <= last.To {
				continue
			}
			if x.first == last.To && x.boot == last.Boot && bytes.Equal(x.previous, last.Link) {
				last.To, last.Link = x.last, x.link
				continue
			}
		}
		y := store.Range{Cluster: x.cluster, Node: x.name, Boot: x.boot, From: x.first, To: x.last}
		if len(x.previous) > 0 {
			y.Previous, y.Link = x.previous, x.link
		}
		out = append(out, y)
	}
	return out
}
