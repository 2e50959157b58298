// Package storetest holds the tests that every [store.Store] must pass. They
// compare what a store answers with package scan over the very chunks that
// were committed, and name the law that each of them is about.
//
// A store's own tests call [Run], and [Main] from TestMain, so that a test can
// kill a process that is committing:
//
//	func TestMain(m *testing.M) { os.Exit(storetest.Main(m, driver)) }
//	func TestStore(t *testing.T) { storetest.Run(t, driver) }
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// Driver opens ledgers of one kind of store.
type Driver struct {
	// New makes a place for an empty ledger, that lasts as long as the test.
	New func(t testing.TB) string
	// Open opens the ledger at a place. It decodes chunks with [Decode].
	Open func(ctx context.Context, place string) (store.Store, error)
}

// Run runs all tests.
func Run(t *testing.T, d Driver) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Driver)
	}{
		{"TestLaw2EveryGroupingHasTheSameTotal", law2},
		{"TestLaw4AChunkTwiceIsRefusedAndChangesNothing", law4Duplicates},
		{"TestLaw4ABadBatchLeavesNothing", law4Atomic},
		{"TestLaw4AcknowledgedIsDurable", law4Crash},
		{"TestLaw4RangesAreOneChainEach", law4Chain},
		{"TestLaw5AWeekLateLandsInItsOwnTime", law5},
		{"TestLaw6TheSameTimeUnderAnotherRevisionIsTwoRows", law6},
		{"TestLaw6ReratedIsAsIfRatedSoFromTheStart", law6Rerated},
		{"TestLaw6UndoingRestoresEveryRow", law6Undone},
		{"TestLaw6OfSumsEachDeviceIsRatedExactly", law6Sums},
		{"TestLaw6SecondsMayBeKeptLongerThanMinutes", law6Kept},
		{"TestLaw6ABatchIsRatedByTheLedgersJournal", law6Journal},
		{"TestLaw6AReratingHappensAsAWholeOrNotAtAll", law6Atomic},
		{"TestLaw5LateChunksOfAReratedTimeCostWhatItCosts", law5Rerated},
		{"TestLaw7ACorrectedRuleCorrectsHistory", law7},
		{"TestLaw8DroppedSecondsAreRememberedAndTooFine", law8},
		{"TestLaw9MissingEmptyAndZeroDiffer", law9},
		{"AnyQueryEqualsTheScan", anyQuery},
		{"RollingChangesNoSum", rolling},
		{"ChunksAndRangesComeBack", chunks},
		{"Documents", documents},
		{"Devices", devices},
		{"AViewIsASnapshot", snapshot},
		{"ReadersBesideAWriter", readers},
		{"ClosedAndOpenedAgain", reopened},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, d) })
	}
}

// ledger is a store with what was committed to it.
type ledger struct {
	t interface {
		Helper()
		Fatal(args ...any)
		Fatalf(format string, args ...any)
	}
	store.Store
	chunks  []*attribution.Chunk
	commits uint64
	mapping store.Mapping
	journal *rerating.Journal
}

func open(t *testing.T, d Driver, place string) *ledger {
	t.Helper()
	s, err := d.Open(t.Context(), place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &ledger{t: t, Store: s}
}

// commit commits chunks, every other time without what the store says it has.
func (l *ledger) commit(chunks ...*attribution.Chunk) {
	l.t.Helper()
	b := Rated(l.journal, l.commits+1, chunks...)
	if k, ok := l.Store.(store.Knower); ok && b.Number%2 == 0 {
		LeaveOut(b, k)
	}
	l.must(l.Commit(context.Background(), b))
	l.commits++
	l.chunks = append(l.chunks, chunks...)
}

func (l *ledger) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *ledger) view(f func(store.Reader) error) {
	l.t.Helper()
	l.must(l.View(context.Background(), f))
}

// scan is what a query must answer.
func (l *ledger) scan(q *store.Query) *scan.Scan {
	known := make(scan.Served)
	for _, c := range l.chunks {
		known.Chunk(c)
	}
	s := scan.New(q, scan.Env{Map: l.mapping, Served: known.Of})
	for _, c := range l.chunks {
		s.Chunk(l.journal.Rate(c))
	}
	return s
}

// agree fails unless the store answers a query as the scan does. It tells
// whether the store found it too fine.
func (l *ledger) agree(q *store.Query) (tooFine bool) {
	l.t.Helper()
	l.view(func(r store.Reader) error {
		tooFine = l.agreeIn(r, q)
		return nil
	})
	return tooFine
}

func (l *ledger) agreeIn(r store.Reader, q *store.Query) (tooFine bool) {
	l.t.Helper()
	want := l.scan(q)
	rows, err := r.Query(context.Background(), q)
	if errors.Is(err, store.ErrTooFine) {
		return true
	}
	l.must(err)
	same(l.t, fmt.Sprintf("%+v", *q), rows, want.Rows(), showRow)
	tallies, err := r.QueryTallies(context.Background(), q)
	l.must(err)
	same(l.t, fmt.Sprintf("tallies %+v", *q), tallies, want.Tallies(), showTally)
	return false
}

