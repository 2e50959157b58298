// Package store is the contract of the ledger's storage. Its children keep it:
// duckdb in one file on one machine. Package storetest holds the tests that
// every child must pass.
//
// A store holds four things:
//
//   - chunks, compressed as they arrived: the one-second resolution;
//   - rows of sums per minute, hour and day: a star of integer facts over the
//     dimensions owner, device, basis, method and rate-card revision;
//   - which seconds of which node it has, kept for ever as ranges: a chunk
//     whose seconds are there is a duplicate, however late it comes;
//   - documents by revision: rate cards and mapping rules.
//
// [Store.Rerate] prices a stretch of the past anew: package rerating.
//
// [Store.Commit] writes chunks, their minute rows and their seconds in one
// transaction, so that after a crash all of a chunk is there or none. Minute
// rows are deltas: several rows of one key add up. A roll turns finished
// minutes into hours and hours into days and remembers how far it came; what
// arrives later than that is added to all three in its own commit. A query
// therefore gives the same sums before, during and after any roll.
package store

import (
	"context"
	"errors"
	"math/big"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// ErrUnavailable is wrapped by errors that trying again may cure (disk full,
// file locked): nothing was stored, nothing may be acknowledged.
var ErrUnavailable = errors.New("store unavailable")

// ErrNotFound says that a document or revision does not exist.
var ErrNotFound = errors.New("not found")

// ErrTooFine says that a range or step needs seconds, minutes or hours that
// are no longer kept.
var ErrTooFine = errors.New("the seconds of this range are no longer kept")

// ErrTooMany says that an answer would have more rows than may be held in
// memory: a longer step, fewer dimensions or filters make fewer.
var ErrTooMany = errors.New("too many rows to add up: take a longer step, group by fewer dimensions, or filter")

// MaxRows is how many rows an answer of the store may have, unless the query
// says otherwise: every owner of a large fleet once per basis. A row takes some
// 500 bytes.
const MaxRows = 2_000_000

// ErrDuplicate says that a commit would store a second of a node twice.
var ErrDuplicate = errors.New("the node's second is stored already")

// ErrBadQuery is wrapped by what [Query.Check] finds.
var ErrBadQuery = errors.New("bad query")

// ErrCorrupt says that what is on disk is not a ledger, or a damaged one. It
// is left as it is.
var ErrCorrupt = errors.New("the ledger cannot be read")

// ErrOutdated says that a batch is rated by another journal of reratings than
// the ledger's, or a rerating is planned of other seconds than are stored: nothing
// was stored. Rate or plan it by what is there, and try again.
var ErrOutdated = errors.New("what this depends on is another by now")

// ErrBadBatch says that a batch can never be committed: its number does not
// follow, it is not complete, or its sums exceed what rollup.MaxSecond allows.
var ErrBadBatch = errors.New("bad batch")

// Chunk is a chunk as it is stored.
type Chunk struct {
	Key      attribution.ChunkKey
	Seconds  int
	RosterID rollup.Fingerprint
	Body     []byte // zstd of the columns, as it arrived
	Digest   []byte
	// Previous is the link of the chunk that the node closed before this one
	// ([attribution.Link]); empty where the agent does not chain.
	Previous []byte
}

// Link is the chain's link behind the chunk, nil where it is not chained.
func (c *Chunk) Link() []byte {
	if len(c.Previous) == 0 {
		return nil
	}
	return attribution.Link(c.Previous, c.Key.Sequence, c.Digest)
}

// Roster is a roster as it is stored: its wire encoding, under its id.
type Roster struct {
	ID   rollup.Fingerprint
	Body []byte
}

// Batch is what one commit writes. Owners and Devices hold the facts behind
// every fingerprint in the rows, Rosters every roster that a chunk refers to;
// the store keeps those it does not have. What a [Knower] says it has may be left
// out. The store does not change a batch, and does not keep it.
type Batch struct {
	Number  uint64 // 1 + Reader.Commits
	Journal uint32 // entries of the journal of reratings that it is rated by
	Chunks  []Chunk
	Rosters []Roster
	Owners  map[rollup.Fingerprint]*attribution.Owner
	Devices map[rollup.Fingerprint]*attribution.Device
	// Per minute, sums over exactly the batch's chunks as the journal of
	// reratings rates them.
	Rows    []rollup.Row
	Tallies []rollup.TallyRow // per minute, likewise
	// What each rerating in force made of the chunks before that, per minute:
	// it is kept to be undone with it, and changes no row.
	Transfers []rerating.Transfer
}

// Rerating is the next entry of the journal of reratings with what it does to
// rows. The store does not change it, and does not keep it.
type Rerating struct {
	Entry rerating.Entry
	// Transfers are of the entry, each at the finest resolution that is kept
	// of its bucket, each (bucket, series, to) once. What they take must be
	// there. An entry that undoes has none: it makes those of the undone entry
	// backwards.
	Transfers []rerating.Transfer
	// The facts behind the fingerprints in them.
	Owners  map[rollup.Fingerprint]*attribution.Owner
	Devices map[rollup.Fingerprint]*attribution.Device
	// Seconds is how many all nodes together have stored in the entry's range
	// where it was planned; 0: not said. A [Shared] store that has others by now
	// refuses it with ErrOutdated.
	Seconds int64
}

// Range is a run of consecutive seconds of one node, [From, To), stored from
// one boot. Its chunks are one unbroken chain: where the chain breaks, a range
// ends, although the next second may be there.
type Range struct {
	Cluster, Node string
	Boot          attribution.Boot
	From, To      attribution.Second
	// Previous is that of its first chunk, Link the link behind its last; both
	// are empty where the chunks are not chained.
	Previous, Link []byte
}

// Dimension is something that sums are grouped or filtered by. A store's
// answers depend on facts and on its [Mapping]; names that rules make of names
// (a model's family, for one) are laid over them by package query.
type Dimension string

// The dimensions. A pod's label is "label:" + key.
const (
	Cluster     Dimension = "cluster"
	Node        Dimension = "node"
	DeviceID    Dimension = "device"
	DeviceModel Dimension = "device-model"
	Namespace   Dimension = "namespace"
	Controller  Dimension = "controller" // kind/name
	Pod         Dimension = "pod"
	Container   Dimension = "container"
	Team        Dimension = "team"         // by rules, as those down to Run
	BudgetOwner Dimension = "budget-owner" // who pays, where it is not the team
	Environment Dimension = "environment"  // prod, staging, …
	Model       Dimension = "model"        // else the one model that the owner served
	Family      Dimension = "family"       // of models, by rules over their names; package query alone answers it
	Class       Dimension = "class"        // workload class
	Tier        Dimension = "tier"         // of customers
	Run         Dimension = "run"          // training run
	Tenant      Dimension = "tenant"       // the customer that a tally names; slices have none
	Kind        Dimension = "kind"         // of the owner: container, gateway, …; "nobody" is one too, so never missing
	Basis       Dimension = "basis"
	Method      Dimension = "method"
	Revision    Dimension = "revision" // of the price, as decimal text, "0": unpriced; tallies have none
	Counted     Dimension = "counted"  // "true" where the owner has ever counted requests or tokens, else "false"
	LabelPrefix           = "label:"
)

// Filter keeps what has one of the values (or, negated, none of them) in a
// dimension. A value may hold * as a wildcard, for any run of bytes. Missing
// facts match "" only, not *; an empty label matches both.
type Filter struct {
	Dimension Dimension
	Values    []string
	Negate    bool
}

// Query asks for sums over [From, To), each row of a bucket of Step seconds
// (0: one bucket for the whole range), grouped by dimensions. From, To and
// Step may be any seconds: the store uses days, hours and minutes where they
// fit and whole seconds at the edges (everywhere, where Step is not a whole
// number of minutes), and returns ErrTooFine where it would need seconds that
// are gone.
type Query struct {
	From, To attribution.Second
	Step     int64
	GroupBy  []Dimension
	Filters  []Filter
	// Measures are those of tallies that are asked for: each by its name, or all
	// under a prefix that ends in a slash. None: all. Slices have none.
	Measures []attribution.Measure
	MaxRows  int // of the answer, else it is ErrTooMany; 0: the constant MaxRows
}

// Key is a row's value in a dimension; Missing tells a fact that is not there
// from an empty one (law 9). Facts of devices and owners that are "" are not
// there; a label may be there and empty.
type Key struct {
	Value   string
	Missing bool
}

// Row is one row of an answer: sums of slices. Sums over a fleet may exceed 64
// bits.
type Row struct {
	Time  attribution.Second // start of the bucket, not before Query.From
	Keys  []Key              // as Query.GroupBy
	Basis attribution.Basis

	DeviceTime, SMActive, Memory, Energy big.Int
	Cost                                 big.Int // of the priced time
	Unpriced                             big.Int // device time without a price, ns
	// Whether any device in the row could measure it at all.
	HasMemory, HasEnergy bool
}

// TallyRow is one row of an answer: a sum of tallies. Grouping by a device or
// slice dimension (device, device-model, basis, method, revision) yields
// Missing keys, and filters see them so, as Tenant does of slices; Cluster and Node are the owner's. Model is what the
// rules say of the owner, so that its tallies meet its cost, else the tally's
// own, else the one model that the owner served. Tier is the tally's own where
// it names one, else what the rules say of the owner.
type TallyRow struct {
	Time    attribution.Second
	Keys    []Key
	Measure attribution.Measure
	Value   big.Int
}

// DeviceRow is a device with the time in which it is on record.
type DeviceRow struct {
	Device attribution.Device
	// First and Last are of its rows within the range, Last exclusive: to the
	// minute, or to the hour or day where minutes were folded into them.
	First, Last attribution.Second
}

// Retention is how long each resolution is kept; 0 keeps it for ever. Ranges,
// days, dimensions and documents are never dropped.
type Retention struct {
	Second, Minute, Hour, Day time.Duration
}

// DefaultRetention keeps seconds for 2 hours, minutes for 14 days, hours for
// 400 days and days for ever.
var DefaultRetention = Retention{Second: 2 * time.Hour, Minute: 14 * 24 * time.Hour, Hour: 400 * 24 * time.Hour}

// Served is what is known of an owner's tallies, ever.
type Served struct {
	Counted bool   // requests or tokens
	Several bool   // more than one named model
	Mixed   bool   // several models, or a tenant or tier
	Model   string // the one model, "" where none was named or several were
}

// With is s after one more tally of a subject.
func (s Served) With(sub *attribution.Subject, m attribution.Measure) Served {
	s.Counted = s.Counted || m.Serves()
	switch {
	case sub.Model == "" || s.Several || sub.Model == s.Model:
	case s.Model == "":
		s.Model = sub.Model
	default:
		s.Several, s.Model = true, ""
	}
	s.Mixed = s.Mixed || s.Several || sub.Tenant != "" || sub.Tier != ""
	return s
}

// Mapped is what the mapping rules say of an owner, "" where no rule does.
type Mapped struct{ Team, BudgetOwner, Environment, Model, Class, Tier, Run string }

// Mapping yields what the mapping rules say of an owner.
type Mapping func(*attribution.Owner) Mapped

// DocumentKind names a series of revisioned documents.
type DocumentKind string

// The kinds of document.
const (
	RateCards DocumentKind = "rate-card"
	RuleSets  DocumentKind = "rules"
	// What the configured files said when they were last applied.
	RateCardFiles DocumentKind = "rate-card-file"
	RuleFiles     DocumentKind = "rules-file"
	// The journal of reratings: one document each.
	Reratings DocumentKind = "rerating"
	// Who changed what: the log that package access chains.
	Audits DocumentKind = "audit"
)

// Document is one revision of a rate card or a set of rules.
type Document struct {
	Kind     DocumentKind
	Revision uint32 // 1, 2, 3, …
	Applied  time.Time
	Body     []byte
}

// Reader is one consistent state of the ledger: everything it is asked, it
// answers as of the same commit. Callbacks must not keep what they are given.
type Reader interface {
	// Commits is the number of the newest commit that this state holds, 0
	// where nothing was ever committed. What is still in memory elsewhere can
	// so be told from what is here already.
	Commits() uint64

	// Query and QueryTallies answer in order of time, keys and basis or
	// measure. A query that Check refuses is refused.
	Query(ctx context.Context, q *Query) ([]Row, error)
	QueryTallies(ctx context.Context, q *Query) ([]TallyRow, error)
	// Served tells what is known of owners' tallies; owners without any are
	// not in the answer.
	Served(ctx context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]Served, error)
	// Owners is the facts of owners, each with rows or tallies, or known no
	// more: those are not in the answer. A caller may keep them.
	Owners(ctx context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]*attribution.Owner, error)
	// Devices lists the devices with rows in [from, to), in canonical order.
	// Filters may name device dimensions only.
	Devices(ctx context.Context, from, to attribution.Second, fs []Filter) ([]DeviceRow, error)
	// Extent is the first second stored and the first after the last; 0, 0
	// where nothing is.
	Extent(ctx context.Context) (from, to attribution.Second, err error)

	// Ranges calls f for everything that is stored, in order of (cluster,
	// node, from), adjacent ranges of one boot and chain merged.
	Ranges(ctx context.Context, f func(Range) error) error
	// Chunks calls f with every kept chunk that overlaps [from, to), in order
	// of (cluster, node, sequence), each with its roster.
	Chunks(ctx context.Context, from, to attribution.Second, f func(*Chunk, *Roster) error) error
	// Rows calls f with the summed row of every (bucket, series) of a
	// resolution in [from, to), in order of (bucket, device, owner, basis,
	// method, revision) by facts: what verification and tests compare.
	Rows(ctx context.Context, r rollup.Resolution, from, to attribution.Second, f func(*FactRow) error) error
	// TallyRows is Rows for tallies, in order of (bucket, owner, model,
	// tenant, tier, measure).
	TallyRows(ctx context.Context, r rollup.Resolution, from, to attribution.Second, f func(*TallyFactRow) error) error
	// Rolled is the first second not yet folded into a resolution: rows of
	// Hour and Day are complete before it, and none are at or after it.
	Rolled(r rollup.Resolution) attribution.Second
	// Kept is the first second from which on everything of a resolution is
	// there, [Seconds] being the chunks; long before 1970 where nothing was
	// dropped. It is a whole bucket of the next coarser resolution, of seconds
	// and days of their own.
	Kept(r rollup.Resolution) attribution.Second

	// Journal is the journal of reratings that this state holds. Chunks of this
	// state, and open ones laid over it, cost what it says.
	Journal(ctx context.Context) (*rerating.Journal, error)
	// Transfers calls f with what reratings in force have moved in [from, to),
	// summed per bucket of a resolution, as far as it is kept as finely as
	// that, in order of (bucket, entry).
	Transfers(ctx context.Context, r rollup.Resolution, from, to attribution.Second, f func(*TransferRow) error) error
}

