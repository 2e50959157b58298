package exposition

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

const (
	maxOthers = 8  // names kept for a message
	maxOther  = 64 // bytes of each

	// What keeping takes beside the text: a sample, a label, an entry of a map.
	sampleBytes, labelBytes, entryBytes = 80, 32, 48
	slab                                = 512 // labels allocated at once
)

// Parse reads a page that is whole.
func Parse(r io.Reader, wanted func(name []byte) bool, l Limits) (*Page, error) {
	return parse(r, true, wanted, l)
}

// parse reads a page. Where it is not framed, a last line without an end may
// have been cut in the middle of a number, and is dropped.
func parse(r io.Reader, framed bool, wanted func(name []byte) bool, l Limits) (*Page, error) {
	limited := &io.LimitedReader{R: r, N: l.Bytes + 1}
	lines := lineReader{from: bufio.NewReaderSize(limited, max(l.Line, 16)+1)}
	p := &pageParser{
		limits: l,
		page:   &Page{},
		seen:   make(map[uint64]struct{}),
		names:  make(map[string]string),
	}
	for lines.next() {
		line := cutEnd(lines.line)
		switch name, rest, kind := nameOf(line); kind {
		case lineEmpty, lineComment:
		case lineType:
			if !lines.cut && wanted(name) {
				p.typeOf(name, bytes.TrimSpace(rest))
			}
		case lineSample:
			switch {
			case !wanted(name):
				p.other(name)
			case lines.cut:
				p.page.Drops.Long++
			case lines.unended && !framed:
				p.page.Drops.Malformed++
			default:
				p.sample(name, rest)
			}
		}
	}
	if lines.err != nil {
		return nil, lines.err
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("%w of %d bytes", ErrTooLong, l.Bytes)
	}
	return p.page, nil
}

// lineReader reads lines, of which it keeps a buffer's length.
type lineReader struct {
	from    *bufio.Reader
	line    []byte // until the next one
	cut     bool   // there is more of it, which is passed over
	unended bool   // the page ended before the line did
	last    bool
	err     error
}

func (l *lineReader) next() bool {
	for !l.last {
		rest := l.cut
		var err error
		l.line, err = l.from.ReadSlice('\n')
		l.cut = errors.Is(err, bufio.ErrBufferFull)
		l.last = err != nil && !l.cut
		l.unended = l.last
		if l.last && !errors.Is(err, io.EOF) {
			l.err = err
			return false
		}
		if !rest {
			return len(l.line) > 0
		}
	}
	return false
}

// pageParser keeps what is wanted of a page, within its limits.
type pageParser struct {
	limits   Limits
	page     *Page
	seen     map[uint64]struct{}
	names    map[string]string // every text once: labels repeat
	retained int64
	line     lineParser
	free     []attribution.Label
	hash     []byte
}

// typeOf takes a TYPE line.
func (p *pageParser) typeOf(name, kind []byte) {
	if len(kind) == 0 || len(kind) > 16 || len(p.page.Types) >= p.limits.Series || !p.fits(int64(len(name))) {
		return
	}
	if p.page.Types == nil {
		p.page.Types = make(map[string]string)
	}
	p.page.Types[p.intern(name)] = p.intern(kind)
}

// other remembers a name that nobody wanted.
func (p *pageParser) other(name []byte) {
	others := p.page.Others
	if len(others) == maxOthers || len(name) > maxOther || !isName(name) || slices.Contains(others, string(name)) {
		return
	}
	p.page.Others = append(p.page.Others, string(name))
}

// sample takes a line, or counts why not.
func (p *pageParser) sample(name, rest []byte) {
	drops := &p.page.Drops
	if len(p.page.Samples) >= p.limits.Series {
		drops.Excess++
		return
	}
	value, err := p.line.parse(rest, p.limits)
	switch {
	case errors.Is(err, errLabels):
		drops.Labels++
		return
	case err != nil:
		drops.Malformed++
		return
	case math.IsNaN(value) || math.IsInf(value, 0):
		drops.Value++
		return
	}
	id := p.id(name)
	if _, twice := p.seen[id]; twice {
		drops.Duplicate++
		return
	}
	if !p.fits(int64(len(name)) + sampleBytes + entryBytes + int64(len(p.line.labels))*(labelBytes+entryBytes) + p.line.bytes) {
		drops.Excess++
		return
	}
	p.seen[id] = struct{}{}
	p.retained += sampleBytes + entryBytes
	p.page.Samples = append(p.page.Samples, Sample{
		Name: p.intern(name), Labels: p.labels(), Value: value, ID: id,
	})
}

// fits says whether so many bytes more may be kept, at most.
func (p *pageParser) fits(n int64) bool { return p.retained+n <= p.limits.Retained }

// labels copies the line's labels.
func (p *pageParser) labels() attribution.Labels {
	n := len(p.line.labels)
	if n == 0 {
		return nil
	}
	if len(p.free) < n {
		p.free = make([]attribution.Label, max(slab, n))
	}
	ls := p.free[:n:n]
	p.free = p.free[n:]
	for i, l := range p.line.labels {
		ls[i] = attribution.Label{Key: p.intern(l.name), Value: p.intern(l.value)}
	}
	p.retained += int64(n) * labelBytes
	return ls
}

func (p *pageParser) intern(b []byte) string {
	if s, ok := p.names[string(b)]; ok {
		return s
	}
	s := strings.Clone(string(b))
	p.names[s] = s
	p.retained += int64(len(s)) + entryBytes
	return s
}

// id tells a series by its name and labels. It is a cryptographic hash: names
// of customers are theirs to choose, and must not meet another's series.
func (p *pageParser) id(name []byte) uint64 {
	h := appendPart(p.hash[:0], name)
	for _, l := range p.line.labels {
		h = appendPart(appendPart(h, l.name), l.value)
	}
	p.hash = h
	sum := sha256.Sum256(h)
	return binary.BigEndian.Uint64(sum[:])
}

func appendPart(to, part []byte) []byte {
	return append(binary.AppendUvarint(to, uint64(len(part))), part...)
}
