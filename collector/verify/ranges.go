package verify

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// nodeRange is a store.Range within the run's range.
type nodeRange struct {
	node     uint32
	boot     attribution.Boot
	from, to attribution.Second
}

// readRanges reads which seconds are on record, and finds those that are there
// twice. Gaps are noted: a node that was down is no break.
func (r *run) readRanges(ctx context.Context) error {
	var last store.Range
	err := r.reader.Ranges(ctx, func(x store.Range) error {
		where := fmt.Sprintf("node %q seconds %s to %s", x.Node, clock(x.From), clock(x.To))
		if x.From >= x.To {
			return broken(3, where, "the range on record is empty or reversed")
		}
		same := x.Cluster == last.Cluster && x.Node == last.Node && last.To != 0
		if same && x.From < last.To {
			return broken(3, where, "seconds are on record twice: the range before ends at %s", clock(last.To))
		}
		if same && x.From > last.To && last.To >= r.from && x.From < r.to {
			r.notes.add("node %q: nothing on record from %s to %s (%s)", x.Node, clock(last.To), clock(x.From), whyGap(&last, &x))
		}
		if err := r.recorded(r.facts.node(x.Cluster, x.Node), &last, &x); err != nil {
			return err
		}
		last = x
		from, to := max(x.From, r.from), min(x.To, r.to)
		if from >= to {
			return nil
		}
		r.ranges = append(r.ranges, nodeRange{r.facts.node(x.Cluster, x.Node), x.Boot, from, to})
		if kept := max(from, r.keptSeconds); kept < to {
			r.progress.ChunksTotal += int64(to-kept.ChunkStart()+attribution.ChunkSeconds-1) / attribution.ChunkSeconds
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.nodes = r.facts.nodes()
	r.noteDropped()
	return nil
}

// whyGap says what a gap between two ranges of a node may come from. A
// gateway's owns no device time, and what it served meanwhile is in the first
// second after. Of an agent that chains its chunks it is known whether it closed
// any there.
func whyGap(last, x *store.Range) string {
	switch {
	case strings.HasPrefix(x.Node, join.NodePrefix):
		return "the gateway did not answer, or the collector was down; what it went on counting is in the first second after"
	case x.Boot != last.Boot || len(x.Previous) == 0 || len(last.Link) == 0:
	case bytes.Equal(x.Previous, last.Link):
		return "the node was down: by its chain, it closed nothing there"
	default:
		return "by its chain, the node closed chunks there: they are on their way, were rejected, or were taken out of the ledger"
	}
	return "the node was down, or its agent has not sent it yet"
}

func (r *run) noteDropped() {
	var seconds int64
	nodes := map[uint32]bool{}
	for _, x := range r.ranges {
		if to := min(x.to, r.keptSeconds); x.from < to {
			seconds += int64(to - x.from)
			nodes[x.node] = true
		}
	}
	if seconds > 0 {
		r.notes.add("%d seconds of %d node(s) before %s: retention keeps only their sums, so windows and slices can't be recomputed",
			seconds, len(nodes), clock(r.keptSeconds))
	}
}

type nodeMinute struct {
	node   uint32
	minute attribution.Second
}

// coverage tells, for each minute of each node in a slab, how many of its
// seconds are on record and how many are in kept chunks.
type coverage struct {
	from, to attribution.Second
	seconds  map[nodeMinute]*covered
	spans    []nodeRange // of chunks, in order of (node's name, from), adjacent ones merged
}

type covered struct{ onRecord, inChunks int64 }

// complete reports whether every second on record is in a chunk.
func (c *coverage) complete(k nodeMinute) bool {
	s := c.seconds[k]
	return s != nil && s.onRecord == s.inChunks
}

func newCoverage(from, to attribution.Second) *coverage {
	return &coverage{from: from, to: to, seconds: map[nodeMinute]*covered{}}
}

// spread adds a range's seconds to their minutes.
func (c *coverage) spread(x nodeRange, add func(*covered, int64)) {
	for m := rollup.Minute.Start(x.from); m < x.to; m += attribution.Second(rollup.Minute) {
		k := nodeMinute{x.node, m}
		s := c.seconds[k]
		if s == nil {
			s = &covered{}
			c.seconds[k] = s
		}
		add(s, int64(min(x.to, m+60)-max(x.from, m)))
	}
}

// chunk takes a chunk, which come in order of (cluster, node, sequence).
func (c *coverage) chunk(node uint32, x *store.Chunk) error {
	s := nodeRange{node, x.Key.Boot, x.Key.Sequence, x.Key.Sequence + attribution.Second(x.Seconds)}
	if n := len(c.spans); n > 0 && c.spans[n-1].node == node {
		p := &c.spans[n-1]
		if s.from < p.to {
			return broken(3, chunkName(x), "the second %s is in two chunks of the node", clock(s.from))
		}
		if s.from == p.to && s.boot == p.boot {
			p.to = s.to
			return nil
		}
	}
	c.spans = append(c.spans, s)
	return nil
}

func chunkName(x *store.Chunk) string {
	return fmt.Sprintf("node %q chunk %d (%s)", x.Key.Node, x.Key.Sequence, clock(x.Key.Sequence))
}

// settle compares the chunks' seconds with those on record.
func (r *run) settle(c *coverage) error {
	byNode := map[uint32][]nodeRange{}
	for _, s := range c.spans {
		byNode[s.node] = append(byNode[s.node], s)
		c.spread(s, func(x *covered, n int64) { x.inChunks += n })
	}
	for _, x := range r.ranges {
		x.from, x.to = max(x.from, c.from), min(x.to, c.to)
		if x.from >= x.to {
			continue
		}
		c.spread(x, func(y *covered, n int64) { y.onRecord += n })
		left, err := r.cover(x, byNode[x.node])
		if err != nil {
			return err
		}
		byNode[x.node] = left
	}
	for node, left := range byNode {
		if len(left) > 0 {
			return broken(4, r.facts.nodeName(node)+" second "+clock(left[0].from), "a chunk holds it, but it is not on record as stored, so it could be stored again")
		}
	}
	return nil
}

// cover strikes a range on record off the node's chunks, and returns those
// beyond it.
func (r *run) cover(x nodeRange, spans []nodeRange) ([]nodeRange, error) {
	at := x.from
	for len(spans) > 0 && spans[0].from < x.to {
		s := spans[0]
		where := r.facts.nodeName(s.node) + " second " + clock(s.from)
		switch {
		case s.from < x.from:
			return nil, broken(4, where, "its chunk reaches beyond what is on record as stored")
		case s.boot != x.boot:
			return nil, broken(4, where, "its chunk is of another boot than the one on record")
		}
		if err := r.lost(x.node, at, s.from); err != nil {
			return nil, err
		}
		if s.to > x.to { // what is beyond must be in the next range
			at, spans[0].from = x.to, x.to
			break
		}
		at, spans = s.to, spans[1:]
	}
	return spans, r.lost(x.node, at, x.to)
}

// lost finds seconds on record in [from, to), which no chunk holds, that
// should be kept.
func (r *run) lost(node uint32, from, to attribution.Second) error {
	if from = max(from, r.keptSeconds); from >= to {
		return nil
	}
	return broken(4, r.facts.nodeName(node)+" second "+clock(from),
		"it is on record as stored, but no chunk holds it, though seconds are kept from %s on (unless a retention was shorter before)", clockOrEver(r.keptSeconds))
}

func clockOrEver(s attribution.Second) string {
	if s == minSecond {
		return "the beginning"
	}
	return clock(s)
}
