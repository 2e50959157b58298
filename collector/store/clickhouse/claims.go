package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
)

// slotOf is the wall-clock ten seconds that a chunk lies in: it never crosses
// one.
func slotOf(s attribution.Second) attribution.Second {
	return s.ChunkStart() / attribution.ChunkSeconds
}

// node is a node of a cluster.
type node struct{ cluster, name string }

// span is consecutive seconds of a node, [first, last), of one boot. seq 0 is
// one of many chunks.
type span struct {
	node
	boot             attribution.Boot
	first, last      attribution.Second
	digest, previous []byte
	link             []byte
	session          uint64
	seq              uint32
	began            attribution.Second // the servers' time when it was claimed
}

func (s *span) overlaps(o *span) bool {
	return s.node == o.node && s.first < o.last && o.first < s.last
}

func spanOf(ch *store.Chunk) span {
	return span{
		node: node{ch.Key.Cluster, ch.Key.Node}, boot: ch.Key.Boot, digest: ch.Digest, previous: ch.Previous,
		first: ch.Key.Sequence, last: ch.Key.Sequence + attribution.Second(ch.Seconds),
	}
}

// readSpans reads who has claimed the seconds of slots: of writes in the log or
// not.
func (s *Store) readSpans(ctx context.Context, where string, f func(span) error) error {
	return s.client.query(ctx, `SELECT cluster, node, boot, first, last, digest, previous, session, seq, began FROM span WHERE `+where, func(d *decoder) error {
		x := span{node: node{d.str(), d.str()}, boot: d.fixed()}
		x.first, x.last = attribution.Second(d.i64()), attribution.Second(d.i64())
		x.digest, x.previous, x.session, x.seq, x.began = d.bytes(), d.bytes(), d.u64(), d.u32(), attribution.Second(d.i64())
		if d.err != nil {
			return d.err
		}
		return f(x)
	})
}

// slotsAtOnce bounds how many slots one statement asks for.
const slotsAtOnce = 2048

