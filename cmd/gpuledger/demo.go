package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// demoRateCard prices the simulated fleet and most real GPUs.
//
//go:embed demo-ratecard.yaml
var demoRateCard []byte

// demoBackfill is how much of the simulated fleet's past is played first.
const demoBackfill = time.Hour

type demoOptions struct {
	recording, data, rateCard string
	span                      time.Duration
}

func newDemo() *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "Start everything on loopback and watch what inferences cost",
		Long: `demo starts a collector and an agent on loopback and shows, live, what 1k
inferences of each model cost and how much of it is idle. It plays the node's
own GPUs where there are any, else a simulated fleet: first its last hour, as
fast as it goes, then on in real time. Ctrl-C stops everything.`,
		Example: `  gpuledger demo
  gpuledger demo --recording gentd26.jsonl
  gpuledger demo --for 30s`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("data") || c.Flags().Changed("collector") {
				return usagef("demo starts a collector of its own: to keep its ledger, use --keep DIR")
			}
			if o.span < 0 {
				return usagef("--for %s is negative", o.span)
			}
			ctx := c.Context()
			if o.span > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, o.span)
				defer cancel()
			}
			err := runDemo(ctx, c.OutOrStdout(), c.ErrOrStderr(), o)
			if ctx.Err() != nil {
				return nil // it was told to end, and did
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.recording, "recording", "", "play this recording instead, as fast as it goes")
	f.StringVar(&o.rateCard, "ratecard", "", "price by this rate card (default: example prices)")
	f.StringVar(&o.data, "keep", "", "keep the ledger in this folder (default: a temporary one)")
	f.DurationVar(&o.span, "for", 0, "end after this time (0: at Ctrl-C)")
	return c
}

func runDemo(ctx context.Context, stdout, stderr io.Writer, o demoOptions) error {
	card := demoRateCard
	if o.rateCard != "" {
		if _, err := readRateCard(o.rateCard); err != nil {
			return err
		}
		var err error
		if card, err = readDocument(o.rateCard); err != nil {
			return err
		}
	}
	var info *played
	if o.recording != "" {
		var err error
		if info, err = checkRecording(o.recording); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp("", "gpuledger-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if o.data == "" {
		o.data = filepath.Join(tmp, "ledger")
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return err
	}
	cardFile := filepath.Join(tmp, "ratecard.yaml")
	if err := os.WriteFile(cardFile, card, 0o600); err != nil {
		return err
	}
	coll, err := startCollector(ctx, collectorOptions{
		data: o.data, rateCard: cardFile, stderr: stderr,
		grpc: freeOr("127.0.0.1:9440"), http: freeOr("127.0.0.1:9441"),
	})
	if err != nil {
		return err
	}
	defer coll.stop()
	source, conf := demoSource(o)
	agent, err := startAgent(conf, coll.ready.GRPC, stderr)
	if err != nil {
		return err
	}
	defer agent.stop()
	conn, err := dial(coll.ready.GRPC, insecure.NewCredentials())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	if _, err := fmt.Fprintf(stdout, "collector on %s (gRPC) and http://%s, agent playing %s\n", coll.ready.GRPC, coll.ready.HTTP, source); err != nil {
		return err
	}
	d := demo{ledger: pb.NewLedgerClient(conn), coll: coll, agent: agent, info: info, source: source}
	if err := d.catchUp(ctx, stderr); err != nil {
		return err
	}
	every, rounds := time.Second, 0
	if !isTerminal(stdout) {
		every = 10 * time.Second
	}
	if info != nil {
		rounds = 1 // a recording ends: show the outcome, then wait to be asked
	}
	if err := live(ctx, stdout, every, rounds, func(w *strings.Builder) error { return d.round(ctx, w) }); err != nil || info == nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-coll.done:
		return errors.New("the collector ended early; its message is above")
	}
	return nil
}