// Seconds is the resolution of chunks, which are no rows.
const Seconds rollup.Resolution = 1

// Store keeps the ledger. Commit, Rerate, Roll, Retain, SetMapping and
// PutDocument are called by one goroutine at a time; the rest may be called by any number, at
// any time beside them, and sees only committed states.
type Store interface {
	// Commit stores a batch durably, or nothing of it. Its number must follow
	// the last commit's. A chunk that holds a second which the node has
	// already makes the whole commit fail with an error that wraps
	// ErrDuplicate: the caller de-duplicates first, by Ranges. One that is
	// rated by another journal than the ledger's fails with ErrOutdated.
	Commit(ctx context.Context, b *Batch) error

	// Rerate appends an entry to the journal and moves its transfers at every
	// resolution that holds their time, durably, or does nothing of it. It
	// keeps the transfers, with those of later commits, and coarser as rows are
	// dropped, until the entry is undone. What does not fit (the entry is not
	// the next, a transfer takes what is not there) is ErrBadBatch.
	Rerate(ctx context.Context, r *Rerating) error

	// View calls f with a consistent state, which ends when f returns.
	View(ctx context.Context, f func(Reader) error) error

	// SetMapping makes the rules' answers a dimension of all owners, old and
	// to come. It is derived, and lost on Close.
	SetMapping(ctx context.Context, m Mapping) error

	// Roll folds finished hours and days up to the given time.
	Roll(ctx context.Context, through attribution.Second) error
	// Retain drops what is older than the retention at the given time; only
	// rolled minutes and hours are ever dropped.
	Retain(ctx context.Context, r Retention, now attribution.Second) error

	// PutDocument stores the next revision and returns its number.
	PutDocument(ctx context.Context, kind DocumentKind, body []byte, at time.Time) (uint32, error)
	// Document returns a revision, 0 for the newest, or ErrNotFound.
	Document(ctx context.Context, kind DocumentKind, revision uint32) (Document, error)

	Close() error
}

// Knower is kept by stores that can tell cheaply what a batch need not bring along
// again. The goroutine that commits asks them, between commits. They may say no of
// what they have; what they said yes to, the next Commit does not miss.
type Knower interface {
	rollup.Known
	KnowsRoster(rollup.Fingerprint) bool
}

// FactRow is a stored row with its facts.
type FactRow struct {
	Bucket   attribution.Second
	Device   *attribution.Device
	Owner    *attribution.Owner
	Basis    attribution.Basis
	Method   string
	Revision uint32
	Sums     rollup.Sums
}

// TransferRow is what an entry of the journal of reratings moved of a series in
// a bucket, with its facts.
type TransferRow struct {
	Entry        uint32
	Bucket       attribution.Second
	Device       *attribution.Device
	Owner        *attribution.Owner
	Basis        attribution.Basis
	Method       string
	Revision, To uint32      // under which it was, and is
	Sums         rollup.Sums // as it was
	CostAfter    int64       // as it is
	Count        int64       // of the transfers that this is the sum of
}

// TallyFactRow is a stored tally row with its facts.
type TallyFactRow struct {
	Bucket              attribution.Second
	Owner               *attribution.Owner
	Model, Tenant, Tier string
	Measure             attribution.Measure
	Value               int64
}
