// Package exposition reads metrics pages in Prometheus' text format, and
// OpenMetrics', within bounds, whatever they hold.
//
// A page is read line by line. Lines of families that nobody wants are passed
// over and cost next to nothing; a line that is broken costs no other. What is
// wanted and cannot be kept is counted by reason, in [Drops].
//
// Left out on purpose: times of samples (what is read is what is now),
// exemplars, HELP and UNIT. NaN and the infinities are no counts and no
// gauges of ours; they are dropped and counted.
package exposition

import (
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// Limits bounds a page. What reaches Bytes, or Timeout, is no page at all: an
// error. Everything else costs the series that are beyond it.
type Limits struct {
	Bytes      int64         // of the page, after decompression
	Line       int           // bytes
	Series     int           // that are kept
	Labels     int           // of a series
	LabelBytes int           // names and values of a series' labels
	Retained   int64         // bytes that the kept series take in memory, about
	Timeout    time.Duration // from the request to the page's last byte
}

// DefaultLimits are enough for any server of a table of models: vLLM's page
// has 100 KB, and 400 series that count.
func DefaultLimits() Limits {
	return Limits{
		Bytes:      16 << 20,
		Line:       16 << 10,
		Series:     8192,
		Labels:     64,
		LabelBytes: 4096,
		Retained:   4 << 20,
		Timeout:    4 * time.Second,
	}
}

// Page is what was wanted of a page. It belongs to who asked for it.
type Page struct {
	// Samples are in the page's order, no series twice.
	Samples []Sample
	// Types has what TYPE lines say of wanted families, also of those without
	// a sample.
	Types map[string]string
	// Others are the first few names of families that were not wanted, for
	// a message to people.
	Others []string
	// Drops counts what was wanted and is not here.
	Drops Drops
}

// Sample is one series' value, finite.
type Sample struct {
	Name   string
	Labels attribution.Labels
	Value  float64
	// ID is a hash of name and labels, the same on every page and machine.
	ID uint64
}

// Drops counts lines by why they were dropped.
type Drops struct {
	Malformed uint64 // not in the format, or cut off at the page's end
	Long      uint64 // longer than Limits.Line
	Labels    uint64 // beyond Limits.Labels or LabelBytes
	Duplicate uint64 // of a series that is already there: the first one counts
	Excess    uint64 // beyond Limits.Series or Retained
	Value     uint64 // NaN or an infinity
}

// Missing is how many series may have been wanted and cannot be told: with
// any, the page is not whole.
func (d Drops) Missing() uint64 { return d.Malformed + d.Long + d.Labels + d.Excess + d.Value }