// demoSource chooses what the agent plays, and says it in words.
func demoSource(o demoOptions) (string, agentConfig) {
	conf := agentConfig{StateDir: filepath.Join(o.data, "agent")}
	switch {
	case o.recording != "":
		conf.Source, conf.Replay.File = "replay", o.recording
		return o.recording, conf
	case hasDriver():
		conf.Source = "nvml"
		return "this machine's GPUs", conf
	}
	conf.Source = "simulated"
	conf.Simulated = &simulatedConfig{Speed: 1, Backfill: demoBackfill.String()}
	return "a simulated fleet (no NVIDIA driver here)", conf
}

// hasDriver reports whether an NVIDIA driver is loaded.
func hasDriver() bool {
	_, err := os.Stat("/proc/driver/nvidia/version")
	return err == nil
}

// freeOr is the address if nobody listens there, else any free port.
func freeOr(addr string) string {
	l, err := net.Listen("tcp", addr) //nolint:noctx // it is closed at once
	if err != nil {
		return ""
	}
	_ = l.Close()
	return addr
}

type demo struct {
	ledger pb.LedgerClient
	coll   *collectorChild
	agent  *child
	info   *played
	source string
}

// catchUp shows progress until the past has been played.
func (d *demo) catchUp(ctx context.Context, stderr io.Writer) error {
	bar := newProgress(stderr)
	defer bar.clear()
	begin := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.coll.done:
			return errors.New("the collector ended early; its message is above")
		case <-d.agent.done:
			if d.agent.err != nil || d.info == nil {
				return errors.New("the agent ended early; its message is above")
			}
			return nil
		case <-tick.C:
		}
		st, err := d.ledger.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return err
		}
		at, from, to := st.GetLastSecond(), begin.Add(-demoBackfill).Unix(), time.Now().Unix()-3
		if d.info != nil {
			from, to = d.info.from, d.info.to
		}
		if hasDriver() && d.info == nil {
			from = begin.Unix()
		}
		if at >= to && d.info == nil {
			return nil
		}
		if at > 0 {
			bar.show("playing", at-from, to-from, "at "+time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05")+" UTC")
		}
	}
}

// round draws one picture of the whole.
func (d *demo) round(ctx context.Context, w *strings.Builder) error {
	rep, err := d.ledger.Report(ctx, &pb.ReportRequest{})
	if err != nil {
		return err
	}
	unit, err := d.ledger.UnitCosts(ctx, &pb.UnitCostsRequest{GroupBy: []string{"model"}})
	if err != nil {
		return err
	}
	dev, err := d.ledger.Devices(ctx, &pb.DevicesRequest{})
	if err != nil {
		return err
	}
	total := rep.GetTotal()
	fmt.Fprintf(w, "gpuledger   %s\n%d devices, %s\n\n", d.source, len(dev.GetDevices()), spanText(rep.GetFrom(), rep.GetTo()))
	if err := unitCostsTable(unit, []string{sectionCost}).write(w); err != nil {
		return err
	}
	if err := unitCostsFootnotes(w, unit); err != nil {
		return err
	}
	s := total.GetSum()
	idle := addDecimals(basisOf(total, "reserved").GetDeviceTimeNs(), basisOf(total, "unallocated").GetDeviceTimeNs())
	fmt.Fprintf(w, "\n%s %s of device time was idle: %s of %s %s\n", usedBar(total),
		percentText(idle, s.GetDeviceTimeNs()), moneyText(idleCost(total)), moneyText(s.GetCost()), rep.GetCurrency())
	st, err := d.ledger.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	for _, warning := range st.GetWarnings() {
		fmt.Fprintf(w, "! %s\n", keyText(warning, false))
	}
	at := ""
	if d.coll.ready.GRPC != "127.0.0.1:9440" {
		at = " --collector " + d.coll.ready.GRPC
	}
	ask := []string{"report --by team", "report --by node,basis", "inferences --by model,tier", "top", "devices", "verify"}
	fmt.Fprintf(w, "\nAsk more, in another terminal (or open http://%s):\n", d.coll.ready.HTTP)
	for _, a := range ask {
		fmt.Fprintf(w, "  %s %s%s\n", os.Args[0], a, at)
	}
	fmt.Fprintln(w, "Ctrl-C stops everything.")
	return nil
}
