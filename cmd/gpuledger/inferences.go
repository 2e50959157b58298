package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// unitQuestion is what inferences asks besides whom.
type unitQuestion struct {
	question
	show    []string
	target  time.Duration
	splitBy string
	weights weights
}

// weights are how much tokens of each type cost relative to the others.
type weights struct{ input, cached, output string }

func newInferences(t *target) *cobra.Command {
	var q unitQuestion
	c := &cobra.Command{
		Use:   "inferences",
		Short: "What 1k inferences and 1M tokens cost, by model, customer, team, …",
		Long: `inferences divides cost by what was served.

ALLOCATION counts all time that the owners held (used, idle and unobserved) and
reconciles to the bill. USAGE counts only measured activity. COVERAGE is the
share of the cost whose owners had inference counters at all. Where a figure
can't be given, the reason stands beside it: no counters, no inferences and 0
are three different answers.

--show picks what the table tells; csv and json have all of it, always:

  cost     what 1k inferences and 1M tokens cost (the default)
  tokens   tokens by type; the cost is split over the types by tokens × weight,
           so that types times tokens sum to the cost
  waste    failures with their share of the cost, by requests; and the share of
           the tokens of requests that were given up
  latency  p50, p95 and p99: upper bounds, four buckets to the double
  load     requests waiting and running and KV cache in use, on average

--latency-target adds goodput: successes that took no longer, and what one of
them costs beside what any success costs. All cost counts there, that of
failures and retries included. The target is rounded up to the ledger's
histogram; where a server has a bucket of that length, it is exact.

--by tenant (or tier) asks for customers. A server that counts by tenant is
believed; else the cost of each day is split over the tenants that gateways saw
that day, by tokens (--split-by requests: by requests), and the part that no
gateway saw is a row of its own. The rows still sum to the bill.`,
		Example: `  gpuledger inferences --last 24h
  gpuledger inferences --by model,tier --filter team=search
  gpuledger inferences --by tenant --last 7d
  gpuledger inferences --show cost,waste --latency-target 2s
  gpuledger inferences --show tokens --output-weight 5
  gpuledger inferences --by team -o json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := q.request(time.Now())
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.UnitCosts(c.Context(), req)
				if err != nil {
					return err
				}
				if err := notYetSeen(c.ErrOrStderr(), res.GetNotes()); err != nil {
					return err
				}
				return printUnitCosts(c.OutOrStdout(), res, &q)
			})
		},
	}
	q.flags(c, "model")
	f := c.Flags()
	f.StringSliceVar(&q.show, "show", []string{sectionCost}, "what the table tells: "+strings.Join(sectionNames(), ", "))
	f.DurationVar(&q.target, "latency-target", 0, "count successes within it as good, such as 2s or 500ms")
	f.StringVar(&q.splitBy, "split-by", "tokens", "what gateways split a server's cost by: tokens or requests")
	f.StringVar(&q.weights.input, "input-weight", "1", "cost of an input token that was not cached, relative to the others")
	f.StringVar(&q.weights.cached, "cached-weight", "0.1", "cost of a cached token")
	f.StringVar(&q.weights.output, "output-weight", "4", "cost of a generated token")
	return c
}

func (q *unitQuestion) request(now time.Time) (*pb.UnitCostsRequest, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	for _, s := range q.show {
		if !slices.Contains(sectionNames(), s) {
			return nil, usagef("--show %s is unknown: want some of %s", s, strings.Join(sectionNames(), ", "))
		}
	}
	if q.splitBy != "tokens" && q.splitBy != "requests" {
		return nil, usagef("--split-by %s is unknown: want tokens or requests", q.splitBy)
	}
	target, err := milliseconds("--latency-target", q.target)
	if err != nil {
		return nil, err
	}
	from, to, err := q.unix(now)
	if err != nil {
		return nil, err
	}
	return &pb.UnitCostsRequest{
		From: from, To: to, GroupBy: q.groups(), Filter: q.filter, LatencyTargetMs: target, SplitBy: q.splitBy,
		InputWeight: q.weights.input, CachedWeight: q.weights.cached, OutputWeight: q.weights.output,
	}, nil
}

// milliseconds are those of a latency target; 0 is none.
func milliseconds(flag string, d time.Duration) (int64, error) {
	if d < 0 || d%time.Millisecond != 0 {
		return 0, usagef("%s %v: want whole milliseconds, such as 2s or 500ms", flag, d)
	}
	return d.Milliseconds(), nil
}

func printUnitCosts(w io.Writer, res *pb.UnitCostsResponse, q *unitQuestion) error {
	switch q.out {
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
	if err := unitCostsTable(res, q.show).write(w); err != nil {
		return err
	}
	return unitCostsFootnotes(w, res)
}

// unitCostsFootnotes say what makes the difference to the bill.
func unitCostsFootnotes(w io.Writer, res *pb.UnitCostsResponse) error {
	var notes strings.Builder
	if t := res.GetLatencyTargetMs(); t != "" {
		fmt.Fprintf(&notes, "\nGood: answered within %s, the target rounded up to the ledger's histogram.", durationText(t))
	}
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

func unitCostsTable(res *pb.UnitCostsResponse, show []string) *table {
	var head []string
	for _, g := range res.GetGroupBy() {
		head = append(head, strings.ToUpper(g))
	}
	keys := len(head)
	sections := sectionsOf(res, show)
	for _, s := range sections {
		for _, c := range s.columns {
			head = append(head, strings.ReplaceAll(c.head, "CUR", res.GetCurrency()))
		}
	}
	tab := newTable(append(head, "")...)
	add := func(cells []string, r *pb.UnitCost) {
		for _, s := range sections {
			for _, c := range s.columns {
				cells = append(cells, c.cell(r))
			}
		}
		tab.add(append(cells, why(r, sections))...)
	}
	for _, r := range res.GetRows() {
		add(keyCells(r), r)
	}
	if len(res.GetRows()) > 1 {
		cells := make([]string, keys)
		if keys > 0 {
			cells[0] = "total"
		}
		tab.rows = append(tab.rows, nil)
		add(cells, res.GetTotal())
	}
	return tab
}

// why joins the reasons that concern what is shown.
func why(r *pb.UnitCost, sections []section) string {
	var out []string
	for _, s := range sections {
		for _, w := range s.why(r) {
			if w != "" && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	return strings.Join(out, "; ")
}
