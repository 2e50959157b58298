package querytest

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Rerate appends to the journal and folds all rows anew.
func (s *Store) Rerate(ctx context.Context, r *store.Rerating) error {
	next, err := s.journal.With(r.Entry)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrBadBatch, err)
	}
	body, err := r.Entry.Marshal()
	if err != nil {
		return err
	}
	if _, err := s.PutDocument(ctx, store.Reratings, body, r.Entry.Applied); err != nil {
		return err
	}
	s.journal = next
	for _, r := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		s.fold(r)
	}
	return nil
}

// Journal is the journal of reratings.
func (s *Store) Journal(context.Context) (*rerating.Journal, error) { return s.journal, nil }

// Transfers works out what the reratings in force moved.
func (s *Store) Transfers(_ context.Context, res rollup.Resolution, from, to attribution.Second, f func(*store.TransferRow) error) error {
	type key struct {
		entry    uint32
		bucket   attribution.Second
		series   rollup.Series
		revision uint32
	}
	var ts rerating.Transfers
	owners, devices := map[rollup.Fingerprint]*attribution.Owner{}, map[rollup.Fingerprint]*attribution.Device{}
	for _, c := range s.Decoded {
		facts := rollup.FactsOf(c.Roster)
		for i := range c.Roster.Owners {
			owners[facts.Owner(uint32(i))] = &c.Roster.Owners[i]
		}
		for i := range c.Roster.Devices {
			devices[facts.Device(uint32(i))] = &c.Roster.Devices[i]
		}
		s.journal.Steps(c, func(id uint32, before, after *attribution.Chunk) { ts.Add(id, before, after, facts) })
	}
	rows := map[key]*store.TransferRow{}
	for _, t := range ts.List() {
		if t.Bucket < from || t.Bucket >= to {
			continue
		}
		k := key{t.Entry, res.Start(t.Bucket), t.Series, t.To}
		if rows[k] == nil {
			rows[k] = &store.TransferRow{
				Entry: t.Entry, Bucket: k.bucket, Device: devices[t.Series.Device], Owner: owners[t.Series.Owner],
				Basis: t.Series.Basis, Method: t.Series.Method, Revision: t.Series.Revision, To: t.To,
			}
		}
		x := rows[k]
		x.Sums.Time += t.Sums.Time
		x.Sums.SMActive += t.Sums.SMActive
		x.Sums.Memory += t.Sums.Memory
		x.Sums.Energy += t.Sums.Energy
		x.Sums.Cost += t.Sums.Cost
		x.CostAfter += t.CostAfter
		x.Count++
	}
	var out []*store.TransferRow
	for _, r := range rows {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *store.TransferRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Entry, b.Entry))
	})
	for _, r := range out {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}
