package rollup

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
)

// ErrOverflow says that a sum does not fit, or that a chunk's own sums are so
// large that a day of them might not.
var ErrOverflow = errors.New("sums overflow")

// MaxSecond is the most that one series may have per second of a chunk. A day
// has 86,400 seconds and a second is stored once, so that sums over a day
// always fit an int64. It is 100 MW, 100 TB or 100,000 currency units, every
// second.
const MaxSecond = math.MaxInt64 / int64(Day)

// Facts are the fingerprints of a roster's devices and owners. Each costs a
// SHA-256, so they are computed once per roster. They are immutable.
type Facts struct {
	roster          func() *attribution.Roster
	devices, owners []Fingerprint
}

// FactsOf computes the facts of a roster, which must not change afterwards.
func FactsOf(r *attribution.Roster) *Facts {
	return FactsAgain(r, func() *attribution.Roster { return r })
}

// FactsAgain computes the facts of a roster, and does not keep it: again, which any
// goroutine may call, makes an equal one.
func FactsAgain(r *attribution.Roster, again func() *attribution.Roster) *Facts {
	f := &Facts{roster: again, devices: make([]Fingerprint, len(r.Devices)), owners: make([]Fingerprint, len(r.Owners))}
	for i := range r.Devices {
		f.devices[i] = r.Devices[i].Fingerprint()
	}
	for i := range r.Owners {
		f.owners[i] = r.Owners[i].Fingerprint()
	}
	return f
}

// Roster is the roster that these are the facts of.
func (f *Facts) Roster() *attribution.Roster { return f.roster() }

// Device is the fingerprint of a device by its index in the roster.
func (f *Facts) Device(i uint32) Fingerprint { return f.devices[i] }

// Owner is the fingerprint of an owner by its index in the roster.
func (f *Facts) Owner(i uint32) Fingerprint { return f.owners[i] }

// Fold sums chunks into rows per minute. The order in which chunks are added,
// and how they are spread over folds that are then merged, make no difference
// to the sums. A Fold is used by one goroutine at a time.
type Fold struct {
	rows    []Row
	tallies []TallyRow
	rowAt   map[rowKey]int   // nil until a series comes in another order than before
	tallyAt map[tallyKey]int // likewise
	facts   []*Facts         // each once, as far as neighbours tell

	*adding // while a chunk is being added; else nil
}

// adding is what a fold needs while it adds a chunk. A collector has a fold for
// every node that is about, and few that are adding.
type adding struct {
	seriesAt  positions[seriesKey]
	series    []series
	counterAt positions[counterKey]
	counters  []counter
}

// addings are interchangeable and hold no state from use to use.
var addings = sync.Pool{New: func() any { return &adding{} }}

// mostKept is how many series one of them may have to be used again.
const mostKept = 4096

type rowKey struct {
	bucket attribution.Second
	series Series
}

type tallyKey struct {
	bucket attribution.Second
	series TallySeries
}

// seriesKey is a series by the indexes of its chunk's roster.
type seriesKey struct {
	device, owner, revision uint32
	method                  uint16
	basis                   attribution.Basis
}

type series struct {
	Sums
	key rowKey
	row int // in Fold.rows, or −1
}

// counterKey is a tally series by the indexes of its chunk's roster.
type counterKey struct {
	subject uint32
	measure uint16
}

type counter struct {
	value int64
	key   tallyKey
	row   int // in Fold.tallies, or −1
}

// NewFold returns an empty fold.
func NewFold() *Fold { return &Fold{} }

// RowMemory is about how many bytes of memory a row or tally of a fold takes.
const RowMemory = 128

// Rows are the sums so far, in the order in which their series first came. The
// fold owns them.
func (fold *Fold) Rows() []Row { return fold.rows }

// Tallies are the counts so far, likewise.
func (fold *Fold) Tallies() []TallyRow { return fold.tallies }

