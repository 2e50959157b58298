package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector/focus/validate"
)

func newFocus() *cobra.Command {
	c := &cobra.Command{
		Use:     "focus",
		Short:   "Check FOCUS files against the published rules",
		Long:    "focus works on files in the FinOps Open Cost and Usage Specification, FOCUS, by whoever wrote them.",
		Example: "  gpuledger focus check january.parquet",
		RunE:    showHelp,
	}
	c.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Check a FOCUS file, CSV or Parquet",
		Long: `check holds a file against the rules of FOCUS 1.2, and of 1.3 where it has
columns of a split: columns, nulls, formats, lists of values, unit price times
quantity, periods, and whether the parts of a charge sum to it.

It needs no ledger. It prints what it finds and exits 1 if that is anything.`,
		Example: `  gpuledger focus check january.parquet
  gpuledger focus check cloud-export.csv`,
		Args: exactArgs(1, "a file"),
		RunE: func(c *cobra.Command, args []string) error {
			rep, err := validate.File(args[0])
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return printFindings(c.OutOrStdout(), args[0], rep)
		},
	})
	return c
}

// errNotFOCUS says that a file breaks rules, which are printed already.
var errNotFOCUS = errors.New("it breaks the rules of FOCUS")

func printFindings(w io.Writer, file string, rep *validate.Report) error {
	for _, f := range rep.Findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	total := int64(0)
	for _, rule := range slices.Sorted(maps.Keys(rep.Count)) {
		n := rep.Count[rule]
		total += n
		if n > validate.MaxFindings {
			if _, err := fmt.Fprintf(w, "%s: %d more like these\n", rule, n-validate.MaxFindings); err != nil {
				return err
			}
		}
	}
	for _, u := range rep.Unchecked {
		if _, err := fmt.Fprintf(w, "not checked: %s\n", u); err != nil {
			return err
		}
	}
	if !rep.Valid() {
		return fmt.Errorf("%s: %s in %s rows: %w", file, plural(int(total), "finding"), thousands(fmt.Sprint(rep.Rows)), errNotFOCUS)
	}
	_, err := fmt.Fprintf(w, "%s is valid: %s rows, %s split charges, %s %s\n", file,
		thousands(fmt.Sprint(rep.Rows)), thousands(fmt.Sprint(rep.Splits)), thousands(rep.Cost), rep.Currency)
	return err
}
