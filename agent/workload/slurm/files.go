package slurm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// Bounds of what is read. Beyond them a directory or a file is unreadable.
const (
	MaxFiles     = 1024 // names in the directory
	MaxFileBytes = 64 << 10
	MaxJobs      = 256 // of a file
	MaxJobBytes  = 64  // of a job's id
)

// jobFile is what a file of the directory says.
type jobFile struct {
	name gpuName
	jobs []string // sorted, each once
	bad  int      // lines that are no job
	err  error    // it can't be read: its jobs are unknown
}

// gpuName is a file's name, understood.
type gpuName struct {
	uuid     string
	number   int
	minor    bool // number is the minor number, and not the index
	instance int  // of the GPU, −1 for all of it
}

// parseName understands a file's name; false if it is no GPU's.
func parseName(name string) (gpuName, bool) {
	if strings.HasPrefix(name, "GPU-") || strings.HasPrefix(name, "MIG-") {
		return gpuName{uuid: name, instance: -1}, true
	}
	if n, ok := strings.CutPrefix(name, "nvidia"); ok {
		number, ok := parseNumber(n)
		return gpuName{number: number, minor: true, instance: -1}, ok
	}
	gpu, instance, cut := strings.Cut(name, ".")
	n := gpuName{instance: -1}
	var ok bool
	if n.number, ok = parseNumber(gpu); !ok {
		return n, false
	}
	if cut {
		n.instance, ok = parseNumber(instance)
	}
	return n, ok
}

// parseNumber takes digits alone.
func parseNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

// of reports whether a device is one that the name means. noIndex says that no
// GPU has a known index.
func (n *gpuName) of(u *sampler.Unit, noIndex bool) bool {
	if n.uuid != "" {
		return u.ID == n.uuid || u.Parent == n.uuid
	}
	number := u.Index
	if n.minor || noIndex {
		number = u.Minor
	}
	return number == n.number && (n.instance < 0 || (u.GPUInstance == n.instance && !u.Remainder))
}

// readDir reads the directory's job files, in order of their names.
func readDir(dir string) ([]jobFile, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(MaxFiles + 1)
	if err := errors.Join(ignoreEOF(err), d.Close()); err != nil {
		return nil, err
	}
	if len(names) > MaxFiles {
		return nil, fmt.Errorf("%s has more than %d files: is it the directory of job files?", dir, MaxFiles)
	}
	slices.Sort(names)
	var files []jobFile
	for _, name := range names {
		n, ok := parseName(name)
		if !ok {
			continue
		}
		f := jobFile{name: n}
		text, err := readFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it has just been removed
		case err == nil:
			err = f.parse(text)
		}
		if err != nil {
			f.err = fmt.Errorf("job file %s: %w", name, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readFile reads a regular file, and waits for nobody: whoever may write the
// directory may put a pipe there, or a link to what only root may read.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err == nil && len(b) > MaxFileBytes {
		err = fmt.Errorf("%s has more than %d bytes", name, MaxFileBytes)
	}
	return b, err
}

// parse takes the jobs out of a file's text.
func (f *jobFile) parse(text []byte) error {
	for line := range bytes.Lines(text) {
		word, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
		word, _, _ = bytes.Cut(word, []byte{'\t'})
		switch {
		case len(word) == 0:
			continue
		case !isJob(word):
			f.bad++
			continue
		}
		i, there := slices.BinarySearch(f.jobs, string(word))
		if there {
			continue
		}
		if len(f.jobs) >= MaxJobs {
			f.jobs = nil
			return fmt.Errorf("more than %d jobs on one GPU", MaxJobs)
		}
		f.jobs = slices.Insert(f.jobs, i, string(word))
	}
	return nil
}

// isJob reports whether a word can be a job's id: short, and printable.
func isJob(word []byte) bool {
	if len(word) > MaxJobBytes || !utf8.Valid(word) {
		return false
	}
	return bytes.IndexFunc(word, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
