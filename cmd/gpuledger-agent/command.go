package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/run"
	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/agent"
	"github.com/gpuledger/gpuledger/agent/spool"
)

// program is one run of the command.
type program struct {
	abort          context.Context //nolint:containedctx // the second signal
	stdin          io.Reader
	stdout, stderr io.Writer

	configFile string
	cpuProfile string
}

func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gpuledger-agent",
		Short: "Meter a node's GPUs and send what is sealed to the collector",
		Long: `gpuledger-agent watches the GPUs of this node, cuts every second of each into
slices by owner, and sends them to the collector. It keeps them on disk until
the collector has made them durable.

Settings come from the file named by --config, and flags override it;
"gpuledger-agent config print" shows what is in force.`,
		Example: `  gpuledger-agent --collector collector:9440 --config /etc/gpuledger/agent.yaml
  gpuledger-agent --source simulated
  gpuledger-agent --source replay --recording fleet.jsonl.gz --state-dir ./state`,
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.config(c)
			if err != nil {
				return err
			}
			return p.run(c.Context(), cfg)
		},
	}
	root.PersistentFlags().StringVar(&p.configFile, "config", "", "file with settings (YAML)")
	root.Flags().StringVar(&p.cpuProfile, "cpu-profile", "", "write a CPU profile here")
	addFlags(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	config := &cobra.Command{Use: "config", Short: "Look at the settings", Args: noArguments}
	show := &cobra.Command{
		Use: "print", Short: "Print the settings in force, defaults included, as YAML", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.config(c)
			if err != nil {
				return err
			}
			text, err := cfg.YAML()
			if err == nil {
				_, err = p.stdout.Write(text)
			}
			return err
		},
	}
	addFlags(show)
	config.AddCommand(show)
	root.AddCommand(config, &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.stdout, "gpuledger-agent %s (%s)\n", version, runtime.Version())
			return err
		},
	})
	return root
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown argument or command %q for %q", args[0], c.CommandPath())}
	}
	return nil
}

// addFlags adds the flags that override settings. Their defaults are shown, not
// applied: only flags that are given count.
func addFlags(c *cobra.Command) {
	d := agent.DefaultConfig()
	f := c.Flags()
	f.SortFlags = false
	f.String("cluster", d.Cluster, "name of the cluster")
	f.String("node", d.Node, "name of this node (default $NODE_NAME, else the host's name)")
	f.String("collector", d.Collector.Address, "address of the collector")
	f.Bool("insecure", d.Collector.Insecure, "send to another machine in plain text")
	f.String("state-dir", d.StateDir, "directory that outlasts restarts")
	f.String("source", d.Source, "auto, nvml, replay or simulated")
	f.String("recording", d.Replay.File, "recording to replay; - is standard input")
	f.String("speed", "", "of a replay (default max) or simulation (default 1): max, or how many times real time")
	f.Uint64("seed", d.Simulated.Seed, "seed of the simulation")
	f.String("profile", d.Simulated.Profile, "of the simulation: fleet or busy")
	f.Int("nodes", d.Simulated.Nodes, "nodes of the simulation; 0 is the profile's")
	f.Int("devices", d.Simulated.Devices, "GPUs of a simulated node")
	f.Int64("start", d.Simulated.Start, "first Unix second of the simulation; 0 is now")
	f.Duration("backfill", d.Simulated.Backfill.Duration, "past of the simulation that is played first")
	f.Duration("duration", d.Simulated.Duration.Duration, "simulated time; 0 is endless")
	f.String("summary-file", d.SummaryFile, "write a finished script's figures here (JSON)")
	f.String("http-listen", d.HTTPListen, "address for /healthz, /readyz and /metrics (default none)")
	f.String("log-level", d.Log.Level, "debug, info, warn or error")
	f.String("log-format", d.Log.Format, "text or json")
}

