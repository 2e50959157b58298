package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newRuns(t *target) *cobra.Command {
	var q struct {
		span   timeRange
		filter []string
		limit  int32
		out    string
	}
	c := &cobra.Command{
		Use:   "runs",
		Short: "What each training run cost, over all its pods and restarts",
		Long: `runs adds up training runs: all pods of a job, those included that were
preempted and replaced. Which run a pod belongs to is a rule (target run), by
default the controller of a job's kind or the label that a job operator sets.

LOST is work that had to be done again: the cost between the last checkpoint
before a pod's end and that end, where another pod of the run began afterwards.
Checkpoints are what the training reports to the agent on the pod's node; a
rank that reports none of its own is held to its run's last one. Where a run
reported none at all, what it lost is unknown, not 0.

Runs, and what belongs to none, sum to the bill.`,
		Example: `  gpuledger runs --last 7d
  gpuledger runs --filter team=research --limit 10
  gpuledger runs --from 2026-01-01 --to 2026-02-01 -o csv`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(q.out, outTable, outJSON, outCSV); err != nil {
				return err
			}
			if err := checkQuestion(nil, q.filter); err != nil {
				return err
			}
			if q.limit < 0 {
				return usagef("--limit %d: want 1 or more, or 0 for all", q.limit)
			}
			from, to, err := q.span.unix(time.Now())
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.Runs(c.Context(), &pb.RunsRequest{From: from, To: to, Filter: q.filter, Limit: q.limit})
				if err != nil {
					return err
				}
				return printRuns(c.OutOrStdout(), res, q.out)
			})
		},
	}
	q.span.flags(c)
	f := c.Flags()
	f.StringArrayVar(&q.filter, "filter", nil, "keep KEY=VALUE or KEY!=VALUE, * is a wildcard; may be repeated")
	f.Int32Var(&q.limit, "limit", 0, "most runs, by cost (0: all)")
	f.StringVarP(&q.out, "output", "o", outTable, "table, json or csv")
	return c
}

func printRuns(w io.Writer, res *pb.RunsResponse, out string) error {
	switch out {
	case outJSON:
		return printJSON(w, res)
	case outCSV:
		return runsCSV(w, res)
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", spanText(res.GetFrom(), res.GetTo())); err != nil {
		return err
	}
	if len(res.GetRows()) == 0 {
		_, err := fmt.Fprintln(w, "No training run is on record here.\nhint: rules say what a run is: gpuledger rules show")
		return err
	}
	tab := newTable("RUN", "OF", "TEAM", "FIRST SEEN (UTC)", ">SPAN", ">PODS", ">RESTARTS", ">GPU HOURS", ">USED", ">COST "+res.GetCurrency(), ">OF IT IDLE", ">LOST", "")
	for _, r := range res.GetRows() {
		tab.add(append([]string{
			keyText(r.GetRun(), false), keyText(r.GetName(), r.GetName() == ""), keyText(r.GetTeam(), r.GetTeam() == ""),
		}, runFigures(r)...)...)
	}
	if len(res.GetRows()) > 1 {
		tab.rows = append(tab.rows, nil)
		tab.add(append([]string{"total", "", ""}, runFigures(res.GetTotal())...)...)
	}
	if err := tab.write(w); err != nil {
		return err
	}
	if c, ok := figure(res.GetOutsideCost()); ok && c.Sign() > 0 {
		_, err := fmt.Fprintf(w, "\n%s %s went to what belongs to no run.\n", moneyText(res.GetOutsideCost()), res.GetCurrency())
		return err
	}
	return nil
}

func runFigures(r *pb.Run) []string {
	first, span := keyText("", true), ""
	if r.GetPods() > 0 { // else only its counts are on record
		first = time.Unix(r.GetFirstSecond(), 0).UTC().Format("2006-01-02 15:04:05")
		span = (time.Duration(r.GetLastSecond()-r.GetFirstSecond()+1) * time.Second).String()
	}
	return []string{
		first, span, fmt.Sprint(r.GetPods()), fmt.Sprint(r.GetRestarts()),
		hoursText(r.GetDeviceTimeNs()), percentText(r.GetUsedTimeNs(), r.GetDeviceTimeNs()),
		moneyText(r.GetAllocationCost()), moneyText(r.GetIdleCost()), moneyText(r.GetCheckpointLossCost()), r.GetReason(),
	}
}

func runsCSV(w io.Writer, res *pb.RunsResponse) error {
	money := func(name string) string { return moneyColumn(name, res.GetCurrency()) }
	head := []string{
		"run", "name", "namespace", "team", "pods", "restarts", "first", "last", "device_seconds", "used_seconds",
		money("allocation_cost"), money("usage_cost"), money("idle_cost"), "unpriced_seconds",
		"checkpoints", money("checkpoint_loss_cost"), "checkpoint_loss_seconds", "reason",
	}
	at := func(r *pb.Run, second int64) string {
		if r.GetPods() == 0 {
			return ""
		}
		return time.Unix(second, 0).UTC().Format(time.RFC3339)
	}
	var rows [][]string
	for _, r := range res.GetRows() {
		rows = append(rows, []string{
			r.GetRun(), r.GetName(), r.GetNamespace(), r.GetTeam(), fmt.Sprint(r.GetPods()), fmt.Sprint(r.GetRestarts()),
			at(r, r.GetFirstSecond()), at(r, r.GetLastSecond()),
			secondsText(r.GetDeviceTimeNs()), secondsText(r.GetUsedTimeNs()),
			r.GetAllocationCost(), r.GetUsageCost(), r.GetIdleCost(), secondsText(r.GetUnpricedTimeNs()),
			r.GetCheckpoints(), r.GetCheckpointLossCost(), secondsText(r.GetCheckpointLossTimeNs()), r.GetReason(),
		})
	}
	return printCSV(w, head, rows)
}
