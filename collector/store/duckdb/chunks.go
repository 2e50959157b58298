package duckdb

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// A page bounds what Chunks holds in memory: DuckDB hands out whole results.
const (
	pageChunks = 4096
	pageBytes  = 16 << 20
)

// page is a run of lives in order, with their chunks of [low, high].
type page struct {
	lives         []int32
	low, high     attribution.Second // sequences
	chunks, bytes int
}

// Chunks implements [store.Reader].
func (r *reader) Chunks(ctx context.Context, from, to attribution.Second, f func(*store.Chunk, *store.Roster) error) error {
	pages, err := r.pages(ctx, from, to)
	if err != nil {
		return unavailable("read chunks", err)
	}
	for _, p := range pages {
		if call, err := r.page(ctx, p, from, f); err != nil {
			return mine(call, "read chunks", err)
		}
	}
	return nil
}

// pages plans the reading of [from, to). Lives of one node are never apart, so
// that its chunks come in the order of their seconds.
func (r *reader) pages(ctx context.Context, from, to attribution.Second) ([]page, error) {
	var pages []page
	var last node
	err := each(ctx, r.conn, `SELECT l.id, l.cluster, l.node, count(*), sum(octet_length(c.body))::BIGINT, min(c.sequence), max(c.sequence)
		FROM chunk c JOIN life l ON l.id = c.life WHERE c.sequence > ? AND c.sequence < ? AND c.sequence + c.seconds > ?
		GROUP BY ALL ORDER BY 2, 3, 1`, []any{from - attribution.ChunkSeconds, to, from}, func(rows *sql.Rows) error {
		var id int32
		var n node
		var x page
		if err := rows.Scan(&id, &n.cluster, &n.name, &x.chunks, &x.bytes, &x.low, &x.high); err != nil {
			return err
		}
		if k := len(pages); k == 0 || (n != last && (pages[k-1].chunks+x.chunks > pageChunks || pages[k-1].bytes+x.bytes > pageBytes)) {
			pages = append(pages, page{low: x.low, high: x.high})
		}
		p := &pages[len(pages)-1]
		p.lives = append(p.lives, id)
		p.low, p.high = min(p.low, x.low), max(p.high, x.high)
		p.chunks, p.bytes, last = p.chunks+x.chunks, p.bytes+x.bytes, n
		return nil
	})
	var out []page
	for _, p := range pages {
		out = append(out, p.split()...)
	}
	return out, err
}

// split cuts the page of a node that alone is too much by time.
func (p page) split() []page {
	parts := attribution.Second(max(p.chunks/pageChunks, p.bytes/pageBytes) + 1)
	length := (p.high-p.low)/parts + 1
	var out []page
	for low := p.low; low <= p.high; low += length {
		out = append(out, page{lives: p.lives, low: low, high: min(low+length-1, p.high)})
	}
	return out
}

// keptRoster is a roster as it is stored.
type keptRoster struct {
	id     rollup.Fingerprint
	body   []byte
	packed bool
}

// page reads one page. call is the error of f, if it was that. Rosters are unpacked
// one at a time: those of one page may be many times its chunks.
func (r *reader) page(ctx context.Context, p page, from attribution.Second, f func(*store.Chunk, *store.Roster) error) (call, err error) {
	rosters := make(map[int32]keptRoster)
	list := idList(p.lives)
	const within = ` c.sequence >= ? AND c.sequence <= ? AND c.sequence + c.seconds > ?`
	args := []any{p.low, p.high, from}
	err = each(ctx, r.conn, `SELECT id, fingerprint, body, packed FROM roster WHERE id IN
		(SELECT c.roster FROM chunk c WHERE c.life IN (`+list+`) AND`+within+`)`, args, func(rows *sql.Rows) error {
		var id int32
		var name []byte
		var x keptRoster
		if err := rows.Scan(&id, &name, &x.body, &x.packed); err != nil {
			return err
		}
		x.id = rollup.Fingerprint(name)
		rosters[id] = x
		return nil
	})
	if err != nil {
		return nil, err
	}
	last, at := new(store.Roster), int32(-1)
	err = each(ctx, r.conn, `SELECT l.cluster, l.node, l.boot, c.sequence, c.seconds, c.roster, c.body, c.digest, c.previous
		FROM chunk c JOIN life l ON l.id = c.life WHERE c.life IN (`+list+`) AND`+within+` ORDER BY 1, 2, 4`, args, func(rows *sql.Rows) error {
		var ch store.Chunk
		var boot []byte
		var roster int32
		if err := rows.Scan(&ch.Key.Cluster, &ch.Key.Node, &boot, &ch.Key.Sequence, &ch.Seconds, &roster, &ch.Body, &ch.Digest, &ch.Previous); err != nil {
			return err
		}
		ch.Key.Boot = attribution.Boot(boot)
		if roster != at {
			x, ok := rosters[roster]
			if !ok {
				return fmt.Errorf("%w: chunk %d of node %q has no roster", store.ErrCorrupt, ch.Key.Sequence, ch.Key.Node)
			}
			body, err := rosterBody(x.body, x.packed)
			if err != nil {
				return err
			}
			last, at = &store.Roster{ID: x.id, Body: body}, roster
		}
		ch.RosterID = last.ID
		call = f(&ch, last)
		return call
	})
	return call, err
}

func idList(ids []int32) string {
	b := make([]byte, 0, 8*len(ids))
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Append(b, id)
	}
	return string(b)
}
