package simulation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// damage is what a flipped bit may cost.
type damage struct {
	gone   []stretch          // seconds
	roster bool               // what is written later may refer to it, too
	again  attribution.Second // from here on seconds may have to be sealed again; 0: none
}

// The records of a spool that hold seconds.
const (
	frameHead    = 9
	recordBatch  = 2
	recordRoster = 3
	recordSecond = 4
	recordChunk  = 5
	segmentMagic = 8 // bytes
)

// frame is a record of a segment.
type frame struct {
	from, to int
	kind     byte
	seconds  stretch                 // of a chunk or second
	roster   attribution.Fingerprint // that it is, or refers to
}

func (f *frame) holds() bool { return f.seconds.to > f.seconds.from }

// frames are the records of a segment; none where it is damaged already, since it
// could not be told what more damage costs.
func frames(b []byte) []frame { return framesFrom(segmentMagic, b) }

// framesFrom are the records from an offset on, of a segment or of what is written
// to one; none where anything else is among them.
func framesFrom(off int, b []byte) (fs []frame) {
	for off+frameHead <= len(b) {
		n := int(binary.LittleEndian.Uint32(b[off:]))
		f := frame{from: off, to: off + frameHead + n, kind: b[off+8]}
		if n < 0 || f.to > len(b) || crc32.Checksum(b[off+8:f.to], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[off+4:]) {
			return nil
		}
		switch p := b[off+frameHead:]; f.kind {
		case recordSecond, recordChunk:
			f.seconds.from = attribution.Second(binary.LittleEndian.Uint64(p))
			f.seconds.to = f.seconds.from + attribution.Second(p[8])
			f.roster = attribution.Fingerprint(p[9:])
		case recordRoster:
			f.roster = attribution.Fingerprint(p)
		}
		fs = append(fs, f)
		off = f.to
	}
	return fs
}

// segments are the log's files, in order.
func segments(fs *memfs.FS, dir string) ([]string, error) {
	names, err := fs.ReadDir(dir)
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, ".seg") {
			out = append(out, filepath.Join(dir, n))
		}
	}
	return out, err
}

func content(fs *memfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// flip inverts a bit of a record.
func flip(fs *memfs.FS, name string, f *frame, r *rand.Rand) error {
	bit := int64(f.from)*8 + r.Int64N(int64(f.to-f.from)*8)
	if err := fs.Flip(name, bit); err != nil {
		return fmt.Errorf("simulation: %w", err)
	}
	return nil
}

// rot inverts a bit of a record that holds seconds, a roster or a batch's
// beginning. Gone may be the seconds of the record; of a roster, all that may
// refer to it; of what belongs to the newest write, whose damage can't be told
// from a write that was torn, all that follow.
func rot(fs *memfs.FS, dir string, r *rand.Rand) (d damage, err error) {
	names, err := segments(fs, dir)
	if err != nil || len(names) == 0 {
		return d, err
	}
	i := r.IntN(len(names))
	b, err := content(fs, names[i])
	if err != nil {
		return d, err
	}
	var some []int
	all, last := frames(b), 0
	for k, f := range all {
		switch f.kind {
		case recordBatch:
			last = k
			some = append(some, k)
		case recordRoster, recordSecond, recordChunk:
			some = append(some, k)
		}
	}
	if len(some) == 0 {
		return d, nil
	}
	k := some[r.IntN(len(some))]
	hit := all[k]
	newest := i == len(names)-1 && k >= last
	for j, f := range all {
		if f.holds() && (j == k || (j > k && (newest || hit.kind == recordRoster))) {
			d.gone = append(d.gone, f.seconds)
		}
	}
	d.roster = hit.kind == recordRoster && i == len(names)-1
	return d, flip(fs, names[i], &hit, r)
}

// newest are the records of the newest segment.
func newest(fs *memfs.FS, dir string) (name string, all []frame, err error) {
	names, err := segments(fs, dir)
	if err != nil || len(names) == 0 {
		return "", nil, err
	}
	name = names[len(names)-1]
	b, err := content(fs, name)
	return name, frames(b), err
}

// torn reports whether the newest segment is damaged.
func torn(fs *memfs.FS, dir string) bool {
	name, all, err := newest(fs, dir)
	return err == nil && name != "" && len(all) == 0
}

// rotNewest inverts a bit of the last but one second of the journal.
func rotNewest(fs *memfs.FS, dir string, r *rand.Rand) (damage, error) {
	return rotLast(fs, dir, r, recordSecond, 2)
}

// rotChunk inverts a bit of the last chunk, which may be stored.
func rotChunk(fs *memfs.FS, dir string, r *rand.Rand) (damage, error) {
	return rotLast(fs, dir, r, recordChunk, 1)
}

// rotLast inverts a bit of the last record of a kind but so many, which may take
// what follows it along.
func rotLast(fs *memfs.FS, dir string, r *rand.Rand, kind byte, number int) (d damage, err error) {
	name, all, err := newest(fs, dir)
	if err != nil {
		return d, err
	}
	for hit, seen := len(all)-1, 0; hit >= 0; hit-- {
		if all[hit].kind == kind {
			seen++
		}
		if seen < number {
			continue
		}
		for _, f := range all[hit:] {
			if f.holds() {
				d.gone = append(d.gone, f.seconds)
			}
		}
		return d, flip(fs, name, &all[hit], r)
	}
	return d, nil
}

// rotRoster inverts a bit of a roster that a second refers to which is in no chunk
// yet. Chunks that refer to it, too, may be gone. Seconds are sealed again from the
// first such on, since it is known that no chunk has them. The newest write is left
// as it is.
func rotRoster(fs *memfs.FS, dir string, r *rand.Rand) (d damage, err error) {
	name, all, err := newest(fs, dir)
	if err != nil {
		return d, err
	}
	var open []frame // seconds, behind the last chunk
	last := 0        // batch
	for k, f := range all {
		switch f.kind {
		case recordSecond:
			open = append(open, f)
		case recordChunk:
			open = nil
		case recordBatch:
			last = k
		}
	}
	if len(open) == 0 {
		return d, nil
	}
	id := open[r.IntN(len(open))].roster
	at := slices.IndexFunc(all[:last], func(f frame) bool { return f.kind == recordRoster && f.roster == id })
	if at < 0 {
		return d, nil
	}
	for _, f := range all {
		if f.kind == recordChunk && f.roster == id {
			d.gone = append(d.gone, f.seconds)
		}
	}
	d.again = open[slices.IndexFunc(open, func(f frame) bool { return f.roster == id })].seconds.from
	return d, flip(fs, name, &all[at], r)
}

// rotFirst inverts a bit of the record that begins the newest segment's only write.
func rotFirst(fs *memfs.FS, dir string, r *rand.Rand) (d damage, err error) {
	name, all, err := newest(fs, dir)
	if err != nil {
		return d, err
	}
	at := -1
	for k, f := range all {
		switch {
		case f.kind == recordBatch && at >= 0:
			return damage{}, nil // there was another
		case f.kind == recordBatch:
			at = k
		case f.holds():
			d.gone = append(d.gone, f.seconds)
		}
	}
	if at < 0 {
		return d, nil
	}
	return d, flip(fs, name, &all[at], r)
}
