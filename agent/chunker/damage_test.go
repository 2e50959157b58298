package chunker_test

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/chunker"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
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
		if !sp.Sound(first) { // none of them was in a chunk
			t.Fatal("the spool does not know of its damage")
		}
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

// TestLaw4SecondsInDoubtAreChunksOfTheirOwn: a chunk rots that may have been
// stored, with what was journaled since. Whatever the collector has of these
// seconds, what is closed anew is a duplicate or new, second by second, and
// no chunk is chained to one that may not count. That ends with the first chunk
// that was never in the log, and outlives restarts until then.
func TestLaw4SecondsInDoubtAreChunksOfTheirOwn(t *testing.T) {
	journal := chunker.Options{Journal: true}
	first := start.ChunkStart()
	fsys := memfs.New()
	sp := openSpool(t, fsys, spool.Options{})
	c, n := newChunker(t, sp, journal), newNode(2, 0)
	sealTo := func(end attribution.Second) {
		t.Helper()
		for s := c.Next(); s < end; s++ {
			seal(t, c, n, s)
			if err := sp.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for s := first; s < first+7; s++ {
		seal(t, c, n, s)
	}
	if err := errors.Join(c.Flush(), sp.Sync()); err != nil { // as at the end of a life
		t.Fatal(err)
	}
	was, ok, err := sp.Read(spool.Start)
	if err != nil || !ok || was.Seconds != 7 {
		t.Fatalf("%v %v %v", was.Seconds, ok, err)
	}
	sealTo(first + 9)
	rot(t, fsys, "/s/0000000001.seg", was.Body)

	for range 2 { // it dies again before it is over
		fsys = fsys.Crash(nil)
		sp = openSpool(t, fsys, spool.Options{})
		if !sp.InDoubt(first+1000) || !sp.Sound(first+14) {
			t.Fatal("the spool does not know of its damage")
		}
		c = newChunker(t, sp, journal)
		sealTo(first + 13)
	}
	sealTo(first + 31)
	if sp.InDoubt(first) || sp.Sound(0) {
		t.Error("seconds are in doubt for ever")
	}
	if again := openSpool(t, fsys.Crash(nil), spool.Options{}); again.InDoubt(first) {
		t.Error("seconds are in doubt again after a restart")
	}
	_, chunks := stored(t, sp)
	next := first
	for _, x := range chunks {
		if want := map[bool]int{true: 1, false: 10}[x.Key.Sequence < first+14]; x.Key.Sequence != next || x.Seconds != want && next != first+14 {
			t.Errorf("a chunk of %d seconds at %d: want %d at %d", x.Seconds, x.Key.Sequence-first, want, next-first)
		}
		next = x.End()
	}
	link := []byte(nil)
	for after := spool.Start; ; {
		x, ok, err := sp.Read(after)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		var m pb.Chunk
		if err := proto.Unmarshal(x.Body, &m); err != nil {
			t.Fatal(err)
		}
		want := link
		if x.Sequence <= first+14 {
			want = attribution.FirstLink(sp.Boot())
		}
		if !bytes.Equal(m.GetPrevious(), want) {
			t.Errorf("the chunk at %d is chained to %x: want %x", x.Sequence-first, m.GetPrevious(), want)
		}
		link, after = attribution.Link(m.GetPrevious(), x.Sequence, m.GetDigest()), x.Sequence
	}
}

// rot inverts a bit in the middle of what is there once in a file.
func rot(t *testing.T, fsys *memfs.FS, name string, what []byte) {
	t.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	_, _ = f.ReadAt(b, 0) // it ends before
	at := bytes.Index(b, what)
	if at < 0 || bytes.Count(b, what) != 1 {
		t.Fatalf("%s holds it %d times", name, bytes.Count(b, what))
	}
	if err := fsys.Flip(name, int64(at+len(what)/2)*8); err != nil {
		t.Fatal(err)
	}
}
