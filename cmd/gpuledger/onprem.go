package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

func newOnPrem() *cobra.Command {
	var o rating.OnPrem
	var labels []string
	c := &cobra.Command{
		Use:   "onprem",
		Short: "Work out a rate card for GPUs that you own",
		Long: `onprem makes a rate card of what a node cost and what it takes to run:

  (capex - residual) / (years x 8,760 h)   for the GPUs, and the host's part apart
  watts / 1000 x price per kWh x PUE       for power and cooling
  a month's cost / 730 h                   for storage, network, space and staff
  a percentage of all that                 as a platform fee

Each is a line of its own on the card, so that "report --lines" shows what a
team pays for which. Amounts are decimals, exact to nine places; every line is
rounded down to a nano unit an hour, once. The card goes to standard output;
look at it, then apply it.

Prices pay for time, used or not: what nobody holds is unallocated cost, which
is why the life is counted in all of its hours, not in those that are busy.`,
		Example: `  gpuledger ratecard onprem --model "NVIDIA H100*" --gpus 8 --capex 320000 --host-capex 60000 \
    --years 4 --gpu-watts 700 --host-watts 2400 --per-kwh 0.12 --pue 1.3 > prices.yaml
  gpuledger ratecard check prices.yaml
  gpuledger ratecard apply prices.yaml`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			m := make(map[string]string, len(labels))
			for _, l := range labels {
				k, v, ok := strings.Cut(l, "=")
				if !ok || k == "" {
					return usagef("--node-label %q: write KEY=VALUE", l)
				}
				m[k] = v
			}
			o.NodeLabels = attribution.MakeLabels(m)
			card, err := o.Card()
			if err != nil {
				return usageError{err}
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "# %s.\n%s", o.String(), rating.Format(card))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Model, "model", "*", "device model that the prices are for, * is a wildcard")
	f.StringArrayVar(&labels, "node-label", nil, "only nodes with this label, KEY=VALUE; may be repeated")
	f.StringVar(&o.Currency, "currency", "USD", "currency, ISO 4217")
	f.IntVar(&o.GPUs, "gpus", 8, "GPUs of the node")
	f.StringVar(&o.Capex, "capex", "", "what the node cost, all of it")
	f.StringVar(&o.HostCapex, "host-capex", "", "of it, what is not the GPUs: CPU, RAM, chassis")
	f.StringVar(&o.Residual, "residual", "", "what the node will be worth in the end")
	f.StringVar(&o.Life, "years", "4", "years over which it is paid for")
	f.StringVar(&o.GPUWatts, "gpu-watts", "", "watts of a GPU, as measured or rated")
	f.StringVar(&o.HostWatts, "host-watts", "", "watts of the rest of the node")
	f.StringVar(&o.PerKWh, "per-kwh", "", "price of a kilowatt-hour")
	f.StringVar(&o.PUE, "pue", "", "power usage effectiveness of the room (default 1)")
	f.StringVar(&o.Storage, "storage", "", "storage, per node and month")
	f.StringVar(&o.Network, "network", "", "network, per node and month")
	f.StringVar(&o.Space, "space", "", "rack space, per node and month")
	f.StringVar(&o.Staff, "staff", "", "people's work, per node and month")
	f.StringVar(&o.PlatformFee, "platform-fee", "", "surcharge on everything, in percent")
	return c
}
