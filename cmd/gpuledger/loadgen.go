package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/gpuledger/gpuledger/internal/loadgen"
)

type loadgenOptions struct {
	load        loadgen.Options
	fleet       loadgen.Fleet
	life        time.Duration
	allowRemote bool
	out         string
}

func newLoadgen(t *target) *cobra.Command {
	o := loadgenOptions{}
	c := &cobra.Command{
		Use:   "loadgen",
		Short: "Play up to 10,000 agents against a collector, and see what it bears",
		Long: `loadgen plays a fleet: agents that each have a node, GPUs and pods of their own and
send every second of them, as real agents do. The collector is loaded as by the
real thing, and what it stores keeps every law. At the end loadgen asks the
ledger whether it has everything that was acknowledged.

First each agent sends --backlog of the past in full chunks, as fast as it is
taken: that is what a fleet does after the collector was away. Then it sends
live seconds for --for. Agents connect one by one over --ramp.

The table at the end:
  slices         4 owners on each of 8 GPUs make 32 a second and agent; sent is
                 on the stream, acked is durable
  ack latency    from the sending of a chunk to its acknowledgement. A collector
                 commits whole minutes, so up to 65 s is as designed
  freshness      from the end of a second to its being visible: 1 s passes until
                 it is sealed, and up to 0.2 s until loadgen looks again;
                 a sample, one in ten, of a large fleet's seconds
  resends        chunks asked for again, or sent on a new stream
  skipped        seconds that an agent gave up because a day was unacknowledged

--hostile adds agents that harm on purpose: some never read, some send garbage or
lies, some are silent, some reconnect all the time, some flood, some send what would
be a gigabyte if it were read. They must not
change the figures of the others.

The ledger keeps what loadgen sends, in a cluster of its own: use a collector
that is there for this. It exits 3 where the ledger lacks something that was
acknowledged or has something twice, and 1 where chunks were rejected or are not
acknowledged at the end.`,
		Example: `  gpuledger-collector --data-dir /tmp/load &
  gpuledger loadgen --agents 1000 --for 2m
  gpuledger loadgen --agents 10000 --ramp 1m --for 10m
  gpuledger loadgen --agents 100 --backlog 1h --for 0s
  gpuledger loadgen --agents 200 --hostile 12 --for 1m
  gpuledger verify`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(o.out, outTable, outJSON); err != nil {
				return err
			}
			if t.data != "" {
				return usagef("loadgen plays against a running collector: --collector, not --data")
			}
			if host, _, err := net.SplitHostPort(t.collector); !o.allowRemote && (err != nil || !onLoopback(host)) {
				return usagef("%s is not on this machine: a load may stop others' work there, and fills its ledger\nhint: --allow-remote if that is wanted", t.collector)
			}
			return runLoadgen(c, t, &o)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.IntVar(&o.load.Agents, "agents", 100, "agents, up to 10000")
	f.IntVar(&o.fleet.Devices, "devices", 8, "GPUs of each")
	f.IntVar(&o.fleet.Owners, "owners", 4, "pods that share each GPU")
	f.DurationVar(&o.load.For, "for", time.Minute, "how long live seconds are sent, one a second")
	f.DurationVar(&o.load.Backlog, "backlog", 0, "how much of the past is sent first, as fast as it is taken")
	f.DurationVar(&o.load.Ramp, "ramp", 5*time.Second, "time over which the agents connect")
	f.DurationVar(&o.load.Spread, "spread", 200*time.Millisecond, "how far apart the agents' clocks are")
	f.DurationVar(&o.load.Settle, "settle", 2*time.Minute, "how long the last acknowledgements are waited for")
	f.IntVar(&o.load.Streams, "streams", 1, "agents that share a TCP connection; real ones do not")
	f.DurationVar(&o.life, "pod-life", time.Hour, "how long a pod runs until another takes its place")
	f.IntVar(&o.load.Hostile, "hostile", 0, "agents that harm on purpose")
	f.Uint64Var(&o.fleet.Seed, "seed", 0, "another seed, another fleet (0: a random one)")
	f.BoolVar(&o.allowRemote, "allow-remote", false, "load a collector on another machine")
	f.StringVarP(&o.out, "output", "o", outTable, "table or json")
	return c
}

// onLoopback reports whether a host is this machine, without asking a name
// server.
func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func runLoadgen(c *cobra.Command, t *target, o *loadgenOptions) error {
	creds, err := t.tls.credentials()
	if err != nil {
		return err
	}
	for o.fleet.Seed == 0 {
		o.fleet.Seed = rand.Uint64()
	}
	o.fleet.Life = int64(o.life / time.Second)
	o.fleet.Cluster = fmt.Sprintf("loadgen-%08x", rand.Uint32()) // every run has one of its own
	o.load.Address, o.load.Fleet = t.collector, &o.fleet
	o.load.Dial = []grpc.DialOption{grpc.WithTransportCredentials(creds)}
	shown, err := t.token.credentials(t.collector, !t.tls.asked())
	if err != nil {
		return err
	}
	if shown != nil {
		o.load.Dial = append(o.load.Dial, grpc.WithPerRPCCredentials(shown))
	}
	if err := o.load.Validate(); err != nil {
		return usageError{err}
	}
	l, err := loadgen.Open(c.Context(), o.load)
	if err != nil {
		return unreachable(t.collector, err)
	}
	defer func() { _ = l.Close() }()
	if err := playLoad(c.Context(), l, o, c.ErrOrStderr()); err != nil {
		return err
	}
	v, err := l.Check(c.Context())
	if err != nil {
		return err
	}
	s := l.Stats()
	if o.out == outJSON {
		out := json.NewEncoder(c.OutOrStdout())
		out.SetIndent("", "  ")
		err = out.Encode(loadResult{o.fleet.Cluster, o.fleet.Seed, s, v})
	} else {
		err = loadTable(c.OutOrStdout(), o, &s, v)
	}
	return errors.Join(err, loadVerdict(&s, v))
}

// playLoad shows progress while the load is played.
func playLoad(ctx context.Context, l *loadgen.Load, o *loadgenOptions, stderr io.Writer) error {
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	bar := newProgress(stderr)
	defer bar.clear()
	began, last, at := time.Now(), l.Stats(), time.Now()
	whole := o.load.Ramp + o.load.For
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
		}
		s, now := l.Stats(), time.Now()
		rate := float64(s.SlicesSent-last.SlicesSent) / now.Sub(at).Seconds()
		last, at = s, now
		bar.show("loading", int64(now.Sub(began)/time.Second), int64(whole/time.Second), fmt.Sprintf("%d of %d agents, %d of them held back, %s slices/s, %s unacked chunks, fresh p99 %s",
			s.Connected, o.load.Agents, s.Held, thousands(fmt.Sprintf("%.0f", rate)), thousands(fmt.Sprint(s.ChunksSent-s.ChunksAcked)), seconds(s.FreshP99, s.FreshOnes)))
	}
}

