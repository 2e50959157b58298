package ingest

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// work is what a stream has to itself while it makes a chunk of what came. Chunks
// are decoded into its memory, judged, folded and mostly forgotten: what is to last
// is copied.
type work struct {
	mem  wire.Arena
	lent []*live // live seconds that were decoded into mem

	outlines [2]outlined
}

// outlined is a roster made of an outline; of: nil: it is free.
type outlined struct {
	of     *roster
	roster attribution.Roster
}

// outlineOf is a roster as far as the making and summing of its chunks needs it: see
// [outline]. It is lent, of mostly one roster: that of live seconds, or also the
// excerpt of it that is the chunk's. Of others it is the whole.
func (w *work) outlineOf(r *roster) *attribution.Roster {
	for i := range w.outlines {
		o := &w.outlines[i]
		if o.of == nil {
			o.of = r
			r.outline.fill(&o.roster)
		}
		if o.of == r {
			return &o.roster
		}
	}
	return r.content()
}

// benches are the places to work at: twice as many as there are processors, of
// thousands of streams whose chunks close at the same second, so that the memory
// that such work takes is bounded. Who has one waits for no other stream and no
// memory.
type benches chan *work

func newBenches(n int) benches {
	b := make(benches, n)
	for range n {
		b <- &work{}
	}
	return b
}

func (b benches) take() *work { return <-b }

// give clears away what is not to be kept.
func (b benches) give(w *work) {
	clear(w.lent)
	w.lent = w.lent[:0]
	w.mem.Reset()
	for i := range w.outlines {
		w.outlines[i].of = nil
	}
	b <- w
}

// clone copies a chunk; the roster is shared, and must not be an outline.
func clone(c *attribution.Chunk) *attribution.Chunk {
	x := *c
	x.Windows, x.Tallies = slices.Clone(c.Windows), slices.Clone(c.Tallies)
	all := make([]attribution.Slice, 0, sliceCount(c))
	for i := range x.Windows {
		at := len(all)
		all = append(all, x.Windows[i].Slices...)
		x.Windows[i].Slices = all[at:len(all):len(all)]
	}
	return &x
}