// Owners are the facts behind the rows' fingerprints, and perhaps others, in a
// new map.
func (fold *Fold) Owners() map[Fingerprint]*attribution.Owner {
	owners := make(map[Fingerprint]*attribution.Owner)
	fold.CopyFacts(owners, make(map[Fingerprint]*attribution.Device), nil)
	return owners
}

// Devices are the facts behind the rows' fingerprints, likewise.
func (fold *Fold) Devices() map[Fingerprint]*attribution.Device {
	devices := make(map[Fingerprint]*attribution.Device)
	fold.CopyFacts(make(map[Fingerprint]*attribution.Owner), devices, nil)
	return devices
}

// Known tells facts that nobody needs to be told of.
type Known interface {
	KnowsOwner(Fingerprint) bool
	KnowsDevice(Fingerprint) bool
}

// CopyFacts adds Owners and Devices to maps, but for those that are known, where
// known is not nil. A roster of which all is known is not made again.
func (fold *Fold) CopyFacts(owners map[Fingerprint]*attribution.Owner, devices map[Fingerprint]*attribution.Device, known Known) {
	for _, f := range fold.facts {
		var r *attribution.Roster
		for i, id := range f.devices {
			if devices[id] == nil && (known == nil || !known.KnowsDevice(id)) {
				r = f.again(r)
				devices[id] = &r.Devices[i]
			}
		}
		for i, id := range f.owners {
			if owners[id] == nil && (known == nil || !known.KnowsOwner(id)) {
				r = f.again(r)
				owners[id] = &r.Owners[i]
			}
		}
	}
}

// again is the roster, made at most once where it is given what it was.
func (f *Facts) again(r *attribution.Roster) *attribution.Roster {
	if r == nil {
		r = f.Roster()
	}
	return r
}

// Add adds a chunk that keeps the laws ([attribution.Chunk.Check]); f must be
// the facts of its roster, or of an equal one. If a series exceeds [MaxSecond] or a sum 64 bits,
// it adds nothing and returns an error that wraps ErrOverflow.
func (fold *Fold) Add(c *attribution.Chunk, f *Facts) error {
	if len(f.devices) != len(c.Roster.Devices) || len(f.owners) != len(c.Roster.Owners) {
		panic("BUG: a chunk is folded with another roster's facts")
	}
	fold.adding = addings.Get().(*adding)
	defer func() {
		if cap(fold.series)+cap(fold.counters) <= mostKept {
			addings.Put(fold.adding)
		}
		fold.adding = nil
	}()
	if err := fold.sumWindows(c); err != nil {
		return err
	}
	if err := fold.sumTallies(c); err != nil {
		return err
	}
	// First everything is looked up and checked, then everything is added. A
	// chunk never crosses a wall-clock ten, hence lies in one minute.
	bucket := Minute.Start(c.Key.Sequence)
	next := 0 // where the row is that is expected
	for i := range fold.series {
		s, k := &fold.series[i], &fold.seriesAt.keys[i]
		if s.Sums == (Sums{}) {
			continue // it has no row
		}
		s.key = rowKey{bucket, Series{
			Device: f.devices[k.device], Owner: f.owners[k.owner],
			Basis: k.basis, Method: c.Roster.Methods[k.method], Revision: k.revision,
		}}
		var err error
		if s.row, err = fold.findRow(s.key, &s.Sums, next); err != nil {
			return err
		}
		next = after(next, s.row)
	}
	next = 0
	for i := range fold.counters {
		t, k := &fold.counters[i], &fold.counterAt.keys[i]
		s := &c.Roster.Subjects[k.subject]
		t.key = tallyKey{bucket, TallySeries{f.owners[s.Owner], s.Model, s.Tenant, s.Tier, c.Roster.Measures[k.measure]}}
		var err error
		if t.row, err = fold.findTally(t.key, t.value, next); err != nil {
			return err
		}
		next = after(next, t.row)
	}
	fold.rows = slices.Grow(fold.rows, fold.fresh())
	for i := range fold.series {
		if s := &fold.series[i]; s.Sums != (Sums{}) {
			fold.addRow(s.row, s.key, &s.Sums)
		}
	}
	for i := range fold.counters {
		fold.addTally(fold.counters[i].row, fold.counters[i].key, fold.counters[i].value)
	}
	fold.note(f)
	return nil
}

