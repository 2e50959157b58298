package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// maxDocument bounds the rate cards and rules that are read.
const maxDocument = 1 << 20

func newRateCard(t *target) *cobra.Command {
	c := &cobra.Command{
		Use:   "ratecard",
		Short: "Check, apply and show the prices",
		Long: `A rate card prices a device-hour by device model, capacity type, node labels and
time, and adds overheads. Cards are revisions: applying one never changes what
was rated before.

A card is YAML; amounts are decimals, exact to a nano unit of the currency:

  currency: USD
  prices:
    - model: "NVIDIA H100*"          # the most specific match counts
      per_device_hour: "2.90"
    - model: "NVIDIA H100*"
      capacity_type: spot
      per_device_hour: "1.45"
  overheads:
    - name: host
      per_node_hour: "0.40"          # shared by the node's devices`,
		Example: `  gpuledger ratecard check prices.yaml
  gpuledger ratecard apply prices.yaml
  gpuledger ratecard show --revision 1
  gpuledger ratecard onprem --capex 320000 --years 4 --gpus 8 > prices.yaml`,
		RunE: showHelp,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "check FILE", Short: "Say whether a rate card is sound, without applying it",
			Args: exactArgs(1, "one file"),
			RunE: func(c *cobra.Command, args []string) error {
				card, err := readRateCard(args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s is sound: %s, %s, in %s.\n", args[0], plural(len(card.Prices), "price"), plural(len(card.Overheads), "overhead"), card.Currency)
				return err
			},
		},
		&cobra.Command{
			Use: "apply FILE", Short: "Make a rate card the next revision, from now on",
			Args: exactArgs(1, "one file"),
			RunE: func(c *cobra.Command, args []string) error {
				card, err := readRateCard(args[0])
				if err != nil {
					return err
				}
				return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
					res, err := l.ApplyRateCard(c.Context(), &pb.ApplyRateCardRequest{Card: wire.EncodeRateCard(card)})
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(c.OutOrStdout(), "Rate card %s is revision %d as of %s.\n", args[0], res.GetRevision(), time.Now().UTC().Format(time.RFC3339))
					return err
				})
			},
		},
		newRateCardShow(t),
		newOnPrem(),
	)
	return c
}

// priceBy has the ledger price by a card. The collector's file of that card may
// have been superseded since it was first applied; who names a card means it.
func priceBy(ctx context.Context, l pb.LedgerClient, card *rating.Card) error {
	res, err := l.GetRateCard(ctx, &pb.GetRateCardRequest{})
	if err != nil {
		return err
	}
	have, err := wire.DecodeRateCard(res)
	if err != nil {
		return err
	}
	have.Revision = card.Revision
	if bytes.Equal(rating.Format(have), rating.Format(card)) {
		return nil
	}
	_, err = l.ApplyRateCard(ctx, &pb.ApplyRateCardRequest{Card: wire.EncodeRateCard(card)})
	return err
}

func newRateCardShow(t *target) *cobra.Command {
	var revision uint32
	c := &cobra.Command{
		Use: "show", Short: "Print the rate card in force, or an earlier revision",
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.GetRateCard(c.Context(), &pb.GetRateCardRequest{Revision: revision})
				if err != nil {
					return err
				}
				card, err := wire.DecodeRateCard(res)
				if err != nil {
					return err
				}
				_, err = c.OutOrStdout().Write(rating.Format(card))
				return err
			})
		},
	}
	c.Flags().Uint32Var(&revision, "revision", 0, "which revision (0: the one in force)")
	return c
}

func readRateCard(path string) (*rating.Card, error) {
	b, err := readDocument(path)
	if err != nil {
		return nil, err
	}
	card, err := rating.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return card, nil
}

// readDocument reads a small file of a person's.
func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(b) > maxDocument {
		return nil, errors.New(path + " is larger than 1 MiB: is it the right file?")
	}
	return b, nil
}
