package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/metadata"

	"github.com/gpuledger/gpuledger/collector/api"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newExport(t *target) *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write files for other people's tools: FOCUS for finance",
		Long:  "export writes the ledger in formats that other tools read.",
		Example: `  gpuledger export focus --from 2026-01-01 --to 2026-02-01 -o january.parquet
  gpuledger focus check january.parquet`,
		RunE: showHelp,
	}
	c.AddCommand(newExportFocus(t))
	return c
}

// exportFlags are what export focus can be told.
type exportFlags struct {
	timeRange
	by                  []string
	step, format, out   string
	force               bool
	account, accountTag string
	provider, issuer    string
}

func newExportFocus(t *target) *cobra.Command {
	var x exportFlags
	c := &cobra.Command{
		Use:   "focus",
		Short: "FOCUS 1.2 rows with the split cost columns of 1.3, as CSV or Parquet",
		Long: `focus writes what devices cost as FOCUS rows, for finance's tools.

Each device and day (or hour) is a charge, split over its owners by --by: the
rows of a charge sum to it, and all rows to the report, to the last decimal.
What nobody held and what maps to no owner are rows of their own. Time without
a price has an unknown cost and is in no row; the last line says how much there
is. docs/focus.md says what each column holds.

Where a cloud's own FOCUS file is loaded beside this one, name who invoices the
GPUs with --invoice-issuer: BilledCost is then 0 and nothing is billed twice.

The file appears when it is whole. An existing one is kept unless --force.`,
		Example: `  gpuledger export focus --from 2026-01-01 --to 2026-02-01 -o january.csv
  gpuledger export focus --last 24h --step 1h --by team,namespace -o day.parquet
  gpuledger export focus --last 7d --by label:app --invoice-issuer "Big Cloud" -o week.csv`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := x.request(time.Now())
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				return x.export(c.Context(), l, req, c.OutOrStdout(), c.ErrOrStderr())
			})
		},
	}
	x.flags(c)
	f := c.Flags()
	f.StringSliceVar(&x.by, "by", []string{"team"}, "what owners are told apart by: namespace, controller, pod, container, team, budget-owner, environment, model, class, tier, run, label:KEY; none leaves charges whole")
	f.StringVar(&x.step, "step", "24h", "charge periods: 24h or 1h")
	f.StringVar(&x.format, "format", "", "csv or parquet (default: by the file's name, else csv)")
	f.StringVarP(&x.out, "output", "o", "", "file to write")
	f.BoolVar(&x.force, "force", false, "replace the file if there is one")
	f.StringVar(&x.provider, "provider", "", "who offers the GPUs to the teams (default: gpuledger)")
	f.StringVar(&x.issuer, "invoice-issuer", "", "who invoices them, where that is somebody else")
	f.StringVar(&x.account, "billing-account-id", "", "the account that is charged (default: gpuledger)")
	f.StringVar(&x.accountTag, "billing-account-name", "", "its name (default: its id)")
	return c
}

// request checks the flags without asking anybody.
func (x *exportFlags) request(now time.Time) (*pb.ExportRequest, error) {
	from, to, err := x.unix(now)
	if err != nil {
		return nil, err
	}
	step, err := parseSpan(x.step)
	if err != nil {
		return nil, err
	}
	if step != time.Hour && step != 24*time.Hour {
		return nil, usagef("--step %s: charge periods are hours (1h) or days (24h)", x.step)
	}
	if x.out == "" || x.out == "-" {
		return nil, usagef("-o is missing: name the file to write, such as -o focus.csv")
	}
	if err := replaceable(x.out); err != nil {
		return nil, err
	}
	if x.format == "" {
		x.format = "csv"
		if strings.EqualFold(filepath.Ext(x.out), ".parquet") {
			x.format = "parquet"
		}
	}
	format, ok := map[string]string{"csv": api.FormatCSV, "parquet": api.FormatParquet}[x.format]
	if !ok {
		return nil, usagef("--format %q: want csv or parquet", x.format)
	}
	if _, err := os.Lstat(x.out); err == nil && !x.force {
		return nil, usagef("%s is there already: take another name, or --force to replace it", x.out)
	}
	var by []string
	for _, b := range x.by {
		if b = strings.TrimSpace(b); b != "" {
			by = append(by, b)
		}
	}
	if len(by) != 1 || by[0] != "none" {
		if err := checkQuestion(by, nil); err != nil {
			return nil, err
		}
	}
	return &pb.ExportRequest{
		From: from, To: to, Format: format, Step: int64(step / time.Second), AllocateBy: by,
		BillingAccountId: x.account, BillingAccountName: x.accountTag, Provider: x.provider, InvoiceIssuer: x.issuer,
	}, nil
}

// export writes the file and says what is in it.
func (x *exportFlags) export(ctx context.Context, l pb.LedgerClient, req *pb.ExportRequest, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where writing fails
	stream, err := l.Export(ctx, req)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err // before anything is written
	}
	bar := newProgress(stderr)
	defer bar.clear()
	err = writeWhole(x.out, 0o644, func(w *os.File) error {
		size := int64(0)
		for m := first; ; {
			n, err := w.Write(m.GetData())
			if err != nil {
				return err
			}
			size += int64(n)
			bar.show("exporting", 0, 0, fmt.Sprintf("%d MB", size>>20))
			if m, err = stream.Recv(); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	bar.clear()
	return summarise(ctx, l, x.out, stream.Trailer(), stdout)
}

// replaceable refuses what a file must not take the place of: folders, and
// devices and pipes, which would be gone.
func replaceable(path string) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return usagef("%s is no plain file: name the file to write", path)
	}
	return nil
}

// writeWhole makes a file that appears only when it is whole and durable.
func writeWhole(path string, mode os.FileMode, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Unwrap(err))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The name, too, is durable once its folder is.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// summarise tells what the file holds, and holds it against a report.
func summarise(ctx context.Context, l pb.LedgerClient, path string, trailer metadata.MD, stdout io.Writer) error {
	get := func(name string) string {
		if v := trailer.Get(name); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	var from, to int64
	if _, err := fmt.Sscan(get(api.TrailerFrom)+" "+get(api.TrailerTo), &from, &to); err != nil {
		return fmt.Errorf("the collector did not say what %s holds", path)
	}
	cost, unpriced := get(api.TrailerCost), get(api.TrailerUnpriced)
	lines := []string{fmt.Sprintf("%s: %s rows, %s %s, %s", path, thousands(get(api.TrailerRows)), thousands(cost), get(api.TrailerCurrency), spanText(from, to))}
	if from != to {
		rep, err := l.Report(ctx, &pb.ReportRequest{From: from, To: to})
		if err != nil {
			return err
		}
		said := rep.GetTotal().GetSum().GetCost()
		if said == "" {
			said = "0.00"
		}
		if said == cost {
			lines = append(lines, "the same as gpuledger report")
		} else {
			lines = append(lines, fmt.Sprintf("gpuledger report says %s by now: the range has changed since, so export it again when it is over", thousands(said)))
		}
	}
	if unpriced != "0" {
		lines = append(lines, hoursText(unpriced)+" GPU hours have no price: their cost is unknown, they are in no row")
	}
	if n := get(api.TrailerAveraged); n != "0" {
		lines = append(lines, thousands(n)+" charges have an average unit price (x_UnitPriceSource)")
	}
	_, err := fmt.Fprintln(stdout, strings.Join(lines, "\n"))
	return err
}
