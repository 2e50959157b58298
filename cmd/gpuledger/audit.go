package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newAudit(t *target) *cobra.Command {
	var out string
	var req pb.AuditRequest
	c := &cobra.Command{
		Use:   "audit",
		Short: "Who changed prices, rules and past costs, and when",
		Long: `audit lists the changes of the ledger, newest first: who made each and how the
collector knew them, from which revision to which, the SHA-256 of the document,
and what came of it. A change is written down before it is made.

Every record holds the hash of the one before. Where a record does not follow
from the one before it, audit says so and exits with 3; verify checks all of
them. It takes the role operator.`,
		Example: `  gpuledger audit
  gpuledger audit --limit 20 --before 140 -o json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(out, outTable, outJSON); err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.Audit(c.Context(), &req)
				if err != nil {
					return err
				}
				if out == outJSON {
					err = printJSON(c.OutOrStdout(), res)
				} else {
					err = printAudit(c.OutOrStdout(), res)
				}
				if n := res.GetBroken(); err == nil && n != 0 {
					return brokenError{fmt.Errorf("record %d of the audit log does not follow from record %d: one of them is not as it was written", n, n-1)}
				}
				return err
			})
		},
	}
	f := c.Flags()
	f.Int32Var(&req.Limit, "limit", 100, "changes at most, up to 1000")
	f.Uint32Var(&req.Before, "before", 0, "only changes with a lower number than this")
	f.StringVarP(&out, "output", "o", outTable, "table or json")
	return c
}

func printAudit(out io.Writer, res *pb.AuditResponse) error {
	w := &strings.Builder{}
	if len(res.GetEntries()) == 0 {
		fmt.Fprintln(w, "Nothing was changed.")
	} else {
		tab := newTable("NO", "TIME (UTC)", "WHO", "BY", "WHAT", "REVISION", "SHA-256", "OUTCOME", "DETAIL")
		for _, e := range res.GetEntries() {
			tab.add(fmt.Sprint(e.GetSequence()), time.Unix(0, e.GetTimeNs()).UTC().Format("2006-01-02 15:04:05"),
				keyText(e.GetCaller(), false), keyText(e.GetMethod(), false), keyText(e.GetAction(), false), revisions(e),
				short(e.GetSha256()), keyText(e.GetOutcome(), false), keyText(e.GetDetail(), false))
		}
		if err := tab.write(w); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, w.String())
	return err
}

func revisions(e *pb.AuditEntry) string {
	if e.GetNewRevision() == 0 {
		return ""
	}
	return fmt.Sprintf("%d → %d", e.GetOldRevision(), e.GetNewRevision())
}

// short is enough of a hash to tell documents apart.
func short(sum string) string {
	if len(sum) > 12 {
		return sum[:12]
	}
	return sum
}
