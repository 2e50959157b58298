package main

import (
	"io"
	"math/big"
	"slices"
	"strings"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// The sections of the table of inferences.
const (
	sectionCost    = "cost"
	sectionTokens  = "tokens"
	sectionWaste   = "waste"
	sectionLatency = "latency"
	sectionLoad    = "load"
)

func sectionNames() []string {
	return []string{sectionCost, sectionTokens, sectionWaste, sectionLatency, sectionLoad}
}

// section is some columns of the table, and what to say where they are empty.
type section struct {
	columns []column
	why     func(*pb.UnitCost) []string
}

type column struct {
	head string // CUR stands for the currency
	cell func(*pb.UnitCost) string
}

// reasons yields a row's reasons on some topics.
func reasons(topics ...string) func(*pb.UnitCost) []string {
	return func(r *pb.UnitCost) []string {
		var out []string
		for _, t := range topics {
			out = append(out, strings.Split(r.GetReasons()[t], "; ")...)
		}
		return out
	}
}

// sectionsOf are the sections to show, in their order, each without what
// another one has shown already.
func sectionsOf(res *pb.UnitCostsResponse, show []string) []section {
	var out []section
	if slices.Contains(res.GetGroupBy(), "tenant") {
		out = append(out, section{columns: []column{{"SEEN BY", (*pb.UnitCost).GetTenantSource}}, why: reasons()})
	}
	out = append(out, section{columns: []column{{">COST CUR", func(r *pb.UnitCost) string { return moneyText(r.GetAllocationCost()) }}}, why: reasons()})
	if slices.Contains(show, sectionCost) {
		out = append(out, costSection())
	} else {
		out = append(out, section{
			columns: []column{{">INFERENCES", func(r *pb.UnitCost) string { return countText(r.GetInferences()) }}},
			why:     reasons("inferences", "price"),
		})
	}
	if slices.Contains(show, sectionTokens) {
		out = append(out, tokensSection())
	}
	if slices.Contains(show, sectionWaste) {
		out = append(out, wasteSection())
	}
	if slices.Contains(show, sectionLatency) {
		out = append(out, latencySection())
	}
	if res.GetLatencyTargetMs() != "" {
		out = append(out, goodSection())
	}
	if slices.Contains(show, sectionLoad) {
		out = append(out, loadSection())
	}
	return out
}

func costSection() section {
	return section{[]column{
		{">USED", func(r *pb.UnitCost) string { return percentText(r.GetUsedTimeNs(), r.GetDeviceTimeNs()) }},
		{">INFERENCES", func(r *pb.UnitCost) string { return countText(r.GetInferences()) }},
		{">PER 1K (ALLOCATION)", func(r *pb.UnitCost) string { return moneyText(r.GetPer_1KInferencesAllocation()) }},
		{">PER 1K (USAGE)", func(r *pb.UnitCost) string { return moneyText(r.GetPer_1KInferencesUsage()) }},
		{">PER 1M TOKENS", func(r *pb.UnitCost) string { return moneyText(r.GetPer_1MTokensAllocation()) }},
		{">COVERAGE", func(r *pb.UnitCost) string { return percentText(r.GetCoverage(), "1") }},
	}, func(r *pb.UnitCost) []string { return strings.Split(r.GetReason(), "; ") }}
}

func tokensSection() section {
	return section{[]column{
		{">INPUT", func(r *pb.UnitCost) string { return countText(r.GetInputTokens()) }},
		{">OF IT CACHED", func(r *pb.UnitCost) string { return countText(r.GetCachedTokens()) }},
		{">OUTPUT", func(r *pb.UnitCost) string { return countText(r.GetOutputTokens()) }},
		{">PER 1M INPUT", func(r *pb.UnitCost) string { return moneyText(r.GetPer_1MInputAllocation()) }},
		{">PER 1M CACHED", func(r *pb.UnitCost) string { return moneyText(r.GetPer_1MCachedAllocation()) }},
		{">PER 1M OUTPUT", func(r *pb.UnitCost) string { return moneyText(r.GetPer_1MOutputAllocation()) }},
	}, reasons("token types")}
}

func wasteSection() section {
	return section{[]column{
		{">FAILURES", func(r *pb.UnitCost) string { return countText(r.GetFailures()) }},
		{">ERROR RATE", func(r *pb.UnitCost) string { return percentText(r.GetErrorRate(), "1") }},
		{">FAILED COST", func(r *pb.UnitCost) string { return moneyText(r.GetFailedCost()) }},
		{"MOSTLY", mostly},
		{">ABORTED TOKENS", func(r *pb.UnitCost) string { return countText(r.GetAbortedTokens()) }},
		{">THEIR COST", func(r *pb.UnitCost) string { return moneyText(r.GetAbortedCost()) }},
	}, reasons("failures", "aborted tokens")}
}

func latencySection() section {
	return section{[]column{
		{">P50", func(r *pb.UnitCost) string { return durationText(r.GetLatencyP50Ms()) }},
		{">P95", func(r *pb.UnitCost) string { return durationText(r.GetLatencyP95Ms()) }},
		{">P99", func(r *pb.UnitCost) string { return durationText(r.GetLatencyP99Ms()) }},
		{">FIRST TOKEN P95", func(r *pb.UnitCost) string { return durationText(r.GetFirstTokenP95Ms()) }},
	}, reasons("latency")}
}

func goodSection() section {
	return section{[]column{
		{">GOOD", func(r *pb.UnitCost) string { return countText(r.GetGood()) }},
		{">PER SUCCESS", func(r *pb.UnitCost) string { return moneyText(r.GetPerSuccessAllocation()) }},
		{">PER GOOD ONE", func(r *pb.UnitCost) string { return moneyText(r.GetPerGoodAllocation()) }},
	}, reasons("latency")}
}

func loadSection() section {
	return section{[]column{
		{">WAITING", func(r *pb.UnitCost) string { return meanText(r.GetQueueMean()) }},
		{">RUNNING", func(r *pb.UnitCost) string { return meanText(r.GetRunningMean()) }},
		{">KV CACHE", func(r *pb.UnitCost) string { return percentText(r.GetKvCacheMean(), "1") }},
	}, reasons("load")}
}

// mostly is the reason of most failures.
func mostly(r *pb.UnitCost) string {
	best, most := "", new(big.Rat)
	for _, f := range r.GetFailuresByReason() {
		if n, ok := figure(f.GetCount()); ok && n.Cmp(most) > 0 {
			best, most = f.GetReason(), n
		}
	}
	return strings.Map(printable, best)
}

// durationText shows milliseconds.
func durationText(ms string) string {
	r, ok := figure(ms)
	switch {
	case !ok:
		return unknown
	case r.Cmp(big.NewRat(1000, 1)) >= 0:
		return thousands(r.Quo(r, big.NewRat(1000, 1)).FloatString(2)) + " s"
	}
	return r.FloatString(0) + " ms"
}

// meanText shows a mean of counts.
func meanText(dec string) string {
	r, ok := figure(dec)
	if !ok {
		return unknown
	}
	return thousands(r.FloatString(1))
}

// unitCostsCSV has all that is known: exact values, as a program wants them.
func unitCostsCSV(w io.Writer, res *pb.UnitCostsResponse) error {
	type field struct {
		name  string
		money bool
		of    func(*pb.UnitCost) string
	}
	seconds := func(of func(*pb.UnitCost) string) func(*pb.UnitCost) string {
		return func(r *pb.UnitCost) string { return secondsText(of(r)) }
	}
	fields := []field{
		{"allocation_cost", true, (*pb.UnitCost).GetAllocationCost},
		{"usage_cost", true, (*pb.UnitCost).GetUsageCost},
		{"device_seconds", false, seconds((*pb.UnitCost).GetDeviceTimeNs)},
		{"used_seconds", false, seconds((*pb.UnitCost).GetUsedTimeNs)},
		{"inferences", false, (*pb.UnitCost).GetInferences},
		{"failures", false, (*pb.UnitCost).GetFailures},
		{"input_tokens", false, (*pb.UnitCost).GetInputTokens},
		{"cached_tokens", false, (*pb.UnitCost).GetCachedTokens},
		{"output_tokens", false, (*pb.UnitCost).GetOutputTokens},
		{"per_1k_inferences_allocation", true, (*pb.UnitCost).GetPer_1KInferencesAllocation},
		{"per_1k_inferences_usage", true, (*pb.UnitCost).GetPer_1KInferencesUsage},
		{"per_1m_tokens_allocation", true, (*pb.UnitCost).GetPer_1MTokensAllocation},
		{"per_1m_tokens_usage", true, (*pb.UnitCost).GetPer_1MTokensUsage},
		{"coverage", false, (*pb.UnitCost).GetCoverage},
		{"unpriced_seconds", false, seconds((*pb.UnitCost).GetUnpricedTimeNs)},
		{"unallocated_cost", true, (*pb.UnitCost).GetUnallocatedCost},
		{"unattributed_cost", true, (*pb.UnitCost).GetUnattributedCost},
		{"reason", false, (*pb.UnitCost).GetReason},
		{"per_1m_input_allocation", true, (*pb.UnitCost).GetPer_1MInputAllocation},
		{"per_1m_input_usage", true, (*pb.UnitCost).GetPer_1MInputUsage},
		{"per_1m_cached_allocation", true, (*pb.UnitCost).GetPer_1MCachedAllocation},
		{"per_1m_cached_usage", true, (*pb.UnitCost).GetPer_1MCachedUsage},
		{"per_1m_output_allocation", true, (*pb.UnitCost).GetPer_1MOutputAllocation},
		{"per_1m_output_usage", true, (*pb.UnitCost).GetPer_1MOutputUsage},
		{"per_success_allocation", true, (*pb.UnitCost).GetPerSuccessAllocation},
		{"per_success_usage", true, (*pb.UnitCost).GetPerSuccessUsage},
		{"good", false, (*pb.UnitCost).GetGood},
		{"per_good_allocation", true, (*pb.UnitCost).GetPerGoodAllocation},
		{"per_good_usage", true, (*pb.UnitCost).GetPerGoodUsage},
		{"error_rate", false, (*pb.UnitCost).GetErrorRate},
		{"latency_p50_ms", false, (*pb.UnitCost).GetLatencyP50Ms},
		{"latency_p95_ms", false, (*pb.UnitCost).GetLatencyP95Ms},
		{"latency_p99_ms", false, (*pb.UnitCost).GetLatencyP99Ms},
		{"first_token_p95_ms", false, (*pb.UnitCost).GetFirstTokenP95Ms},
		{"failed_cost", true, (*pb.UnitCost).GetFailedCost},
		{"failures_by_reason", false, func(r *pb.UnitCost) string { return byReason(r, (*pb.FailureCount).GetCount) }},
		{"failed_cost_by_reason", true, func(r *pb.UnitCost) string { return byReason(r, (*pb.FailureCount).GetCost) }},
		{"aborted_tokens", false, (*pb.UnitCost).GetAbortedTokens},
		{"aborted_cost", true, (*pb.UnitCost).GetAbortedCost},
		{"queue_mean", false, (*pb.UnitCost).GetQueueMean},
		{"running_mean", false, (*pb.UnitCost).GetRunningMean},
		{"kv_cache_mean", false, (*pb.UnitCost).GetKvCacheMean},
		{"tenant_source", false, (*pb.UnitCost).GetTenantSource},
	}
	head := slices.Clone(res.GetGroupBy())
	for _, f := range fields {
		if f.money {
			f.name = moneyColumn(f.name, res.GetCurrency())
		}
		head = append(head, f.name)
	}
	var rows [][]string
	for _, r := range res.GetRows() {
		row := csvKeys(r)
		for _, f := range fields {
			row = append(row, f.of(r))
		}
		rows = append(rows, row)
	}
	return printCSV(w, head, rows)
}

// byReason writes what failures of each reason have as REASON=VALUE, with a
// semicolon between them.
func byReason(r *pb.UnitCost, of func(*pb.FailureCount) string) string {
	var out []string
	for _, f := range r.GetFailuresByReason() {
		out = append(out, f.GetReason()+"="+of(f))
	}
	return strings.Join(out, ";")
}
