package main

import (
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// sloQuestion is what slo asks.
type sloQuestion struct {
	question
	p95          time.Duration
	errors, cost string
	step         string
	check        bool
}

func newSLO(t *target) *cobra.Command {
	var q sloQuestion
	c := &cobra.Command{
		Use:   "slo",
		Short: "Latency, errors and cost per success against targets, together",
		Long: `slo holds what was served against what was promised: the p95 of latency, the
share of requests that failed, and what one successful request cost (allocation
basis: idle time, failures and retries included). A service that is fast
because it is overprovisioned misses its cost; one that is cheap because it
queues misses its latency: TOGETHER is met only where every target is.

A verdict is met, missed, or unknown where a figure can't be given; the reason
stands beside it. The p95 is an upper bound out of the ledger's histogram, to
which the target is rounded up.

With --step each interval is judged too, for a bad hour hides in a good week:
the table counts those that met all targets, and lists the first that missed.
--check makes the exit code 1 where a group misses a target over the range, for
use in pipelines; unknown is not missed.`,
		Example: `  gpuledger slo --p95 2s --errors 1% --last 24h
  gpuledger slo --p95 2s --errors 1% --cost 0.002 --by model --step 1h --last 7d
  gpuledger slo --cost 0.002 --by team --filter environment=prod --check`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := q.request(time.Now())
			if err != nil {
				return err
			}
			var res *pb.SLOResponse
			err = t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				if res, err = l.SLO(c.Context(), req); err != nil {
					return err
				}
				return printSLO(c.OutOrStdout(), res, q.out)
			})
			if err != nil || !q.check {
				return err
			}
			return missed(res)
		},
	}
	q.flags(c, "model")
	f := c.Flags()
	f.DurationVar(&q.p95, "p95", 0, "latency that 95 % of the successes must not exceed, such as 2s or 500ms")
	f.StringVar(&q.errors, "errors", "", "share of requests that may fail, such as 1% or 0.01")
	f.StringVar(&q.cost, "cost", "", "what a successful request may cost, in the ledger's currency, such as 0.002")
	f.StringVar(&q.step, "step", "", "judge each such span too, such as 15m, 1h, 1d")
	f.BoolVar(&q.check, "check", false, "exit with 1 where a target is missed over the range")
	return c
}

func (q *sloQuestion) request(now time.Time) (*pb.SLORequest, error) {
	if err := q.question.check(); err != nil {
		return nil, err
	}
	p95, err := milliseconds("--p95", q.p95)
	if err != nil {
		return nil, err
	}
	rate, err := share(q.errors)
	if err != nil {
		return nil, err
	}
	if p95 == 0 && rate == "" && q.cost == "" {
		return nil, usagef("there is no target: give --p95, --errors, --cost, or several\nSee: gpuledger slo --help")
	}
	from, to, err := q.unix(now)
	if err != nil {
		return nil, err
	}
	req := &pb.SLORequest{From: from, To: to, GroupBy: q.groups(), Filter: q.filter, LatencyP95Ms: p95, ErrorRate: rate, CostPerSuccess: q.cost}
	if q.step != "" {
		d, err := parseSpan(q.step)
		if err != nil {
			return nil, err
		}
		req.Step = int64(d / time.Second)
	}
	return req, nil
}

// share reads a share such as 1% or 0.01 as the decimal that it is of one.
func share(s string) (string, error) {
	number, percent := strings.CutSuffix(s, "%")
	if !percent {
		return s, nil // the collector knows what is a number
	}
	x, ok := new(big.Rat).SetString(number)
	if !ok || len(number) > 16 || strings.ContainsAny(number, "eE/_xX") {
		return "", usagef("--errors %s: want a share such as 1%% or 0.01", s)
	}
	text := x.Quo(x, big.NewRat(100, 1)).FloatString(12)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), "."), nil
}

