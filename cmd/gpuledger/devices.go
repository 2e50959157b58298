package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newDevices(t *target) *cobra.Command {
	var r timeRange
	var filter []string
	var out string
	c := &cobra.Command{
		Use:   "devices",
		Short: "The devices on record, with their prices, use and cost",
		Long: `devices lists every GPU and MIG instance on record in a range: its node, model
and price per hour, how long it is on record and was used, and what it cost.

A device without a price says UNPRICED: its time is on record, its cost is
unknown, which is not 0. Give its model a price with gpuledger ratecard apply.`,
		Example: `  gpuledger devices
  gpuledger devices --last 24h --filter node=gpu-7
  gpuledger devices --filter "device-model=NVIDIA H100*" -o csv`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(out, outTable, outJSON, outCSV); err != nil {
				return err
			}
			if err := checkQuestion(nil, filter); err != nil {
				return err
			}
			from, to, err := r.unix(time.Now())
			if err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.Devices(c.Context(), &pb.DevicesRequest{From: from, To: to, Filter: filter})
				if err != nil {
					return err
				}
				return printDevices(c.OutOrStdout(), res, out)
			})
		},
	}
	r.flags(c)
	c.Flags().StringArrayVar(&filter, "filter", nil, "keep KEY=VALUE or KEY!=VALUE, * is a wildcard; may be repeated")
	c.Flags().StringVarP(&out, "output", "o", outTable, "table, json or csv")
	return c
}

func printDevices(w io.Writer, res *pb.DevicesResponse, out string) error {
	switch out {
	case outJSON:
		return printJSON(w, res)
	case outCSV:
		var rows [][]string
		for _, d := range res.GetDevices() {
			memory := "" // 0 is not a size that a device has
			if d.GetMemoryBytes() != 0 {
				memory = strconv.FormatInt(d.GetMemoryBytes(), 10)
			}
			rows = append(rows, []string{
				d.GetCluster(), d.GetNode(), d.GetId(), d.GetModel(), d.GetCapacityType(), d.GetParent(), d.GetProfile(),
				memory, d.GetPricePerHour(), secondsText(d.GetSum().GetDeviceTimeNs()), secondsText(d.GetUsedTimeNs()),
				d.GetSum().GetCost(), secondsText(d.GetSum().GetUnpricedTimeNs()),
			})
		}
		return printCSV(w, []string{
			"cluster", "node", "device", "model", "capacity_type", "parent", "profile", "memory_bytes",
			"price_per_hour", "device_seconds", "used_seconds", moneyColumn("cost", res.GetCurrency()), "unpriced_seconds",
		}, rows)
	}
	if len(res.GetDevices()) == 0 {
		_, err := fmt.Fprintln(w, "No devices are on record here.")
		return err
	}
	tab := newTable("NODE", "DEVICE", "MODEL", ">PRICE/H", ">GPU HOURS", ">USED", ">COST "+res.GetCurrency(), "")
	cut := make(map[string]bool) // GPUs of which instances are listed: what is listed under their id is the rest
	for _, d := range res.GetDevices() {
		cut[d.GetParent()] = true
	}
	for _, d := range res.GetDevices() {
		model := keyText(d.GetModel(), d.GetModel() == "")
		if d.GetProfile() != "" {
			model += " " + keyText(d.GetProfile(), false)
		}
		if cut[d.GetId()] {
			model += " (the uncut rest)"
		}
		price, note := moneyText(d.GetPricePerHour()), ""
		if d.GetPricePerHour() == "" {
			note = "UNPRICED: add a price for this model with gpuledger ratecard apply"
		}
		tab.add(keyText(d.GetNode(), false), keyText(d.GetId(), false), model, price,
			hoursText(d.GetSum().GetDeviceTimeNs()), percentText(d.GetUsedTimeNs(), d.GetSum().GetDeviceTimeNs()), moneyText(d.GetSum().GetCost()), note)
	}
	return tab.write(w)
}