// Merge adds everything in another fold, which stays as it is. If a sum exceeds
// 64 bits, it adds nothing and returns an error that wraps ErrOverflow.
func (fold *Fold) Merge(o *Fold) error {
	rows, tallies := make([]int, len(o.rows)), make([]int, len(o.tallies))
	for i := range o.rows {
		var err error
		if rows[i], err = fold.findRow(rowKey{o.rows[i].Bucket, o.rows[i].Series}, &o.rows[i].Sums, i); err != nil {
			return err
		}
	}
	for i := range o.tallies {
		var err error
		if tallies[i], err = fold.findTally(tallyKey{o.tallies[i].Bucket, o.tallies[i].Series}, o.tallies[i].Value, i); err != nil {
			return err
		}
	}
	for i := range o.rows {
		fold.addRow(rows[i], rowKey{o.rows[i].Bucket, o.rows[i].Series}, &o.rows[i].Sums)
	}
	for i := range o.tallies {
		fold.addTally(tallies[i], tallyKey{o.tallies[i].Bucket, o.tallies[i].Series}, o.tallies[i].Value)
	}
	for _, f := range o.facts {
		fold.note(f)
	}
	return nil
}

// sumWindows leaves the chunk's sums by series in fold.series. Windows come in
// order of device, and those of a device mostly have the same slices one after
// the other: a slice's series is where the one before it leads to expect, so
// that no map is asked per slice.
func (fold *Fold) sumWindows(c *attribution.Chunk) error {
	limit := MaxSecond * int64(c.Seconds)
	fold.series = fold.series[:0]
	fold.seriesAt.reset()
	first := 0 // series of the current device
	for i := range c.Windows {
		w := &c.Windows[i]
		if i > 0 && w.Device != c.Windows[i-1].Device {
			first = len(fold.series)
		}
		at := first
		for j := range w.Slices {
			s := &w.Slices[j]
			var fresh bool
			at, fresh = fold.seriesAt.find(first, at, seriesKey{w.Device, s.Owner, w.Price.Revision, w.Method, s.Basis})
			if fresh {
				fold.series = append(fold.series, series{})
			}
			sum := &fold.series[at].Sums
			at++
			// Summands and sums stay below the limit, a 17th of the range,
			// so that no addition wraps around.
			if s.Memory > limit || s.Energy > limit || int64(s.Cost) > limit {
				return fmt.Errorf("%w: memory, energy or cost of a slice of device %s at %d", ErrOverflow, c.Roster.Devices[w.Device].ID, w.Second)
			}
			sum.Time += s.Time
			sum.SMActive += s.SMActive
			sum.Memory += s.Memory
			sum.Energy += s.Energy
			sum.Cost += int64(s.Cost)
			if sum.Memory > limit || sum.Energy > limit || sum.Cost > limit {
				return fmt.Errorf("%w: memory, energy or cost of a series of device %s at %d", ErrOverflow, c.Roster.Devices[w.Device].ID, w.Second)
			}
		}
	}
	return nil
}

// sumTallies leaves the chunk's counts by tally series in fold.counters. They
// come in order of second, and seconds mostly count the same.
func (fold *Fold) sumTallies(c *attribution.Chunk) error {
	limit := MaxSecond * int64(c.Seconds)
	fold.counters = fold.counters[:0]
	fold.counterAt.reset()
	at := 0
	for i := range c.Tallies {
		t := &c.Tallies[i]
		if i > 0 && t.Second != c.Tallies[i-1].Second {
			at = 0
		}
		var fresh bool
		at, fresh = fold.counterAt.find(0, at, counterKey{t.Subject, t.Measure})
		if fresh {
			fold.counters = append(fold.counters, counter{})
		}
		sum := &fold.counters[at].value
		at++
		if t.Value > limit || *sum+t.Value > limit {
			return fmt.Errorf("%w: tally %s at %d", ErrOverflow, c.Roster.Measures[t.Measure], t.Second)
		}
		*sum += t.Value
	}
	return nil
}