// missed is the error of --check.
func missed(res *pb.SLOResponse) error {
	n := 0
	for _, r := range res.GetRows() {
		if r.GetJoint() == "missed" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %s missed a target", n, plural(len(res.GetRows()), "group"))
}

func printSLO(w io.Writer, res *pb.SLOResponse, out string) error {
	switch out {
	case outJSON:
		return printJSON(w, res)
	case outCSV:
		return sloCSV(w, res)
	}
	if len(res.GetRows()) == 0 {
		return printNothing(w, res.GetFrom(), res.GetTo())
	}
	if _, err := fmt.Fprintf(w, "%s\nTargets: %s\n\n", spanText(res.GetFrom(), res.GetTo()), strings.Join(targetTexts(res), ", ")); err != nil {
		return err
	}
	if err := sloTable(res).write(w); err != nil {
		return err
	}
	return missedIntervals(w, res)
}

// targetTexts are the targets as judged.
func targetTexts(res *pb.SLOResponse) (out []string) {
	if res.GetLatencyP95Ms() != "" {
		out = append(out, "p95 within "+durationText(res.GetLatencyP95Ms()))
	}
	if res.GetErrorRate() != "" {
		out = append(out, "at most "+percentText(res.GetErrorRate(), "1")+" errors")
	}
	if res.GetCostPerSuccess() != "" {
		out = append(out, "at most "+res.GetCostPerSuccess()+" "+res.GetCurrency()+" per success")
	}
	return out
}

func sloTable(res *pb.SLOResponse) *table {
	var head []string
	for _, g := range res.GetGroupBy() {
		head = append(head, strings.ToUpper(g))
	}
	for _, x := range []struct{ target, figure, verdict string }{
		{res.GetLatencyP95Ms(), ">P95", "LATENCY"}, {res.GetErrorRate(), ">ERROR RATE", "ERRORS"}, {res.GetCostPerSuccess(), ">PER SUCCESS", "COST"},
	} {
		if x.target != "" {
			head = append(head, x.figure, x.verdict)
		}
	}
	head = append(head, "TOGETHER")
	if res.GetStep() > 0 {
		head = append(head, ">INTERVALS MET", ">UNKNOWN")
	}
	tab := newTable(append(head, "")...)
	for _, r := range res.GetRows() {
		cells := keyCells(r)
		if res.GetLatencyP95Ms() != "" {
			cells = append(cells, durationText(r.GetLatencyP95Ms()), r.GetLatency())
		}
		if res.GetErrorRate() != "" {
			cells = append(cells, percentText(r.GetErrorRate(), "1"), r.GetErrors())
		}
		if res.GetCostPerSuccess() != "" {
			cells = append(cells, moneyText(r.GetCostPerSuccess()), r.GetCost())
		}
		cells = append(cells, r.GetJoint())
		if res.GetStep() > 0 {
			cells = append(cells, fmt.Sprintf("%d of %d", r.GetIntervalsMet(), r.GetIntervals()), fmt.Sprint(r.GetIntervalsUnknown()))
		}
		tab.add(append(cells, r.GetReason())...)
	}
	return tab
}

// maxMissed is how many intervals that missed a target a table lists.
const maxMissed = 20

// missedIntervals lists the first intervals that missed a target.
func missedIntervals(w io.Writer, res *pb.SLOResponse) error {
	head := []string{"MISSED AT (UTC)"}
	for _, g := range res.GetGroupBy() {
		head = append(head, strings.ToUpper(g))
	}
	tab := newTable(append(head, ">P95", ">ERROR RATE", ">PER SUCCESS")...)
	more := 0
	for _, r := range res.GetRows() {
		for _, x := range r.GetByInterval() {
			switch {
			case x.GetJoint() != "missed":
			case len(tab.rows) == maxMissed:
				more++
			default:
				cells := append([]string{time.Unix(x.GetTime(), 0).UTC().Format("2006-01-02 15:04:05")}, keyCells(r)...)
				tab.add(append(cells, durationText(x.GetLatencyP95Ms()), percentText(x.GetErrorRate(), "1"), moneyText(x.GetCostPerSuccess()))...)
			}
		}
	}
	if len(tab.rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := tab.write(w); err != nil || more == 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s more: -o csv has all.\n", plural(more, "interval"))
	return err
}

// sloCSV has a row for each group over the range, and behind it one for each
// interval.
func sloCSV(w io.Writer, res *pb.SLOResponse) error {
	head := []string{"time", "seconds"}
	head = append(append(head, res.GetGroupBy()...), "latency_p95_ms", "error_rate", moneyColumn("cost_per_success", res.GetCurrency()),
		"latency", "errors", "cost", "together", "intervals", "intervals_met", "intervals_unknown", "reason")
	var rows [][]string
	row := func(at, seconds int64, r *pb.SLORow, cells ...string) {
		out := append([]string{time.Unix(at, 0).UTC().Format(time.RFC3339), fmt.Sprint(seconds)}, csvKeys(r)...)
		rows = append(rows, append(out, cells...))
	}
	for _, r := range res.GetRows() {
		row(res.GetFrom(), res.GetTo()-res.GetFrom(), r, r.GetLatencyP95Ms(), r.GetErrorRate(), r.GetCostPerSuccess(),
			r.GetLatency(), r.GetErrors(), r.GetCost(), r.GetJoint(),
			fmt.Sprint(r.GetIntervals()), fmt.Sprint(r.GetIntervalsMet()), fmt.Sprint(r.GetIntervalsUnknown()), r.GetReason())
		for _, x := range r.GetByInterval() {
			end := min(x.GetTime()-x.GetTime()%res.GetStep()+res.GetStep(), res.GetTo())
			row(x.GetTime(), end-x.GetTime(), r, x.GetLatencyP95Ms(), x.GetErrorRate(), x.GetCostPerSuccess(), "", "", "", x.GetJoint(), "", "", "", "")
		}
	}
	return printCSV(w, head, rows)
}
