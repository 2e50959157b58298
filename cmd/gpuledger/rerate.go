package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// rerateFlags are how a change of the past is confirmed and told.
type rerateFlags struct {
	yes, preview bool
	reason, out  string
}

func (f *rerateFlags) flags(c *cobra.Command) {
	c.Flags().BoolVar(&f.preview, "preview", false, "show what would change, and change nothing")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask: change it")
	c.Flags().StringVar(&f.reason, "reason", "", "why, to be kept with it")
	c.Flags().StringVarP(&f.out, "output", "o", outTable, "table or json")
}

func (f *rerateFlags) check(c *cobra.Command) error {
	if err := checkOutput(f.out, outTable, outJSON); err != nil {
		return err
	}
	if f.yes && f.preview {
		return usagef("--yes and --preview exclude each other: change it, or look only")
	}
	if f.out == outJSON && !f.yes && !f.preview {
		return usagef("with -o json nobody is asked: give --yes to change it, or --preview to look only")
	}
	if in, ok := c.InOrStdin().(io.Writer); !f.yes && !f.preview && (!ok || !isTerminal(in)) {
		return usagef("this changes what the past cost, and there is nobody to ask: give --yes to change it, or --preview to look only")
	}
	return nil
}

func newRerate(t *target) *cobra.Command {
	var r timeRange
	var f rerateFlags
	var file string
	var revision uint32
	c := &cobra.Command{
		Use:   "rerate (--from TIME --to TIME | --last SPAN) (--ratecard FILE | --revision N)",
		Short: "Price a stretch of the past anew: exact, on record, and reversible",
		Long: `rerate gives a stretch of the past the prices of another rate card: an invoice
came, a discount was agreed, prices were wrong or missing. Device time never
changes; what it costs is worked out again from it.

First it shows what would change, by team, and asks. What is applied is in force
at once, for what is stored and for what comes late, and stays on record, with
its prices and the reason. "gpuledger rerate undo" takes it back, and every
figure is what it was. Of several over the same time the newest counts, and has
to be undone first.

Where single seconds are kept, the result is what it would have been had it been
rated so from the start. Where a retention has dropped them, what each device
cost is exact, and the note says how close what each owner cost is. There the
range has to be whole minutes, hours or days.

To change prices from now on, apply a rate card: gpuledger ratecard apply.`,
		Example: `  gpuledger rerate --from 2026-01-01 --to 2026-02-01 --ratecard january-invoice.yaml --preview
  gpuledger rerate --from 2026-01-01 --to 2026-02-01 --ratecard january-invoice.yaml --reason "invoice 4711"
  gpuledger rerate --last 3h --revision 2 --yes
  gpuledger rerate list
  gpuledger rerate undo 1`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return showHelp(c, args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			req := &pb.RerateRequest{Revision: revision, Reason: f.reason}
			var err error
			if req.From, req.To, err = r.unix(time.Now()); err != nil {
				return err
			}
			switch {
			case req.GetTo() == 0:
				return usagef("which time is priced anew? Give --from and --to, or --last\nSee: %s --help", c.CommandPath())
			case (file == "") == (revision == 0):
				return usagef("by which prices? Give either --ratecard FILE or --revision N\nSee: %s --help", c.CommandPath())
			}
			if err := f.check(c); err != nil {
				return err
			}
			if file != "" {
				card, err := readRateCard(file)
				if err != nil {
					return err
				}
				req.Card = wire.EncodeRateCard(card)
			}
			return t.rerate(c, req, &f)
		},
	}
	r.flags(c)
	c.Flags().Lookup("from").Usage = "start, inclusive: RFC 3339 time, date, Unix second, today or yesterday"
	c.Flags().StringVar(&file, "ratecard", "", "prices of that time from now on, as a file")
	c.Flags().Uint32Var(&revision, "revision", 0, "or: a revision of the ledger's rate card")
	f.flags(c)
	c.AddCommand(newRerateList(t), newRerateUndo(t))
	return c
}

func newRerateUndo(t *target) *cobra.Command {
	var f rerateFlags
	c := &cobra.Command{
		Use: "undo ID", Short: "Take a rerating back: every figure is what it was",
		Args: exactArgs(1, "the number of a rerating, see gpuledger rerate list"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 31)
			if err != nil || id == 0 {
				return usagef("%q is not the number of a rerating: see gpuledger rerate list", args[0])
			}
			if err := f.check(c); err != nil {
				return err
			}
			return t.rerate(c, &pb.RerateRequest{Undo: uint32(id), Reason: f.reason}, &f)
		},
	}
	f.flags(c)
	return c
}

// rerate shows what a change would do, asks, and does it.
func (t *target) rerate(c *cobra.Command, req *pb.RerateRequest, f *rerateFlags) error {
	return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
		w := c.OutOrStdout()
		if f.out == outJSON {
			req.Preview = f.preview
			res, err := l.Rerate(c.Context(), req)
			if err != nil {
				return err
			}
			return printJSON(w, res)
		}
		req.Preview = true
		res, err := l.Rerate(c.Context(), req)
		if err != nil {
			return err
		}
		if err := printRerating(w, res); err != nil {
			return err
		}
		switch {
		case f.preview:
			_, err := fmt.Fprintln(w, "\nNothing was changed: this is a preview.")
			return err
		case !f.yes:
			if err := confirm(c); err != nil {
				return err
			}
		}
		req.Preview = false
		if res, err = l.Rerate(c.Context(), req); err != nil {
			return err
		}
		return printRerated(w, res.GetRerating())
	})
}

