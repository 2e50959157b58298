package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// chunksAtOnce bounds how many chunks are held in memory while they are read.
const chunksAtOnce = 4096

// page is a run of nodes in order, or a part of one's time.
type page struct {
	low, high   node
	first, last attribution.Second // sequences, inclusive
	chunks      uint64
}

// Chunks implements [store.Reader].
func (r *reader) Chunks(ctx context.Context, from, to attribution.Second, f func(*store.Chunk, *store.Roster) error) error {
	from, to = max(from, -maxSecond), min(to, maxSecond)
	first, _ := r.state.Extent()
	low := max(from-attribution.ChunkSeconds+1, r.state.SecondKept, first-attribution.ChunkSeconds)
	if low >= to {
		return nil
	}
	where := fmt.Sprintf(`slot >= %d AND slot <= %d AND sequence >= %d AND sequence < %d AND sequence + seconds > %d AND `,
		slotOf(low), slotOf(to), low, to, from) + r.state.counted()
	pages, err := r.pages(ctx, where)
	if err != nil {
		return unavailable("read chunks", err)
	}
	rosters := make(map[rollup.Fingerprint]*store.Roster)
	for _, p := range pages {
		if call, err := r.page(ctx, where, p, rosters, f); err != nil {
			return mine(call, "read chunks", err)
		}
	}
	return nil
}

// pages plans the reading of chunks.
func (r *reader) pages(ctx context.Context, where string) ([]page, error) {
	var pages []page
	err := r.client.query(ctx, `SELECT cluster, node, min(sequence), max(sequence), count() FROM chunk WHERE `+where+` GROUP BY cluster, node ORDER BY cluster, node`, func(d *decoder) error {
		n := node{d.str(), d.str()}
		x := page{low: n, high: n, first: attribution.Second(d.i64()), last: attribution.Second(d.i64()), chunks: d.u64()}
		if k := len(pages) - 1; k >= 0 && pages[k].chunks+x.chunks <= chunksAtOnce {
			p := &pages[k]
			p.high, p.first, p.last, p.chunks = n, min(p.first, x.first), max(p.last, x.last), p.chunks+x.chunks
			return d.err
		}
		pages = append(pages, x)
		return d.err
	})
	var out []page
	for _, p := range pages {
		parts := attribution.Second(p.chunks/chunksAtOnce + 1)
		length := (p.last-p.first)/parts + 1
		for first := p.first; first <= p.last; first += length {
			x := p
			x.first, x.last = first, min(first+length-1, p.last)
			out = append(out, x)
		}
	}
	return out, err
}

// page reads one page. call is the error of f, if it was that.
func (r *reader) page(ctx context.Context, where string, p page, rosters map[rollup.Fingerprint]*store.Roster, f func(*store.Chunk, *store.Roster) error) (call, err error) {
	where += fmt.Sprintf(` AND sequence >= %d AND sequence <= %d AND (cluster > %[3]s OR cluster = %[3]s AND node >= %[4]s) AND (cluster < %[5]s OR cluster = %[5]s AND node <= %[6]s)`,
		p.first, p.last, quote(p.low.cluster), quote(p.low.name), quote(p.high.cluster), quote(p.high.name))
	var chunks []store.Chunk
	err = r.client.query(ctx, `SELECT cluster, node, boot, sequence, seconds, roster, digest, previous, body FROM chunk WHERE `+where, func(d *decoder) error {
		var ch store.Chunk
		ch.Key.Cluster, ch.Key.Node, ch.Key.Boot = d.str(), d.str(), d.fixed()
		ch.Key.Sequence, ch.Seconds = attribution.Second(d.i64()), int(d.u8())
		ch.RosterID, ch.Digest, ch.Previous, ch.Body = d.fixed(), d.bytes(), d.bytes(), d.bytes()
		chunks = append(chunks, ch)
		return d.err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(chunks, func(a, b store.Chunk) int {
		return cmp.Or(cmp.Compare(a.Key.Cluster, b.Key.Cluster), cmp.Compare(a.Key.Node, b.Key.Node), cmp.Compare(a.Key.Sequence, b.Key.Sequence))
	})
	if err := r.rosters(ctx, chunks, rosters); err != nil {
		return nil, err
	}
	for i := range chunks {
		ch := &chunks[i]
		if len(ch.Previous) == 0 {
			ch.Previous = nil
		}
		ro := rosters[ch.RosterID]
		if ro == nil {
			return nil, fmt.Errorf("%w: chunk %d of node %q has no roster", store.ErrCorrupt, ch.Key.Sequence, ch.Key.Node)
		}
		if call := f(ch, ro); call != nil {
			return call, call
		}
	}
	return nil, nil
}

// rostersAtOnce bounds how many rosters are held from one page to the next.
const rostersAtOnce = 4096

// rosters reads those of chunks that are not known.
func (r *reader) rosters(ctx context.Context, chunks []store.Chunk, known map[rollup.Fingerprint]*store.Roster) error {
	if len(known) > rostersAtOnce {
		clear(known)
	}
	var ask []rollup.Fingerprint
	for i := range chunks {
		f := chunks[i].RosterID
		if _, ok := known[f]; !ok {
			known[f] = nil
			ask = append(ask, f)
		}
	}
	for part := range slices.Chunk(ask, factsAtOnce) {
		if err := r.client.query(ctx, `SELECT fingerprint, body FROM roster WHERE fingerprint IN (`+list(part, hexed16)+`)`, func(d *decoder) error {
			ro := &store.Roster{ID: d.fixed(), Body: d.bytes()}
			known[ro.ID] = ro
			return d.err
		}); err != nil {
			return err
		}
	}
	return nil
}
