package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/mapping"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newRulesCompare(t *target) *cobra.Command {
	var (
		span    timeRange
		targets []string
		out     string
	)
	c := &cobra.Command{
		Use: "compare FILE", Short: "Show what rules would move, without applying them",
		Long: `compare judges everybody with device time in the range by the rules in force and
by those of the file, and shows whose cost would be another's. Nothing is
applied, and nothing else changes: the rows of a report sum to the same total
before and after.

COST is used, idle and unobserved time together. Cost that is only told apart by
what was served (several models of one server, tiers of customers) is not shown:
ask "gpuledger inferences" once the rules are applied.`,
		Example: `  gpuledger rules compare rules.yaml
  gpuledger rules compare rules.yaml --last 30d --target team,budget-owner
  gpuledger rules compare rules.yaml -o csv`,
		Args: exactArgs(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(out, outTable, outJSON, outCSV); err != nil {
				return err
			}
			for _, x := range targets {
				if all := mapping.Targets(); !slices.Contains(all, x) {
					return usagef("--target %q: want one of %s", x, strings.Join(all, ", "))
				}
			}
			from, to, err := span.unix(time.Now())
			if err != nil {
				return err
			}
			rules, err := readRules(args[0])
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.CompareRules(c.Context(), &pb.CompareRulesRequest{Rules: api.EncodeRules(rules), From: from, To: to, Targets: targets})
				if err != nil {
					return err
				}
				return printMoves(c.OutOrStdout(), res, out)
			})
		},
	}
	span.flags(c)
	c.Flags().StringSliceVar(&targets, "target", nil, "only these targets: "+strings.Join(mapping.Targets(), ", "))
	c.Flags().StringVarP(&out, "output", "o", outTable, "table, json or csv")
	return c
}

func printMoves(w io.Writer, res *pb.CompareRulesResponse, out string) error {
	switch out {
	case outJSON:
		return printJSON(w, res)
	case outCSV:
		return movesCSV(w, res)
	}
	if res.GetFrom() == res.GetTo() {
		return printNothing(w, res.GetFrom(), res.GetTo())
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", spanText(res.GetFrom(), res.GetTo())); err != nil {
		return err
	}
	if len(res.GetMoves()) == 0 {
		_, err := fmt.Fprintln(w, "Nothing moves.")
		return err
	}
	tab := newTable("TARGET", "FROM", "TO", ">COST "+res.GetCurrency(), ">OF ALL", ">GPU HOURS", ">OWNERS")
	for _, m := range res.GetMoves() {
		tab.add(m.GetTarget(), keyText(m.GetFrom(), m.GetFromMissing()), keyText(m.GetTo(), m.GetToMissing()),
			moneyText(m.GetCost()), percentText(m.GetCost(), res.GetTotalCost()), hoursText(m.GetDeviceTimeNs()), strconv.FormatInt(m.GetOwners(), 10))
	}
	if err := tab.write(w); err != nil {
		return err
	}
	if res.GetTotalCost() == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, "\nOf %s %s, %s would move, each owner counted once.\n", moneyText(res.GetTotalCost()), res.GetCurrency(), moneyText(res.GetMovedCost()))
	return err
}

func movesCSV(w io.Writer, res *pb.CompareRulesResponse) error {
	var rows [][]string
	for _, m := range res.GetMoves() {
		rows = append(rows, []string{
			m.GetTarget(), m.GetFrom(), m.GetTo(), m.GetCost(), secondsText(m.GetDeviceTimeNs()), strconv.FormatInt(m.GetOwners(), 10),
		})
	}
	return printCSV(w, []string{"target", "from", "to", moneyColumn("cost", res.GetCurrency()), "device_seconds", "owners"}, rows)
}
