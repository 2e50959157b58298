package replay

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// Reader plays a recording: it is a [sampler.Script]. Its errors are *[Error].
// One goroutine uses it at a time; what its events point to is never changed.
type Reader struct {
	name   string
	in     *bufio.Reader
	closer io.Closer
	nodes  []sampler.Node
	dec    decoder

	line     int    // number of text
	text     []byte // the current line, without its end
	long     []byte // space for lines longer than the buffer
	cut      bool   // text ends at the file's end, not with a newline
	again    bool   // text has been read and not yet used
	declared int    // bytes
	err      error  // sticks
}

var _ sampler.Script = (*Reader)(nil)

// Open opens a recording. Its header and nodes have been read and checked.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	r, err := NewReader(f, path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.closer = f
	return r, nil
}

// NewReader reads a recording, plain or in gzip, from in; name is for errors.
func NewReader(in io.Reader, name string) (*Reader, error) {
	r := &Reader{name: name, in: bufio.NewReaderSize(in, 1<<16)}
	if magic, _ := r.in.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(r.in)
		if err != nil {
			r.line = 1
			return nil, r.broken(err)
		}
		r.in = bufio.NewReaderSize(z, 1<<16)
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	return r, nil
}

// Check reads a whole recording and counts what is in it. If it returns no
// error, a Reader of the same file will not either.
func Check(path string) (Summary, error) {
	r, err := Open(path)
	if err != nil {
		return Summary{}, err
	}
	var e sampler.Event
	for err == nil {
		err = r.Next(&e)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return r.Summary(), errors.Join(err, r.Close())
}

// Header is the recording's header.
func (r *Reader) Header() Header { return r.dec.rules.header }

// Summary counts what has been read so far.
func (r *Reader) Summary() Summary {
	s := r.dec.rules.summary
	s.Records = max(0, r.line-1)
	if r.again || errors.Is(r.err, io.EOF) {
		s.Records-- // the line ahead, or the end, is not among them
	}
	return s
}

// Nodes lists the nodes.
func (r *Reader) Nodes() []sampler.Node { return slices.Clone(r.nodes) }

// Start is the header's start.
func (r *Reader) Start() int64 { return r.dec.rules.header.Start }

// End is the header's end.
func (r *Reader) End() int64 { return r.dec.rules.header.End }

// Horizon is the header's longest interval.
func (r *Reader) Horizon() int64 { return r.dec.rules.header.MaxInterval }

// Close closes the file that Open opened.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	if err := r.closer.Close(); err != nil {
		return fmt.Errorf("close recording: %w", err)
	}
	return nil
}

// begin reads the header and the nodes, and the line behind them.
func (r *Reader) begin() error {
	if err := r.read(); err != nil {
		return err
	}
	s := &r.dec.scanner
	s.reset(r.text)
	if kind := s.kind(); s.bad != nil || kind != "recording" {
		s.bad = faultf("a recording begins {\"kind\":\"recording\",…; gpuledger import makes one of a trace", "this is not a recording")
		return r.fault(s.bad)
	}
	h := s.header()
	if s.bad == nil {
		s.bad = h.check()
	}
	if s.bad != nil {
		return r.fault(s.bad)
	}
	line := slices.Clone(r.text)
	r.dec.rules = newRules(h)
	r.dec.owners = make(map[string]*attribution.Owner)
	r.dec.strings = make(map[string]string)
	for {
		if err := r.read(); err != nil {
			return err
		}
		s.reset(r.text)
		if kind := s.kind(); s.bad != nil || kind != "node" {
			break
		}
		n := r.dec.nodeLine()
		if s.bad == nil {
			s.bad = r.dec.rules.node(n)
		}
		if s.bad != nil {
			return r.fault(s.bad)
		}
		n.Boot = bootOf(&h, line, n)
		r.nodes = append(r.nodes, n)
	}
	if len(r.nodes) == 0 {
		return r.fault(faultf("declare them behind the header", "a recording without nodes"))
	}
	r.again = true
	return nil
}

// Next fills e with the next event; see [sampler.Script].
func (r *Reader) Next(e *sampler.Event) error {
	for r.err == nil {
		if r.again {
			r.again = false
		} else if r.read() != nil {
			break
		}
		var records int64
		switch r.dec.decode(r.text, e, &records) {
		case lineEvent:
			if f := r.dec.rules.event(e); f != nil {
				return r.fault(f)
			}
			if e.Kind != sampler.DeviceAdded {
				return nil
			}
			if r.retain() == nil {
				return nil
			}
		case lineDeclares:
			_ = r.retain() // sticks
		case lineEnd:
			return r.finish(records)
		case lineBad:
			if r.cut {
				return r.fault(faultf("copy or make it again", "the recording is truncated within a line"))
			}
			return r.fault(r.dec.bad)
		}
	}
	return r.err
}

// retain bounds what declarations may keep in memory.
func (r *Reader) retain() error {
	if r.declared += len(r.text); r.declared > maxDeclared {
		return r.fault(faultf("split the recording by time", "owners and devices take more than %d MiB", maxDeclared>>20))
	}
	return nil
}

// finish makes sure that the end is one.
func (r *Reader) finish(records int64) error {
	if got := int64(r.line - 2); records != got {
		return r.fault(faultf("lines were lost or added: make it again", "the end counts %d records, but there are %d", records, got))
	}
	end := r.line
	if r.read() == nil {
		return r.fault(faultf("one file is one recording", "something follows the end"))
	}
	if r.line == end { // read found nothing: the end is the end
		r.err = io.EOF
	}
	return r.err
}

// read reads the next line into text. At the end of the input it fails, since
// an end line must have stopped the reading before.
func (r *Reader) read() error {
	text, err := r.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		r.long = append(r.long[:0], text...)
		for errors.Is(err, bufio.ErrBufferFull) && len(r.long) <= maxLine {
			text, err = r.in.ReadSlice('\n')
			r.long = append(r.long, text...)
		}
		text = r.long
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		r.line++
		return r.broken(err)
	}
	if len(text) == 0 {
		r.err = &Error{File: r.name, Line: r.line + 1, What: "the recording is truncated: it has no end line", Hint: "copy or make it again"}
		if r.line == 0 {
			r.err = &Error{File: r.name, Line: 1, What: "the file is empty", Hint: "gpuledger import makes a recording of a trace"}
		}
		return r.err
	}
	r.line++
	if len(text) > maxLine {
		return r.fault(faultf("declare what repeats, and split the rest", "the line is longer than %d bytes", maxLine))
	}
	r.cut = text[len(text)-1] != '\n'
	if !r.cut {
		text = text[:len(text)-1]
	}
	r.text = text
	return nil
}

// fault puts a place to a fault, and sticks.
func (r *Reader) fault(f *fault) error {
	r.err = &Error{File: r.name, Line: r.line, What: f.what, Hint: f.hint}
	return r.err
}

// broken is the error of an input that cannot be read on.
func (r *Reader) broken(err error) error {
	hint := "copy or make it again"
	what := "the file cannot be read"
	if errors.Is(err, io.ErrUnexpectedEOF) {
		what = "the recording is truncated"
	}
	r.err = &Error{File: r.name, Line: r.line, What: what, Hint: hint, Err: err}
	return r.err
}