// around reads the spans in the slots of chunks, by node.
func (c *commit) around(ctx context.Context, chunks []*store.Chunk) (map[node][]span, error) {
	slots := make(map[attribution.Second]bool)
	nodes := make(map[string]bool)
	for _, ch := range chunks {
		// What comes from others may cross a slot.
		first, last := slotOf(ch.Key.Sequence), slotOf(ch.Key.Sequence+attribution.Second(ch.Seconds)-1)
		slots[first-1], slots[first], slots[last] = true, true, true
		nodes[ch.Key.Node] = true
	}
	of := ""
	if len(nodes) <= 256 {
		of = ` AND node IN (` + list(slices.Sorted(maps.Keys(nodes)), quote) + `)`
	}
	out := make(map[node][]span)
	for part := range slices.Chunk(slices.Sorted(maps.Keys(slots)), slotsAtOnce) {
		if err := c.store.readSpans(ctx, `slot IN (`+list(part, number[attribution.Second])+`)`+of, func(x span) error {
			out[x.node] = append(out[x.node], x)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkSeconds finds the chunks that are not there yet. One that another lane has
// stored is left out, one of this lane's is a duplicate, and so is what overlaps.
func (c *commit) checkSeconds(ctx context.Context) error {
	order, err := admit.InOrder(c.batch.Chunks)
	if err != nil {
		return err
	}
	there, err := c.around(ctx, order)
	if err != nil {
		return err
	}
	if err := c.addCovered(ctx, order, there); err != nil {
		return err
	}
	lanes := make(map[uint64]string)
	for i := range c.state.sessions {
		lanes[c.state.sessions[i].session] = c.state.sessions[i].lane
	}
	for _, ch := range order {
		x := spanOf(ch)
		known := false
		for _, y := range there[x.node] {
			if !x.overlaps(&y) || y.seq > 0 && !c.state.holds(y.session, y.seq) {
				continue
			}
			same := y.first == x.first && y.last == x.last && y.boot == x.boot && string(y.digest) == string(x.digest)
			if !same || lanes[y.session] == c.lane {
				return fmt.Errorf("%w: node %q chunk [%d, %d): [%d, %d) is there", store.ErrDuplicate, x.name, x.first, x.last, y.first, y.last)
			}
			known = true
		}
		if !known {
			c.chunks = append(c.chunks, ch)
		}
	}
	return nil
}

// addCovered adds the spans of dropped chunks, where a chunk lies among them.
func (c *commit) addCovered(ctx context.Context, chunks []*store.Chunk, to map[node][]span) error {
	nodes := make(map[string]bool)
	first, last := maxSecond, -maxSecond
	for _, ch := range chunks {
		if ch.Key.Sequence < c.state.covered {
			nodes[ch.Key.Node] = true
			first, last = min(first, ch.Key.Sequence), max(last, ch.Key.Sequence+attribution.Second(ch.Seconds))
		}
	}
	for part := range slices.Chunk(slices.Sorted(maps.Keys(nodes)), 1024) {
		where := fmt.Sprintf(` AND first < %d AND last > %d AND node IN (`, last, first) + list(part, quote) + `)`
		if err := c.store.readCovered(ctx, c.state.visible()+where, func(x span) error {
			to[x.node] = append(to[x.node], x)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) readCovered(ctx context.Context, where string, f func(span) error) error {
	return s.client.query(ctx, `SELECT cluster, node, boot, first, last, previous, link FROM covered WHERE `+where, func(d *decoder) error {
		x := span{node: node{d.str(), d.str()}, boot: d.fixed()}
		x.first, x.last = attribution.Second(d.i64()), attribution.Second(d.i64())
		x.previous, x.link = d.bytes(), d.bytes()
		if d.err != nil {
			return d.err
		}
		return f(x)
	})
}

// claim writes down which chunks this write is about to store and then looks who
// else is: of two who claim the same, the later to look sees the other. It
// returns the sources under which contested chunks are stored.
func (c *commit) claim(ctx context.Context) (map[attribution.ChunkKey]uint64, error) {
	if len(c.chunks) == 0 {
		return nil, nil
	}
	var e encoder
	for _, ch := range c.chunks {
		x := spanOf(ch)
		c.span(&e, &x)
	}
	c.wrote = true
	if err := c.insert(ctx, "span", spanNames, e); err != nil {
		return nil, err
	}
	there, err := c.around(ctx, c.chunks)
	if err != nil {
		return nil, err
	}
	rivals := make(map[attribution.ChunkKey]uint64)
	e = nil
	for _, ch := range c.chunks {
		x := spanOf(ch)
		x.session, x.seq = c.session, c.seq
		for _, y := range there[x.node] {
			if !x.overlaps(&y) || y.session == x.session && y.seq == x.seq {
				continue
			}
			rivals[ch.Key] = x.source()
			e.u64(x.source())
			e.u64(y.source())
			e.u64(y.session)
			e.u32(y.seq)
			e.u64(c.session)
			e.u32(c.seq)
		}
	}
	return rivals, c.insert(ctx, "contested", contestedNames, e)
}

// source names a claim: never 0.
func (s *span) source() uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "%d %d %q %q %d", s.session, s.seq, s.cluster, s.name, s.first))
	return binary.BigEndian.Uint64(h[:]) | 1
}

// contest is a row of the table contested: who stored source saw that rival, of
// the same seconds, was claimed too.
type contest struct {
	source, rival uint64
	by, against   write
}

// readContests reads who was contested: by writes that a condition selects.
func (s *Store) readContests(ctx context.Context, where string) ([]contest, error) {
	var out []contest
	err := s.client.query(ctx, `SELECT source, rival, rival_session, rival_seq, session, seq FROM contested WHERE `+where, func(d *decoder) error {
		x := contest{source: d.u64(), rival: d.u64(), against: write{d.u64(), d.u32()}, by: write{d.u64(), d.u32()}}
		if d.err == nil {
			out = append(out, x)
		}
		return d.err
	})
	return out, err
}

// losers are the sources that do not count in a state, because what they are of
// is there without them: of two contested ones the smaller counts, and one that
// is not contested comes before one that is.
func losers(contests []contest, holds func(write) bool) []uint64 {
	contested := make(map[uint64]bool)
	for _, x := range contests {
		contested[x.source] = contested[x.source] || holds(x.by)
	}
	lost := make(map[uint64]bool)
	for _, x := range contests {
		switch {
		case !holds(x.by) || !holds(x.against):
		case contested[x.rival] && x.source < x.rival:
			lost[x.rival] = true
		default:
			lost[x.source] = true
		}
	}
	return slices.Sorted(maps.Keys(lost))
}

// divide makes the parts whose rows are written: the batch as it is, or, where
// some chunks are contested or there already, one of the rest and one for each
// contested chunk.
func (c *commit) divide(ctx context.Context, rivals map[attribution.ChunkKey]uint64) error {
	if len(rivals) == 0 && len(c.chunks) == len(c.batch.Chunks) {
		b := *c.batch
		var err error
		b.Rows, err = unmoved(b.Rows, b.Transfers)
		c.parts = []part{{0, &b}}
		return err
	}
	journal, err := c.store.journalAt(ctx, c.state)
	if err != nil {
		return err
	}
	rosters := make(map[rollup.Fingerprint]*store.Roster)
	for i := range c.batch.Rosters {
		rosters[c.batch.Rosters[i].ID] = &c.batch.Rosters[i]
	}
	folds := make(map[uint64]*folded)
	var order []uint64
	for _, ch := range c.chunks {
		x, err := c.store.options.Decode(ch, rosters[ch.RosterID])
		if err != nil {
			return fmt.Errorf("%w: node %q chunk %d: %w", store.ErrBadBatch, ch.Key.Node, ch.Key.Sequence, err)
		}
		source := rivals[ch.Key]
		f := folds[source]
		if f == nil {
			f = &folded{fold: rollup.NewFold()}
			folds[source] = f
			order = append(order, source)
		}
		if err := f.add(x, journal); err != nil {
			return fmt.Errorf("%w: %w", store.ErrBadBatch, err)
		}
	}
	for _, source := range order {
		f := folds[source]
		c.parts = append(c.parts, part{source, &store.Batch{Rows: f.fold.Rows(), Tallies: f.fold.Tallies(), Transfers: f.transfers.List()}})
	}
	return nil
}

// folded is chunks, folded as they came, and what reratings make of them.
type folded struct {
	fold      *rollup.Fold
	transfers rerating.Transfers
}

func (f *folded) add(c *attribution.Chunk, journal *rerating.Journal) error {
	facts := rollup.FactsOf(c.Roster)
	journal.Steps(c, func(id uint32, before, after *attribution.Chunk) { f.transfers.Add(id, before, after, facts) })
	return f.fold.Add(c, facts)
}
