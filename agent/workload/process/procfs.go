package process

import (
	"errors"
	"strconv"
	"syscall"
)

// files is what a Table reads of a proc file system.
type files interface {
	// open opens a process's stat.
	open(pid uint32) (procFile, error)
	// name opens a process's comm, which the kernel gives at a quarter of what a
	// stat costs: of that it makes 52 numbers whoever reads how much.
	name(pid uint32) (procFile, error)
	// cgroup reads a process's cgroups into buf, as far as they fit.
	cgroup(pid uint32, buf []byte) (int, error)
}

// procFile is an open file of one process.
type procFile interface {
	// read reads it anew, as far as it fits. It fails once the process has
	// ended, whoever has its pid then.
	read(buf []byte) (int, error)
	close()
}

// procFS is a mounted proc file system. It uses bare descriptors: an os.File
// would take a second system call for every read, to find the end.
type procFS string

func (p procFS) path(pid uint32, name string) string {
	return string(p) + "/" + strconv.FormatUint(uint64(pid), 10) + "/" + name
}

func (p procFS) open(pid uint32) (procFile, error) {
	fd, err := openFile(p.path(pid, "stat"))
	return descriptor(fd), err
}

func (p procFS) name(pid uint32) (procFile, error) {
	fd, err := openFile(p.path(pid, "comm"))
	return descriptor(fd), err
}

func (p procFS) cgroup(pid uint32, buf []byte) (int, error) {
	return readFile(p.path(pid, "cgroup"), buf)
}

// descriptor is an open file.
type descriptor int

func (d descriptor) read(buf []byte) (int, error) {
	return uninterrupted(func() (int, error) { return syscall.Pread(int(d), buf, 0) })
}

func (d descriptor) close() { _ = syscall.Close(int(d)) }

// openFile opens a file to read.
func openFile(name string) (int, error) {
	return uninterrupted(func() (int, error) { return syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
}

// readFile reads a file into buf, as far as it fits.
func readFile(name string, buf []byte) (n int, err error) {
	fd, err := openFile(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = syscall.Close(fd) }()
	for n < len(buf) {
		m, err := uninterrupted(func() (int, error) { return syscall.Read(fd, buf[n:]) })
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

func uninterrupted(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// openLimit is how many files this process may have open, as far as is known.
func openLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<30 {
		return 1 << 30
	}
	return int(l.Cur)
}
