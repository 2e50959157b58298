// Command gpuledger-collector takes in what agents have sealed, keeps the
// ledger, and answers questions about it.
//
// Its exit code is 0 when it was told to stop, 1 when it failed, and 2 when it
// was called or configured wrongly. A first SIGINT or SIGTERM stops it
// gracefully; a second one at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := context.WithCancel(context.Background())
	abort := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals
		close(abort)
	}()
	os.Exit(execute(ctx, abort, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is a mistake of the caller.
type usageError struct{ error }

// execute is the program: its exit code.
func execute(ctx context.Context, abort <-chan struct{}, args []string, stdout, stderr io.Writer) int {
	p := &program{abort: abort, stdout: stdout, stderr: stderr}
	root := p.command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage), errors.Is(err, collector.ErrConfig):
		_, _ = fmt.Fprintf(stderr, "gpuledger-collector: %v\nSee gpuledger-collector --help.\n", err)
		return 2
	}
	_, _ = fmt.Fprintf(stderr, "gpuledger-collector: %v\n", err)
	return 1
}

// program is one run of the command.
type program struct {
	abort          <-chan struct{}
	stdout, stderr io.Writer

	configFile, readyFile string
}

func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gpuledger-collector",
		Short: "Keep the ledger and answer questions about it",
		Long: `gpuledger-collector takes in what the agents of all nodes have sealed, makes it
durable exactly once, and answers questions over gRPC and HTTP/JSON.

Settings come from the file named by --config, and flags override it;
"gpuledger-collector config print" shows what is in force.`,
		Example: `  gpuledger-collector --data-dir /var/lib/gpuledger --rate-card prices.yaml
  gpuledger-collector --config /etc/gpuledger/collector.yaml`,
		Args: noArguments, SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.config(c)
			if err != nil {
				return err
			}
			return p.run(c.Context(), cfg)
		},
	}
	root.PersistentFlags().StringVar(&p.configFile, "config", "", "file with settings (YAML)")
	root.Flags().StringVar(&p.readyFile, "ready-file", "", "write the addresses here (JSON) once they are served")
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
	root.AddCommand(p.carrying()...)
	root.AddCommand(config, &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.stdout, "gpuledger-collector %s (%s)\n", version, runtime.Version())
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
	d := collector.DefaultConfig()
	f := c.Flags()
	f.SortFlags = false
	f.String("data-dir", d.DataDir, "folder of the ledger")
	f.String("grpc-listen", d.GRPCListen, "where agents and programs connect")
	f.String("http-listen", d.HTTPListen, "where the JSON API and the page are")
	f.Bool("insecure-listen", d.InsecureListen, "listen on other than loopback addresses in plain text")
	f.String("rate-card", d.RateCard, "rate card to apply, once for each content of the file")
	f.String("rules", d.Rules, "mapping rules to apply, once for each content of the file")
	f.String("log-level", d.Log.Level, "debug, info, warn or error")
	f.String("log-format", d.Log.Format, "text or json")
}

// config is the settings of the file with the flags over them, validated.
func (p *program) config(c *cobra.Command) (*collector.Config, error) {
	cfg := collector.DefaultConfig()
	if p.configFile != "" {
		text, err := os.ReadFile(p.configFile)
		if err != nil {
			return nil, usageError{fmt.Errorf("read the settings: %w", err)}
		}
		if cfg, err = collector.ParseConfig(p.configFile, text); err != nil {
			return nil, usageError{err}
		}
	}
	f := c.Flags()
	for name, v := range map[string]*string{
		"data-dir": &cfg.DataDir, "grpc-listen": &cfg.GRPCListen, "http-listen": &cfg.HTTPListen,
		"rate-card": &cfg.RateCard, "rules": &cfg.Rules, "log-level": &cfg.Log.Level, "log-format": &cfg.Log.Format,
	} {
		if f.Changed(name) {
			*v, _ = f.GetString(name)
		}
	}
	if f.Changed("insecure-listen") {
		cfg.InsecureListen, _ = f.GetBool("insecure-listen")
	}
	if err := cfg.Validate(); err != nil {
		return nil, usageError{err}
	}
	return &cfg, nil
}

func (p *program) run(ctx context.Context, cfg *collector.Config) error {
	// The ledger says who pays for what, and the store makes files as it goes.
	syscall.Umask(0o077)
	deps := collector.Deps{Version: version, Log: cfg.Log.Logger(p.stderr), Abort: p.abort}
	collector.LimitMemory(cfg, deps.Log)
	if p.readyFile != "" {
		deps.Ready = func(a collector.Addresses) error { return a.WriteFile(p.readyFile) }
	}
	c, err := collector.New(ctx, *cfg, deps)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}
