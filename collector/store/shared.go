package store

import (
	"context"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// Shared is kept by stores that several collectors write to at once. Then
//
//   - Batch.Number and Reader.Commits count the commits of this collector alone,
//     and a Reader sees all collectors' commits;
//   - a chunk that is there with the same digest, whoever stored it, changes
//     nothing and is no error (law 4); one whose seconds are there otherwise is
//     ErrDuplicate;
//   - Roll, Retain, Rerate and PutDocument may be called by any of them, at any
//     time; what another has done already is done.
type Shared interface {
	Store
	// NodeRanges is what is stored of a node by now, in order of time.
	NodeRanges(ctx context.Context, cluster, node string) ([]Range, error)
	// Refresh learns what other collectors have changed of documents and of the
	// journal, and tells whether anything was.
	Refresh(ctx context.Context) (changed bool, err error)
}

// Loader is kept by stores that take over a whole ledger, from a backup or from
// a store of another kind. The ledger is empty before and is not used until
// Loaded has returned: one that was left in between is refused by its Open,
// with a hint to begin again.
type Loader interface {
	Store
	// Load adds a part, durably. Parts come in any number and in this order of
	// what they hold; a part holds one of it.
	Load(ctx context.Context, p *Part) error
	// Loaded ends the loading.
	Loaded(ctx context.Context, m *Marks) error
}

// Part is a piece of a ledger that is on its way into a store.
type Part struct {
	Documents []Document // each kind in order of revision; Applied is kept
	// Ranges are what is covered, whether or not its chunks still are.
	Ranges  []Range
	Rosters []Roster
	Chunks  []Chunk // without rows: these come by themselves
	// Rows and Tallies are of one resolution, each key once, with the facts
	// behind their fingerprints. Those of hours and days are before Marks.Rolled.
	Resolution rollup.Resolution
	Rows       []rollup.Row
	Tallies    []rollup.TallyRow
	Transfers  []Moved
	Owners     map[rollup.Fingerprint]*attribution.Owner
	Devices    map[rollup.Fingerprint]*attribution.Device
}

// Moved is a transfer with how many it is the sum of.
type Moved struct {
	rerating.Transfer
	Count int64
}

// Marks are what is known of a ledger beside its parts.
type Marks struct {
	// Rolled and Kept are by resolution, as [Reader.Rolled] and [Reader.Kept].
	Rolled, Kept map[rollup.Resolution]attribution.Second
	At           time.Time // when it was read
}
