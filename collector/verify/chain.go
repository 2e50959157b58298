package verify

import (
	"bytes"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// chains follows the chain of each node's chunks ([attribution.Link]). A chunk
// that was changed, left out or put in breaks it at the next one, or, where it
// is a range's last, at the link that is on record behind it.
type chains struct {
	// On record, by where they are: the links before and behind ranges.
	before, behind map[point][]byte
	// at is where each node's chain has come to.
	at map[uint32]reached
}

type point struct {
	node uint32
	at   attribution.Second
}

type reached struct {
	boot attribution.Boot
	to   attribution.Second
	link []byte
}

func newChains() chains {
	return chains{before: map[point][]byte{}, behind: map[point][]byte{}, at: map[uint32]reached{}}
}

// anew tells where an agent began its chain again, within one boot.
const anew = "node %q: its chain begins anew at %s: its agent chains only since then, or its spool was damaged"

// recorded takes a range on record, which follows last; their chains must go on
// where they touch.
func (r *run) recorded(node uint32, last, x *store.Range) error {
	c := &r.chains
	if len(x.Previous) > 0 {
		c.before[point{node, x.From}] = x.Previous
	}
	if len(x.Link) > 0 {
		c.behind[point{node, x.To}] = x.Link
	}
	if x.From != last.To || x.Boot != last.Boot || x.Node != last.Node || x.Cluster != last.Cluster {
		return nil
	}
	if x.To > r.from && x.From < r.to {
		return r.follows(x.Node, x.Boot, x.From, last.Link, x.Previous)
	}
	return nil
}

// follows checks that a chain goes on at a second where two chunks touch.
func (r *run) follows(node string, boot attribution.Boot, at attribution.Second, link, previous []byte) error {
	switch {
	case bytes.Equal(link, previous):
		return nil
	case len(previous) > 0 && (len(link) == 0 || bytes.Equal(previous, attribution.FirstLink(boot))):
		r.notes.add(anew, node, clock(at))
		return nil
	case len(previous) == 0:
		r.notes.add("node %q: its chunks are not chained from %s on: an older agent took over", node, clock(at))
		return nil
	}
	return broken(4, "node \""+node+"\" second "+clock(at), "the chain of the node's chunks breaks here: what it sent before is not what is on record")
}

// chunk takes a kept chunk; a node's come in order of time.
func (c *chains) chunk(r *run, node uint32, x *store.Chunk) error {
	link, end := x.Link(), x.Key.Sequence+attribution.Second(x.Seconds)
	last, ok := c.at[node]
	c.at[node] = reached{x.Key.Boot, end, link}
	_, edge := c.before[point{node, x.Key.Sequence}] // told of with the ranges
	if ok && last.to == x.Key.Sequence && last.boot == x.Key.Boot && !edge {
		if err := r.follows(x.Key.Node, x.Key.Boot, x.Key.Sequence, last.link, x.Previous); err != nil {
			return err
		}
	}
	if want, ok := c.before[point{node, x.Key.Sequence}]; ok && !bytes.Equal(want, x.Previous) {
		return broken(4, chunkName(x), "the link before it is not the one on record")
	}
	if want, ok := c.behind[point{node, end}]; ok && !bytes.Equal(want, link) {
		return broken(4, chunkName(x), "the link behind it is not the one on record: the chunk is not what the node sent, or the record was changed")
	}
	return nil
}
