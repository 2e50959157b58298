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
	b <- w
}

// clone copies a chunk; the roster is shared.
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
