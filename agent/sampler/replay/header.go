package replay

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// Header is a recording's first line: where it comes from and what time it
// covers.
type Header struct {
	// Source names what was recorded, such as "gentd26". Notes say what a
	// reader of the figures must know, such as which of them are assumptions.
	Source, Notes string
	// Start and End bound every event, in Unix ns.
	Start, End int64
	// MaxInterval is the longest time in ns between two samples of a device
	// that are not marked as a gap, and the longest that a tally covers.
	MaxInterval int64
	// Boot is the life of the nodes' spools that the recording stands for. If
	// zero it is derived from the header, so playing a recording twice into one
	// ledger changes nothing the second time.
	Boot attribution.Boot
	// Inputs are the digests of what the recording was made from, and Options
	// how: they keep apart recordings that otherwise have the same header.
	Inputs, Options map[string]string
}

// Summary counts what is in a recording.
type Summary struct {
	Header                                                   Header
	Records                                                  int // lines between the header and the end
	Nodes, Owners, Devices, Holdings, Samples, Gaps, Tallies int
}

var headerKeys = keys{"version", "source", "start", "end", "max_interval_s", "notes", "boot", "inputs", "options"}

func (h *Header) check() *fault {
	switch {
	case h.Source == "":
		return faultf("say what was recorded", "a recording without a source")
	case h.Start < 0 || h.End <= h.Start || h.End > maxTime:
		return faultf("they are Unix seconds up to the year 2100", "start %s and end %s", clock(h.Start), clock(h.End))
	case h.End-h.Start > maxDuration:
		return faultf("split it", "a recording longer than 400 days")
	case h.MaxInterval < attribution.WindowNanos || h.MaxInterval > maxInterval:
		return faultf("it is 1 to 3600 seconds", "max_interval_s %s", clock(h.MaxInterval))
	case len(h.Inputs) > maxLabels || len(h.Options) > maxLabels:
		return faultf("say less", "more than %d inputs or options", maxLabels)
	}
	return nil
}

// header reads a first line behind its kind.
func (s *scanner) header() (h Header) {
	var seen uint32
	for s.more('}') {
		switch s.key(headerKeys, &seen) {
		case 0:
			if v := s.int(maxTime); s.bad == nil && v != Version {
				s.fail("it needs another release of gpuledger", "version %d of the format, where this program reads %d", v, Version)
			}
		case 1:
			h.Source = s.text()
		case 2:
			h.Start = s.time()
		case 3:
			h.End = s.time()
		case 4:
			h.MaxInterval = s.time()
		case 5:
			h.Notes = s.text()
		case 6:
			h.Boot = s.boot()
		case 7:
			h.Inputs = s.labels().Map()
		case 8:
			h.Options = s.labels().Map()
		}
	}
	s.end()
	s.need(headerKeys, seen, 5)
	return h
}

func (s *scanner) boot() (b attribution.Boot) {
	text := s.bytes()
	if len(text) != hex.EncodedLen(len(b)) {
		s.fail("it is 32 hex digits; leave it out to have it derived", "boot of %d characters", len(text))
		return b
	}
	if _, err := hex.Decode(b[:], text); err != nil {
		s.fail("it is 32 hex digits; leave it out to have it derived", "malformed boot")
	}
	return b
}

// time reads seconds with up to nine digits after the point, in ns.
func (s *scanner) time() int64 { return int64(s.fixed(9, uint64(maxTime))) }

// labels reads an object of strings.
func (s *scanner) labels() attribution.Labels {
	var ls attribution.Labels
	for s.open('{'); s.more('}'); {
		key := s.text()
		s.take(':')
		ls = append(ls, attribution.Label{Key: key, Value: s.text()})
		if len(ls) > maxLabels {
			s.fail("keep those that rules may ask for", "more than %d entries", maxLabels)
		}
	}
	slices.SortFunc(ls, func(a, b attribution.Label) int { return cmp.Compare(a.Key, b.Key) })
	if f := checkLabels(ls); f != nil && s.bad == nil {
		s.bad = f
	}
	return ls
}

// bootOf is a node's boot: the header's own, else a digest of the header's line
// and the node.
func bootOf(h *Header, line []byte, n sampler.Node) (b attribution.Boot) {
	if h.Boot != (attribution.Boot{}) {
		return h.Boot
	}
	text := slices.Concat(line, []byte("\x00"+n.Cluster+"\x00"+n.Name))
	sum := sha256.Sum256(text)
	copy(b[:], sum[:])
	return b
}
