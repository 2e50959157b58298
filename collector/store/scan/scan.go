// Package scan answers a [store.Query] from decoded chunks, one slice after
// another, in memory. It is the dumb way, and right: stores use it for the
// seconds at the edges of a range, the query layer for chunks that are not
// stored yet, and the conformance suite to tell whether a store's sums are
// those of its chunks.
//
// A [Scan] takes chunks; partial answers from elsewhere are merged into its own
// with [MergeRows] and [MergeTallies]:
//
//	s := scan.New(q, env)
//	s.Chunk(c) // for each
//	rows := scan.MergeRows(stored, s.Rows())
package scan

import (
	"cmp"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Env is what a query depends on besides facts. Either may be nil.
type Env struct {
	// Map is what the mapping rules say.
	Map store.Mapping
	// Served is what is known of an owner's tallies.
	Served func(rollup.Fingerprint) store.Served
}

// Scan sums the parts of chunks that a query asks for. It is for one
// goroutine. Its memory is that of its rows; who feeds it stops where there are
// more than the query may have, see [Scan.Full].
type Scan struct {
	q    *store.Query
	keys *keyer

	slices  map[cell]*sums
	tallies map[tallyCell]*wide

	view *view // of the last roster: a node's chunks mostly share one
}

// cell is one row of the answer: the groups are those of package-internal
// numbering, a row's keys being the device's, the owner's, the method's and the
// price's.
type cell struct {
	time                         attribution.Second
	device, owner, method, price int32
	basis                        attribution.Basis
}

type tallyCell struct {
	time    attribution.Second
	group   int32
	measure attribution.Measure
}

type sums struct {
	time, sm, memory, energy, cost, unpriced wide
	hasMemory, hasEnergy                     bool
}

// New starts a scan for a query that [store.Query.Check] accepts.
func New(q *store.Query, env Env) *Scan {
	return &Scan{
		q: q, keys: newKeyer(q, env),
		slices: make(map[cell]*sums), tallies: make(map[tallyCell]*wide),
	}
}

// Full is store.ErrTooMany where there are more rows than the query may have.
func (s *Scan) Full() error {
	if most := s.q.Most(); len(s.slices) > most || len(s.tallies) > most {
		return store.ErrTooMany
	}
	return nil
}

// Chunk adds what lies within the query's range and passes its filters. The
// chunk must satisfy [attribution.Chunk.Check]; it is not kept, but its roster
// is until the next one comes.
func (s *Scan) Chunk(c *attribution.Chunk) { s.Part(c, s.q.From, s.q.To) }

// Part is Chunk for what lies within [from, to), a part of the query's range.
func (s *Scan) Part(c *attribution.Chunk, from, to attribution.Second) {
	if c.End() <= from || c.Key.Sequence >= to {
		return
	}
	if s.view == nil || s.view.roster != c.Roster {
		s.view = s.keys.view(c.Roster)
	}
	for i := range c.Windows {
		if w := &c.Windows[i]; w.Second >= from && w.Second < to {
			s.window(w)
		}
	}
	for _, t := range c.Tallies {
		if t.Second < from || t.Second >= to || !s.q.Measured(c.Roster.Measures[t.Measure]) {
			continue
		}
		g := s.view.subject(t.Subject)
		if g == dropped {
			continue
		}
		k := tallyCell{s.q.Bucket(t.Second), g, c.Roster.Measures[t.Measure]}
		sum := s.tallies[k]
		if sum == nil {
			sum = new(wide)
			s.tallies[k] = sum
		}
		sum.add(t.Value)
	}
}

func (s *Scan) window(w *attribution.DeviceWindow) {
	v := s.view
	d := &v.roster.Devices[w.Device]
	at := cell{
		time: s.q.Bucket(w.Second), device: v.devices[w.Device], method: v.methods[w.Method], price: s.keys.price(w.Price.Revision),
	}
	if at.device == dropped || at.method == dropped || at.price == dropped {
		return
	}
	for i := range w.Slices {
		sl := &w.Slices[i]
		at.owner, at.basis = v.owners[sl.Owner], sl.Basis
		if at.owner == dropped || !s.keys.keepsBasis(sl.Basis) {
			continue
		}
		if sl.Time == 0 && sl.SMActive == 0 && sl.Memory == 0 && sl.Energy == 0 {
			continue // nothing is no row, see rollup.Row
		}
		sum := s.slices[at]
		if sum == nil {
			sum = new(sums)
			s.slices[at] = sum
		}
		sum.time.add(sl.Time)
		sum.sm.add(sl.SMActive)
		sum.memory.add(sl.Memory)
		sum.energy.add(sl.Energy)
		if w.Price.Known() {
			sum.cost.add(int64(sl.Cost))
		} else {
			sum.unpriced.add(sl.Time)
		}
		sum.hasMemory = sum.hasMemory || d.Sensors&attribution.SensorMemory != 0
		sum.hasEnergy = sum.hasEnergy || d.Sensors&attribution.SensorEnergy != 0
	}
}

// Rows is the answer so far, in order.
func (s *Scan) Rows() []store.Row {
	rows := make([]store.Row, 0, len(s.slices))
	for at, sum := range s.slices {
		r := store.Row{
			Time: at.time, Keys: s.keys.sliceKeys(at), Basis: at.basis,
			HasMemory: sum.hasMemory, HasEnergy: sum.hasEnergy,
		}
		sum.time.set(&r.DeviceTime)
		sum.sm.set(&r.SMActive)
		sum.memory.set(&r.Memory)
		sum.energy.set(&r.Energy)
		sum.cost.set(&r.Cost)
		sum.unpriced.set(&r.Unpriced)
		rows = append(rows, r)
	}
	slices.SortFunc(rows, compareRows)
	return rows
}

// Tallies is the answer so far to the query for tallies, in order.
func (s *Scan) Tallies() []store.TallyRow {
	rows := make([]store.TallyRow, 0, len(s.tallies))
	for at, sum := range s.tallies {
		r := store.TallyRow{Time: at.time, Keys: s.keys.tallyKeys(at.group), Measure: at.measure}
		sum.set(&r.Value)
		rows = append(rows, r)
	}
	slices.SortFunc(rows, compareTallies)
	return rows
}

// MergeRows adds up partial answers to one query. The parts are taken over.
func MergeRows(parts ...[]store.Row) []store.Row {
	return merge(parts, compareRows, func(to, from *store.Row) {
		for _, f := range [...][2]*big.Int{
			{&to.DeviceTime, &from.DeviceTime},
			{&to.SMActive, &from.SMActive},
			{&to.Memory, &from.Memory},
			{&to.Energy, &from.Energy},
			{&to.Cost, &from.Cost},
			{&to.Unpriced, &from.Unpriced},
		} {
			f[0].Add(f[0], f[1])
		}
		to.HasMemory = to.HasMemory || from.HasMemory
		to.HasEnergy = to.HasEnergy || from.HasEnergy
	})
}

// MergeTallies adds up partial answers to one query for tallies. The parts are
// taken over.
func MergeTallies(parts ...[]store.TallyRow) []store.TallyRow {
	return merge(parts, compareTallies, func(to, from *store.TallyRow) { to.Value.Add(&to.Value, &from.Value) })
}

// merge orders the rows of all parts and adds up those that compare equal.
func merge[R any](parts [][]R, compare func(a, b R) int, add func(to, from *R)) []R {
	rows := slices.Concat(parts...)
	slices.SortStableFunc(rows, compare)
	out := rows[:0]
	for i := range rows {
		if n := len(out); n > 0 && compare(out[n-1], rows[i]) == 0 {
			add(&out[n-1], &rows[i])
			continue
		}
		out = append(out, rows[i])
	}
	return out
}

func compareRows(a, b store.Row) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), compareKeys(a.Keys, b.Keys), cmp.Compare(a.Basis, b.Basis))
}

func compareTallies(a, b store.TallyRow) int {
	return cmp.Or(cmp.Compare(a.Time, b.Time), compareKeys(a.Keys, b.Keys), cmp.Compare(a.Measure, b.Measure))
}

// compareKeys puts what is missing last.
func compareKeys(a, b []store.Key) int {
	return slices.CompareFunc(a, b, func(x, y store.Key) int {
		switch {
		case x.Missing && y.Missing:
			return 0
		case x.Missing:
			return 1
		case y.Missing:
			return -1
		}
		return cmp.Compare(x.Value, y.Value)
	})
}
