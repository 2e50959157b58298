package traces

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The most that is read of one file, unpacked: traces are a few MB, and what
// unpacks to more is no trace.
const (
	maxBytes = 1 << 30
	maxRows  = 10_000_000
)

// row is one row of a table. Its fields are in the order of the columns asked
// for and valid during the call only.
type row struct {
	file   string
	line   int
	fields []string
}

// errorf is an error at this row.
func (r *row) errorf(format string, args ...any) error {
	return fmt.Errorf("%s line %d: %w", r.file, r.line, fmt.Errorf(format, args...))
}

// each calls f for each row of the CSV file name, or name.gz, in the job's
// folder; hint says which folder that should be. The file may have more columns
// than are asked for, in any order. Its digest goes into the job's inputs.
func (j *job) each(name, hint string, columns []string, f func(*row) error) (err error) {
	file, path, err := j.open(name, hint)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var in io.Reader = bufio.NewReaderSize(file, 1<<16)
	if magic, _ := in.(*bufio.Reader).Peek(2); string(magic) == "\x1f\x8b" {
		if in, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("%s: %w (copy it again)", path, err)
		}
	}
	digest := sha256.New()
	in = &bounded{io.TeeReader(in, digest), maxBytes}
	table := csv.NewReader(in)
	table.ReuseRecord = true
	where, err := header(table, path, columns)
	if err != nil {
		return err
	}
	r := row{file: path, fields: make([]string, len(columns))}
	for n := 0; ; n++ {
		record, err := table.Read()
		if errors.Is(err, io.EOF) {
			j.progress(Progress{"read " + filepath.Base(path), n, n})
			j.inputs[name] = hex.EncodeToString(digest.Sum(nil))
			return nil
		}
		if err != nil {
			return tableError(path, err)
		}
		r.line, _ = table.FieldPos(0)
		if n == maxRows {
			return r.errorf("more than %d rows", maxRows)
		}
		if n%10_000 == 0 {
			j.progress(Progress{"read " + filepath.Base(path), n, 0})
			if err := j.ctx.Err(); err != nil {
				return err
			}
		}
		for i, w := range where {
			r.fields[i] = record[w]
		}
		if err := f(&r); err != nil {
			return err
		}
	}
}

func (j *job) open(name, hint string) (*os.File, string, error) {
	for _, n := range []string{name, name + ".gz"} {
		path := filepath.Join(j.dir, n)
		f, err := os.Open(path)
		if err == nil {
			return f, path, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, "", err
		}
	}
	return nil, "", fmt.Errorf("no %s or %s.gz in %s: point to the folder with %s: %w", name, name, j.dir, hint, os.ErrNotExist)
}

// header finds the columns asked for in a table's first line.
func header(table *csv.Reader, path string, columns []string) ([]int, error) {
	names, err := table.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s line 1: the file is empty", path)
	}
	if err != nil {
		return nil, tableError(path, err)
	}
	at := make(map[string]int)
	for i, n := range names {
		if _, twice := at[n]; twice {
			return nil, fmt.Errorf("%s line 1: column %q is there twice", path, n)
		}
		at[n] = i
	}
	where := make([]int, len(columns))
	for i, c := range columns {
		var there bool
		if where[i], there = at[c]; !there {
			return nil, fmt.Errorf("%s line 1: no column %q: is it the right trace?", path, c)
		}
	}
	return where, nil
}

// tableError names the file; csv names the line of what it finds malformed.
func tableError(path string, err error) error {
	if bad, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("%s line %d: %w", path, bad.Line, bad.Err)
	}
	return fmt.Errorf("%s: %w (copy it again)", path, err)
}

// bounded fails where a LimitedReader would feign the end.
type bounded struct {
	in   io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("it unpacks to more than %d MiB", maxBytes>>20)
	}
	return n, err
}
