package rerating

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// Transfer takes the sums of one series in one bucket, or a part of them, and
// gives them to the same series under another revision.
type Transfer struct {
	Entry      uint32 // that asks for it
	Resolution rollup.Resolution
	Bucket     attribution.Second
	Series     rollup.Series // that it takes from
	To         uint32        // the revision that it gives to; 0: unpriced
	Sums       rollup.Sums   // taken
	CostAfter  int64         // given instead of Sums.Cost
}

// Transfers collects what chunks that are rated anew move, per minute. The zero
// value is ready; it is for one goroutine.
type Transfers struct {
	list []Transfer
	at   map[transferKey]int
}

type transferKey struct {
	entry  uint32
	bucket attribution.Second
	series rollup.Series
	to     uint32
}

// Add notes what an entry moves by rating a chunk: before and after are what
// [Journal.Steps] yields, and facts are those of their roster.
func (t *Transfers) Add(entry uint32, before, after *attribution.Chunk, facts *rollup.Facts) {
	if before == after {
		return
	}
	if t.at == nil {
		t.at = make(map[transferKey]int)
	}
	// A chunk never crosses a wall-clock ten, hence lies in one minute.
	k := transferKey{entry: entry, bucket: rollup.Minute.Start(before.Key.Sequence)}
	for i := range before.Windows {
		b, a := &before.Windows[i], &after.Windows[i]
		if b.Price.Revision == a.Price.Revision {
			continue // outside the entry, or unpriced by either
		}
		k.to = a.Price.Revision
		for s := range b.Slices {
			x := &b.Slices[s]
			k.series = rollup.Series{
				Device: facts.Device(b.Device), Owner: facts.Owner(x.Owner),
				Basis: x.Basis, Method: before.Roster.Methods[b.Method], Revision: b.Price.Revision,
			}
			t.add(k, x, int64(a.Slices[s].Cost))
		}
	}
}

func (t *Transfers) add(k transferKey, x *attribution.Slice, after int64) {
	if x.Time == 0 && x.SMActive == 0 && x.Memory == 0 && x.Energy == 0 {
		return // nothing is no row
	}
	i, ok := t.at[k]
	if !ok {
		i = len(t.list)
		t.at[k] = i
		t.list = append(t.list, Transfer{Entry: k.entry, Resolution: rollup.Minute, Bucket: k.bucket, Series: k.series, To: k.to})
	}
	m := &t.list[i]
	m.Sums.Time += x.Time
	m.Sums.SMActive += x.SMActive
	m.Sums.Memory += x.Memory
	m.Sums.Energy += x.Energy
	m.Sums.Cost += int64(x.Cost)
	m.CostAfter += after
}

// List is what was collected. It is valid until the next Add.
func (t *Transfers) List() []Transfer { return slices.Clip(t.list) }

// Len is how many there are.
func (t *Transfers) Len() int { return len(t.list) }
