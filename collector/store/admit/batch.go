package admit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Batch refuses a batch that does not follow the given number of commits, or that
// has an impossible chunk, row or tally.
func Batch(b *store.Batch, commits uint64) error {
	if b.Number != commits+1 {
		return fmt.Errorf("%w: its number is %d and follows %d", store.ErrBadBatch, b.Number, commits)
	}
	for i := range b.Chunks {
		if err := Chunk(&b.Chunks[i]); err != nil {
			return err
		}
	}
	for i := range b.Rows {
		if r := &b.Rows[i]; !Minute(&r.Sums) || !wholeMinute(r.Bucket) {
			return fmt.Errorf("%w: the sums of minute %d of device %s, owner %s are impossible: %+v",
				store.ErrBadBatch, r.Bucket, r.Series.Device, r.Series.Owner, r.Sums)
		}
	}
	for i := range b.Tallies {
		if r := &b.Tallies[i]; !inMinute(r.Value) || !wholeMinute(r.Bucket) {
			return fmt.Errorf("%w: the tally %s of minute %d of owner %s is impossible: %d", store.ErrBadBatch, r.Series.Measure, r.Bucket, r.Series.Owner, r.Value)
		}
	}
	return nil
}

// Chunk refuses one that is too long or too short, of no time that a chunk may
// have, or whose link is none.
func Chunk(ch *store.Chunk) error {
	if ch.Seconds < 1 || ch.Seconds > attribution.ChunkSeconds || ch.Key.Sequence < -attribution.MaxSecond || ch.Key.Sequence > attribution.MaxSecond {
		return fmt.Errorf("%w: node %q chunk %d of %d seconds", store.ErrBadBatch, ch.Key.Node, ch.Key.Sequence, ch.Seconds)
	}
	if n := len(ch.Previous); n != 0 && n != attribution.LinkSize {
		return fmt.Errorf("%w: node %q chunk %d: the link before it has %d bytes", store.ErrBadBatch, ch.Key.Node, ch.Key.Sequence, n)
	}
	return nil
}

// InOrder is chunks in the order of cluster, node and second. One that has a
// second of another is [store.ErrDuplicate].
func InOrder(chunks []store.Chunk) ([]*store.Chunk, error) {
	order := make([]*store.Chunk, len(chunks))
	for i := range chunks {
		order[i] = &chunks[i]
	}
	slices.SortFunc(order, func(a, b *store.Chunk) int {
		return cmp.Or(cmp.Compare(a.Key.Cluster, b.Key.Cluster), cmp.Compare(a.Key.Node, b.Key.Node), cmp.Compare(a.Key.Sequence, b.Key.Sequence))
	})
	for i := 1; i < len(order); i++ {
		a, b := order[i-1], order[i]
		if a.Key.Cluster == b.Key.Cluster && a.Key.Node == b.Key.Node && a.Key.Sequence+attribution.Second(a.Seconds) > b.Key.Sequence {
			return nil, fmt.Errorf("%w: node %q second %d, twice in the batch", store.ErrDuplicate, b.Key.Node, b.Key.Sequence)
		}
	}
	return order, nil
}

// Rated refuses, by [store.ErrOutdated], a batch that another journal rates than
// the ledger's, of so many entries: an error of Rerate may hide that it was done.
func Rated(b *store.Batch, entries uint32) error {
	if b.Journal != entries {
		return fmt.Errorf("%w: the batch is rated by %d entries, there are %d", store.ErrOutdated, b.Journal, entries)
	}
	return nil
}

// Rerating refuses an entry that is not the next of the journal, and transfers
// that are not the entry's; it returns the entry's document. Transfers checks what
// they say.
func Rerating(r *store.Rerating, journal *rerating.Journal) ([]byte, error) {
	if _, err := journal.With(r.Entry); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrBadBatch, err)
	}
	if r.Entry.Undoes != 0 && len(r.Transfers) > 0 {
		return nil, fmt.Errorf("%w: an entry that undoes has transfers of its own", store.ErrBadBatch)
	}
	for i := range r.Transfers {
		if r.Transfers[i].Entry != r.Entry.ID {
			return nil, fmt.Errorf("%w: entry %d has a transfer of entry %d", store.ErrBadBatch, r.Entry.ID, r.Transfers[i].Entry)
		}
	}
	return r.Entry.Marshal()
}

// Transfers refuses those that take less than nothing, that are of no bucket, or
// that go to where they come from.
func Transfers(ts []rerating.Transfer) error {
	for i := range ts {
		t := &ts[i]
		if t.Resolution != rollup.Minute && t.Resolution != rollup.Hour && t.Resolution != rollup.Day {
			return fmt.Errorf("%w: a transfer of %d seconds", store.ErrBadBatch, t.Resolution)
		}
		if s := &t.Sums; min(s.Time, s.SMActive, s.Memory, s.Energy, s.Cost, t.CostAfter) < 0 {
			return fmt.Errorf("%w: a transfer takes less than nothing: %+v", store.ErrBadBatch, *t)
		}
		if !WholeBucket(t.Resolution, t.Bucket) || t.To == t.Series.Revision {
			return fmt.Errorf("%w: a transfer of bucket %d goes from revision %d to %d", store.ErrBadBatch, t.Bucket, t.Series.Revision, t.To)
		}
	}
	return nil
}

// Retention refuses one that is negative.
func Retention(r store.Retention) error {
	if min(r.Second, r.Minute, r.Hour, r.Day) < 0 {
		return errors.New("store: a retention is negative")
	}
	return nil
}

// WholeBucket reports whether rows have a resolution, and a bucket of it begins at
// a second.
func WholeBucket(r rollup.Resolution, at attribution.Second) bool {
	return (r == rollup.Minute || r == rollup.Hour || r == rollup.Day) && r.Start(at) == at && wholeMinute(at)
}

func wholeMinute(at attribution.Second) bool {
	return at%60 == 0 && at >= -attribution.MaxSecond && at <= attribution.MaxSecond
}

// Minute reports whether a row of a minute may have such sums.
func Minute(s *rollup.Sums) bool {
	return inMinute(s.Time) && inMinute(s.SMActive) && inMinute(s.Memory) && inMinute(s.Energy) && inMinute(s.Cost)
}

// inMinute reports whether a sum over one minute may be v: see rollup.MaxSecond.
func inMinute(v int64) bool { return v >= 0 && v <= rollup.MaxSecond*int64(rollup.Minute) }