// fresh is how many rows the series are that have none.
func (fold *Fold) fresh() (n int) {
	for i := range fold.series {
		if s := &fold.series[i]; s.row < 0 && s.Sums != (Sums{}) {
			n++
		}
	}
	return n
}

// after is where the next row is expected after one was found, or not: -1.
func after(next, found int) int {
	if found < 0 {
		return next
	}
	return found + 1
}

// findRow is the place of a series' row, -1 where there is none. Chunks of a node
// mostly have the same series in the same order, so that it mostly is where the
// one before it leads to expect, and no map is made.
func (fold *Fold) findRow(k rowKey, s *Sums, expected int) (int, error) {
	at := expected
	if at >= len(fold.rows) || fold.rows[at].Bucket != k.bucket || fold.rows[at].Series != k.series {
		if len(fold.rows) == 0 {
			return -1, nil
		}
		if fold.rowAt == nil {
			fold.rowAt = make(map[rowKey]int, len(fold.rows))
			for i := range fold.rows {
				fold.rowAt[rowKey{fold.rows[i].Bucket, fold.rows[i].Series}] = i
			}
		}
		var ok bool
		if at, ok = fold.rowAt[k]; !ok {
			return -1, nil
		}
	}
	h := &fold.rows[at].Sums
	if !fits(h.Time, s.Time) || !fits(h.SMActive, s.SMActive) || !fits(h.Memory, s.Memory) || !fits(h.Energy, s.Energy) || !fits(h.Cost, s.Cost) {
		return 0, fmt.Errorf("%w: minute %d of device %s", ErrOverflow, k.bucket, k.series.Device)
	}
	return at, nil
}

func (fold *Fold) findTally(k tallyKey, v int64, expected int) (int, error) {
	at := expected
	if at >= len(fold.tallies) || fold.tallies[at].Bucket != k.bucket || fold.tallies[at].Series != k.series {
		if len(fold.tallies) == 0 {
			return -1, nil
		}
		if fold.tallyAt == nil {
			fold.tallyAt = make(map[tallyKey]int, len(fold.tallies))
			for i := range fold.tallies {
				fold.tallyAt[tallyKey{fold.tallies[i].Bucket, fold.tallies[i].Series}] = i
			}
		}
		var ok bool
		if at, ok = fold.tallyAt[k]; !ok {
			return -1, nil
		}
	}
	if !fits(fold.tallies[at].Value, v) {
		return 0, fmt.Errorf("%w: minute %d of tally %s of owner %s", ErrOverflow, k.bucket, k.series.Measure, k.series.Owner)
	}
	return at, nil
}

// fits reports whether a + b fits an int64; neither is negative.
func fits(a, b int64) bool { return a <= math.MaxInt64-b }

func (fold *Fold) addRow(at int, k rowKey, s *Sums) {
	if at < 0 {
		if fold.rowAt != nil {
			fold.rowAt[k] = len(fold.rows)
		}
		fold.rows = append(fold.rows, Row{k.bucket, k.series, *s})
		return
	}
	h := &fold.rows[at].Sums
	h.Time += s.Time
	h.SMActive += s.SMActive
	h.Memory += s.Memory
	h.Energy += s.Energy
	h.Cost += s.Cost
}

func (fold *Fold) addTally(at int, k tallyKey, v int64) {
	if at < 0 {
		if fold.tallyAt != nil {
			fold.tallyAt[k] = len(fold.tallies)
		}
		fold.tallies = append(fold.tallies, TallyRow{k.bucket, k.series, v})
		return
	}
	fold.tallies[at].Value += v
}

// note keeps the facts behind fingerprints that rows may have.
func (fold *Fold) note(f *Facts) {
	if k := len(fold.facts); k == 0 || fold.facts[k-1] != f {
		fold.facts = append(fold.facts, f)
	}
}