type loadResult struct {
	Cluster string           `json:"cluster"`
	Seed    uint64           `json:"seed"`
	Stats   loadgen.Stats    `json:"stats"`
	Verdict *loadgen.Verdict `json:"verdict"`
}

// seconds is a duration of which there were so many samples.
func seconds(d time.Duration, samples int64) string {
	if samples == 0 {
		return unknown
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func loadTable(w io.Writer, o *loadgenOptions, s *loadgen.Stats, v *loadgen.Verdict) error {
	var b strings.Builder
	count := func(n int64) string { return thousands(fmt.Sprint(n)) }
	fmt.Fprintf(&b, "%s agents of %d GPUs with %d pods each, cluster %s, seed %d\n\n", count(int64(o.load.Agents)), o.fleet.Devices, o.fleet.Owners, o.fleet.Cluster, o.fleet.Seed)
	perSlice := unknown
	if s.SlicesSent > 0 {
		perSlice = fmt.Sprintf("%.1f a slice", float64(s.Bytes)/float64(s.SlicesSent))
	}
	for _, r := range [][2]string{
		{"slices sent", count(s.SlicesSent)},
		{"slices acked", count(s.SlicesAcked)},
		{"chunks sent, acked", count(s.ChunksSent) + ", " + count(s.ChunksAcked)},
		{"bytes sent", count(s.Bytes) + ", " + perSlice},
		{"ack latency p50, p99", seconds(s.AckP50, s.AckSamples) + ", " + seconds(s.AckP99, s.AckSamples)},
		{"freshness p50, p99", seconds(s.FreshP50, s.FreshOnes) + ", " + seconds(s.FreshP99, s.FreshOnes)},
		{"streams that ended early", count(s.Ends)},
		{"resends, rejects, skipped", count(s.Resends) + ", " + count(s.Rejects) + ", " + count(s.Skipped)},
		{"hostile attacks", count(s.Hostile)},
		{"seconds of nodes acked", count(v.AckedSeconds)},
		{"of them lost, doubled", fmt.Sprintf("%d nodes, %d nodes", len(v.Lost), len(v.Doubled))},
		{"seconds not acked", count(v.UnackedSeconds)},
	} {
		fmt.Fprintf(&b, "%-26s %s\n", r[0], r[1])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// loadVerdict is the command's error.
func loadVerdict(s *loadgen.Stats, v *loadgen.Verdict) error {
	switch {
	case len(v.Lost) > 0:
		return brokenError{fmt.Errorf("BROKEN: law 4: the ledger lacks acknowledged time of %d nodes, %s the first", len(v.Lost), v.Lost[0])}
	case len(v.Doubled) > 0:
		return brokenError{fmt.Errorf("BROKEN: law 3: the ledger has more time of %d nodes than there was, %s the first", len(v.Doubled), v.Doubled[0])}
	case s.Rejects > 0:
		return fmt.Errorf("%d chunks were rejected: the collector's log says why", s.Rejects)
	case v.UnackedSeconds > 0:
		return fmt.Errorf("%d seconds of nodes are not acknowledged: the collector does not keep up, or --settle is short", v.UnackedSeconds)
	}
	return nil
}
