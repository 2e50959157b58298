package dcgm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"strconv"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	maxPage     = 8 << 20  // bytes; 8 GPUs cut in 7, at 60 fields, come to 2 MiB
	maxLine     = 16 << 10 // bytes
	maxSeries   = 4096     // of the fields that are read
	maxLabels   = 64
	maxInstance = 256 // NVML's numbers stay below 16
)

var (
	errTooLong  = fmt.Errorf("the page is longer than %d MiB", maxPage>>20)
	errNoSeries = errors.New("the page has no SM activity")
)

// page is what a scrape has brought.
type page struct {
	readings []Reading // At is 0 where the page has no time
	hash     uint64    // over all lines of DCGM's fields: another when it has read anew
	drops    Drops
}

// parser reads pages. Fields are looked for by metric name.
type parser struct {
	wanted map[string]Field
	seed   maphash.Seed
}

func newParser(fields []Field, renamed map[Field]string) *parser {
	p := &parser{wanted: make(map[string]Field), seed: maphash.MakeSeed()}
	for _, f := range fields {
		names := f.names()
		if name := renamed[f]; name != "" {
			names = []string{name}
		}
		for _, name := range names {
			p.wanted[name] = f
		}
	}
	return p
}

// parse reads a page in Prometheus' text format, line by line: those of other
// metrics are passed over, so that they cost nothing, and one that is broken
// costs no other.
func (p *parser) parse(r io.Reader) (*page, error) {
	limited := &io.LimitedReader{R: r, N: maxPage + 1}
	lines := lineReader{from: bufio.NewReaderSize(limited, maxLine)}
	out := &page{}
	var hash maphash.Hash
	hash.SetSeed(p.seed)
	text := expfmt.NewTextParser(model.UTF8Validation)
	for series := 0; lines.next(); {
		name := lines.line
		if end := bytes.IndexAny(name, "{ \t\r\n"); end >= 0 {
			name = name[:end]
		}
		field, wanted := p.wanted[string(name)]
		if wanted || bytes.HasPrefix(name, []byte("DCGM_")) {
			_, _ = hash.Write(lines.line) // never fails
		}
		switch {
		case !wanted:
		case lines.cut:
			out.drops.Malformed++
		case series == maxSeries:
			out.drops.Excess++
		default:
			series++
			out.add(&text, field, lines.line)
		}
	}
	if lines.err != nil {
		return nil, lines.err
	}
	if limited.N <= 0 {
		return nil, errTooLong
	}
	out.hash = hash.Sum64()
	return out, nil
}

// lineReader reads lines, of which it keeps maxLine bytes.
type lineReader struct {
	from *bufio.Reader
	line []byte // until the next one
	cut  bool   // there is more of it, which is passed over
	last bool
	err  error
}

func (l *lineReader) next() bool {
	for {
		if l.last {
			return false
		}
		rest := l.cut
		var err error
		l.line, err = l.from.ReadSlice('\n')
		l.cut = errors.Is(err, bufio.ErrBufferFull)
		l.last = err != nil && !l.cut
		if l.last && !errors.Is(err, io.EOF) {
			l.err = err
			return false
		}
		if !rest {
			return len(l.line) > 0
		}
	}
}

// add takes a line, or counts why not.
func (p *page) add(text *expfmt.TextParser, f Field, line []byte) {
	if line[len(line)-1] != '\n' {
		line = append(bytes.Clone(line), '\n')
	}
	families, err := text.TextToMetricFamilies(bytes.NewReader(line))
	if err != nil || len(families) != 1 {
		p.drops.Malformed++
		return
	}
	for _, family := range families {
		if len(family.Metric) != 1 || family.Metric[0].Untyped == nil {
			p.drops.Malformed++
			return
		}
		m := family.Metric[0]
		reading, ok := readingOf(m.Label)
		if !ok {
			p.drops.Malformed++
			return
		}
		share, ok := millionths(m.Untyped.GetValue())
		if !ok {
			p.drops.Value++
			return
		}
		reading.Field, reading.Share = f, share
		if m.TimestampMs != nil { // 0 is kept for none
			reading.At = max(1, min(m.GetTimestampMs(), math.MaxInt64/1_000_000)*1_000_000)
		}
		p.readings = append(p.readings, reading)
	}
}

// readingOf finds the GPU and the instance in a series' labels.
func readingOf(labels []*dto.LabelPair) (Reading, bool) {
	r := Reading{GPUInstance: -1, ComputeInstance: -1}
	if len(labels) > maxLabels {
		return r, false
	}
	for _, l := range labels {
		switch l.GetName() {
		case "UUID", "uuid":
			r.GPU = l.GetValue()
		case "GPU_I_ID":
			if l.GetValue() == "" {
				continue
			}
			n, err := strconv.ParseUint(l.GetValue(), 10, 32)
			if err != nil || n >= maxInstance {
				return r, false
			}
			r.GPUInstance = int(n)
		}
	}
	return r, isUUID(r.GPU)
}

// isUUID says whether s may be NVML's name of a GPU.
func isUUID(s string) bool {
	if s == "" || len(s) > 96 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
