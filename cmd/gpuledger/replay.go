package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

type replayOptions struct {
	recording, data, rateCard, out string
	speed                          float64
}

// played is the recording that is played.
type played struct {
	from, to int64 // Unix seconds
	nodes    []string
}

// checkRecording reads a recording to its end, so that a bad one is found
// before anything starts.
func checkRecording(path string) (*played, error) {
	sum, err := replay.Check(path)
	if err != nil {
		return nil, err
	}
	r, err := replay.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	p := &played{from: int64(attribution.SecondOf(sum.Header.Start)), to: int64(attribution.SecondOf(sum.Header.End-1)) + 1}
	for _, n := range r.Nodes() {
		p.nodes = append(p.nodes, n.Name)
	}
	return p, nil
}

func newReplay(t *target) *cobra.Command {
	var o replayOptions
	c := &cobra.Command{
		Use:   "replay RECORDING",
		Short: "Play a recording through agent and collector into a ledger folder",
		Long: `replay starts the collector and the agent beside this program on loopback, plays
the recording through them as fast as it goes, waits until everything is
durable, stops them, and sums up.

The recording is checked to its end before anything starts; a bad one leaves
the ledger untouched. Playing the same recording again changes nothing.`,
		Example: `  gpuledger import gentd26 ./traces/gentd26 -o gentd26.jsonl
  gpuledger replay gentd26.jsonl --data ./ledger --ratecard prices.yaml`,
		Args: exactArgs(1, "one recording"),
		RunE: func(c *cobra.Command, args []string) error {
			o.recording, o.data = args[0], t.data
			if err := checkOutput(o.out, outTable, outJSON); err != nil {
				return err
			}
			if o.data == "" {
				return usagef("replay needs --data DIR, the ledger folder to write to")
			}
			if o.recording == "-" {
				return usagef("replay reads the recording before it plays it: give it as a file")
			}
			if o.speed != 0 && !(o.speed >= 0.01 && o.speed <= 1e6) {
				return usagef("--speed %v: want 0.01 to 1000000, or 0 for as fast as it goes", o.speed)
			}
			return runReplay(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.rateCard, "ratecard", "", "rate card (YAML) to price by (default: the one that the ledger has)")
	f.Float64Var(&o.speed, "speed", 0, "how many recorded seconds pass in a real one, such as 60 (0: as fast as it goes)")
	f.StringVarP(&o.out, "output", "o", outTable, "table or json")
	return c
}

// noCard is why nothing is played without prices: a second is priced once,
// when it is sealed.
const noCard = `this ledger has no rate card yet, and time is priced as it is played: give --ratecard FILE
hint: this card prices every device alike:
  currency: USD
  prices: [{model: "*", per_device_hour: "2.50"}]`

func runReplay(ctx context.Context, stdout, stderr io.Writer, o replayOptions) error {
	info, err := checkRecording(o.recording)
	if err != nil {
		return err
	}
	var card *rating.Card
	if o.rateCard != "" {
		if card, err = readRateCard(o.rateCard); err != nil {
			return err
		}
	} else if !isFile(filepath.Join(o.data, ledgerFile)) {
		return usagef("%s", noCard)
	}
	for _, name := range []string{"gpuledger-collector", "gpuledger-agent"} {
		if _, err := beside(name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return err
	}
	coll, err := startCollector(ctx, collectorOptions{data: o.data, rateCard: o.rateCard, stderr: stderr})
	if err != nil {
		return err
	}
	defer coll.stop()
	conn, err := dial(coll.ready.GRPC, insecure.NewCredentials())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ledger := pb.NewLedgerClient(conn)

	if st, err := ledger.Status(ctx, &pb.StatusRequest{}); err != nil {
		return err
	} else if st.GetRateCardRevision() == 0 {
		return errors.New(noCard)
	}
	if card != nil {
		if err := priceBy(ctx, ledger, card); err != nil {
			return err
		}
	}
	begin := time.Now()
	counts, err := playRecording(ctx, stderr, o, coll, ledger, info)
	if err != nil {
		return err
	}
	wall := time.Since(begin)
	s, err := summarize(ctx, ledger, o.recording, info)
	if err != nil {
		return err
	}
	s.Slices, s.DeviceWindows = counts.Slices, counts.Windows
	s.WallSeconds = decimal(strconv.FormatFloat(wall.Seconds(), 'f', 3, 64))
	s.SlicesPerSecond = int64(float64(counts.Slices) / wall.Seconds())
	if o.out == outJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return s.write(stdout, o.data)
}

// agentCounts is what the agent says that it did.
type agentCounts struct {
	Windows int64 `json:"windows"`
	Slices  int64 `json:"slices"`
}

// playRecording runs the agent to the recording's end, showing how far it is.
func playRecording(ctx context.Context, stderr io.Writer, o replayOptions, coll *collectorChild, l pb.LedgerClient, info *played) (agentCounts, error) {
	var counts agentCounts
	dir, err := os.MkdirTemp("", "gpuledger-")
	if err != nil {
		return counts, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "agent.json")
	conf := agentConfig{Source: "replay", StateDir: filepath.Join(o.data, "agent"), SummaryFile: file}
	conf.Replay.File, conf.Replay.Speed = o.recording, o.speed
	agent, err := startAgent(conf, coll.ready.GRPC, stderr)
	if err != nil {
		return counts, err
	}
	defer agent.stop()
	if err := awaitAgent(ctx, stderr, agent, coll.child, l, info); err != nil {
		return counts, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return counts, fmt.Errorf("the agent left no summary: %w", err)
	}
	return counts, json.Unmarshal(b, &counts)
}

func awaitAgent(ctx context.Context, stderr io.Writer, agent, coll *child, l pb.LedgerClient, info *played) error {
	bar := newProgress(stderr)
	defer bar.clear()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			say(stderr, "stopped; the same command goes on from here")
			return ctx.Err()
		case <-coll.done:
			return errors.New("the collector ended early; its message is above")
		case <-agent.done:
			if agent.err != nil {
				return fmt.Errorf("the agent failed (%w); its message is above", agent.err)
			}
			return nil
		case <-tick.C:
			st, err := l.Status(ctx, &pb.StatusRequest{})
			if err != nil || st.GetLastSecond() == 0 {
				continue
			}
			bar.show("replaying", st.GetLastSecond()-info.from, info.to-info.from,
				"at "+time.Unix(st.GetLastSecond(), 0).UTC().Format("2006-01-02 15:04:05"))
		}
	}
}

// summary is what replay prints. Numbers are exact decimals.
type summary struct {
	Recording       string                 `json:"recording"`
	From            int64                  `json:"from"`
	To              int64                  `json:"to"`
	Currency        string                 `json:"currency"`
	Devices         int                    `json:"devices"`
	DeviceSeconds   decimal                `json:"device_seconds"`
	UnpricedSeconds decimal                `json:"unpriced_seconds"`
	Cost            decimal                `json:"cost"`
	CostNano        decimal                `json:"cost_nano"`
	Bases           map[string]basisFigure `json:"by_basis"`
	Inferences      decimal                `json:"inferences"`
	InferencesExact decimal                `json:"inferences_exact"`
	TokensIn        decimal                `json:"tokens_in"`
	TokensOut       decimal                `json:"tokens_out"`
	Per1kAllocation decimal                `json:"cost_per_1k_inferences_allocation"`
	Per1kUsage      decimal                `json:"cost_per_1k_inferences_usage"`
	Reason          string                 `json:"reason,omitempty"`
	DeviceWindows   int64                  `json:"device_windows"`
	Slices          int64                  `json:"slices"`
	WallSeconds     decimal                `json:"wall_seconds"`
	SlicesPerSecond int64                  `json:"slices_per_second"`
}

type basisFigure struct {
	Seconds decimal `json:"seconds"`
	Percent decimal `json:"percent"`
	Cost    decimal `json:"cost"`
}

// summarize asks for the recording's nodes in the recording's time.
func summarize(ctx context.Context, l pb.LedgerClient, name string, info *played) (*summary, error) {
	var filter []string
	if len(info.nodes) <= maxNodeFilter {
		for _, n := range info.nodes {
			filter = append(filter, "node="+n)
		}
	}
	rep, err := l.Report(ctx, &pb.ReportRequest{From: info.from, To: info.to, Filter: filter})
	if err != nil {
		return nil, err
	}
	unit, err := l.UnitCosts(ctx, &pb.UnitCostsRequest{From: info.from, To: info.to, Filter: filter, GroupBy: []string{"cluster"}})
	if err != nil {
		return nil, err
	}
	dev, err := l.Devices(ctx, &pb.DevicesRequest{From: info.from, To: info.to, Filter: filter})
	if err != nil {
		return nil, err
	}
	total, u := rep.GetTotal(), unit.GetTotal()
	whole, _, _ := strings.Cut(u.GetInferences(), ".")
	s := &summary{
		Recording: name, From: info.from, To: info.to, Currency: rep.GetCurrency(), Devices: len(dev.GetDevices()),
		DeviceSeconds:   decimal(secondsText(total.GetSum().GetDeviceTimeNs())),
		UnpricedSeconds: decimal(secondsText(total.GetSum().GetUnpricedTimeNs())),
		Cost:            decimal(total.GetSum().GetCost()), CostNano: decimal(nanoText(total.GetSum().GetCost())),
		Inferences: decimal(whole), InferencesExact: decimal(u.GetInferences()),
		TokensIn: decimal(u.GetInputTokens()), TokensOut: decimal(u.GetOutputTokens()),
		Per1kAllocation: decimal(u.GetPer_1KInferencesAllocation()), Per1kUsage: decimal(u.GetPer_1KInferencesUsage()),
		Reason: u.GetReason(), Bases: map[string]basisFigure{},
	}
	for _, b := range total.GetByBasis() {
		percent := ""
		p, ok := figure(b.GetDeviceTimeNs())
		w, okWhole := figure(total.GetSum().GetDeviceTimeNs())
		if ok && okWhole && w.Sign() > 0 {
			percent = p.Quo(p.Mul(p, big.NewRat(100, 1)), w).FloatString(5)
		}
		s.Bases[b.GetBasis()] = basisFigure{decimal(secondsText(b.GetDeviceTimeNs())), decimal(percent), decimal(b.GetCost())}
	}
	return s, nil
}

// maxNodeFilter is up to how many nodes a summary is limited to the
// recording's own.
const maxNodeFilter = 200

// decimal is exact decimal text; "" is not known, which JSON has as null.
type decimal string

// MarshalJSON writes the number as it is.
func (d decimal) MarshalJSON() ([]byte, error) {
	if d == "" {
		return []byte("null"), nil
	}
	if !json.Valid([]byte(d)) {
		return nil, fmt.Errorf("the collector answered %q where a number belongs", string(d))
	}
	return []byte(d), nil
}

// nanoText is an amount in nano units.
func nanoText(dec string) string {
	r, ok := figure(dec)
	if !ok {
		return ""
	}
	return r.Mul(r, big.NewRat(1e9, 1)).FloatString(0)
}

func (s *summary) write(out io.Writer, data string) error {
	w := &strings.Builder{}
	fmt.Fprintf(w, "%s\n%s\n\n", s.Recording, spanText(s.From, s.To))
	tab := newTable("BASIS", ">DEVICE SECONDS", ">PART", ">COST "+s.Currency)
	for _, b := range []string{"used", "reserved", "unallocated", "unattributed", "unobserved"} {
		if f, ok := s.Bases[b]; ok {
			tab.add(b, thousands(string(f.Seconds)), string(f.Percent)+"%", orUnknown(string(f.Cost)))
		}
	}
	tab.rows = append(tab.rows, nil)
	tab.add("total", thousands(string(s.DeviceSeconds)), "100%", orUnknown(string(s.Cost)))
	if err := tab.write(w); err != nil {
		return err
	}
	fmt.Fprintf(w, "\ndevices            %d\n", s.Devices)
	fmt.Fprintf(w, "inferences         %s\n", countText(string(s.Inferences)))
	fmt.Fprintf(w, "tokens in, out     %s, %s\n", countText(string(s.TokensIn)), countText(string(s.TokensOut)))
	fmt.Fprintf(w, "per 1k inferences  %s %s (allocation), %s %s (usage)\n", moneyText(string(s.Per1kAllocation)), s.Currency, moneyText(string(s.Per1kUsage)), s.Currency)
	if s.Reason != "" {
		fmt.Fprintf(w, "                   %s\n", s.Reason)
	}
	if u := string(s.UnpricedSeconds); u != "" && u != "0" {
		fmt.Fprintf(w, "UNPRICED           %s device seconds have no price: their cost is unknown\n", thousands(u))
	}
	fmt.Fprintf(w, "took               %s s: %s device windows, %s slices, %s slices/s\n",
		s.WallSeconds, thousands(fmt.Sprint(s.DeviceWindows)), thousands(fmt.Sprint(s.Slices)), thousands(fmt.Sprint(s.SlicesPerSecond)))
	fmt.Fprintf(w, "\nAsk more:  %s report --data %s --by pod     %[1]s verify --data %[2]s\n", os.Args[0], data)
	_, err := io.WriteString(out, w.String())
	return err
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}
