// Package serving is what the servers of models, and the gateways before them,
// tell of themselves on their metrics pages.
//
// # The way of a count
//
//	exposition ─▶ format ─▶ Reading ─▶ Tracker ─▶ what was served since the last reading
//
// An exposition is read within bounds, whatever it holds. A format recognises
// the program behind it and turns its series into a [Reading]: cumulative
// counts of subjects, in the ledger's own measures. A [Tracker] remembers the
// last reading of each server and yields differences, through restarts of the
// server and of the program that reads.
//
// Both the agent (servers in pods) and the collector (gateways) read this way.
package serving

import (
	"cmp"

	"github.com/gpuledger/gpuledger/attribution"
)

// Subject is what a series counts: requests for a model, of a customer and
// tier, that went to a backend; "" where the series does not say.
type Subject struct {
	Model   string
	Tenant  string
	Tier    string
	Backend string // of gateways: the address of the server that answered
}

// Compare orders subjects by model, tenant, tier and backend.
func (s Subject) Compare(o Subject) int {
	return cmp.Or(
		cmp.Compare(s.Model, o.Model),
		cmp.Compare(s.Tenant, o.Tenant),
		cmp.Compare(s.Tier, o.Tier),
		cmp.Compare(s.Backend, o.Backend),
	)
}

// Reading is what one page says, once.
type Reading struct {
	Format string // name of the format that it was read by, such as "vllm"
	// Started is when the page says that the counts began at 0, Unix ns; 0
	// where it does not say. Another start is a reset, whatever the counts.
	Started int64
	// Counts are cumulative and ordered by (subject, measure, series), each
	// triple once. A pair of subject and measure that is there with 0 is
	// measured: none. A pair that is not there is not measured.
	Counts []Count
	// Unsettled has the pairs whose sums may fall, with how much may still be
	// taken back because requests are in flight: only what exceeds it is
	// counted yet. It is ordered by (subject, measure), each pair once; most
	// servers have none.
	Unsettled []Value
	// Gauges are as of now: [attribution.Queue], [attribution.Running] and
	// [attribution.KVCache], in millionths, not yet times seconds; ordered by
	// (subject, measure), each pair once.
	Gauges []Value
	// Partial says that the page was not read whole: a series that is missing
	// may have been there.
	Partial bool
	// Rules tells the rules that it was read by from others: by other ones,
	// a series that is new to the tracker need not be new.
	Rules uint64
	// Dropped is how many series were wanted and held no value that can be
	// counted: negative, or beyond 64 bits.
	Dropped int
}

// Count is one series of a server: what it adds to a pair of subject and
// measure, or takes away from it. Each series rises for itself, so that one
// that begins anew, or was cut off the page, does not hide in a sum.
type Count struct {
	Subject Subject
	Measure attribution.Measure
	Series  uint64 // what the series is told by; the same in every reading
	Value   int64  // ≥ 0, in the measure's unit
	Minus   bool   // the series counts what is not the measure's
}

// Value is a count, a gauge, or a difference of counts, in the measure's unit.
type Value struct {
	Subject Subject
	Measure attribution.Measure
	Value   int64
}

// ComparePair orders values by subject and measure.
func (v Value) ComparePair(o Value) int {
	return cmp.Or(v.Subject.Compare(o.Subject), cmp.Compare(v.Measure, o.Measure))
}
