package verify

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

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
	// heads are the ends of the nodes' last ranges.
	heads []Head
	// noted are heads of an earlier run, and what is seen of the chains there.
	noted map[nodeName][]*sighting
	order []*sighting
	// anew are the nodes whose chains begin again within one boot.
	anew map[string]*begun
}

// begun is how often and when a node began its chain anew.
type begun struct {
	times       int
	first, last attribution.Second
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

// sighting is what was noted of a chain, and what is there now.
type sighting struct {
	Head
	onRecord bool   // the second before it
	now      []byte // nil: no chunk and no range ends or begins there
}

func newChains(noted []Head) chains {
	c := chains{anew: map[string]*begun{}, before: map[point][]byte{}, behind: map[point][]byte{}, at: map[uint32]reached{}, noted: map[nodeName][]*sighting{}}
	for _, h := range noted {
		k, s := nodeName{h.Cluster, h.Node}, &sighting{Head: h}
		c.noted[k] = append(c.noted[k], s)
		c.order = append(c.order, s)
	}
	return c
}

// seesBefore tells of the link before a chunk or range. One that begins the chain
// anew says nothing of what came before it.
func (c *chains) seesBefore(cluster, node string, boot attribution.Boot, at attribution.Second, link []byte) {
	if !bytes.Equal(link, attribution.FirstLink(boot)) {
		c.sees(cluster, node, boot, at, link)
	}
}

// sees tells of a link on a node's chain.
func (c *chains) sees(cluster, node string, boot attribution.Boot, at attribution.Second, link []byte) {
	for _, s := range c.noted[nodeName{cluster, node}] {
		if s.Boot == boot && s.At == at && len(link) > 0 && (s.now == nil || bytes.Equal(s.now, s.Link)) { // a difference stays
			s.now = link
		}
	}
}

// head takes a node's range as its last so far.
func (c *chains) head(x *store.Range) {
	if n := len(c.heads); n > 0 && c.heads[n-1].Node == x.Node && c.heads[n-1].Cluster == x.Cluster {
		c.heads = c.heads[:n-1]
	}
	if len(x.Link) > 0 {
		c.heads = append(c.heads, Head{x.Cluster, x.Node, x.Boot, x.To, x.Link})
	}
	for _, s := range c.noted[nodeName{x.Cluster, x.Node}] {
		s.onRecord = s.onRecord || (s.Boot == x.Boot && x.From < s.At && s.At <= x.To)
	}
}

// noteAnew tells where agents began their chains again, within one boot.
func (r *run) noteAnew() {
	for _, node := range slices.Sorted(maps.Keys(r.chains.anew)) {
		x, where := r.chains.anew[node], ""
		if x.times > 1 {
			where = fmt.Sprintf(", the last of %d times at %s", x.times, clock(x.last))
		}
		r.notes.add("node %q: its chain begins anew at %s%s: its agent chains only since then, or its spool was damaged and it has said so", node, clock(x.first), where)
	}
}

// checkNoted compares what was noted with what was seen.
func (r *run) checkNoted() error {
	for _, s := range r.chains.order {
		where := "node \"" + s.Node + "\" second " + clock(s.At)
		switch {
		case !s.onRecord:
			return broken(4, where, "it was noted as stored, and is not on record any more")
		case s.now == nil:
			r.notes.add("%s: the chunks at the link that was noted are no longer kept, or outside the range", where)
		case !bytes.Equal(s.now, s.Link):
			return broken(4, where, "the chain is not the one that was noted: what the node sent before was changed since")
		}
	}
	return nil
}

// recorded takes a range on record, which follows last; their chains must go on
// where they touch.
func (r *run) recorded(node uint32, last, x *store.Range) error {
	c := &r.chains
	c.head(x)
	c.seesBefore(x.Cluster, x.Node, x.Boot, x.From, x.Previous)
	c.sees(x.Cluster, x.Node, x.Boot, x.To, x.Link)
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
		x := r.chains.anew[node]
		if x == nil {
			x = &begun{first: at, last: at}
			r.chains.anew[node] = x
		}
		x.times++
		x.first, x.last = min(x.first, at), max(x.last, at)
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
	c.seesBefore(x.Key.Cluster, x.Key.Node, x.Key.Boot, x.Key.Sequence, x.Previous)
	c.sees(x.Key.Cluster, x.Key.Node, x.Key.Boot, end, link)
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
