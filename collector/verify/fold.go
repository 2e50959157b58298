package verify

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// rowKey is a stored row's series and bucket, by the numbers of its facts.
type rowKey struct {
	bucket                          attribution.Second
	device, owner, method, revision uint32
	basis                           attribution.Basis
}

type tallyKey struct {
	bucket                              attribution.Second
	owner, model, tenant, tier, measure uint32
}

// deviceMinute is one minute of one device.
type deviceMinute struct {
	minute attribution.Second
	device uint32
}

// minuteSum is what the windows of a device's minute say of it.
type minuteSum struct {
	seconds     int64
	first, last attribution.Second
	price       attribution.Price
	mixed       bool // several prices
}

func (m *minuteSum) add(x *minuteSum) {
	if m.seconds == 0 {
		*m = *x
		return
	}
	m.mixed = m.mixed || x.mixed || m.price != x.price
	m.first, m.last = min(m.first, x.first), max(m.last, x.last)
	m.seconds += x.seconds
}

// cost is the price of the minute's seconds, where one price holds for a run
// of them: the sum of a telescope, not of its parts.
func (m *minuteSum) cost() (money.Amount, bool) {
	if m.mixed || !m.price.Known() || int64(m.last-m.first)+1 != m.seconds {
		return 0, false
	}
	c, err := money.SpanPrice(m.price.PerHour, int64(m.first), int64(m.last)+1)
	return c, err == nil
}

// fold is the sums of chunks, by minute. One goroutine uses it at a time.
type fold struct {
	rows    map[rowKey]rollup.Sums
	tallies map[tallyKey]int64
	journal *rerating.Journal // that chunks are rated by
	minutes map[deviceMinute]minuteSum
	moves   map[move]moved // what the journal's entries make of the chunks

	chunks, windows, slices int64

	device []series // of the device that is being added
	next   int      // where its next slice's series is expected
}

type series struct {
	owner, revision uint32
	method          uint16
	basis           attribution.Basis
	rollup.Sums
}

func newFold(j *rerating.Journal) *fold {
	return &fold{journal: j, rows: map[rowKey]rollup.Sums{}, tallies: map[tallyKey]int64{}, minutes: map[deviceMinute]minuteSum{}, moves: map[move]moved{}}
}

// chunk adds a chunk that keeps the laws. Chunks lie within one minute.
func (f *fold) chunk(c *attribution.Chunk, ids *rosterIDs) {
	minute := rollup.Minute.Start(c.Key.Sequence)
	f.chunks++
	f.windows += int64(len(c.Windows))
	for i := 0; i < len(c.Windows); {
		device := c.Windows[i].Device
		var m minuteSum
		f.device, f.next = f.device[:0], 0
		for ; i < len(c.Windows) && c.Windows[i].Device == device; i++ {
			w := &c.Windows[i]
			m.add(&minuteSum{seconds: 1, first: w.Second, last: w.Second, price: w.Price})
			f.slices += int64(len(w.Slices))
			for j := range w.Slices {
				f.slice(w, &w.Slices[j])
			}
		}
		f.flush(minute, ids.devices[device], ids, &m)
	}
	for _, t := range c.Tallies {
		f.tallies[tallyKey{
			minute, ids.subjectOwners[t.Subject], ids.models[t.Subject], ids.tenants[t.Subject], ids.tiers[t.Subject],
			ids.measures[t.Measure],
		}] += t.Value
	}
}

func (f *fold) slice(w *attribution.DeviceWindow, s *attribution.Slice) {
	x := f.series(s.Owner, w.Price.Revision, w.Method, s.Basis)
	x.Time += s.Time
	x.SMActive += s.SMActive
	x.Memory += s.Memory
	x.Energy += s.Energy
	x.Cost += int64(s.Cost)
}

// series finds the device's series, which mostly come in the same order in
// every window.
func (f *fold) series(owner, revision uint32, method uint16, basis attribution.Basis) *series {
	n := len(f.device)
	for k := range n {
		i := (f.next + k) % n
		if x := &f.device[i]; x.owner == owner && x.basis == basis && x.revision == revision && x.method == method {
			f.next = i + 1
			return x
		}
	}
	f.device = append(f.device, series{owner: owner, revision: revision, method: method, basis: basis})
	f.next = n + 1
	return &f.device[n]
}

func (f *fold) flush(minute attribution.Second, device uint32, ids *rosterIDs, m *minuteSum) {
	for i := range f.device {
		x := &f.device[i]
		if x.Sums == (rollup.Sums{}) {
			continue // nothing is no row, see rollup.Row
		}
		k := rowKey{minute, device, ids.owners[x.owner], ids.methods[x.method], x.revision, x.basis}
		addSums(f.rows, k, &x.Sums)
	}
	k := deviceMinute{minute, device}
	sum := f.minutes[k]
	sum.add(m)
	f.minutes[k] = sum
}

// merge adds another fold.
func (f *fold) merge(o *fold) {
	for k, s := range o.rows {
		addSums(f.rows, k, &s)
	}
	for k, v := range o.tallies {
		f.tallies[k] += v
	}
	for k, m := range o.minutes {
		sum := f.minutes[k]
		sum.add(&m)
		f.minutes[k] = sum
	}
	for k, m := range o.moves {
		f.moves[k] = f.moves[k].plus(m)
	}
	f.chunks += o.chunks
	f.windows += o.windows
	f.slices += o.slices
}

func addSums(to map[rowKey]rollup.Sums, k rowKey, s *rollup.Sums) {
	x := to[k]
	x.Time += s.Time
	x.SMActive += s.SMActive
	x.Memory += s.Memory
	x.Energy += s.Energy
	x.Cost += s.Cost
	to[k] = x
}
