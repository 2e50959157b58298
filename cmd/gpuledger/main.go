// Command gpuledger asks the ledger, and feeds it recordings: showback reports,
// unit costs, a live view, imports of public traces, replays, and verification
// of the laws.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
)

// version is set when linking.
var version = "dev"

// The exit codes.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitBroken // verify found a broken law
)

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// brokenError says that the ledger breaks a law.
type brokenError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and maps its error to an exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var broken brokenError
	switch {
	case err == nil, errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "gpuledger: %v\n", err)
		return exitUsage
	case errors.As(err, &broken):
		fmt.Fprintf(stderr, "gpuledger: %v\n", err)
		return exitBroken
	}
	fmt.Fprintf(stderr, "gpuledger: %s\n", describe(err))
	return exitFailure
}

// describe strips gRPC's wrapping, which says nothing to a person.
func describe(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "gpuledger",
		Short: "What each GPU second cost, who owes it, and what 1k inferences cost",
		Long: `gpuledger asks the ledger: every GPU-second of the cluster has exactly one
price and exactly one set of owners.

By default it talks to a running collector (--collector). With --data it opens
a ledger folder by itself: it starts the collector program beside it on
loopback, asks, and stops it again.`,
		Example: `  gpuledger report --last 24h --by team
  gpuledger inferences --by model
  gpuledger top
  gpuledger import gentd26 ./traces/gentd26 -o gentd26.jsonl
  gpuledger replay gentd26.jsonl --data ./ledger --ratecard prices.yaml
  gpuledger verify --data ./ledger`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w\nSee: %s --help", err, c.CommandPath())
	})
	t := &target{}
	flags := root.PersistentFlags()
	flags.StringVar(&t.collector, "collector", envOr("GPULEDGER_COLLECTOR", "127.0.0.1:9440"), "address of a running collector [GPULEDGER_COLLECTOR]")
	flags.StringVar(&t.data, "data", os.Getenv("GPULEDGER_DATA"), "ledger folder to open instead of asking a running collector [GPULEDGER_DATA]")
	root.AddCommand(
		newReport(t), newInferences(t), newTop(t), newDevices(t),
		newImport(), newReplay(t), newVerify(t), newRateCard(t), newRules(t), newDemo(),
	)
	return root
}

func envOr(name, or string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return or
}

// exactArgs is cobra.ExactArgs with a usage error that says what is wanted.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s wants %s, got %d argument(s)\nSee: %s --help", c.CommandPath(), what, len(args), c.CommandPath())
		}
		return nil
	}
}