func showRow(r store.Row) string {
	return fmt.Sprintf("%d %+v %s time %s sm %s memory %s energy %s cost %s unpriced %s %v %v", r.Time, r.Keys, r.Basis,
		&r.DeviceTime, &r.SMActive, &r.Memory, &r.Energy, &r.Cost, &r.Unpriced, r.HasMemory, r.HasEnergy)
}

func showTally(r store.TallyRow) string {
	return fmt.Sprintf("%d %+v %s %s", r.Time, r.Keys, r.Measure, &r.Value)
}

// same compares two lists by what is shown of their rows.
func same[R any](t interface {
	Helper()
	Fatalf(format string, args ...any)
}, what string, got, want []R, show func(R) string,
) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = show(got[i])
		}
		if i < len(want) {
			w = show(want[i])
		}
		if g != w {
			t.Fatalf("%s\nrow %d of %d, want %d:\n got %s\nwant %s", what, i, len(got), len(want), g, w)
		}
	}
}

// dump is everything that a ledger holds, as text.
func (l *ledger) dump() []string {
	l.t.Helper()
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	ctx := context.Background()
	l.view(func(r store.Reader) error {
		from, to, err := r.Extent(ctx)
		say("commits %d extent %d %d rolled %d %d", r.Commits(), from, to, r.Rolled(rollup.Hour), r.Rolled(rollup.Day))
		return errors.Join(err,
			r.Ranges(ctx, func(x store.Range) error { say("range %+v", x); return nil }),
			r.Chunks(ctx, -1<<40, 1<<40, func(c *store.Chunk, ro *store.Roster) error { say("chunk %+v roster %x", *c, ro.Body); return nil }))
	})
	return append(out, l.dumpRows()...)
}

// dumpRows is every row of sums that a ledger holds.
func (l *ledger) dumpRows() []string {
	l.t.Helper()
	var out []string
	ctx := context.Background()
	l.view(func(r store.Reader) error {
		for _, res := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
			if err := errors.Join(
				r.Rows(ctx, res, -1<<40, 1<<40, func(x *store.FactRow) error {
					out = append(out, fmt.Sprintf("%d %s", res, showFact(x)))
					return nil
				}),
				r.TallyRows(ctx, res, -1<<40, 1<<40, func(x *store.TallyFactRow) error {
					out = append(out, fmt.Sprintf("%d %s", res, showTallyFact(x)))
					return nil
				})); err != nil {
				return err
			}
		}
		return nil
	})
	return out
}

func showFact(x *store.FactRow) string {
	return fmt.Sprintf("%d %+v %+v %s %s %d %+v", x.Bucket, *x.Device, *x.Owner, x.Basis, x.Method, x.Revision, x.Sums)
}

func showTallyFact(x *store.TallyFactRow) string {
	return fmt.Sprintf("%d %+v %q %q %q %s %d", x.Bucket, *x.Owner, x.Model, x.Tenant, x.Tier, x.Measure, x.Value)
}

// wantRows is what dumpRows must yield: the committed chunks, folded.
func (l *ledger) wantRows(hours, days attribution.Second) []string {
	var out []string
	for _, res := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		before := map[rollup.Resolution]attribution.Second{rollup.Minute: 1 << 40, rollup.Hour: hours, rollup.Day: days}[res]
		owners, devices := make(map[rollup.Fingerprint]*attribution.Owner), make(map[rollup.Fingerprint]*attribution.Device)
		for _, c := range l.chunks {
			b := Batch(0, c)
			maps.Copy(owners, b.Owners)
			maps.Copy(devices, b.Devices)
		}
		var rows []store.FactRow
		for k, s := range fold(res, rateAll(l.journal, l.chunks)) {
			if k.bucket < before {
				rows = append(rows, store.FactRow{
					Bucket: k.bucket, Device: devices[k.series.Device], Owner: owners[k.series.Owner],
					Basis: k.series.Basis, Method: k.series.Method, Revision: k.series.Revision, Sums: s,
				})
			}
		}
		slices.SortFunc(rows, compareFacts)
		for i := range rows {
			out = append(out, fmt.Sprintf("%d %s", res, showFact(&rows[i])))
		}
		var tallies []store.TallyFactRow
		for k, v := range foldTallies(res, l.chunks) {
			if k.bucket < before {
				tallies = append(tallies, store.TallyFactRow{
					Bucket: k.bucket, Owner: owners[k.series.Owner], Model: k.series.Model,
					Tenant: k.series.Tenant, Tier: k.series.Tier, Measure: k.series.Measure, Value: v,
				})
			}
		}
		slices.SortFunc(tallies, compareTallyFacts)
		for i := range tallies {
			out = append(out, fmt.Sprintf("%d %s", res, showTallyFact(&tallies[i])))
		}
	}
	return out
}

func show(s string) string { return s }
