package plan

import (
	"context"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// chunks plans a part of which the chunks are kept.
func (w *work) chunks(ctx context.Context, x part) error {
	var ts rerating.Transfers
	var facts *rollup.Facts
	had := len(w.Transfers)
	err := w.reader.Chunks(ctx, x.from, x.to, func(ch *store.Chunk, ro *store.Roster) error {
		c, err := w.planner.Decode(ch, ro)
		if err != nil {
			return fmt.Errorf("%w: node %q chunk %d: %w", store.ErrCorrupt, ch.Key.Node, ch.Key.Sequence, err)
		}
		if facts == nil || facts.Roster() != c.Roster {
			facts = rollup.FactsOf(c.Roster)
			for i := range c.Roster.Devices {
				w.noteDevice(facts.Device(uint32(i)), &c.Roster.Devices[i])
			}
		}
		before, after := w.before.Rate(c), w.after.Rate(c)
		ts.Add(w.Entry.ID, before, after, facts)
		w.sum(before, after, facts)
		return w.full(had + ts.Len())
	})
	w.Transfers = append(w.Transfers, ts.List()...)
	return err
}

// sum adds what of a chunk is in the range to its owners.
func (w *work) sum(before, after *attribution.Chunk, facts *rollup.Facts) {
	owners := make([]*OwnerSum, len(before.Roster.Owners))
	for i := range before.Windows {
		b, a := &before.Windows[i], &after.Windows[i]
		if b.Second < w.Entry.From || b.Second >= w.Entry.To {
			continue
		}
		for k := range b.Slices {
			at := b.Slices[k].Owner
			if owners[at] == nil {
				owners[at] = w.noteOwner(facts.Owner(at), &before.Roster.Owners[at])
			}
			owners[at].add(b.Slices[k].Time, b.Slices[k].Cost, a.Slices[k].Cost, b.Price.Known(), a.Price.Known())
		}
	}
}
