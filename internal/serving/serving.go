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

import "github.com/gpuledger/gpuledger/attribution"

// Subject is what a series counts: requests for a model, of a customer and
// tier, that went to a backend; "" where the series does not say.
type Subject struct {
	Model   string
	Tenant  string
	Tier    string
	Backend string // of gateways: the address of the server that answered
}

// Reading is what one page says, once.
type Reading struct {
	Format string // name of the format that it was read by, such as "vllm"
	// Started is when the counts began at 0, Unix ns; 0 where the page does not
	// say. Another start is a reset, whatever the counts.
	Started int64
	// Counts are cumulative and ordered by (subject, measure), each pair once.
	// A pair that is there with 0 is measured: none. A pair that is not there
	// is not measured.
	Counts []Value
	// Gauges are as of now: [attribution.Queue], [attribution.Running] and
	// [attribution.KVCache], in millionths, not yet times seconds.
	Gauges []Value
}

// Value is a count, a gauge, or a difference of counts, in the measure's unit.
type Value struct {
	Subject Subject
	Measure attribution.Measure
	Value   int64
}
