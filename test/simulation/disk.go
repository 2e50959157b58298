package simulation

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
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
	f.d.fuse.Load().carry(p)
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
