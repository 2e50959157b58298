package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newStatus(t *target) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "status",
		Short: "Nodes, how current they are, and what needs attention",
		Long: `status lists every node that the ledger knows: whether its agent is connected,
up to when its time is durable (STORED) and up to when questions see it
(VISIBLE). Then come the gateways that tell of customers: how many of their
addresses answered when they were last asked, and when a page was last read.
Where several collectors keep one ledger, they are listed, and each node with
the one that it streams to.
Below stands what needs attention, such as devices without a price; no warnings
means that there are none.`,
		Example: `  gpuledger status
  gpuledger status -o json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(out, outTable, outJSON); err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.Status(c.Context(), &pb.StatusRequest{})
				if err != nil {
					return err
				}
				if out == outJSON {
					return printJSON(c.OutOrStdout(), res)
				}
				return printStatus(c.OutOrStdout(), res)
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", outTable, "table or json")
	return c
}

func printStatus(out io.Writer, res *pb.StatusResponse) error {
	w := &strings.Builder{}
	to := res.GetLastSecond()
	if to > 0 {
		to++ // ranges end before their end
	}
	fmt.Fprintf(w, "collector %s   %s\n%s, %s, %s to be stored\n\n", keyText(res.GetVersion(), false), spanText(res.GetFirstSecond(), to),
		revision("rate card", res.GetRateCardRevision(), "no rate card"), revision("rules", res.GetRulesRevision(), "built-in rules"),
		plural(int(res.GetPendingChunks()), "chunk"))
	if len(res.GetNodes()) == 0 {
		fmt.Fprintln(w, "No nodes yet. Is an agent connected?")
	} else {
		if err := writeNodes(w, res.GetNodes(), len(res.GetCollectors()) > 0); err != nil {
			return err
		}
	}
	if err := writeCollectors(w, res.GetCollectors()); err != nil {
		return err
	}
	if err := writeGateways(w, res.GetGateways()); err != nil {
		return err
	}
	for _, warning := range res.GetWarnings() {
		fmt.Fprintf(w, "\n! %s\n", keyText(warning, false))
	}
	_, err := io.WriteString(out, w.String())
	return err
}

// writeNodes lists nodes, each with its collector where there are several.
func writeNodes(w io.Writer, nodes []*pb.NodeStatus, several bool) error {
	columns := []string{"CLUSTER", "NODE", "AGENT", "STORED (UTC)", "VISIBLE (UTC)"}
	if several {
		columns = append(columns, "COLLECTOR")
	}
	tab := newTable(columns...)
	for _, n := range nodes {
		agent := "away"
		if n.GetConnected() {
			agent = "connected " + n.GetAgentVersion()
		}
		row := []string{
			keyText(n.GetCluster(), false), keyText(n.GetNode(), false), keyText(agent, false),
			momentText(n.GetStoredThrough()), momentText(n.GetVisibleThrough()),
		}
		if several {
			row = append(row, textOrUnknown(n.GetCollector()))
		}
		tab.add(row...)
	}
	return tab.write(w)
}

func writeCollectors(w io.Writer, collectors []*pb.CollectorStatus) error {
	if len(collectors) == 0 {
		return nil
	}
	tab := newTable("COLLECTOR", "ADDRESS", "VERSION", "NODES", "ANSWERS")
	for i, c := range collectors {
		answers, nodes := "yes", fmt.Sprint(c.GetNodes())
		switch {
		case i == 0:
			answers = "this one"
		case !c.GetAnswering():
			answers, nodes = "no: "+keyText(c.GetError(), false), unknown
		}
		tab.add(textOrUnknown(c.GetName()), textOrUnknown(c.GetAddress()), textOrUnknown(c.GetVersion()), nodes, answers)
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return tab.write(w)
}

func writeGateways(w io.Writer, gateways []*pb.GatewayStatus) error {
	if len(gateways) == 0 {
		return nil
	}
	tab := newTable("CLUSTER", "GATEWAY", "FORMAT", "ANSWERING", "LAST READ (UTC)", "STORED (UTC)", "CUSTOMERS")
	for _, g := range gateways {
		tab.add(keyText(g.GetCluster(), false), keyText(g.GetName(), false), textOrUnknown(g.GetFormat()),
			fmt.Sprintf("%d of %d", g.GetAnswering(), g.GetAddresses()), momentText(g.GetLastScrape()), momentText(g.GetStoredThrough()),
			fmt.Sprint(g.GetTenants()))
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return tab.write(w)
}

// textOrUnknown is a text that "" stands for not knowing in: the format of a
// gateway's page, for one, before one was read.
func textOrUnknown(text string) string {
	if text == "" {
		return unknown
	}
	return keyText(text, false)
}

func revision(what string, n uint32, none string) string {
	if n == 0 {
		return none
	}
	return fmt.Sprintf("%s revision %d", what, n)
}

func momentText(second int64) string {
	if second == 0 {
		return unknown
	}
	return time.Unix(second, 0).UTC().Format("2006-01-02 15:04:05")
}
