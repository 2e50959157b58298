// Package memfs is a filesystem in memory that behaves as badly as disks do:
// it forgets what was not synced when it crashes, tears writes, fills up and
// fails where it is told to. Simulations and tests stand a spool on it.
//
// File contents are durable after File.Sync, names (creation, renaming,
// removal) after SyncDir. A crash keeps a random subset of the unsynced
// writes, each whole or in part, since a disk reorders them, and a prefix of
// the unsynced changes of names, since a journal does not.
package memfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/gpuledger/gpuledger/agent/spool"
)

// Op is an operation that can fail.
type Op string

// The operations that a hook sees.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpSyncDir  Op = "syncdir"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
)

// ErrShort makes a write do its first half and then fail.
var ErrShort = errors.New("memfs: short write")

// FS is a filesystem in memory. Its methods may be called concurrently.
type FS struct {
	mu       sync.Mutex
	names    map[string]*inode // as seen now
	durable  map[string]*inode // as after a crash
	journal  []func(map[string]*inode)
	locked   map[string]bool
	capacity int64 // 0: endless
	hook     func(op Op, name string) error
}

type inode struct {
	data    []byte
	synced  []byte
	pending []change // unsynced
}

// change is a write, or with a nil data a truncation to off.
type change struct {
	off  int64
	data []byte
}

var _ spool.FS = (*FS)(nil)

// New is an empty filesystem.
func New() *FS {
	return &FS{names: map[string]*inode{}, durable: map[string]*inode{}, locked: map[string]bool{}}
}

// SetHook has f called before every operation: an error makes it fail. It is
// called with the filesystem locked.
func (m *FS) SetHook(f func(op Op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = f
}

// SetCapacity bounds the bytes of all files; beyond it writes do what fits and
// fail with ENOSPC. 0 is endless.
func (m *FS) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Crash is what a power cut now leaves, as a filesystem of its own. r decides
// what survives of the unsynced; with nil nothing does.
func (m *FS) Crash(r *rand.Rand) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := New()
	names := maps.Clone(m.durable)
	if r != nil {
		for _, f := range m.journal[:r.IntN(len(m.journal)+1)] {
			f(names)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		data := names[name].crash(r)
		n := &inode{data: data, synced: slices.Clone(data)}
		out.names[name], out.durable[name] = n, n
	}
	return out
}

// crash is what is left of a file.
func (n *inode) crash(r *rand.Rand) []byte {
	data := slices.Clone(n.synced)
	if r == nil {
		return data
	}
	for _, c := range n.pending {
		switch r.IntN(3) {
		case 0: // lost
		case 1: // whole
			data = c.apply(data)
		case 2: // some of its sectors
			sector := 64 << (3 * r.IntN(3))
			for from := 0; from < len(c.data); from += sector {
				if r.IntN(2) == 0 {
					data = change{c.off + int64(from), c.data[from:min(from+sector, len(c.data))]}.apply(data)
				}
			}
		}
	}
	return data
}

func (c change) apply(data []byte) []byte {
	if c.data == nil {
		return slices.Clone(data[:min(int64(len(data)), c.off)])
	}
	if grow := c.off + int64(len(c.data)) - int64(len(data)); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	copy(data[c.off:], c.data)
	return data
}

// Flip inverts one bit of a file, synced as if it had always been so.
func (m *FS) Flip(name string, bit int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.names[filepath.Clean(name)]
	if !ok || bit/8 >= int64(len(n.data)) {
		return fmt.Errorf("memfs: flip bit %d of %s: %w", bit, name, fs.ErrNotExist)
	}
	n.data[bit/8] ^= 1 << (bit % 8)
	if bit/8 < int64(len(n.synced)) {
		n.synced[bit/8] ^= 1 << (bit % 8)
	}
	return nil
}

// Bytes is the size of all files together.
func (m *FS) Bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes()
}

func (m *FS) bytes() (total int64) {
	for _, n := range m.names {
		total += int64(len(n.data))
	}
	return total
}

func (m *FS) fail(op Op, name string) error {
	if m.hook == nil {
		return nil
	}
	if err := m.hook(op, name); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// rename changes names now, and durably once the journal is synced.
func (m *FS) change(f func(map[string]*inode)) {
	f(m.names)
	m.journal = append(m.journal, f)
}

// MkdirAll does nothing: a folder is there when a file is in it.
func (m *FS) MkdirAll(string) error { return nil }

// ReadDir lists the files in dir.
func (m *FS) ReadDir(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.names {
		if filepath.Dir(name) == filepath.Clean(dir) {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Create makes a new file.
func (m *FS) Create(name string) (spool.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if err := m.fail(OpCreate, name); err != nil {
		return nil, err
	}
	if _, ok := m.names[name]; ok {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n := &inode{}
	m.change(func(names map[string]*inode) { names[name] = n })
	return &file{m, n, name}, nil
}

// Open opens a file.
func (m *FS) Open(name string) (spool.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if err := m.fail(OpOpen, name); err != nil {
		return nil, err
	}
	n, ok := m.names[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{m, n, name}, nil
}

// Rename renames a file, over another if there is one.
func (m *FS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, to = filepath.Clean(from), filepath.Clean(to)
	if err := m.fail(OpRename, from); err != nil {
		return err
	}
	n, ok := m.names[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	m.change(func(names map[string]*inode) {
		delete(names, from)
		names[to] = n
	})
	return nil
}

// Remove removes a file.
func (m *FS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if err := m.fail(OpRemove, name); err != nil {
		return err
	}
	if _, ok := m.names[name]; !ok {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.change(func(names map[string]*inode) { delete(names, name) })
	return nil
}

// SyncDir makes all changes of names durable.
func (m *FS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fail(OpSyncDir, dir); err != nil {
		return err
	}
	m.durable, m.journal = maps.Clone(m.names), nil
	return nil
}

// Lock takes a lock that ends with Close, or with the crash.
func (m *FS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[name] {
		return nil, fmt.Errorf("%s: held by another process", name)
	}
	m.locked[name] = true
	return unlock(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.locked, name)
	}), nil
}

// Unlock lets go of all locks, as when the processes that hold them are killed.
func (m *FS) Unlock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.locked)
}

type unlock func()

func (u unlock) Close() error {
	u()
	return nil
}

type file struct {
	m    *FS
	n    *inode
	name string
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.fail(OpRead, f.name); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	n, failure := len(p), f.m.fail(OpWrite, f.name)
	switch {
	case errors.Is(failure, ErrShort):
		n /= 2
	case failure != nil:
		return 0, failure
	}
	if grow := off + int64(n) - int64(len(f.n.data)); f.m.capacity > 0 && grow > 0 {
		if free := max(f.m.capacity-f.m.bytes(), 0); grow > free {
			n = int(max(int64(n)-(grow-free), 0))
			failure = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	if n > 0 {
		f.n.write(change{off, slices.Clone(p[:n])})
	}
	return n, failure
}

func (n *inode) write(c change) {
	n.data = c.apply(n.data)
	n.pending = append(n.pending, c)
}

func (f *file) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.fail(OpTruncate, f.name); err != nil {
		return err
	}
	f.n.write(change{off: size})
	return nil
}

func (f *file) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.fail(OpSync, f.name); err != nil {
		return err
	}
	for _, c := range f.n.pending {
		f.n.synced = c.apply(f.n.synced)
	}
	f.n.pending = nil
	return nil
}

func (f *file) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *file) Close() error { return nil }
