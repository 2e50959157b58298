package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newInferences(t *target) *cobra.Command {
	var q question
	c := &cobra.Command{
		Use:   "inferences",
		Short: "What 1k inferences and 1M tokens cost, by model, tier, team, …",
		Long: `inferences divides cost by what was served.

ALLOCATION counts all time that the owners held (used, idle and unobserved) and
reconciles to the bill. USAGE counts only measured activity. COVERAGE is the
share of the cost whose owners had inference counters at all. Where a figure
can't be given, the reason stands beside it: no counters, no inferences and 0
are three different answers.`,
		Example: `  gpuledger inferences --last 24h
  gpuledger inferences --by model,tier --filter team=search
  gpuledger inferences --by team -o json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := q.check(); err != nil {
				return err
			}
			from, to, err := q.unix(time.Now())
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.UnitCosts(c.Context(), &pb.UnitCostsRequest{From: from, To: to, GroupBy: q.groups(), Filter: q.filter})
				if err != nil {
					return err
				}
				return printUnitCosts(c.OutOrStdout(), res, q.out)
			})
		},
	}
	q.flags(c, "model")
	return c
}

func printUnitCosts(w io.Writer, res *pb.UnitCostsResponse, out string) error {
	switch out {
	case outJSON:
		return printJSON(w, res)
	case outCSV:
		return unitCostsCSV(w, res)
	}
	if len(res.GetRows()) == 0 {
		return printNothing(w, res.GetFrom(), res.GetTo())
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", spanText(res.GetFrom(), res.GetTo())); err != nil {
		return err
	}
	if err := unitCostsTable(res).write(w); err != nil {
		return err
	}
	return unitCostsFootnotes(w, res)
}

// unitCostsFootnotes say what makes the difference to the bill.
func unitCostsFootnotes(w io.Writer, res *pb.UnitCostsResponse) error {
	var notes strings.Builder
	for _, n := range []struct{ cost, text string }{
		{res.GetTotal().GetUnallocatedCost(), "for time that nobody held"},
		{res.GetTotal().GetUnattributedCost(), "for use that maps to no owner"},
	} {
		if c, ok := figure(n.cost); ok && c.Sign() > 0 {
			fmt.Fprintf(&notes, "\nNot in these figures, for no owner answers for it: %s %s %s.", moneyText(n.cost), res.GetCurrency(), n.text)
		}
	}
	if u, ok := figure(res.GetTotal().GetUnpricedTimeNs()); ok && u.Sign() > 0 {
		fmt.Fprintf(&notes, "\n%s GPU hours have NO PRICE: their cost is unknown and not in these figures. See: gpuledger devices", hoursText(res.GetTotal().GetUnpricedTimeNs()))
	}
	if notes.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprintln(w, notes.String())
	return err
}

func unitCostsTable(res *pb.UnitCostsResponse) *table {
	var cols []string
	for _, g := range res.GetGroupBy() {
		cols = append(cols, strings.ToUpper(g))
	}
	cur := res.GetCurrency()
	tab := newTable(append(cols, ">COST "+cur, ">USED", ">INFERENCES", ">PER 1K (ALLOCATION)", ">PER 1K (USAGE)", ">PER 1M TOKENS", ">COVERAGE", "")...)
	for _, r := range res.GetRows() {
		tab.add(append(keyCells(r), unitFigures(r)...)...)
	}
	if len(res.GetRows()) > 1 {
		keys := make([]string, len(cols))
		if len(keys) > 0 {
			keys[0] = "total"
		}
		tab.rows = append(tab.rows, nil)
		tab.add(append(keys, unitFigures(res.GetTotal())...)...)
	}
	return tab
}

func unitFigures(r *pb.UnitCost) []string {
	return []string{
		moneyText(r.GetAllocationCost()),
		percentText(r.GetUsedTimeNs(), r.GetDeviceTimeNs()),
		countText(r.GetInferences()),
		moneyText(r.GetPer_1KInferencesAllocation()),
		moneyText(r.GetPer_1KInferencesUsage()),
		moneyText(r.GetPer_1MTokensAllocation()),
		percentText(r.GetCoverage(), "1"),
		r.GetReason(),
	}
}

func unitCostsCSV(w io.Writer, res *pb.UnitCostsResponse) error {
	money := func(name string) string { return moneyColumn(name, res.GetCurrency()) }
	head := append([]string{}, res.GetGroupBy()...)
	head = append(head, money("allocation_cost"), money("usage_cost"), "device_seconds", "used_seconds", "inferences", "failures",
		"input_tokens", "cached_tokens", "output_tokens",
		money("per_1k_inferences_allocation"), money("per_1k_inferences_usage"), money("per_1m_tokens_allocation"), money("per_1m_tokens_usage"),
		"coverage", "unpriced_seconds", money("unallocated_cost"), money("unattributed_cost"), "reason")
	var rows [][]string
	for _, r := range res.GetRows() {
		row := csvKeys(r)
		rows = append(rows, append(row, r.GetAllocationCost(), r.GetUsageCost(), secondsText(r.GetDeviceTimeNs()), secondsText(r.GetUsedTimeNs()),
			r.GetInferences(), r.GetFailures(), r.GetInputTokens(), r.GetCachedTokens(), r.GetOutputTokens(),
			r.GetPer_1KInferencesAllocation(), r.GetPer_1KInferencesUsage(), r.GetPer_1MTokensAllocation(), r.GetPer_1MTokensUsage(),
			r.GetCoverage(), secondsText(r.GetUnpricedTimeNs()), r.GetUnallocatedCost(), r.GetUnattributedCost(), r.GetReason()))
	}
	return printCSV(w, head, rows)
}
