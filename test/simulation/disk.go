package simulation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// disk is a node's, as one process sees it: when the process is killed, nothing
// that it still does reaches the files.
type disk struct {
	*memfs.FS
	dead atomic.Bool
	fuse atomic.Pointer[fuse] // nil: the power stays on

	mu    sync.Mutex
	locks []io.Closer
}

var errKilled = errors.New("the process is dead")

// kill cuts the process off.
func (d *disk) kill() {
	d.dead.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.locks {
		_ = l.Close() // it always works
	}
}

func (d *disk) alive() error {
	if d.dead.Load() {
		return errKilled
	}
	return nil
}

func (d *disk) Create(name string) (spool.File, error) {
	if d.dead.Load() {
		return nil, errKilled
	}
	f, err := d.FS.Create(name)
	return d.file(f), err
}

func (d *disk) Open(name string) (spool.File, error) {
	if d.dead.Load() {
		return nil, errKilled
	}
	f, err := d.FS.Open(name)
	return d.file(f), err
}

func (d *disk) file(f spool.File) spool.File {
	if f == nil {
		return nil
	}
	return diskFile{f, d}
}

func (d *disk) Rename(from, to string) error {
	if d.dead.Load() {
		return errKilled
	}
	return d.FS.Rename(from, to)
}

func (d *disk) Remove(name string) error {
	if d.dead.Load() {
		return errKilled
	}
	return d.FS.Remove(name)
}

func (d *disk) SyncDir(dir string) error {
	if d.dead.Load() {
		return errKilled
	}
	return d.FS.SyncDir(dir)
}

func (d *disk) Lock(name string) (io.Closer, error) {
	l, err := d.FS.Lock(name)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.locks = append(d.locks, l)
	}
	return l, err
}

type diskFile struct {
	spool.File
	d *disk
}

func (f diskFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.alive(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f diskFile) Truncate(n int64) error {
	if err := f.d.alive(); err != nil {
		return err
	}
	return f.File.Truncate(n)
}

func (f diskFile) Sync() error {
	if err := f.d.alive(); err != nil {
		return err
	}
	if f.d.fuse.Load().burn(f.d.FS) {
		f.d.dead.Store(true)
		return errKilled
	}
	return f.File.Sync()
}

// The ways in which a disk fails.
const (
	diskFails = iota // some operations
	diskShort        // some writes do half
	diskFull
	diskWays
)

// fail has a disk fail until it is healed.
func fail(fs *memfs.FS, way int, often float64, r *rand.Rand) {
	switch way {
	case diskFull:
		fs.SetCapacity(fs.Bytes() + r.Int64N(20_000))
	case diskShort:
		fs.SetHook(func(op memfs.Op, _ string) error {
			if op == memfs.OpWrite && r.Float64() < often {
				return memfs.ErrShort
			}
			return nil
		})
	default:
		fs.SetHook(func(op memfs.Op, _ string) error {
			if op != memfs.OpRead && op != memfs.OpOpen && r.Float64() < often {
				return syscall.EIO
			}
			return nil
		})
	}
}

func heal(fs *memfs.FS) {
	fs.SetCapacity(0)
	fs.SetHook(nil)
}

// The records of a spool that hold seconds.
const (
	frameHead    = 9
	recordBatch  = 2
	recordRoster = 3
	recordSecond = 4
	recordChunk  = 5
	recordAck    = 7
	segmentMagic = 8 // bytes
)

// frame is a record of a segment.
type frame struct {
	from, to int
	kind     byte
	seconds  stretch // of a chunk or second
}

// frames are the records of a segment; none where it is damaged already, since it
// could not be told what more damage costs.
func frames(b []byte) (fs []frame) {
	for off := segmentMagic; off+frameHead <= len(b); {
		n := int(binary.LittleEndian.Uint32(b[off:]))
		f := frame{from: off, to: off + frameHead + n, kind: b[off+8]}
		if n < 0 || f.to > len(b) || crc32.Checksum(b[off+8:f.to], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[off+4:]) {
			return nil
		}
		if f.kind == recordSecond || f.kind == recordChunk {
			p := b[off+frameHead:]
			f.seconds.from = attribution.Second(binary.LittleEndian.Uint64(p))
			f.seconds.to = f.seconds.from + attribution.Second(p[8])
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

// rot inverts a bit of a record that holds seconds, a roster or a batch's
// beginning, and tells which seconds may be gone for it: those of the record;
// of a roster, all that may refer to it (what is written later, too, where
// roster is true); of what belongs to the newest write, whose damage can't be
// told from a write that was torn, all that follow.
func rot(fs *memfs.FS, dir string, r *rand.Rand) (gone []stretch, roster bool, err error) {
	names, err := segments(fs, dir)
	if err != nil || len(names) == 0 {
		return nil, false, err
	}
	i := r.IntN(len(names))
	b, err := content(fs, names[i])
	if err != nil {
		return nil, false, err
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
		return nil, false, nil
	}
	k := some[r.IntN(len(some))]
	hit := all[k]
	newest := i == len(names)-1 && k >= last
	for j, f := range all {
		if f.seconds.to > f.seconds.from && (j == k || (j > k && (newest || hit.kind == recordRoster))) {
			gone = append(gone, f.seconds)
		}
	}
	bit := int64(hit.from)*8 + r.Int64N(int64(hit.to-hit.from)*8)
	if err := fs.Flip(names[i], bit); err != nil {
		return nil, false, fmt.Errorf("simulation: %w", err)
	}
	return gone, hit.kind == recordRoster && i == len(names)-1, nil
}

// rotNewest inverts a bit of the last but one second of the journal.
func rotNewest(fs *memfs.FS, dir string, r *rand.Rand) (gone []stretch, roster bool, err error) {
	return rotLast(fs, dir, r, recordSecond, 2)
}

// rotChunk inverts a bit of the last chunk, which may be stored.
func rotChunk(fs *memfs.FS, dir string, r *rand.Rand) (gone []stretch, roster bool, err error) {
	return rotLast(fs, dir, r, recordChunk, 1)
}

// rotLast inverts a bit of the last record of a kind but so many, which may take
// what follows it along.
func rotLast(fs *memfs.FS, dir string, r *rand.Rand, kind byte, number int) (gone []stretch, roster bool, err error) {
	names, err := segments(fs, dir)
	if err != nil || len(names) == 0 {
		return nil, false, err
	}
	name := names[len(names)-1]
	b, err := content(fs, name)
	if err != nil {
		return nil, false, err
	}
	all := frames(b)
	for hit, seen := len(all)-1, 0; hit >= 0; hit-- {
		if all[hit].kind == kind {
			seen++
		}
		if seen < number {
			continue
		}
		for _, f := range all[hit:] {
			if f.seconds.to > f.seconds.from {
				gone = append(gone, f.seconds)
			}
		}
		bit := int64(all[hit].from)*8 + r.Int64N(int64(all[hit].to-all[hit].from)*8)
		return gone, false, fs.Flip(name, bit)
	}
	return nil, false, nil
}
