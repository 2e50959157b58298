package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newVerify(t *target) *cobra.Command {
	var r timeRange
	var out, heads string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Recompute the laws over what is stored; exit 3 at the first break",
		Long: `verify reads back everything stored in a range and recomputes what the laws
determine: that each second of each device is shared out exactly, in time and
in money; that no second is there twice; that minutes are the sums of their
seconds, hours of their minutes, days of their hours.

A node's chunks are a hash chain, which verify follows: a chunk that was
changed, left out or put in after it was sent breaks it. Who can rewrite the
whole ledger can relink it, too. --heads FILE guards against that: where the
file is there, every chain must still go through the links that it notes;
after a verification that holds, it notes those of now. Keep it where those
who run the ledger cannot write, and run it more often than seconds are kept.

It exits 0 if every law holds, 3 at the first break, which it names.`,
		Example: `  gpuledger verify --data ./ledger
  gpuledger verify --last 2h
  gpuledger verify --heads /mnt/audit/heads.json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(out, outTable, outJSON); err != nil {
				return err
			}
			from, to, err := r.unix(time.Now())
			if err != nil {
				return err
			}
			noted, err := readHeads(heads)
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				p, err := verify(c, l, &pb.VerifyRequest{From: from, To: to, Noted: noted}, out)
				if err != nil || heads == "" {
					return err
				}
				return writeHeads(heads, p.GetHeads())
			})
		},
	}
	r.flags(c)
	c.Flags().StringVarP(&out, "output", "o", outTable, "table or json")
	c.Flags().StringVar(&heads, "heads", "", "compare with the links noted in this file, then note those of now")
	return c
}

// verify returns the last message of a verification that found no break.
func verify(c *cobra.Command, l pb.LedgerClient, req *pb.VerifyRequest, out string) (*pb.VerifyProgress, error) {
	stream, err := l.Verify(c.Context(), req)
	if err != nil {
		return nil, err
	}
	bar := newProgress(c.ErrOrStderr())
	defer bar.clear()
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the collector ended the verification without a result")
		}
		if err != nil {
			return nil, err
		}
		if p.GetLaw() == 0 && !p.GetDone() {
			bar.show("verifying", p.GetChunks(), p.GetChunksTotal(), fmt.Sprintf("%s device seconds", thousands(fmt.Sprint(p.GetWindows()))))
			continue
		}
		bar.clear()
		return p, verdict(c.OutOrStdout(), p, out)
	}
}

func verdict(w io.Writer, p *pb.VerifyProgress, out string) error {
	if out == outJSON {
		if err := printJSON(w, p); err != nil {
			return err
		}
	}
	if p.GetLaw() != 0 {
		return brokenError{fmt.Errorf("BROKEN: law %d: %s", p.GetLaw(), p.GetBroken())}
	}
	if out == outJSON {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The laws hold: %s chunks, %s device seconds, %s slices, %s rollup rows.\n",
		thousands(fmt.Sprint(p.GetChunks())), thousands(fmt.Sprint(p.GetWindows())), thousands(fmt.Sprint(p.GetSlices())), thousands(fmt.Sprint(p.GetRows())))
	for _, u := range p.GetUnchecked() {
		fmt.Fprintf(&b, "Not checked: %s\n", u)
	}
	if n := len(p.GetHeads()); n > 0 {
		fmt.Fprintf(&b, "Chained: %s nodes; the chunks that are kept are as they were sent, in order.\n", thousands(fmt.Sprint(n)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