// confirm asks, and is an error unless the answer is yes.
func confirm(c *cobra.Command) error {
	if _, err := fmt.Fprint(c.OutOrStdout(), "\nChange it? [y/N] "); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed: it was not confirmed (--yes does not ask)")
}

// printRerating tells what changes, by team.
func printRerating(w io.Writer, res *pb.RerateResponse) error {
	e := res.GetRerating()
	cur := e.GetCurrency()
	if _, err := fmt.Fprintf(w, "%s\n\n", spanText(e.GetFrom(), e.GetTo())); err != nil {
		return err
	}
	tab := newTable("TEAM", ">BEFORE "+cur, ">AFTER "+cur, ">DIFFERENCE", "")
	for _, row := range res.GetByTeam() {
		tab.add(rerateCells(keyText(row.GetTeam(), row.GetMissing()), row)...)
	}
	tab.rows = append(tab.rows, nil)
	tab.add(rerateCells("total", res.GetTotal())...)
	if err := tab.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s stored sums of %s GPU hours change.\n", thousands(fmt.Sprint(res.GetRows())), hoursText(res.GetDeviceTimeNs()))
	if note := res.GetNote(); err == nil && note != "" {
		_, err = fmt.Fprintln(w, note)
	}
	return err
}

func rerateCells(name string, row *pb.RerateRow) []string {
	note := ""
	before, after := row.GetUnpricedTimeNsBefore(), row.GetUnpricedTimeNsAfter()
	switch b, a := positive(before), positive(after); {
	case a && before == after:
		note = "UNPRICED " + hoursText(after) + " h"
	case a && !b:
		note = "UNPRICED " + hoursText(after) + " h that had a price"
	case a:
		note = "UNPRICED " + hoursText(after) + " h, before " + hoursText(before) + " h"
	case b:
		note = hoursText(before) + " h had no price"
	}
	difference := row.GetDifference()
	text := moneyText(difference)
	if d, ok := new(big.Rat).SetString(difference); ok && d.Sign() > 0 {
		text = "+" + text
	}
	return []string{name, moneyText(row.GetCostBefore()), moneyText(row.GetCostAfter()), text, note}
}

func positive(dec string) bool {
	v, ok := figure(dec)
	return ok && v.Sign() > 0
}

func printRerated(w io.Writer, e *pb.Rerating) error {
	var err error
	if e.GetUndoes() != 0 {
		_, err = fmt.Fprintf(w, "\nRerating %d is undone, by entry %d.\n", e.GetUndoes(), e.GetId())
	} else {
		_, err = fmt.Fprintf(w, "\nRerating %d is in force. To take it back: gpuledger rerate undo %d\n", e.GetId(), e.GetId())
	}
	return err
}

func newRerateList(t *target) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "list", Short: "List all reratings ever made, undone ones too",
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(out, outTable, outJSON); err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.Reratings(c.Context(), &pb.ReratingsRequest{})
				if err != nil {
					return err
				}
				if out == outJSON {
					return printJSON(c.OutOrStdout(), res)
				}
				return printReratings(c.OutOrStdout(), res.GetReratings())
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", outTable, "table or json")
	return c
}

func printReratings(w io.Writer, es []*pb.Rerating) error {
	if len(es) == 0 {
		_, err := fmt.Fprintln(w, "Nothing was ever rerated: everything costs what it did when it was first rated.")
		return err
	}
	tab := newTable("ID", "APPLIED (UTC)", "FROM", "TO", "WHAT", ">BEFORE", ">AFTER", "", "REASON")
	for _, e := range es {
		what := "other prices"
		switch {
		case e.GetUndoes() != 0:
			what = fmt.Sprintf("undoes %d", e.GetUndoes())
		case e.GetUndoneBy() != 0:
			what = fmt.Sprintf("undone by %d", e.GetUndoneBy())
		case e.GetCard().GetRevision() != 0:
			what = fmt.Sprintf("revision %d", e.GetCard().GetRevision())
		}
		reason := ""
		if e.GetReason() != "" {
			reason = keyText(e.GetReason(), false)
		}
		tab.add(fmt.Sprint(e.GetId()), minuteText(e.GetApplied()), minuteText(e.GetFrom()), minuteText(e.GetTo()), what,
			moneyText(e.GetCostBefore()), moneyText(e.GetCostAfter()), e.GetCurrency(), reason)
	}
	return tab.write(w)
}

// minuteText is a Unix second, to the second where it is no whole minute.
func minuteText(s int64) string {
	layout := "2006-01-02 15:04"
	if s%60 != 0 {
		layout += ":05"
	}
	return time.Unix(s, 0).UTC().Format(layout)
}
