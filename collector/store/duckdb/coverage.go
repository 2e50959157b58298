package duckdb

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
)

// node is a node of a cluster.
type node struct{ cluster, name string }

// span is a run of stored seconds, [first, last), from one life of a node.
type span struct {
	first, last attribution.Second
	life        int32
	// The chain before and behind it, "" where it is not chained.
	previous, link string
}

// joins reports whether a span goes on where another ends.
func (s *span) joins(t *span) bool {
	return t.last == s.first && t.life == s.life && t.link == s.previous
}

// coverage is which seconds of which node are stored: per node, its spans in
// order and without overlap, adjacent ones of one life and chain merged.
type coverage map[node][]span

// check finds a chunk of the batch that holds a second that is covered, or
// that another chunk of the batch holds.
func (c coverage) check(chunks []store.Chunk) error {
	order, err := admit.InOrder(chunks)
	if err != nil {
		return err
	}
	for _, ch := range order {
		n := node{ch.Key.Cluster, ch.Key.Node}
		end := ch.Key.Sequence + attribution.Second(ch.Seconds)
		if s, ok := overlap(c[n], ch.Key.Sequence, end); ok {
			return fmt.Errorf("%w: node %q chunk [%d, %d): [%d, %d) is there", store.ErrDuplicate, n.name, ch.Key.Sequence, end, s.first, s.last)
		}
	}
	return nil
}

// overlap finds the first span with a second in [first, last).
func overlap(spans []span, first, last attribution.Second) (span, bool) {
	i, _ := slices.BinarySearchFunc(spans, first, func(s span, x attribution.Second) int {
		if s.last <= x {
			return -1
		}
		return 1
	})
	if i < len(spans) && spans[i].first < last {
		return spans[i], true
	}
	return span{}, false
}

// add covers a span that overlaps none.
func (c coverage) add(n node, s span) {
	spans := c[n]
	i, _ := slices.BinarySearchFunc(spans, s.first, func(t span, x attribution.Second) int { return cmp.Compare(t.first, x) })
	joinsLeft := i > 0 && s.joins(&spans[i-1])
	joinsRight := i < len(spans) && spans[i].joins(&s)
	switch {
	case joinsLeft && joinsRight:
		spans[i-1].last, spans[i-1].link = spans[i].last, spans[i].link
		spans = slices.Delete(spans, i, i+1)
	case joinsLeft:
		spans[i-1].last, spans[i-1].link = s.last, s.link
	case joinsRight:
		spans[i].first, spans[i].previous = s.first, s.previous
	default:
		spans = slices.Insert(spans, i, s)
	}
	c[n] = spans
}
