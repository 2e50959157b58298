package chunker_test

import (
	"bytes"
	"testing"

	"github.com/gpuledger/gpuledger/agent/chunker"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
)

// TestLaw2SecondsThatCannotBeReadBackAreSealedAgain: the roster of the journal
// rots. No second is between what comes back and Next, and
// what is sealed from there on makes the chunk.
func TestLaw2SecondsThatCannotBeReadBackAreSealedAgain(t *testing.T) {
	const name = "/s/0000000001.seg"
	journal := chunker.Options{Journal: true}
	first := start.ChunkStart()
	for bit := int64(0); bit < 64; bit += 9 {
		fsys := memfs.New()
		sp := openSpool(t, fsys, spool.Options{})
		c, n := newChunker(t, sp, journal), newNode(2, 0)
		for s := first; s < first+6; s++ {
			seal(t, c, n, s)
			if err := sp.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		f, err := fsys.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<12)
		_, _ = f.ReadAt(b, 0) // it ends before
		_, roster, ok := bytes.Cut(b, []byte("GPU-"))
		if !ok {
			t.Fatal("no roster names a device")
		}
		if err := fsys.Flip(name, int64(len(b)-len(roster))*8+bit); err != nil {
			t.Fatal(err)
		}
		sp = openSpool(t, fsys.Crash(nil), spool.Options{})
		c = newChunker(t, sp, journal)
		if c.Next() != first || c.Stats().Recovered != 0 {
			t.Fatalf("bit %d: next is %d, %d seconds were recovered: want %d, and none", bit, c.Next(), c.Stats().Recovered, first)
		}
		for s := c.Next(); s < first+10; s++ {
			seal(t, c, n, s)
		}
		if c.Stats().NotJournaled != 0 {
			t.Errorf("bit %d: %d seconds were not journaled again", bit, c.Stats().NotJournaled)
		}
		if _, chunks := stored(t, sp); len(chunks) != 1 || chunks[0].Key.Sequence != first || chunks[0].Seconds != 10 {
			t.Errorf("bit %d: the chunks are %+v", bit, chunks)
		}
	}
}
