package store

import (
	"context"
	"errors"
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

// ErrUnfinished says that a ledger was being loaded and that this was cut off:
// it holds a part of another ledger, and nothing that is only here.
var ErrUnfinished = errors.New("the ledger was being loaded, and that was interrupted")

// ErrNotEmpty says that something is to be loaded into a ledger that holds
// something already.
var ErrNotEmpty = errors.New("the ledger is not empty")

// Covering is kept by readers of shared stores that find what is stored of a
// short time without going through all ranges.
type Covering interface {
	Reader
	// Covered calls f, in any order, for ranges that together hold every second
	// of [from, to) that this state has; they may hold more.
	Covered(ctx context.Context, from, to attribution.Second, f func(Range) error) error
}

// Loader is kept by stores that take over a whole ledger, from a backup or from
// a store of another kind. The ledger is empty before (else the first Load
// fails with [ErrNotEmpty] and changes nothing) and is not used until Loaded
// has returned: one that was left in between is refused by its Open with
// [ErrUnfinished] and a hint to begin again. Afterwards nothing was ever
// committed here: [Reader].Commits is 0.
type Loader interface {
	Store
	// Load adds a part, durably. Parts come in any number and in the order of
	// the fields of [Part]; rosters and chunks take turns. After an error the
	// loading is over.
	Load(ctx context.Context, p *Part) error
	// Loaded ends the loading. There may have been no parts at all.
	Loaded(ctx context.Context, m *Marks) error
}

// Part is a piece of a ledger that is on its way into a store: one or more
// things of one kind. The store does not change it, and does not keep it.
type Part struct {
	// Ranges are what is covered, whether or not its chunks still are, in the
	// order of [Reader].Ranges.
	Ranges []Range
	// Rosters come before the chunks that refer to them. One may come again,
	// and changes nothing then.
	Rosters []Roster
	Chunks  []Chunk // in the order of [Reader].Chunks; their rows come by themselves
	// Rows and Tallies are of one resolution, each key once, with the facts
	// behind their fingerprints: all rows, then all tallies, each minutes first,
	// then hours and days, which are before Marks.Rolled.
	Resolution rollup.Resolution
	Rows       []rollup.Row
	Tallies    []rollup.TallyRow
	// Transfers are by their own resolutions, each key once. They are in the
	// rows already.
	Transfers []Moved
	// Owners and Devices are the facts behind the fingerprints in the part.
	Owners  map[rollup.Fingerprint]*attribution.Owner
	Devices map[rollup.Fingerprint]*attribution.Device
	// Documents are each kind in order of revision, from 1 on. Applied is kept.
	// The journal of reratings is among them.
	Documents []Document
}

// Moved is a transfer with how many it is the sum of, which a store may forget.
type Moved struct {
	rerating.Transfer
	Count int64
}

// DocumentKinds lists every kind of document: who takes over a ledger takes
// them all.
var DocumentKinds = [...]DocumentKind{RateCards, RuleSets, RateCardFiles, RuleFiles, Reratings, Audits}

// Marks are what is known of a ledger beside its parts.
type Marks struct {
	// Rolled is of hours and days, as [Reader.Rolled]; Kept of [Seconds] and of
	// all resolutions of rows, as [Reader.Kept].
	Rolled, Kept map[rollup.Resolution]attribution.Second
	At           time.Time // when it was read
}