// config is the settings of the file with the flags over them, validated.
func (p *program) config(c *cobra.Command) (*agent.Config, error) {
	cfg := agent.DefaultConfig()
	if p.configFile != "" {
		text, err := os.ReadFile(p.configFile)
		if err != nil {
			return nil, usageError{fmt.Errorf("read the settings: %w", err)}
		}
		if cfg, err = agent.ParseConfig(p.configFile, text); err != nil {
			return nil, usageError{err}
		}
	}
	f := c.Flags()
	str := func(name string, v *string) {
		if f.Changed(name) {
			*v, _ = f.GetString(name)
		}
	}
	str("cluster", &cfg.Cluster)
	str("node", &cfg.Node)
	str("collector", &cfg.Collector.Address)
	if f.Changed("collector") {
		cfg.Collector.Addresses = nil
	}
	str("state-dir", &cfg.StateDir)
	str("source", &cfg.Source)
	str("recording", &cfg.Replay.File)
	str("profile", &cfg.Simulated.Profile)
	str("summary-file", &cfg.SummaryFile)
	str("http-listen", &cfg.HTTPListen)
	str("log-level", &cfg.Log.Level)
	str("log-format", &cfg.Log.Format)
	if f.Changed("insecure") {
		cfg.Collector.Insecure, _ = f.GetBool("insecure")
	}
	if f.Changed("seed") {
		cfg.Simulated.Seed, _ = f.GetUint64("seed")
	}
	if f.Changed("nodes") {
		cfg.Simulated.Nodes, _ = f.GetInt("nodes")
	}
	if f.Changed("devices") {
		cfg.Simulated.Devices, _ = f.GetInt("devices")
	}
	if f.Changed("start") {
		cfg.Simulated.Start, _ = f.GetInt64("start")
	}
	for name, v := range map[string]*agent.Duration{"backfill": &cfg.Simulated.Backfill, "duration": &cfg.Simulated.Duration} {
		if f.Changed(name) {
			v.Duration, _ = f.GetDuration(name)
		}
	}
	if f.Changed("speed") {
		text, _ := f.GetString("speed")
		speed, err := parseSpeed(text)
		if err != nil {
			return nil, usageError{err}
		}
		cfg.Replay.Speed, cfg.Simulated.Speed = speed, speed
	}
	if err := cfg.Validate(); err != nil {
		return nil, usageError{fmt.Errorf("the settings are wrong:\n%w", err)}
	}
	return &cfg, nil
}

// parseSpeed reads max, 60 or 60x.
func parseSpeed(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	speed, err := strconv.ParseFloat(strings.TrimSuffix(text, "x"), 64)
	if err != nil || speed <= 0 || math.IsInf(speed, 0) || math.IsNaN(speed) {
		return 0, fmt.Errorf("--speed %q: want max, or a number such as 1 or 60", text)
	}
	return speed, nil
}

// run runs an agent with these settings.
func (p *program) run(ctx context.Context, cfg *agent.Config) error {
	log := cfg.Log.Logger(p.stderr)
	machine, err := agent.ThisMachine()
	if err != nil {
		return err
	}
	if p.cpuProfile != "" {
		stop, err := profile(p.cpuProfile)
		if err != nil {
			return err
		}
		defer stop()
	}
	source, err := agent.OpenSource(cfg, p.stdin, machine.Wall()/int64(time.Second), log)
	if err != nil {
		return err
	}
	tune(&source)
	collectors, certificates, err := agent.Collectors(&cfg.Collector, nil, log)
	if err != nil {
		return err
	}
	deps := agent.Deps{Fleet: collectors, FS: spool.OS, Machine: machine, Log: log, Version: version, Abort: p.abort}
	deps.Certs = append(deps.Certs, certificates)
	var page net.Listener
	if cfg.HTTPListen != "" {
		l, shown, err := cfg.Listener(ctx, log)
		if err != nil {
			return err
		}
		page, deps.Certs = l, append(deps.Certs, shown)
	}
	a, err := agent.New(*cfg, source, deps)
	if err != nil {
		if page != nil {
			err = errors.Join(err, page.Close())
		}
		return err
	}
	return group(ctx, a, page)
}

// group runs the agent and its HTTP server: when the first ends, so does the
// other. page is nil where there is none.
func group(ctx context.Context, a *agent.Agent, page net.Listener) error {
	var g run.Group
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.Add(func() error { return a.Run(ctx) }, func(error) { cancel() })
	if page != nil {
		g.Add(func() error { return a.ServeHTTP(ctx, page) }, func(error) { cancel() })
	}
	return g.Run()
}

// tune sets the runtime for what the agent does. Where the environment says
// something, somebody knows better.
//
// As fast as possible it lives on throughput: a heap of some ten MB may well
// double before it is collected again and again. In real time it is idle, and
// small memory counts more than the few collections a minute that it costs.
//
// On a node it works for some milliseconds of each second. One thread at a time
// is enough for that; calls into the driver do not count. With more, each of
// its small awakenings wakes further threads to look for work, and each
// collection starts as many workers as a quarter of the node's processors.
func tune(s *agent.Source) {
	if s.Live != nil && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	if s.Script != nil && s.Speed == 0 && os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(400)
		debug.SetMemoryLimit(512 << 20)
	}
}

// profile records a CPU profile until the returned function is called.
func profile(name string) (func(), error) {
	f, err := os.Create(filepath.Clean(name))
	if err != nil {
		return nil, fmt.Errorf("CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("CPU profile: %w", err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}
