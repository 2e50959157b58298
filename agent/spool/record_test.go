package spool

import (
	"bytes"
	"testing"
)

// FuzzScanSegment: whatever is on disk, a scan terminates, yields only whole
// records, and accounts for every byte as record or damage.
func FuzzScanSegment(f *testing.F) {
	whole := appendFrame([]byte(magic), recordBatch)
	whole = appendFrame(whole, recordRoster, make([]byte, 16), []byte("roster"))
	whole = frameChunk(whole, recordChunk, &Chunk{Sequence: 5, Seconds: 3, Body: []byte("body")})
	whole = frameAck(whole, 7)
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(append([]byte("garbage"), whole[9:]...))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		covered := make([]bool, len(b))
		mark := func(from, to int) {
			for i := from; i < to; i++ {
				if covered[i] {
					t.Fatalf("byte %d is there twice", i)
				}
				covered[i] = true
			}
		}
		if bytes.HasPrefix(b, []byte(magic)) {
			mark(0, len(magic))
		}
		d := scanSegment(b, func(off int, typ recordType, payload []byte) {
			mark(off, off+frameHead+len(payload))
			if !bytes.Equal(appendFrame(nil, typ, payload), b[off:off+frameHead+len(payload)]) {
				t.Fatalf("record at %d is not what was framed", off)
			}
			if typ == recordChunk || typ == recordSecond {
				c := parseChunk(payload)
				if !bytes.Equal(frameChunk(nil, typ, &c), b[off:off+frameHead+len(payload)]) {
					t.Fatalf("chunk at %d does not survive", off)
				}
			}
		})
		for _, s := range d.bad {
			mark(s.from, s.to)
		}
		for i, c := range covered {
			if !c {
				t.Fatalf("byte %d is neither record nor damage", i)
			}
		}
	})
}
