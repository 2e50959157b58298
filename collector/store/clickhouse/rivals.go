package clickhouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
)

// Writes of which only one may come to be (two documents of one revision, a
// rerating and late chunks of its time) first say what they are about to do and
// then look who else does: of two, the later to look sees the other. Who gives way
// ends itself before it is logged. Nobody waits for ever: a write that is not in
// the log when its lifetime is over never will be.

// claimed is a write that has said what it is about to do.
type claimed struct {
	session uint64
	seq     uint32
	began   attribution.Second
}

// claims reads the writes other than this one behind rows of a table.
func (w *writing) claims(ctx context.Context, table, where string) ([]claimed, error) {
	var out []claimed
	err := w.store.client.query(ctx, `SELECT DISTINCT session, seq, began FROM `+table+` WHERE `+where, func(d *decoder) error {
		x := claimed{d.u64(), d.u32(), attribution.Second(d.i64())}
		if x.session != w.session || x.seq != w.seq {
			out = append(out, x)
		}
		return d.err
	})
	return out, err
}

// undecided finds those of claims that may yet be logged; state is read after the
// others were decided.
func (w *writing) undecided(ctx context.Context, cs []claimed) (alive []claimed, now *state, err error) {
	if now, err = w.store.readState(ctx); err != nil {
		return nil, nil, err
	}
	var open []claimed
	for _, c := range cs {
		if !now.holds(c.session, c.seq) {
			open = append(open, c)
		}
	}
	if len(open) == 0 {
		return nil, now, nil
	}
	over, err := w.store.readEnded(ctx, open)
	if err != nil {
		return nil, nil, err
	}
	l := &w.store.limits
	var dead []claimed
	for _, c := range open {
		switch {
		case over[[2]uint64{c.session, uint64(c.seq)}]:
		case w.now() <= c.began+l.lifetime+l.skew:
			alive = append(alive, c)
		default:
			dead = append(dead, c)
		}
	}
	if len(dead) == 0 {
		return alive, now, nil
	}
	if err = w.store.barrier(ctx); err != nil {
		return nil, nil, err
	}
	if now, err = w.store.readState(ctx); err != nil {
		return nil, nil, err
	}
	open = open[:0]
	for _, c := range dead {
		if !now.holds(c.session, c.seq) {
			open = append(open, c)
		}
	}
	return alive, now, w.store.ended(ctx, open)
}

func (s *Store) readEnded(ctx context.Context, cs []claimed) (map[[2]uint64]bool, error) {
	out := make(map[[2]uint64]bool)
	err := s.client.query(ctx, `SELECT session, seq FROM ended WHERE session IN (`+list(cs, func(c claimed) string { return number(c.session) })+`)`, func(d *decoder) error {
		out[[2]uint64{d.u64(), uint64(d.u32())}] = true
		return d.err
	})
	return out, err
}

// ended writes down writes that will never be logged.
func (s *Store) ended(ctx context.Context, cs []claimed) error {
	if len(cs) == 0 {
		return nil
	}
	var e encoder
	for _, c := range cs {
		e.u64(c.session)
		e.u32(c.seq)
	}
	return s.client.insert(ctx, "ended", endedNames, e)
}

// errRival says that another collector puts the same revision.
var errRival = errors.New("another collector is at it")

// alone fails with errRival unless this write is the only one that puts a revision
// of a kind of document. Of several, all may fail.
func (w *writing) alone(ctx context.Context, kind store.DocumentKind, revision uint32) error {
	if w.store.options.Grace == 0 {
		return nil
	}
	alive, now, err := w.putting(ctx, kind, revision)
	if err != nil {
		return err
	}
	newest, err := w.store.newest(ctx, now, kind)
	if err == nil && (len(alive) > 0 || newest >= revision) {
		err = fmt.Errorf("%w: %s %d", errRival, kind, revision)
	}
	return err
}

// putting is other writes that may yet put a revision of a kind, or a later one.
func (w *writing) putting(ctx context.Context, kind store.DocumentKind, revision uint32) ([]claimed, *state, error) {
	cs, err := w.claims(ctx, "document", `kind = `+quote(string(kind))+` AND revision >= `+number(revision))
	if err != nil {
		return nil, nil, err
	}
	return w.undecided(ctx, cs)
}

// stored waits for others that are storing chunks of [from, to) and returns the
// state after them. Who begins meanwhile sees that this write is at it.
func (w *writing) stored(ctx context.Context, from, to attribution.Second) (*state, error) {
	l := &w.store.limits
	for {
		cs, err := w.claims(ctx, "span", fmt.Sprintf(`slot >= %d AND slot <= %d AND first < %d AND last > %d AND began >= %d`,
			slotOf(max(from, -maxSecond))-1, slotOf(min(to, maxSecond)), to, from, w.began-2*(l.lifetime+l.skew)))
		if err != nil {
			return nil, err
		}
		alive, now, err := w.undecided(ctx, cs)
		if err != nil || len(alive) == 0 {
			return now, err
		}
		if w.now() > w.began+l.lifetime/5 {
			return nil, fmt.Errorf("%w: a collector that was storing chunks of this time has not come to an end: try again in %d s",
				store.ErrUnavailable, alive[0].began+l.lifetime+l.skew-w.now()+1)
		}
		if err := pause(ctx, poll); err != nil {
			return nil, err
		}
	}
}

// rated fails unless the batch is rated by the journal, and nobody is about to
// add to it.
func (c *commit) rated(ctx context.Context) error {
	alive, now, err := c.putting(ctx, store.Reratings, c.batch.Journal+1)
	if err != nil {
		return err
	}
	n, err := c.store.newest(ctx, now, store.Reratings)
	if err == nil {
		err = admit.Rated(c.batch, n)
	}
	if err == nil && len(alive) > 0 {
		err = fmt.Errorf("%w: another collector is making a rerating", store.ErrUnavailable)
	}
	return err
}
