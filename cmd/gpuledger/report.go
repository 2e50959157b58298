package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector/query"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const groupHelp = "cluster, node, device, device-model, namespace, controller, pod, container, team, budget-owner, environment, model, family, class, tier, run, kind, basis, method, revision, label:KEY"

// question is what report and inferences have in common.
type question struct {
	timeRange
	by, filter []string
	out        string
}

func (q *question) flags(c *cobra.Command, by string) {
	q.timeRange.flags(c)
	f := c.Flags()
	f.StringSliceVar(&q.by, "by", strings.Split(by, ","), "what to group by: "+groupHelp)
	f.StringArrayVar(&q.filter, "filter", nil, "keep KEY=VALUE or KEY!=VALUE, * is a wildcard; may be repeated")
	f.StringVarP(&q.out, "output", "o", outTable, "table, json or csv")
}

// check finds what is wrong with the question without asking it.
func (q *question) check() error {
	if err := checkOutput(q.out, outTable, outJSON, outCSV); err != nil {
		return err
	}
	return checkQuestion(q.groups(), q.filter)
}

// checkQuestion reads groups and filters as the collector does.
func checkQuestion(by, filter []string) error {
	if _, err := query.ParseDimensions(by); err != nil {
		return usagef("--by: %w", err)
	}
	if _, err := query.ParseFilters(filter); err != nil {
		return usagef("--filter: %w", err)
	}
	return nil
}

// groups are the keys to group by; "none" or nothing is the fleet in one row.
func (q *question) groups() []string {
	var by []string
	for _, b := range q.by {
		if b = strings.TrimSpace(b); b != "" && b != "none" {
			by = append(by, b)
		}
	}
	return by
}

func newReport(t *target) *cobra.Command {
	var q question
	var step string
	var limit int32
	var lines bool
	c := &cobra.Command{
		Use:   "report",
		Short: "Showback: device time and cost by team, model, namespace, …",
		Long: `report shows who answers for how much device time, and what it cost.

Every second of every device is in exactly one row; the rows sum to the total,
and the total to the bill. The bases say why somebody answers for time: used
(measured activity), reserved (held, idle), unallocated (held by nobody),
unattributed (used by something that maps to no owner), unobserved (the agent
was not looking; billed to the holders).

With --lines each row also says what its cost is made of: the GPU's own price,
and each overhead of the rate card (host, power, storage, network, platform
fee, …) as a line of its own. Lines sum to the cost, exactly.`,
		Example: `  gpuledger report --last 7d --by team
  gpuledger report --by model,basis --filter namespace=prod
  gpuledger report --last 24h --step 1h --by team -o csv
  gpuledger report --last 30d --by team --lines
  gpuledger report --by label:app.kubernetes.io/name`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := q.check(); err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit %d: want 1 or more, or 0 for all", limit)
			}
			from, to, err := q.unix(time.Now())
			if err != nil {
				return err
			}
			req := &pb.ReportRequest{From: from, To: to, GroupBy: q.groups(), Filter: q.filter, Limit: limit, Lines: lines}
			if step != "" {
				d, err := parseSpan(step)
				if err != nil {
					return err
				}
				req.Step = int64(d / time.Second)
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.Report(c.Context(), req)
				if err != nil {
					return err
				}
				if err := notYetSeen(c.ErrOrStderr(), res.GetNotes()); err != nil {
					return err
				}
				return printReport(c.OutOrStdout(), res, q.out)
			})
		},
	}
	q.flags(c, "team")
	c.Flags().StringVar(&step, "step", "", "one set of rows for each such span, such as 1m, 1h, 1d (default: the whole range)")
	c.Flags().BoolVar(&lines, "lines", false, "tell what each cost is made of, by line of the rate card")
	c.Flags().Int32Var(&limit, "limit", 0, "most rows, by cost; the rest is summed into one (0: all)")
	return c
}

// notYetSeen tells what an answer lacks: on standard error, for the answer itself
// is right.
func notYetSeen(w io.Writer, notes []string) error {
	for _, n := range notes {
		if _, err := fmt.Fprintf(w, "Not yet seen: %s\n", n); err != nil {
			return err
		}
	}
	return nil
}

func printReport(w io.Writer, res *pb.ReportResponse, out string) error {
	switch out {
	case outJSON:
		return printJSON(w, res)
	case outCSV:
		if len(res.GetTotal().GetLines()) > 0 {
			return linesCSV(w, res)
		}
		return reportCSV(w, res)
	}
	if len(res.GetRows()) == 0 {
		return printNothing(w, res.GetFrom(), res.GetTo())
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", spanText(res.GetFrom(), res.GetTo())); err != nil {
		return err
	}
	var cols []string
	if res.GetStep() > 0 {
		cols = append(cols, "TIME (UTC)")
	}
	for _, g := range res.GetGroupBy() {
		cols = append(cols, strings.ToUpper(g))
	}
	cur := res.GetCurrency()
	total := res.GetTotal()
	names := lineNames(total)
	head := append([]string{}, cols...)
	head = append(head, ">GPU HOURS", ">USED", ">COST "+cur, ">OF IT IDLE")
	for _, n := range names {
		head = append(head, ">"+strings.ToUpper(n))
	}
	tab := newTable(append(head, ">SHARE", "")...)
	for _, row := range res.GetRows() {
		tab.add(append(reportKeys(res, row), reportFigures(row, total, names)...)...)
	}
	tab.rows = append(tab.rows, nil)
	keys := make([]string, len(cols))
	if len(keys) > 0 {
		keys[0] = "total"
	}
	tab.add(append(keys, reportFigures(total, total, names)...)...)
	if err := tab.write(w); err != nil {
		return err
	}
	return reportFootnotes(w, total)
}

// printNothing is the answer where the ledger holds no time.
func printNothing(w io.Writer, from, to int64) error {
	_, err := fmt.Fprintf(w, "%s\n\nNo device time is on record here.\n", spanText(from, to))
	return err
}

func reportKeys(res *pb.ReportResponse, row *pb.ReportRow) []string {
	var cells []string
	if res.GetStep() > 0 {
		cells = append(cells, time.Unix(row.GetTime(), 0).UTC().Format("2006-01-02 15:04:05"))
	}
	if row.GetOther() {
		return append(cells, otherKeys(len(res.GetGroupBy()))...)
	}
	return append(cells, keyCells(row)...)
}

// keyed is a row of any answer.
type keyed interface {
	GetKeys() []string
	GetMissing() []bool
}

// keyCells shows a row's keys.
func keyCells(row keyed) []string {
	var cells []string
	missing := row.GetMissing()
	for i, k := range row.GetKeys() {
		cells = append(cells, keyText(k, i < len(missing) && missing[i]))
	}
	return cells
}

// otherKeys stand for the keys of the row that sums what a limit left out.
func otherKeys(n int) []string {
	cells := make([]string, n)
	if n > 0 {
		cells[0] = "(all others)"
	}
	return cells
}

func reportFigures(row, total *pb.ReportRow, lines []string) []string {
	s := row.GetSum()
	note := ""
	if u, ok := figure(s.GetUnpricedTimeNs()); ok && u.Sign() > 0 {
		note = "UNPRICED " + hoursText(s.GetUnpricedTimeNs()) + " h"
	}
	cells := []string{
		hoursText(s.GetDeviceTimeNs()),
		percentText(basisOf(row, "used").GetDeviceTimeNs(), s.GetDeviceTimeNs()),
		moneyText(s.GetCost()),
		moneyText(idleCost(row)),
	}
	for _, name := range lines {
		cells = append(cells, moneyText(lineCost(row, name)))
	}
	return append(cells, percentText(s.GetCost(), total.GetSum().GetCost()), note)
}

// basisOf is a row's part on a basis; its fields are "0" where there is none.
func basisOf(row *pb.ReportRow, basis string) *pb.BasisSum {
	for _, b := range row.GetByBasis() {
		if b.GetBasis() == basis {
			return b
		}
	}
	return &pb.BasisSum{Basis: basis, DeviceTimeNs: "0", SmActiveNs: "0", Cost: "0", UnpricedTimeNs: "0"}
}

// idleCost is what was paid for time that nobody used.
func idleCost(row *pb.ReportRow) string {
	if row.GetSum().GetCost() == "" {
		return ""
	}
	var parts []string
	for _, b := range row.GetByBasis() {
		if b.GetBasis() == "reserved" || b.GetBasis() == "unallocated" {
			parts = append(parts, b.GetCost())
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return addDecimals(parts...)
}

func reportFootnotes(w io.Writer, total *pb.ReportRow) error {
	var notes []string
	for _, n := range []struct{ basis, text string }{
		{"unattributed", "was used by something that maps to no owner"},
		{"unobserved", "was not observed (billed to the holders)"},
	} {
		b := basisOf(total, n.basis)
		if t, ok := figure(b.GetDeviceTimeNs()); ok && t.Sign() > 0 {
			notes = append(notes, fmt.Sprintf("%s of the time %s.", percentText(b.GetDeviceTimeNs(), total.GetSum().GetDeviceTimeNs()), n.text))
		}
	}
	if u, ok := figure(total.GetSum().GetUnpricedTimeNs()); ok && u.Sign() > 0 {
		notes = append(notes, fmt.Sprintf("%s GPU hours have NO PRICE: their cost is unknown and not in these sums. See: gpuledger devices, gpuledger ratecard apply", hoursText(total.GetSum().GetUnpricedTimeNs())))
	}
	if len(notes) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
	return err
}

func reportCSV(w io.Writer, res *pb.ReportResponse) error {
	head := append([]string{"time"}, res.GetGroupBy()...)
	byBasis := slices.Contains(res.GetGroupBy(), "basis") // one column is enough
	if !byBasis {
		head = append(head, "basis")
	}
	head = append(head, "device_seconds", "sm_active_seconds", "memory_byte_seconds", "energy_uj", moneyColumn("cost", res.GetCurrency()), "unpriced_seconds")
	var rows [][]string
	for _, r := range res.GetRows() {
		for _, b := range r.GetByBasis() {
			row := []string{time.Unix(r.GetTime(), 0).UTC().Format(time.RFC3339)}
			if r.GetOther() {
				row = append(row, otherKeys(len(res.GetGroupBy()))...)
			} else {
				row = append(row, csvKeys(r)...)
			}
			if !byBasis {
				row = append(row, b.GetBasis())
			}
			rows = append(rows, append(row, secondsText(b.GetDeviceTimeNs()), secondsText(b.GetSmActiveNs()),
				b.GetMemoryByteSeconds(), b.GetEnergyUj(), b.GetCost(), secondsText(b.GetUnpricedTimeNs())))
		}
	}
	return printCSV(w, head, rows)
}
